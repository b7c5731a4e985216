"""Writes finished requests into the database, in batches, each exactly once, with what they used and what was said.

A request only puts its record into a list in memory. A task of its own takes batches from the front of that list and
writes each in one transaction: rows, sums of usage, and captured text. A batch whose outcome is not known, because the
connection broke at its commit, is looked for by the id of its first row before it is written again.

A request that gets no row, because too many wait or because it had no valid key, is added to sums in memory, which go
along with the next batch. So usage counts every request, as the metrics do.
"""

import asyncio
import contextlib
import logging
import secrets
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from msgspec.structs import astuple, replace
from sqlalchemy import Dialect, Table, delete, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from monitors.log.capture import Captured, capture, portions, stamped
from monitors.log.rows import Row, insert, moment
from monitors.log.usage import MOST_SUMS, Sums
from monitors.metrics import Metrics
from monitors.privacy.redaction import Redactor
from monitors.record import RequestRecord
from monitors.tables import CaptureRow, MonitorWindowRow, RequestRow
from registry.database import writing

log = logging.getLogger(__name__)

BATCH_ROWS = 2000
BATCH_S = 1.0
_ROWS_AT_ONCE = 500
"""Rows of a batch that are handed to the driver together: some milliseconds, in which nothing else runs."""
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 3.0
_WRITE_TIMEOUT_S = 30.0
"""A database that takes longer is treated as away; a connection to a machine that vanished would hang for minutes."""

MOST_TEXT_BYTES = 64 << 20
"""Captured text that may wait in memory; further requests are recorded without theirs."""
MARKER = "recorder"
"""The job under which batches without a row are noted in `monitor_windows`, by which they are found again."""

_REQUESTS: Table = RequestRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model
_CAPTURES = CaptureRow.__table__  # type: ignore[attr-defined]
_MARKS = MonitorWindowRow.__table__  # type: ignore[attr-defined]
_STARTED_AT = RequestRecord.__struct_fields__.index("started_at")


@dataclass(slots=True)
class _Batch:
    """What is written together.

    Attributes:
        first: the number of the first record; a batch without any has a number of its own.
        records: may be none.
        owed: sums of requests that get no row.
        captured: what was said, once it has been taken apart.
        tried: whether it may be written already.
    """

    first: int
    records: Sequence[RequestRecord]
    owed: Sums = field(default_factory=Sums)
    captured: Captured | None = None
    tried: bool = False

    @property
    def captures(self) -> dict[int, dict[str, Any]]:
        """The rows of what was said, by the numbers of their records."""
        rows = self.captured.rows if self.captured else {}
        return {number: rows[number] for number in range(self.first, self.first + len(self.records)) if number in rows}


