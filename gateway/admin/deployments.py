"""What an adapter's name serves: changed, restored, proved and looked back on."""

import re
from typing import Annotated, Literal

import msgspec
from litestar import Controller, Response, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, HeaderParameter, JSONBody, QueryParameter
from msgspec import UNSET, UnsetType
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.admin.adapters import require_version_number, with_etag
from gateway.admin.fields import DecisionId, Number, Share, Text
from gateway.engines.fleet import Fleet
from gateway.errors import InvalidRequest
from gateway.json_body import StrictRequest
from gateway.refusals import ETAG, refusals
from gateway.shapes import AdapterShape, Page, RevisionShape, revision_shape
from gateway.swap import Swapper, Verdict
from monitors.decisions import is_decision
from registry import deployments
from registry.catalog import Canary, FallbackStep, Shadow
from registry.errors import InvalidValue
from registry.registry import Registry

_IF_MATCH = r'^(\*|"[0-9]{1,9}"|[0-9]{1,9})$'
IfMatch = Annotated[
    str | None,
    HeaderParameter(
        name="if-match",
        description='The revision that the change is made on, as the answers\' `etag` tells it: `"7"`, or `*` for any. '
        "412 if the deployment is at another one.",
        schema_extra={"pattern": _IF_MATCH},
    ),
]


class CanaryOrder(msgspec.Struct, forbid_unknown_fields=True):
    """The version that shall get a share of the sessions.

    As a `holdback` it is the version that served until this change, which promotes another one, and keeps that share.
    """

    version: Number
    weight: Share
    holdback: bool = False


class ShadowOrder(msgspec.Struct, forbid_unknown_fields=True):
    """What shall get a copy of a share of the requests: a version, or the base model."""

    version: Number | Literal["base"]
    share: Share


class DeploymentPatch(msgspec.Struct, forbid_unknown_fields=True):
    """What shall change of a deployment; what is left out stays, and null takes it away.

    `force` lets clients have answers also of a version that its gate has not let through; it needs a `reason`.
    `decision` is the id of the loop's decision that the change follows from: it is refused while automatic change is
    stopped. Whoever leaves it out is a person, whose change stands, and pauses the loop if that has it in hand.
    """

    stable: Number | UnsetType = UNSET
    canary: CanaryOrder | UnsetType | None = UNSET
    shadow: ShadowOrder | UnsetType | None = UNSET
    fallback: FallbackStep | Annotated[list[FallbackStep], msgspec.Meta(max_length=2)] | UnsetType | None = UNSET
    force: bool = False
    decision: DecisionId | None = None
    reason: Text = ""


class RollbackOrder(msgspec.Struct, forbid_unknown_fields=True):
    """Which revision to restore; none means what served before the present state.

    `decision` is as in a change of the deployment.
    """

    to: Number | None = None
    decision: DecisionId | None = None
    reason: Text = ""


class VerdictShape(msgspec.Struct, frozen=True):
    """What the proof that a version acts found at one replica; `problem` says why it is not `ok`.

    `distance` is how far the answers lie from those stored with the version, `difference` how far from the base's.
    """

    replica: str
    ok: bool
    kind: Literal["probes", "base"] | None
    prompts: int | None
    distance: float | None
    difference: float | None
    tolerance: float | None
    problem: str | None


