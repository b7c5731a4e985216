"""What requests used, added up: by hour, key, pool, adapter, version and variant, and by key and month.

The sums go into the database in the same transaction as the requests' rows. They outlive the request log, and of a
request whose row was dropped they are all that stays.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import Table, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from monitors.record import RequestRecord
from monitors.tables import SpendingRow, UsageRow

MOST_SUMS = 50_000
"""How many sums of requests without a row may wait: some 30 MB."""

_USAGE: Table = UsageRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model
_SPENDING: Table = SpendingRow.__table__  # type: ignore[attr-defined]
_HOUR_S = 3600
_FIRST_ERROR = 400

UsageKey = tuple[int, str, str, str, int, str]
"""Hour (UTC, counted from the epoch), key, pool, adapter, version and variant; '' and 0 where there is none."""


def month_of(moment: float) -> str:
    """The month (UTC) of a moment in seconds since the epoch, such as ``2026-11``."""
    return _month_of_hour(int(moment // _HOUR_S))


@lru_cache(maxsize=64)
def _month_of_hour(hour: int) -> str:
    """Months begin with an hour, so the many requests of one hour need one look at the calendar."""
    return f"{_start_of(hour):%Y-%m}"


def _start_of(hour: int) -> datetime:
    return datetime.fromtimestamp(hour * _HOUR_S, UTC)


async def spending(engine: AsyncEngine, month: str) -> dict[str, float]:
    """What each key has spent in a month, by the key's id; keys without a request in it are left out."""
    async with engine.connect() as connection:
        columns = _SPENDING.c
        found = await connection.execute(select(columns.key_id, columns.cost).where(columns.month == month))
        return {row.key_id: row.cost for row in found}


class Sums:
    """Requests added up.

    Attributes:
        usage: the sums of each hour, key and so on.

    Args:
        most: how many different ones there may be.
    """

    def __init__(self, records: Iterable[RequestRecord] = (), *, most: int | None = None) -> None:
        self._most = most
        self.usage: dict[UsageKey, dict[str, Any]] = {}
        for record in records:
            self.add(record)

    def __bool__(self) -> bool:
        """Whether there is anything in it."""
        return bool(self.usage)

    def add(self, record: RequestRecord) -> bool:
        """Add a request; False if that would take one sum more than there may be."""
        key: UsageKey = (
            int(record.started_at // _HOUR_S),
            record.key_id or "",
            record.pool or "",
            record.adapter or "",
            record.version or 0,
            record.variant or "",
        )
        sums = self.usage.get(key)
        if sums is None:
            if self._most is not None and len(self.usage) >= self._most:
                return False
            sums = self.usage[key] = dict.fromkeys(_USAGE_SUMS, 0)
        sums["requests"] += 1
        sums["errors"] += record.status >= _FIRST_ERROR or record.error is not None
        sums["prompt_tokens"] += record.prompt_tokens or 0
        sums["completion_tokens"] += record.completion_tokens or 0
        sums["duration_s"] += record.duration_s
        sums["cost"] += record.cost or 0.0
        return True

    def merge(self, other: "Sums") -> None:
        """Add what another one has."""
        for key, sums in other.usage.items():
            _add(self.usage.setdefault(key, dict.fromkeys(_USAGE_SUMS, 0)), sums)

    def halves(self) -> "tuple[Sums, Sums]":
        """The same in two."""
        found = Sums(), Sums()
        for number, (key, sums) in enumerate(self.usage.items()):
            found[2 * number >= len(self.usage)].usage[key] = sums
        return found

    @property
    def requests(self) -> int:
        """How many there were."""
        return sum(sums["requests"] for sums in self.usage.values())

    async def write(self, connection: AsyncConnection) -> None:
        """Add all of it to what the database has. Every writer locks these rows in the same order, so none cross."""
        await _upsert(connection, _USAGE, _USAGE_SUMS, self._usage_rows())
        await _upsert(connection, _SPENDING, _SPENDING_SUMS, self._spending_rows())

    def _usage_rows(self) -> list[dict[str, Any]]:
        names = ("key_id", "pool", "adapter", "version", "variant")
        return [
            {"hour": _start_of(key[0]), **dict(zip(names, key[1:], strict=True)), **self.usage[key]}
            for key in sorted(self.usage)
        ]

    def _spending_rows(self) -> list[dict[str, Any]]:
        """What has no key is nobody's spending."""
        rows: dict[tuple[str, str], dict[str, Any]] = {}
        for (hour, key_id, *_), sums in self.usage.items():
            if key_id:
                place = (key_id, _month_of_hour(hour))
                _add(rows.setdefault(place, dict.fromkeys(_SPENDING_SUMS, 0)), sums)
        return [{"key_id": key_id, "month": month, **rows[key_id, month]} for key_id, month in sorted(rows)]


def _sums_of(table: Table) -> tuple[str, ...]:
    return tuple(column.name for column in table.columns if not column.primary_key)


_USAGE_SUMS = _sums_of(_USAGE)
_SPENDING_SUMS = _sums_of(_SPENDING)


def _add(sums: dict[str, Any], more: dict[str, Any]) -> None:
    for name in sums:
        sums[name] += more[name]


async def _upsert(connection: AsyncConnection, table: Table, sums: Iterable[str], rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement: Any = insert(table)
    added = {name: table.c[name] + statement.excluded[name] for name in sums}
    keys = [column.name for column in table.primary_key]
    await connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=added), rows)
