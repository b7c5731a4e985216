"""What requests cost: per adapter, version, variant, key or pool, by day and month (UTC), beside the base model.

All of it is read from the usage per hour, so the sums agree with it, and stay when the request log does not.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import ColumnElement, Row, Select, and_, func, select, true
from sqlalchemy import case as sql_case
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from monitors.tables import CostRateRow, UsageRow

By = Literal["adapter", "version", "variant", "key", "pool"]
Per = Literal["day", "month"]

_USAGE = UsageRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model
_RATES = CostRateRow.__table__  # type: ignore[attr-defined]
_GROUPS: Mapping[By, tuple[str, ...]] = {
    "adapter": ("adapter",),
    "version": ("adapter", "version"),
    "variant": ("adapter", "variant"),
    "key": ("key_id",),
    "pool": ("pool",),
}
_FORMATS: Mapping[Per, tuple[str, str]] = {"day": ("%Y-%m-%d", "YYYY-MM-DD"), "month": ("%Y-%m", "YYYY-MM")}
_TRAFFIC = _USAGE.c.variant != "evaluation"
_BY_BASE = and_(_TRAFFIC, _USAGE.c.version == 0)
_BY_OWN = and_(_TRAFFIC, _USAGE.c.version > 0)
_COMPARED: Mapping[By, ColumnElement[bool]] = {"adapter": _BY_OWN, "version": _TRAFFIC}


@dataclass(frozen=True, slots=True)
class Cost:
    """What one group used and cost in one day or month.

    Attributes:
        period: such as ``2026-11-03`` or ``2026-11`` (UTC).
        adapter, version, variant, key_id, pool: what it is about, as far as it is grouped by that. An empty adapter is
            the base model asked by its own name, version 0 the base model, an empty key the gateway's own copies.
        answered: requests without an error.
        cost: of all of them; adds up to the usage's.
        per_thousand: cost of 1,000 answered requests: of an adapter those that its own versions answered. The
            monitor's evaluations are left out where adapters and versions are compared.
        base_per_thousand: the same of the adapter's requests that the base model answered, as a shadow or a fallback.
        idle: what a pool's engines cost in hours without a token, which is in no request's cost.
    """

    period: str
    adapter: str | None = None
    version: int | None = None
    variant: str | None = None
    key_id: str | None = None
    pool: str | None = None
    requests: int = 0
    answered: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    per_thousand: float | None = None
    base_per_thousand: float | None = None
    idle: float | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """From which hour to before which; `adapter` is the only one asked for."""

    since: datetime
    until: datetime
    adapter: str | None = None


async def costs(engine: AsyncEngine, span: Span, *, by: By, per: Per, limit: int) -> list[Cost]:
    """Up to `limit` groups, the newest day or month first and in it the dearest."""
    async with engine.connect() as connection:
        period = _period(connection, per, _USAGE.c.hour)
        rows = (await connection.execute(_report(span, by, period, limit))).all()
        found = [_cost(row, by) for row in rows]
        if "adapter" in _GROUPS[by]:
            base = await _base(connection, span, period)
            return [replace(one, base_per_thousand=base.get((one.period, one.adapter or ""))) for one in found]
        if by == "pool" and span.adapter is None:
            return _with_idle(found, await _idle(connection, span, _period(connection, per, _RATES.c.hour)))[:limit]
        return found


async def cost_per_thousand(engine: AsyncEngine, since: datetime, until: datetime) -> dict[tuple[str, str], float]:
    """Cost of 1,000 answered requests by adapter and variant; what the base model answered has the variant `base`."""
    variant = sql_case((_USAGE.c.version == 0, "base"), else_=_USAGE.c.variant).label("shown")
    query = select(_USAGE.c.adapter, variant, _sum("cost"), _answered(true(), "answered"))
    within = query.where(_within(Span(since, until)), _TRAFFIC).group_by(_USAGE.c.adapter, variant)
    async with engine.connect() as connection:
        rows = (await connection.execute(within)).all()
    return {(row.adapter, row.shown): 1000 * row.cost / int(row.answered) for row in rows if row.answered}


def _report(span: Span, by: By, period: ColumnElement[str], limit: int) -> Select[Any]:
    groups = [_USAGE.c[name] for name in _GROUPS[by]]
    sums = [_sum(name) for name in ("requests", "prompt_tokens", "completion_tokens", "cost")]
    compared = _COMPARED.get(by, true())
    sums += [_answered(true(), "answered"), _answered(compared, "compared"), _spent(compared, "compared_cost")]
    query = select(period.label("period"), *groups, *sums).where(_within(span)).group_by(period, *groups)
    return query.order_by(period.desc(), func.sum(_USAGE.c.cost).desc(), *groups).limit(limit)


def _cost(row: Row[Any], by: By) -> Cost:
    return Cost(
        period=row.period,
        **{name: getattr(row, name) for name in _GROUPS[by]},
        requests=int(row.requests),
        answered=int(row.answered),
        prompt_tokens=int(row.prompt_tokens),
        completion_tokens=int(row.completion_tokens),
        cost=row.cost,
        per_thousand=1000 * row.compared_cost / int(row.compared) if row.compared else None,
    )


async def _base(connection: AsyncConnection, span: Span, period: ColumnElement[str]) -> dict[tuple[str, str], float]:
    """What 1,000 requests of each adapter cost where the base model answered them, by period and adapter."""
    adapter = _USAGE.c.adapter
    query = select(period.label("period"), adapter, _sum("cost"), _answered(true(), "answered"))
    rows = await connection.execute(query.where(_within(span), _BY_BASE).group_by(period, adapter))
    return {(row.period, row.adapter): 1000 * row.cost / int(row.answered) for row in rows if row.answered}


async def _idle(connection: AsyncConnection, span: Span, period: ColumnElement[str]) -> dict[tuple[str, str], float]:
    columns = _RATES.c
    query = select(period.label("period"), columns.pool, func.sum(columns.money).label("money"))
    idle = query.where(columns.hour >= span.since, columns.hour < span.until, columns.weighted_tokens == 0)
    return {(row.period, row.pool): row.money for row in await connection.execute(idle.group_by(period, columns.pool))}


def _with_idle(found: list[Cost], idle: Mapping[tuple[str, str], float]) -> list[Cost]:
    """The idle cost beside each pool's, also of a period in which it had no request."""
    told = {(one.period, one.pool) for one in found}
    found = [replace(one, idle=idle.get((one.period, one.pool or ""))) for one in found]
    found += [
        Cost(period, pool=pool, idle=money) for (period, pool), money in idle.items() if (period, pool) not in told
    ]
    return sorted(found, key=lambda one: (one.period, one.cost), reverse=True)


def _within(span: Span) -> ColumnElement[bool]:
    within = and_(_USAGE.c.hour >= span.since, _USAGE.c.hour < span.until)
    return within if span.adapter is None else and_(within, _USAGE.c.adapter == span.adapter)


def _period(connection: AsyncConnection, per: Per, hour: ColumnElement[Any]) -> ColumnElement[str]:
    """The day or month of an hour, in UTC whatever the server's own zone is."""
    sqlite_format, postgresql_format = _FORMATS[per]
    if connection.dialect.name == "postgresql":
        return func.to_char(func.timezone("UTC", hour), postgresql_format)
    return func.strftime(sqlite_format, hour)


def _sum(name: str) -> ColumnElement[Any]:
    return func.sum(_USAGE.c[name]).label(name)


def _answered(which: ColumnElement[bool], label: str) -> ColumnElement[Any]:
    return func.sum(sql_case((which, _USAGE.c.requests - _USAGE.c.errors), else_=0)).label(label)


def _spent(which: ColumnElement[bool], label: str) -> ColumnElement[Any]:
    return func.sum(sql_case((which, _USAGE.c.cost), else_=0.0)).label(label)
