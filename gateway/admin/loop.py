"""What people say to the loop: pause, go on, yes, no, and a freeze of everything."""

from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec
from litestar import Controller, delete, get, post, put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, QueryParameter
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.admin.fields import NO_NUL, DecisionId, Text
from gateway.admin.monitoring import known_adapter
from gateway.directory import Directory
from gateway.json_body import StrictRequest
from gateway.refusals import refusals
from monitors.loop import approvals
from registry.registry import Registry
from registry.stops import EVERYTHING, Stop


class ReasonOrder(msgspec.Struct, forbid_unknown_fields=True):
    """Why; it stands in the audit log, and wherever the loop says what it waits for."""

    reason: Text = ""


class AnswerOrder(msgspec.Struct, forbid_unknown_fields=True):
    """Why, as in `ReasonOrder`, and which question is meant: the `decision` that asked it.

    Without one the question that waits is answered, whichever it is.
    """

    reason: Text = ""
    decision: DecisionId | None = None


class StopShape(msgspec.Struct, frozen=True):
    """Who stopped automatic change, why, and when."""

    actor: str
    reason: str
    created_at: datetime


class StandingShape(msgspec.Struct, frozen=True):
    """Whether an adapter is paused, or everything is frozen; null where it is not."""

    adapter: str
    paused: StopShape | None
    frozen: StopShape | None


class FreezeShape(msgspec.Struct, frozen=True):
    """Whether all automatic change is frozen (null: it is not), and which adapters are paused."""

    frozen: StopShape | None
    paused: dict[str, StopShape]


class AnswerShape(msgspec.Struct, frozen=True):
    """What was asked, in the decision of that id, and what was answered now."""

    adapter: str
    wanted: Literal["retrain", "promote"]
    decision: int
    asked_at: datetime
    answer: Literal["approved", "rejected"]
    actor: str
    reason: str


class StopController(Controller):
    """Pauses of adapters, and answers to what the loop asks about them."""

    path = "/adapters/{name:str}"
    tags = ("Loop",)
    request_class = StrictRequest

    @post("/pause", summary="Pause the loop for an adapter", status_code=200, responses=refusals(404, 413))
    async def pause(
        self,
        name: FromPath[str],
        registry: NamedDependency[Registry],
        actor: NamedDependency[str],
        data: JSONBody[ReasonOrder | None] = None,
    ) -> StandingShape:
        """From the answer on nothing changes the adapter by itself. What is paused already stays as it was."""
        await registry.stop(name, actor=actor, reason=(data or ReasonOrder()).reason)
        return await standing(registry, name)

    @post("/resume", summary="Let the loop go on with an adapter", status_code=200, responses=refusals(404, 413))
    async def resume(
        self,
        name: FromPath[str],
        registry: NamedDependency[Registry],
        actor: NamedDependency[str],
        data: JSONBody[ReasonOrder | None] = None,
    ) -> StandingShape:
        """Take the pause away; a freeze of everything stays."""
        await registry.go_on(name, actor=actor, reason=(data or ReasonOrder()).reason)
        return await standing(registry, name)

    @post("/approve", summary="Approve of what the loop asks", status_code=200, responses=refusals(404, 409, 413))
    async def approve(
        self,
        name: FromPath[str],
        directory: NamedDependency[Directory],
        database: NamedDependency[AsyncEngine],
        actor: NamedDependency[str],
        data: JSONBody[AnswerOrder | None] = None,
    ) -> AnswerShape:
        """Say yes to the training or promotion that waits; 404 if nothing does, 409 if it is not that `decision`'s."""
        known_adapter(directory, name)
        return await _answer(database, name, "approved", actor, data)

    @post("/reject", summary="Refuse what the loop asks", status_code=200, responses=refusals(404, 409, 413))
    async def reject(
        self,
        name: FromPath[str],
        directory: NamedDependency[Directory],
        database: NamedDependency[AsyncEngine],
        actor: NamedDependency[str],
        data: JSONBody[AnswerOrder | None] = None,
    ) -> AnswerShape:
        """Say no to the training or promotion that waits; 404 if nothing does, 409 if it is not that `decision`'s.

        A refused version is rolled back.
        """
        known_adapter(directory, name)
        return await _answer(database, name, "rejected", actor, data)


class FreezeController(Controller):
    """The freeze of all automatic change."""

    path = "/freeze"
    tags = ("Loop",)
    request_class = StrictRequest

    @get("/", summary="Show what is frozen or paused", responses=refusals())
    async def show(self, registry: NamedDependency[Registry]) -> FreezeShape:
        """Whether everything is frozen, and which adapters are paused."""
        return await _freeze(registry)

    @put("/", summary="Freeze all automatic change", responses=refusals(413))
    async def freeze(
        self,
        registry: NamedDependency[Registry],
        actor: NamedDependency[str],
        data: JSONBody[ReasonOrder | None] = None,
    ) -> FreezeShape:
        """From the answer on nothing changes by itself, of any adapter. What is frozen already stays as it was."""
        await registry.stop(None, actor=actor, reason=(data or ReasonOrder()).reason)
        return await _freeze(registry)

    @delete("/", summary="End the freeze", status_code=200, responses=refusals())
    async def unfreeze(
        self,
        registry: NamedDependency[Registry],
        actor: NamedDependency[str],
        reason: Annotated[str, QueryParameter(name="reason", max_length=1000, pattern=NO_NUL)] = "",
    ) -> FreezeShape:
        """Let the loop go on, but for adapters that are paused themselves."""
        await registry.go_on(None, actor=actor, reason=reason)
        return await _freeze(registry)


async def standing(registry: Registry, adapter: str) -> StandingShape:
    """Whether an adapter is stopped, and by whom."""
    stops = await registry.stops()
    return StandingShape(adapter, _stop(stops.get(adapter)), _stop(stops.get(EVERYTHING)))


async def _freeze(registry: Registry) -> FreezeShape:
    stops = await registry.stops()
    paused = {name: StopShape(stop.actor, stop.reason, stop.created_at) for name, stop in stops.items() if name}
    return FreezeShape(_stop(stops.get(EVERYTHING)), paused)


def _stop(stop: Stop | None) -> StopShape | None:
    return None if stop is None else StopShape(stop.actor, stop.reason, stop.created_at)


async def _answer(
    database: AsyncEngine,
    name: str,
    answer: approvals.Answer,
    actor: str,
    order: AnswerOrder | None,
) -> AnswerShape:
    said = order or AnswerOrder()
    reason = said.reason
    found = await approvals.answer(
        database, name, answer, actor=actor, reason=reason, decision=said.decision, now=datetime.now(UTC)
    )
    return AnswerShape(name, found.wanted, found.decision, found.asked_at, answer, actor, reason)
