"""What a weighted token of an hour cost, where engines are paid by the hour; found once the hour is over.

money of an hour = price per GPU hour * GPUs of a replica * hours that replicas were ready
cost of a request = that money * its weighted tokens / all weighted tokens of the pool in that hour

All requests of the pool count, also shadows and evaluations: they use the engines, too. So the costs of an hour's
requests add up to its money; in an hour without a token the money stands as idle in `cost_rates`, on no request.

Until an hour is closed its requests carry a provisional cost, told by `newest_rates`. Closing sets what stands in the
request log, the usage and the keys' spending to what it should be. It can be done again at any time: from the same
numbers it changes nothing, and so it may be cut off anywhere, and two monitors may do it at once.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, Select, String, and_, bindparam, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from monitors.log.usage import month_of
from monitors.money.pricing import Pricing
from monitors.money.replica_time import HOUR, hour_of, looked_until
from monitors.tables import CostRateRow, ReplicaHourRow, RequestRow, SpendingRow, UsageRow
from registry.database import writing

GRACE = timedelta(minutes=15)
"""After its end an hour is left open for so long: its last requests are still answered, and recorded."""
OPEN = timedelta(hours=6)
"""So long an hour is closed again when something of it comes late; what comes later keeps its provisional cost."""
RATE_HOURS = 24
"""Hours with traffic whose mean tells the provisional cost. One alone will not do: in an hour with a single request
that request costs the whole hour, and the next hour's many would each be charged as much."""
ROWS_AT_ONCE = 1000

_RATES = CostRateRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model
_READY = ReplicaHourRow.__table__  # type: ignore[attr-defined]
_REQUESTS = RequestRow.__table__  # type: ignore[attr-defined]
_SPENDING = SpendingRow.__table__  # type: ignore[attr-defined]
_USAGE = UsageRow.__table__  # type: ignore[attr-defined]
_USAGE_KEY = ("key_id", "adapter", "version", "variant")
_SAME = 1e-12


@dataclass(frozen=True, slots=True)
class Rate:
    """What an hour of a pool cost, and for how much work."""

    money: float
    weighted_tokens: float

    @property
    def unit_price(self) -> float:
        """Money per weighted token; 0 in an idle hour."""
        return self.money / self.weighted_tokens if self.weighted_tokens else 0.0

    def is_same(self, other: "Rate | None") -> bool:
        """Whether it is the other one, but for rounding."""
        return (
            other is not None
            and math.isclose(self.money, other.money, rel_tol=_SAME)
            and math.isclose(self.weighted_tokens, other.weighted_tokens, rel_tol=_SAME)
        )


async def newest_rates(engine: AsyncEngine, pools: Iterable[str]) -> dict[str, float]:
    """Money per weighted token of each pool over its newest closed hours with traffic; without one it is left out."""
    found = {}
    columns = _RATES.c
    async with engine.connect() as connection:
        for pool in pools:
            query = select(columns.money, columns.weighted_tokens).order_by(columns.hour.desc()).limit(RATE_HOURS)
            busy = query.where(columns.pool == pool, columns.weighted_tokens > 0)
            hours = list(await connection.execute(busy))
            if hours:
                found[pool] = sum(hour.money for hour in hours) / sum(hour.weighted_tokens for hour in hours)
    return found


async def pools_with_replicas(engine: AsyncEngine, since: datetime) -> list[str]:
    """The pools that had a ready replica at some time since then."""
    query = select(_READY.c.pool).distinct().where(_READY.c.hour >= since).order_by(_READY.c.pool)
    async with engine.connect() as connection:
        return list((await connection.execute(query)).scalars())


async def hours_to_close(engine: AsyncEngine, pool: str, now: datetime) -> list[datetime]:
    """The hours of a pool that are over and looked at to their end: those not closed, and those closed lately.

    An hour in which no replica was seen ready is none of them; what was used in it keeps its cost.
    """
    columns = _READY.c
    async with engine.connect() as connection:
        looked = await looked_until(connection)
        if looked is None:
            return []
        end = min(hour_of(looked), hour_of(now - GRACE))
        query = select(columns.hour).distinct().where(columns.pool == pool, columns.hour < end)
        closed = (await connection.execute(select(func.max(_RATES.c.hour)).where(_RATES.c.pool == pool))).scalar()
        if closed is not None:
            query = query.where(columns.hour >= min(closed + HOUR, hour_of(now - OPEN)))
        return list((await connection.execute(query.order_by(columns.hour))).scalars())


async def close_hour(engine: AsyncEngine, pool: str, hour: datetime, pricing: Pricing, now: datetime) -> None:
    """Give what was used in an hour its cost, unless it has it.

    What is recorded meanwhile is not in the stored rate; by that the next time finds that it is to be done again.
    """
    async with engine.connect() as connection:
        used = (await connection.execute(_usage_of(pool, hour))).all()
        rate = _rate(await _ready_s(connection, pool, hour), used, pricing)
        if rate.is_same(await _stored(connection, pool, hour)):
            return
    await _price_requests(engine, pool, hour, pricing, rate.unit_price)
    async with writing(engine) as connection:
        # Written first: SQLite then waits for its lock here, and two monitors take turns.
        await _store(connection, pool, hour, rate, now)
        used = await _locked_usage(connection, pool, hour)
        await _price_usage(connection, pool, hour, pricing, rate.unit_price, used)


