"""What requests cost, for admins."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import msgspec
from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.params import QueryParameter
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.admin.fields import NO_NUL
from gateway.admin.moments import Since, Until, moment
from gateway.errors import InvalidRequest
from gateway.refusals import refusals
from gateway.shapes import Page
from monitors.money.costs import By, Cost, Per, Span, costs

_DAYS_SHOWN = 30
_MONTHS_SHOWN = 12


class CostShape(msgspec.Struct, frozen=True):
    """What one group used and cost in one day or month (UTC); what it is not grouped by is null.

    An empty `adapter` is the base model asked by its own name, `version` 0 the base model, an empty `key_id` copies
    and evaluations that no client asked for. `per_thousand` is the cost of 1,000 answered requests, of an adapter those
    that its own versions answered; `base_per_thousand` that of its requests that the base model answered. `idle` is
    what a pool's engines cost in hours without a token, beside `cost`.
    """

    period: str
    adapter: str | None
    version: int | None
    variant: str | None
    key_id: str | None
    pool: str | None
    requests: int
    answered: int
    prompt_tokens: int
    completion_tokens: int
    cost: float
    per_thousand: float | None
    base_per_thousand: float | None
    idle: float | None


class CostController(Controller):
    """Costs."""

    path = "/costs"
    tags = ("Costs",)

    @get("/", summary="Show costs", responses=refusals())
    async def show(
        self,
        database: NamedDependency[AsyncEngine],
        by: Annotated[By, QueryParameter(name="by")] = "adapter",
        per: Annotated[Per, QueryParameter(name="per")] = "day",
        since: Since = None,
        until: Until = None,
        adapter: Annotated[str | None, QueryParameter(name="adapter", max_length=63, pattern=NO_NUL)] = None,
        limit: Annotated[int, QueryParameter(name="limit", ge=1, le=10_000)] = 1000,
    ) -> Page[CostShape]:
        """What was used and what it cost by day or month (UTC), newest first, then the dearest.

        An hour counts if it begins from `since` on and before `until`; unsaid, it is the last 30 days or 12 months.
        """
        found = await costs(database, _span(since, until, per, adapter), by=by, per=per, limit=limit + 1)
        return Page([_shape(each) for each in found[:limit]], has_more=len(found) > limit)


def _span(since: datetime | None, until: datetime | None, per: Per, adapter: str | None) -> Span:
    end = moment(until, "until") or datetime.now(UTC)
    start = moment(since, "since") or _start(end, per)
    if start >= end:
        raise InvalidRequest("since must lie before until", param="since")
    return Span(start, end, adapter)


def _start(end: datetime, per: Per) -> datetime:
    """The beginning of the first day or month that is shown if nobody says."""
    today = end.replace(hour=0, minute=0, second=0, microsecond=0)
    if per == "day":
        return today - timedelta(days=_DAYS_SHOWN - 1)
    months = end.year * 12 + end.month - _MONTHS_SHOWN
    return today.replace(year=months // 12, month=months % 12 + 1, day=1)


def _shape(cost: Cost) -> CostShape:
    return msgspec.convert(cost, CostShape, from_attributes=True)