class Recorder:
    """Keeps finished requests until they are written; a `RequestHook`.

    When `size` records wait, further ones are dropped and counted, not the oldest: what is lost is then the end of an
    outage in one piece, and a batch that may be half-way into the database is never touched.

    Attributes:
        engine: the database; it may be away at any time.
        metrics: where written, dropped and waiting records are counted.
        size: how many records may wait.
        batch_rows, batch_s: a batch is written when so many records wait, or after so long. It takes at most half of
            what may wait, so that there is room for those that come meanwhile.
        text_bytes: how much captured text may wait, bytes.
        redactor: takes out of it what must not be stored.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        metrics: Metrics,
        *,
        size: int,
        batch_rows: int = BATCH_ROWS,
        batch_s: float = BATCH_S,
        text_bytes: int = MOST_TEXT_BYTES,
        redactor: Redactor | None = None,
    ) -> None:
        self.engine = engine
        self.metrics = metrics
        self.size = size
        self.batch_rows = min(batch_rows, max(1, size // 2))
        self.batch_s = batch_s
        self.text_bytes = text_bytes
        self.redactor = redactor or Redactor()
        self._name = secrets.token_hex(8)  # with the record's number it makes the row's id
        self._taken = 0
        self._waiting: deque[RequestRecord] = deque()
        self._batches: deque[_Batch] = deque()  # begun, in order: one, or the pieces of one that was refused
        self._writing: asyncio.Task[None] | None = None  # always of the first batch
        self._held = 0
        self._held_text = 0  # bytes
        self._owed = Sums(most=MOST_SUMS)
        self._enough = asyncio.Event()
        self._pause_s = 0.0

    def __call__(self, record: RequestRecord) -> None:
        """Keep a finished request until it is written; of a stranger only the sums, or anyone could fill the disk."""
        if record.key_id is None and record.variant != "shadow":
            self._owe(record)
            return
        if self._held >= self.size:
            self.metrics.records_dropped.labels("buffer_full").inc()
            self._owe(record)
            return
        self._waiting.append(self._with_room_for_text(record))
        self._held += 1
        if self._held >= self.batch_rows:
            self._enough.set()

    def _owe(self, record: RequestRecord) -> None:
        if not self._owed.add(record):
            self.metrics.records_dropped.labels("usage_full").inc()

    def _with_room_for_text(self, record: RequestRecord) -> RequestRecord:
        size = _text_size(record)
        if self._held_text + size > self.text_bytes:
            self.metrics.captures_dropped.labels("buffer_full").inc()
            return replace(record, text=None)
        self._held_text += size
        return record

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
                while self._held or self._owed or self._batches:
                    await self._write_through(self._held)
        lost = self._held
        if lost or self._owed or self._batches:
            log.warning("the database did not take the last %d request records, nor the last sums of usage", lost)
            self.metrics.records_dropped.labels("shutdown").inc(lost)
            self._give_up()
        return lost

    def _give_up(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None
        self._batches.clear()
        self._waiting.clear()
        self._owed = Sums(most=MOST_SUMS)
        self._held_text = 0
        self._let_go(self._held)

    def _let_go(self, records: int) -> None:
        self._held -= records
        self.metrics.records_buffered.set(self._held)

    async def _write_through(self, records: int) -> None:
        """Write so many records, however long that takes; those that come meanwhile wait for the next round."""
        if self._owed and not self._batches:
            self._begin()
        while records > 0 or self._batches:
            self.metrics.records_buffered.set(self._held)
            records -= await self._try(self._next_batch())

    def _next_batch(self) -> _Batch:
        if not self._batches:
            self._begin()
        return self._batches[0]

    def _begin(self) -> None:
        """Begin a batch with what waits, and with what is owed."""
        records = [self._waiting.popleft() for _ in range(min(self.batch_rows, len(self._waiting)))]
        self._batches.append(_Batch(self._number(len(records)), records, self._owed))
        self._owed = Sums(most=MOST_SUMS)

    def _number(self, records: int) -> int:
        """The number of the first of so many records; a batch without any takes one, too."""
        first = self._taken
        self._taken += max(1, records)
        return first

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
        self.metrics.captures_written.inc(len(batch.captures))
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
        self._held_text -= sum(map(_text_size, batch.records))
        self._let_go(len(batch.records))
        return len(batch.records)

    async def _pause(self, error: Exception) -> None:
        """Wait a little longer each time."""
        if not self._pause_s:
            log.warning("the database does not take request records (%s); %d wait", type(error).__name__, self._held)
        self._pause_s = min(max(2 * self._pause_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
        await asyncio.sleep(self._pause_s)

    def _split(self, batch: _Batch) -> int:
        """Take apart a batch of which the database refuses something, until that stands alone, and drop that.

        Of a record that is dropped the sums are owed, and dropped only if they are refused, too.
        """
        pieces = self._pieces(batch)
        if not pieces:
            return self._drop(batch)
        self._batches.popleft()
        self._batches.extendleft(reversed(pieces))
        return 0

    def _drop(self, batch: _Batch) -> int:
        done = self._done_with(batch)
        if batch.records:
            log.warning("a request record cannot be written; it is dropped")
            self.metrics.records_dropped.labels("refused").inc(done)
            self._batches.appendleft(_Batch(self._number(0), (), Sums(batch.records)))
        else:
            log.warning("a sum of usage cannot be written; it is dropped")
            self.metrics.records_dropped.labels("usage_refused").inc(batch.owed.requests)
        return done

    def _pieces(self, batch: _Batch) -> list[_Batch]:
        first, records, captured = batch.first, batch.records, batch.captured
        if batch.owed and records:
            return [_Batch(self._number(0), (), batch.owed), _Batch(first, records, captured=captured)]
        if len(records) > 1:
            middle = len(records) // 2
            halves = ((first, records[:middle]), (first + middle, records[middle:]))
            return [_Batch(number, half, captured=captured) for number, half in halves]
        if len(batch.owed.usage) > 1:
            return [_Batch(self._number(0), (), half) for half in batch.owed.halves()]
        if batch.captures:
            self.metrics.captures_dropped.labels("refused").inc()
            return [_Batch(first, records, captured=Captured())]
        return []

    async def _write(self, batch: _Batch) -> None:
        """Write a batch in one transaction, unless an earlier try of it got through."""
        tried, batch.tried = batch.tried, True
        if batch.captured is None:
            batch.captured = await self._capture(batch)
        async with asyncio.timeout(_WRITE_TIMEOUT_S):
            if tried and await self._is_written(batch):
                return
            async with writing(self.engine) as connection:
                await self._write_rows(connection, batch)
                # The sums come last: other gateways wait for these rows.
                sums = Sums(batch.records)
                sums.merge(batch.owed)
                await sums.write(connection)

    async def _capture(self, batch: _Batch) -> Captured:
        """Take apart what was said, in a thread: it takes about a millisecond for each request that was drawn."""
        drawn = [(number, record) for number, record in enumerate(batch.records, batch.first) if record.text]
        if not drawn:
            return Captured()
        captured = await asyncio.to_thread(capture, drawn, self.redactor)
        for reason, count in captured.dropped.items():
            self.metrics.captures_dropped.labels(reason).inc(count)
        return captured

    async def _write_rows(self, connection: AsyncConnection, batch: _Batch) -> None:
        if not batch.records:
            await self._mark(connection, batch)
        for start in range(0, len(batch.records), _ROWS_AT_ONCE):
            records = batch.records[start : start + _ROWS_AT_ONCE]
            rows = self._rows(batch.first + start, records, connection.dialect)
            await insert(connection, _REQUESTS, rows, on_conflict="fail")
        now = datetime.now(UTC)
        for texts in portions(stamped(row, self._id(number), now) for number, row in batch.captures.items()):
            await connection.execute(_CAPTURES.insert(), texts)

    async def _mark(self, connection: AsyncConnection, batch: _Batch) -> None:
        """Leave a row by which a batch without any is found; the one of the batch before has served."""
        await connection.execute(delete(_MARKS).where(_MARKS.c.job == MARKER, _MARKS.c.subject == self._name))
        mark = {"job": MARKER, "subject": self._name, "window": self._id(batch.first)}
        await connection.execute(_MARKS.insert(), {**mark, "outcome": "", "created_at": datetime.now(UTC)})

    def _rows(self, first: int, records: Sequence[RequestRecord], dialect: Dialect) -> list[Row]:
        return [row(self._id(number), record, dialect) for number, record in enumerate(records, first)]

    def _id(self, number: int) -> str:
        return f"{self._name}{number:016x}"

    async def _is_written(self, batch: _Batch) -> bool:
        """Whether its first row is there. If its transaction is still under way, the same row is refused meanwhile."""
        name = self._id(batch.first)
        query = select(_REQUESTS.c.id).where(_REQUESTS.c.id == name)
        if not batch.records:
            query = select(_MARKS.c.window).where(_MARKS.c.job == MARKER, _MARKS.c.window == name)
        async with self.engine.connect() as connection:
            return (await connection.execute(query)).first() is not None


def row(id: str, record: RequestRecord, dialect: Dialect) -> Row:
    """A record's row: the id, and then its fields as they stand, without the text."""
    values = astuple(record)
    return (id, *values[:_STARTED_AT], moment(record.started_at, dialect), *values[_STARTED_AT + 1 : -1])


def _text_size(record: RequestRecord) -> int:
    return len(record.text.prompt) + len(record.text.answer) if record.text else 0


def _is_refusal(error: Exception) -> bool:
    """Whether the rows themselves are at fault, such as a number too large, so that they would fail for ever."""
    if isinstance(error, OverflowError | UnicodeError):  # SQLite's driver raises these as they are
        return True
    if not isinstance(error, DBAPIError) or error.statement is None:  # without a statement it could not even connect
        return False
    data_error = str(getattr(error.orig, "sqlstate", "")).startswith("22")  # SQL's class of them
    return data_error or isinstance(getattr(error.orig, "__cause__", None), ValueError)