def _rate(ready_s: float, used: Sequence[Row[Any]], pricing: Pricing) -> Rate:
    tokens = math.fsum(pricing.weighted(row.prompt_tokens, row.completion_tokens) for row in used)
    return Rate(pricing.engines(ready_s), tokens)


async def _ready_s(connection: AsyncConnection, pool: str, hour: datetime) -> float:
    query = select(_READY.c.ready_s).where(_READY.c.hour == hour, _READY.c.pool == pool)
    return math.fsum((await connection.execute(query)).scalars())


def _usage_of(pool: str, hour: datetime) -> Select[Any]:
    return select(_USAGE).where(_USAGE.c.hour == hour, _USAGE.c.pool == pool)


async def _locked_usage(connection: AsyncConnection, pool: str, hour: datetime) -> Sequence[Row[Any]]:
    """What was used, locked where the database can: recorders wait until the transaction ends.

    In the recorders' order, which is Python's: by the server's own the two might wait for each other.
    """
    by_code = "C" if connection.dialect.name == "postgresql" else "BINARY"
    columns = (_USAGE.c[name] for name in _USAGE_KEY)
    order = [column.collate(by_code) if isinstance(column.type, String) else column for column in columns]
    rows: Sequence[Row[Any]] = (
        await connection.execute(_usage_of(pool, hour).order_by(*order).with_for_update())
    ).all()
    return rows


async def _stored(connection: AsyncConnection, pool: str, hour: datetime) -> Rate | None:
    query = select(_RATES.c.money, _RATES.c.weighted_tokens).where(_RATES.c.hour == hour, _RATES.c.pool == pool)
    found = (await connection.execute(query)).first()
    return None if found is None else Rate(found.money, found.weighted_tokens)


async def _store(connection: AsyncConnection, pool: str, hour: datetime, rate: Rate, now: datetime) -> None:
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    values = {
        "money": rate.money,
        "weighted_tokens": rate.weighted_tokens,
        "unit_price": rate.unit_price,
        "closed_at": now,
    }
    statement: Any = insert(_RATES).values(hour=hour, pool=pool, **values)
    await connection.execute(statement.on_conflict_do_update(index_elements=["hour", "pool"], set_=values))


async def _price_requests(engine: AsyncEngine, pool: str, hour: datetime, pricing: Pricing, unit: float) -> None:
    """Set the cost of each request in the log, some at a time, so that nobody waits long for the database."""
    columns = _REQUESTS.c
    work = (
        func.coalesce(columns.prompt_tokens, 0) * pricing.prompt_weight
        + func.coalesce(columns.completion_tokens, 0) * pricing.completion_weight
    )
    known = or_(columns.prompt_tokens.is_not(None), columns.completion_tokens.is_not(None))
    last = (hour, "")
    while rows := await _next_requests(engine, pool, hour, last):
        last = (rows[-1].started_at, rows[-1].id)
        ids = columns.id.in_([row.id for row in rows])
        async with writing(engine) as connection:
            await connection.execute(update(_REQUESTS).where(ids, known).values(cost=unit * work))


async def _next_requests(
    engine: AsyncEngine, pool: str, hour: datetime, last: tuple[datetime, str]
) -> Sequence[Row[tuple[str, datetime]]]:
    columns, at = _REQUESTS.c, last[0]
    after = or_(columns.started_at > at, and_(columns.started_at == at, columns.id > last[1]))
    within = (columns.pool == pool) & (columns.started_at >= at) & (columns.started_at < hour + HOUR)
    query = select(columns.id, columns.started_at).where(within, after)
    async with engine.connect() as connection:
        in_order = query.order_by(columns.started_at, columns.id).limit(ROWS_AT_ONCE)
        return (await connection.execute(in_order)).all()


async def _price_usage(
    connection: AsyncConnection, pool: str, hour: datetime, pricing: Pricing, unit: float, used: Sequence[Row[Any]]
) -> None:
    """Set the cost of what was used, and correct what its keys have spent by the difference."""
    changed = []
    differences: dict[str, float] = {}
    for row in used:
        cost = unit * pricing.weighted(row.prompt_tokens, row.completion_tokens)
        if cost != row.cost:
            changed.append({f"of_{name}": getattr(row, name) for name in _USAGE_KEY} | {"of_cost": cost})
            differences[row.key_id] = differences.get(row.key_id, 0.0) + cost - row.cost
    if not changed:
        return
    same = [_USAGE.c[name] == bindparam(f"of_{name}") for name in _USAGE_KEY]
    statement = update(_USAGE).where(_USAGE.c.hour == hour, _USAGE.c.pool == pool, *same)
    await connection.execute(statement.values(cost=bindparam("of_cost")), changed)
    await _correct_spending(connection, month_of(hour.timestamp()), differences)


async def _correct_spending(connection: AsyncConnection, month: str, differences: dict[str, float]) -> None:
    """In the recorders' order of keys: they lock the same rows."""
    rows = [{"of_key": key, "of_sum": differences[key]} for key in sorted(differences) if key]
    if rows:
        statement = update(_SPENDING).where(_SPENDING.c.month == month, _SPENDING.c.key_id == bindparam("of_key"))
        await connection.execute(statement.values(cost=_SPENDING.c.cost + bindparam("of_sum")), rows)
