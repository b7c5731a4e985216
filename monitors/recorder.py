"""Writes finished requests into the database, in batches, each exactly once, and adds up what keys spend.

A request only puts its record into a list in memory. A task of its own takes batches from the front of that list and
writes each in one transaction. A batch whose outcome is not known, because the connection broke at its commit, is
looked for by the id of its first row before it is written again.
"""

import asyncio
import contextlib
import logging
import secrets
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from functools import lru_cache
from operator import attrgetter
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from monitors.metrics import Metrics
from monitors.record import RequestRecord
from monitors.tables import RequestRow, SpendingRow

log = logging.getLogger(__name__)

BATCH_ROWS = 500
BATCH_S = 1.0
_ROWS_AT_ONCE = 100
"""Rows of a batch that are handed to the driver together: some milliseconds, in which nothing else runs."""
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 3.0
_WRITE_TIMEOUT_S = 30.0
"""A database that takes longer is treated as away; a connection to a machine that vanished would hang for minutes."""

_REQUESTS = RequestRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model
_SPENDING = SpendingRow.__table__  # type: ignore[attr-defined]
_FIELDS = tuple(field.name for field in fields(RequestRecord) if field.name != "text")
_SUMS = ("cost", "requests", "prompt_tokens", "completion_tokens")
_values = attrgetter(*_FIELDS)


