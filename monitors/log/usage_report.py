"""Usage, read back: added up over hours, days or months, by what one wants to see apart."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, get_args

from sqlalchemy import ColumnElement, Row, Table, and_, func, literal, or_, select, type_coerce
from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.tables import UsageRow
from registry.tables import UtcDateTime

Period = Literal["hour", "day", "month", "all"]
"""How long a sum goes; ``all`` is from the first to the last hour that is asked for."""

Part = Literal["key_id", "pool", "adapter", "version", "variant"]
PARTS: tuple[Part, ...] = get_args(Part)
SUMS = ("requests", "errors", "prompt_tokens", "completion_tokens", "duration_s", "cost")

_USAGE: Table = UsageRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model
_SQLITE_STARTS = {
    "hour": "%Y-%m-%d %H:00:00.000000",
    "day": "%Y-%m-%d 00:00:00.000000",
    "month": "%Y-%m-01 00:00:00.000000",
}


async def usage(
    engine: AsyncEngine,
    *,
    by: Sequence[Part],
    per: Period,
    adapter: str | None = None,
    key_id: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    after: Sequence[Any] = (),
    limit: int = 100,
) -> Sequence[Row[Any]]:
    """Up to `limit` sums, the oldest first, with the columns of `SUMS`, `by`, and `period` unless it is all.

    Periods begin by the calendar of UTC; `since` and `until` (itself out) are taken to the hour. `after` goes on from
    a row, and has its period, if there is one, and the values of `by`.
    """
    groups: list[ColumnElement[Any]] = [_USAGE.c[name] for name in by]
    if per != "all":
        groups.insert(0, _start_of(per, engine.dialect.name).label("period"))
    conditions = [
        _USAGE.c[name] == value for name, value in (("adapter", adapter), ("key_id", key_id)) if value is not None
    ]
    if since is not None:
        conditions.append(_USAGE.c.hour >= since.replace(minute=0, second=0, microsecond=0))
    if until is not None:
        conditions.append(_USAGE.c.hour < until)
    if after:
        conditions.append(_comes_after(groups, after))
    query = select(*groups, *(func.sum(_USAGE.c[name]).label(name) for name in SUMS)).where(*conditions)
    async with engine.connect() as connection:
        found = await connection.execute(query.group_by(*groups).order_by(*groups).limit(limit))
        return [row for row in found.all() if row.requests is not None]  # nothing at all sums up to one empty row


def _start_of(per: Period, dialect: str) -> ColumnElement[Any]:
    if dialect == "postgresql":
        return type_coerce(func.date_trunc(per, _USAGE.c.hour, "UTC"), UtcDateTime())
    return type_coerce(func.strftime(_SQLITE_STARTS[per], _USAGE.c.hour), UtcDateTime())


def _comes_after(groups: Sequence[ColumnElement[Any]], values: Sequence[Any]) -> ColumnElement[bool]:
    """That a row stands behind these values in the order of the groups."""
    ways = []
    for index, group in enumerate(groups):
        same = [other == literal(value, other.type) for other, value in zip(groups[:index], values, strict=False)]
        ways.append(and_(*same, group > literal(values[index], group.type)))
    return or_(*ways)
