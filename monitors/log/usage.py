"""What requests used, added up: by hour, key, pool, adapter, version and variant, and by key and month.

The sums go into the database in the same transaction as the requests' rows. They outlive the request log, and of a
request whose row was dropped they are all that stays.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache

from msgspec import Struct
from msgspec.structs import astuple
from sqlalchemy import Dialect, Table, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from monitors.log.rows import Row, insert, moment
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


class Used(Struct, gc=False):
    """What requests of one kind used, added up, in the order of the columns of `monitors.tables.UsageRow`."""

    requests: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    duration_s: float = 0.0
    cost: float = 0.0

    def add(self, more: "Used") -> None:
        """Add what others used."""
        self.requests += more.requests
        self.errors += more.errors
        self.prompt_tokens += more.prompt_tokens
        self.completion_tokens += more.completion_tokens
        self.duration_s += more.duration_s
        self.cost += more.cost


def month_of(moment: float) -> str:
    """The month (UTC) of a moment in seconds since the epoch, such as ``2026-11``."""
    return _month_of_hour(int(moment // _HOUR_S))


@lru_cache(maxsize=64)
def _month_of_hour(hour: int) -> str:
    """Months begin with an hour, so the many requests of one hour need one look at the calendar."""
    return f"{datetime.fromtimestamp(hour * _HOUR_S, UTC):%Y-%m}"


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
        self.usage: dict[UsageKey, Used] = {}
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
        used = self.usage.get(key)
        if used is None:
            if self._most is not None and len(self.usage) >= self._most:
                return False
            used = self.usage[key] = Used()
        used.requests += 1
        used.errors += record.status >= _FIRST_ERROR or record.error is not None
        used.prompt_tokens += record.prompt_tokens or 0
        used.completion_tokens += record.completion_tokens or 0
        used.duration_s += record.duration_s
        used.cost += record.cost or 0.0
        return True

    def merge(self, other: "Sums") -> None:
        """Add what another one has."""
        for key, used in other.usage.items():
            self.usage.setdefault(key, Used()).add(used)

    def halves(self) -> "tuple[Sums, Sums]":
        """The same in two."""
        found = Sums(), Sums()
        for number, (key, used) in enumerate(self.usage.items()):
            found[2 * number >= len(self.usage)].usage[key] = used
        return found

    @property
    def requests(self) -> int:
        """How many there were."""
        return sum(used.requests for used in self.usage.values())

    async def write(self, connection: AsyncConnection) -> None:
        """Add all of it to what the database has. Every writer locks these rows in the same order, so none cross."""
        await insert(connection, _USAGE, self._usage_rows(connection.dialect), on_conflict="add")
        await insert(connection, _SPENDING, self._spending_rows(), on_conflict="add")

    def _usage_rows(self, dialect: Dialect) -> list[Row]:
        return [
            (moment(hour * _HOUR_S, dialect), *kind, *astuple(used))
            for (hour, *kind), used in sorted(self.usage.items(), key=_by_key)
        ]

    def _spending_rows(self) -> list[Row]:
        """What has no key is nobody's spending."""
        months: dict[tuple[str, str], Used] = {}
        for (hour, key_id, *_), used in self.usage.items():
            if key_id:
                months.setdefault((key_id, _month_of_hour(hour)), Used()).add(used)
        return [
            (*place, used.cost, used.requests, used.prompt_tokens, used.completion_tokens)
            for place, used in sorted(months.items(), key=_by_key)
        ]


def _by_key(item: tuple[Row, Used]) -> Row:
    return item[0]
