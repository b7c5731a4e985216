"""What the monitor concluded."""

from datetime import datetime
from typing import Annotated, Any

import msgspec
from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.params import QueryParameter
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.admin.fields import NO_NUL
from gateway.refusals import refusals
from gateway.shapes import Page
from monitors.decisions import StoredDecision, decisions


class DecisionShape(msgspec.Struct, frozen=True):
    """One conclusion: what about, by which rule, why, and from which values; `version` is null for all versions."""

    id: int
    adapter: str
    version: int | None
    kind: str
    outcome: str
    rule: str
    reason: str
    inputs: dict[str, Any] | None
    created_at: datetime


class DecisionController(Controller):
    """Decisions."""

    path = "/decisions"
    tags = ("Decisions",)

    @get("/", summary="List decisions", responses=refusals())
    async def list_decisions(
        self,
        database: NamedDependency[AsyncEngine],
        adapter: Annotated[str | None, QueryParameter(name="adapter", max_length=63, pattern=NO_NUL)] = None,
        limit: Annotated[int, QueryParameter(name="limit", ge=1, le=1000)] = 100,
        before: Annotated[int | None, QueryParameter(name="before", ge=1, le=2**53)] = None,
    ) -> Page[DecisionShape]:
        """What was concluded of all adapters or one, newest first; `before` goes on from a decision's id."""
        found = await decisions(database, adapter=adapter, before=before, limit=limit + 1)
        return Page([_shape(each) for each in found[:limit]], has_more=len(found) > limit)


def _shape(decision: StoredDecision) -> DecisionShape:
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
    )