def month_of(moment: float) -> str:
    """The month (UTC) of a moment in seconds since the epoch, such as ``2026-11``."""
    return _month_of_hour(int(moment // 3600))


@lru_cache(maxsize=64)
def _month_of_hour(hour: int) -> str:
    """Months begin with an hour, so the many requests of one hour need one look at the calendar."""
    return f"{datetime.fromtimestamp(hour * 3600, UTC):%Y-%m}"


async def spending(engine: AsyncEngine, month: str) -> dict[str, float]:
    """What each key has spent in a month, by the key's id; keys without a request in it are left out."""
    async with engine.connect() as connection:
        columns = _SPENDING.c
        found = await connection.execute(select(columns.key_id, columns.cost).where(columns.month == month))
        return {row.key_id: row.cost for row in found}


@dataclass(slots=True)
class _Batch:
    """Records that are written together; `first` is the number of the first, `tried` whether it may be written."""

    first: int
    records: Sequence[RequestRecord]
    tried: bool = False


class Recorder:
    """Keeps finished requests until they are written; a `RequestHook`.

    When `size` records wait, further ones are dropped and counted, not the oldest: what is lost is then the end of an
    outage in one piece, and a batch that may be half-way into the database is never touched.

    Attributes:
        engine: the database; it may be away at any time.
        metrics: where written, dropped and waiting records are counted.
        size: how many records may wait.
        batch_rows, batch_s: a batch is written when so many records wait, or after so long.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        metrics: Metrics,
        *,
        size: int,
        batch_rows: int = BATCH_ROWS,
        batch_s: float = BATCH_S,
    ) -> None:
        self.engine = engine
        self.metrics = metrics
        self.size = size
        self.batch_rows = batch_rows
        self.batch_s = batch_s
        self._name = secrets.token_hex(8)  # with the record's number it makes the row's id
        self._taken = 0
        self._waiting: deque[RequestRecord] = deque()
        self._batches: deque[_Batch] = deque()  # begun, in order: one, or the pieces of one that was refused
        self._writing: asyncio.Task[None] | None = None  # always of the first batch
        self._held = 0
        self._enough = asyncio.Event()
        self._pause_s = 0.0

    def __call__(self, record: RequestRecord) -> None:
        """Keep a finished request until it is written; one of a stranger is not, for anyone could fill the disk so."""
        if record.key_id is None and record.variant != "shadow":
            return
        if self._held >= self.size:
            self.metrics.records_dropped.labels("buffer_full").inc()
            return
        self._waiting.append(record)
        self._held += 1
        if self._held >= self.batch_rows:
            self._enough.set()

    async def run(self) -> None:
        """Write for ever. It may be cancelled at any moment and run again: no record is lost or written twice."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.batch_s):
                    await self._enough.wait()
            await self._write_through(self._held)
            if self._held < self.batch_rows:
                self._enough.clear()

    async def drain(self, timeout_s: float) -> int:
        """Write what is left, once `run` has been cancelled; the number of records given up, which are counted."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._held:
                    await self._write_through(self._held)
        lost = self._held
        if lost:
            log.warning("the database did not take the last %d request records; they are lost", lost)
            self.metrics.records_dropped.labels("shutdown").inc(lost)
            self._give_up()
        return lost

    def _give_up(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None
        self._batches.clear()
        self._waiting.clear()
        self._let_go(self._held)

    def _let_go(self, records: int) -> None:
        self._held -= records
        self.metrics.records_buffered.set(self._held)

    async def _write_through(self, records: int) -> None:
        """Write so many records, however long that takes; those that come meanwhile wait for the next round."""
        while records > 0:
            self.metrics.records_buffered.set(self._held)
            records -= await self._try(self._next_batch())

    def _next_batch(self) -> _Batch:
        if not self._batches:
            records = [self._waiting.popleft() for _ in range(min(self.batch_rows, len(self._waiting)))]
            self._batches.append(_Batch(self._taken, records))
            self._taken += len(records)
        return self._batches[0]

    async def _try(self, batch: _Batch) -> int:
        """Try to write a batch; the number of records that are done with. It stays the next one if that fails."""
        try:
            await self._write_undisturbed(batch)
        except Exception as error:  # whatever it is: the records are kept, and tried again
            if _is_refusal(error):
                return self._split(batch)
            await self._pause(error)
            return 0
        if self._pause_s:
            log.info("the database takes request records again; %d wait", self._held)
            self._pause_s = 0.0
        self.metrics.records_written.inc(len(batch.records))
        return self._done_with(batch)

    async def _write_undisturbed(self, batch: _Batch) -> None:
        """Write in a task that goes on if ours is cancelled: a transaction cut short may hold its locks for long."""
        writing = self._writing = self._writing or asyncio.create_task(self._write(batch))
        try:
            await asyncio.shield(writing)
        finally:
            if writing.done():
                self._writing = None

    def _done_with(self, batch: _Batch) -> int:
        self._batches.popleft()
        self._let_go(len(batch.records))
        return len(batch.records)

    async def _pause(self, error: Exception) -> None:
        """Wait a little longer each time."""
        if not self._pause_s:
            log.warning("the database does not take request records (%s); %d wait", type(error).__name__, self._held)
        self._pause_s = min(max(2 * self._pause_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
        await asyncio.sleep(self._pause_s)

    def _split(self, batch: _Batch) -> int:
        """Halve a batch with a record that no database row can hold, or drop the record once it stands alone."""
        if len(batch.records) == 1:
            log.warning("a request record cannot be written; it is dropped")
            self.metrics.records_dropped.labels("refused").inc()
            return self._done_with(batch)
        middle = len(batch.records) // 2
        self._batches.popleft()
        self._batches.appendleft(_Batch(batch.first + middle, batch.records[middle:]))
        self._batches.appendleft(_Batch(batch.first, batch.records[:middle]))
        return 0

    async def _write(self, batch: _Batch) -> None:
        """Write a batch in one transaction, unless an earlier try of it got through."""
        tried, batch.tried = batch.tried, True
        async with asyncio.timeout(_WRITE_TIMEOUT_S):
            if tried and await self._is_written(self._id(batch.first)):
                return
            async with self.engine.begin() as connection:
                for start in range(0, len(batch.records), _ROWS_AT_ONCE):
                    records = batch.records[start : start + _ROWS_AT_ONCE]
                    await connection.execute(_REQUESTS.insert(), self._rows(batch.first + start, records))
                await _add_spending(connection, batch.records)

    def _rows(self, first: int, records: Iterable[RequestRecord]) -> list[dict[str, Any]]:
        rows = []
        for number, record in enumerate(records, first):
            row = dict(zip(_FIELDS, _values(record), strict=True))
            row["id"] = self._id(number)
            row["started_at"] = datetime.fromtimestamp(record.started_at, UTC)
            rows.append(row)
        return rows

    def _id(self, number: int) -> str:
        return f"{self._name}{number:016x}"

    async def _is_written(self, id: str) -> bool:
        """Whether a row is there. If its transaction is still under way, the same id is refused and asked for again."""
        async with self.engine.connect() as connection:
            return (await connection.execute(select(_REQUESTS.c.id).where(_REQUESTS.c.id == id))).first() is not None


async def _add_spending(connection: AsyncConnection, records: Iterable[RequestRecord]) -> None:
    """Add the records to the sums of their keys and months."""
    rows = _sums(records)
    if not rows:
        return
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement: Any = insert(_SPENDING)
    sums = {name: _SPENDING.c[name] + statement.excluded[name] for name in _SUMS}
    await connection.execute(statement.on_conflict_do_update(index_elements=["key_id", "month"], set_=sums), rows)


def _sums(records: Iterable[RequestRecord]) -> list[dict[str, Any]]:
    """One row per key and month, in one order for all writers: they lock these rows, and must not cross."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for record in records:
        if record.key_id is None:
            continue
        place = (record.key_id, month_of(record.started_at))
        row = rows.setdefault(place, {"key_id": place[0], "month": place[1], **dict.fromkeys(_SUMS, 0)})
        row["cost"] += record.cost or 0.0
        row["requests"] += 1
        row["prompt_tokens"] += record.prompt_tokens or 0
        row["completion_tokens"] += record.completion_tokens or 0
    return [rows[place] for place in sorted(rows)]


def _is_refusal(error: Exception) -> bool:
    """Whether the rows themselves are at fault, such as a number too large, so that they would fail for ever."""
    if isinstance(error, OverflowError | UnicodeError):  # SQLite's driver raises these as they are
        return True
    if not isinstance(error, DBAPIError) or error.statement is None:  # without a statement it could not even connect
        return False
    data_error = str(getattr(error.orig, "sqlstate", "")).startswith("22")  # SQL's class of them
    return data_error or isinstance(getattr(error.orig, "__cause__", None), ValueError)
