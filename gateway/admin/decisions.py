"""What the monitor concluded."""

from datetime import datetime
from typing import Annotated, Any

import msgspec
from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.params import QueryParameter
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.admin.fields import NO_NUL
from gateway.admin.moments import Since, Until, moment
from gateway.refusals import refusals
from gateway.shapes import Page
from monitors.decisions import StoredDecision, Wanted, newest_decisions
from monitors.loop.followed import Followed, followed


class DecisionShape(msgspec.Struct, frozen=True):
    """One conclusion: what about, by which rule, why, and from which values; `version` is null for all versions.

    `revision` is the deployment's revision that followed from it, `job` the tuning job; null where none did.
    """

    id: int
    adapter: str
    version: int | None
    kind: str
    outcome: str
    rule: str
    reason: str
    inputs: dict[str, Any] | None
    created_at: datetime
    revision: int | None
    job: str | None


class DecisionController(Controller):
    """Decisions."""

    path = "/decisions"
    tags = ("Decisions",)

    @get("/", summary="List decisions", responses=refusals())
    async def list_decisions(
        self,
        database: NamedDependency[AsyncEngine],
        adapter: Annotated[str | None, QueryParameter(name="adapter", max_length=63, pattern=NO_NUL)] = None,
        kind: Annotated[str | None, QueryParameter(name="kind", max_length=40, pattern=NO_NUL)] = None,
        outcome: Annotated[str | None, QueryParameter(name="outcome", max_length=40, pattern=NO_NUL)] = None,
        acted: Annotated[bool, QueryParameter(name="acted")] = False,
        since: Since = None,
        until: Until = None,
        limit: Annotated[int, QueryParameter(name="limit", ge=1, le=1000)] = 100,
        before: Annotated[int | None, QueryParameter(name="before", ge=1, le=2**53)] = None,
    ) -> Page[DecisionShape]:
        """What was concluded of all adapters or one, newest first; `before` goes on from a decision's id.

        With `acted` only what the loop did by itself, and alarms of lost quality.
        """
        wanted = Wanted(
            adapter, kind, outcome, before, since=moment(since, "since"), until=moment(until, "until"), acted=acted
        )
        async with database.connect() as connection:
            found = await newest_decisions(connection, wanted, limit=limit + 1)
            after = await followed(connection, found[:limit])
        shapes = [_shape(each, after.get(each.id, Followed())) for each in found[:limit]]
        return Page(shapes, has_more=len(found) > limit)


def _shape(decision: StoredDecision, after: Followed) -> DecisionShape:
    return DecisionShape(
        id=decision.id,
        adapter=decision.adapter,
        version=decision.version or None,
        kind=decision.kind,
        outcome=decision.outcome,
        rule=decision.rule,
        reason=decision.reason,
        inputs=None if decision.inputs is None else dict(decision.inputs),
        created_at=decision.created_at,
        revision=after.revision,
        job=after.job,
    )