class DeploymentController(Controller):
    """What adapters' names serve."""

    path = "/adapters/{name:str}"
    tags = ("Deployments",)
    request_class = StrictRequest

    @patch(
        "/deployment",
        summary="Change what an adapter's name serves",
        responses=refusals(404, 409, 412, 413, 422),
        response_headers=[ETAG],
    )
    async def deploy(
        self,
        name: FromPath[str],
        data: JSONBody[DeploymentPatch],
        swapper: NamedDependency[Swapper],
        fleet: NamedDependency[Fleet],
        database: NamedDependency[AsyncEngine],
        actor: NamedDependency[str],
        if_match: IfMatch = None,
    ) -> Response[AdapterShape]:
        """Load and probe what the change needs, then make it; answers when it is served."""
        patch, expected = _patch(data), expected_revision(if_match)
        await _require_decision(database, name, data.decision)
        adapter = await swapper.change(
            name, patch, expected_revision=expected, decision=data.decision, actor=actor, reason=data.reason
        )
        return with_etag(adapter, fleet)

    @post(
        "/rollback",
        summary="Roll back",
        status_code=200,
        responses=refusals(404, 409, 412, 413, 422),
        response_headers=[ETAG],
    )
    async def rollback(
        self,
        name: FromPath[str],
        swapper: NamedDependency[Swapper],
        fleet: NamedDependency[Fleet],
        database: NamedDependency[AsyncEngine],
        actor: NamedDependency[str],
        data: JSONBody[RollbackOrder | None] = None,
        if_match: IfMatch = None,
    ) -> Response[AdapterShape]:
        """Restore an earlier revision of the deployment, as a new revision; answers when it is served."""
        order, expected = data or RollbackOrder(), expected_revision(if_match)
        await _require_decision(database, name, order.decision)
        adapter = await swapper.rollback(
            name,
            to=order.to,
            expected_revision=expected,
            decision=order.decision,
            actor=actor,
            reason=order.reason,
        )
        return with_etag(adapter, fleet)

    @get("/history", summary="List a deployment's revisions", responses=refusals(404))
    async def history(
        self,
        name: FromPath[str],
        registry: NamedDependency[Registry],
        limit: Annotated[int, QueryParameter(name="limit", ge=1, le=1000)] = 100,
        before: Annotated[int | None, QueryParameter(name="before", ge=1, le=2**31 - 1)] = None,
    ) -> Page[RevisionShape]:
        """Newest first; `before` goes on from a revision's number."""
        rows = await registry.history(name, before=before, limit=limit + 1)
        return Page([revision_shape(row) for row in rows[:limit]], has_more=len(rows) > limit)

    @post(
        "/versions/{number:int}/verify",
        summary="Prove that a version acts",
        status_code=200,
        responses=refusals(404, 409),
    )
    async def verify(
        self, name: FromPath[str], number: FromPath[int], swapper: NamedDependency[Swapper]
    ) -> Page[VerdictShape]:
        """Have each replica answer with the version, and hold that against what it should answer."""
        require_version_number(name, number)
        return Page([_verdict(verdict) for verdict in await swapper.verify(name, number)])


def expected_revision(if_match: str | None) -> int | None:
    """The revision that the header `if-match` names; None if any will do.

    Raises:
        InvalidRequest: the header does not have that form.
    """
    if if_match in (None, "*"):
        return None
    if re.fullmatch(_IF_MATCH, if_match) is None:
        raise InvalidRequest('the header if-match must be one revision, such as "7", or *', param="if-match")
    return int(if_match.strip('"'))


async def _require_decision(database: AsyncEngine, adapter: str, decision: int | None) -> None:
    """An automatic change follows from a stored decision about the adapter.

    Raises:
        InvalidValue: there is no such decision of the loop.
    """
    if decision is not None and not await is_decision(database, decision, adapter=adapter, kind="loop"):
        raise InvalidValue(f"the loop has not decided {decision} about {adapter!r}", param="decision")


def _patch(order: DeploymentPatch) -> deployments.Patch:
    """The change as the registry takes it.

    Raises:
        InvalidRequest: nothing is to be changed.
    """
    if all(part is UNSET for part in (order.stable, order.canary, order.shadow, order.fallback)):
        raise InvalidRequest("say what shall change: stable, canary, shadow or fallback")
    stays = deployments.UNSET
    return deployments.Patch(
        stable=stays if order.stable is UNSET else order.stable,
        canary=stays if order.canary is UNSET else _canary(order.canary),
        shadow=stays if order.shadow is UNSET else _shadow(order.shadow),
        fallback=stays if order.fallback is UNSET else _fallback(order.fallback),
        force=order.force,
    )


def _canary(order: CanaryOrder | None) -> Canary | None:
    return Canary(order.version, order.weight, order.holdback) if order else None


def _shadow(order: ShadowOrder | None) -> Shadow | None:
    if order is None:
        return None
    return Shadow(None if order.version == "base" else order.version, order.share)


def _fallback(order: FallbackStep | list[FallbackStep] | None) -> tuple[FallbackStep, ...]:
    if order is None:
        return ()
    return (order,) if isinstance(order, str) else tuple(order)


def _verdict(verdict: Verdict) -> VerdictShape:
    proof = verdict.proof
    return VerdictShape(
        replica=verdict.replica,
        ok=verdict.problem is None,
        kind=proof.kind if proof else None,
        prompts=proof.prompts if proof else None,
        distance=proof.distance if proof else None,
        difference=proof.difference if proof else None,
        tolerance=proof.tolerance if proof else None,
        problem=verdict.problem,
    )
