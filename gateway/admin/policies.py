"""Policies: what Ostler may do to an adapter by itself, shown, changed by parts, and looked back on."""

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from litestar import Controller, get, patch
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, QueryParameter
from msgspec import UNSET, Meta, UnsetType

from gateway.admin.fields import NO_NUL, Share, Text
from gateway.admin.monitoring import QualityPatch, known_adapter, said
from gateway.directory import Directory
from gateway.json_body import StrictRequest
from gateway.refusals import refusals
from gateway.shapes import Page
from monitors.judging.choices import check_names
from registry.catalog import Adapter
from registry.errors import InvalidValue
from registry.monitoring import QualityRule
from registry.policies import LabelSource, Mode, Policy, RetrainRule, RolloutRule, stored_policy
from registry.registry import Registry
from registry.tables import PolicyRow

_Rows = Annotated[int, Meta(ge=10, le=10_000_000)]
_Sources = Annotated[list[LabelSource], Meta(min_length=1, max_length=3)]
_Keys = Annotated[list[Annotated[str, Meta(min_length=1, max_length=120, pattern=NO_NUL)]], Meta(max_length=100)]
_KeyShare = Annotated[float, Meta(gt=0, le=1)]
_Hours = Annotated[float, Meta(ge=0, le=8_760)]
_Money = Annotated[float, Meta(ge=0, le=1e12)]
_HoursOfDay = Annotated[list[Annotated[int, Meta(ge=0, le=23)]], Meta(min_length=2, max_length=2)]
_Steps = Annotated[list[Share], Meta(min_length=1, max_length=20)]
_Sessions = Annotated[int, Meta(ge=1, le=10_000_000)]
_Minutes = Annotated[float, Meta(ge=0, le=525_600)]
_SomeHours = Annotated[float, Meta(gt=0, le=8_760)]
_SomeErrors = Annotated[float, Meta(gt=0, lt=1)]
_Ratio = Annotated[float, Meta(ge=1, le=100)]
_Alpha = Annotated[float, Meta(ge=1e-9, le=0.5)]
_Holdback = Annotated[float, Meta(ge=0, le=0.5)]


class RetrainPatch(msgspec.Struct, forbid_unknown_fields=True):
    """What shall change of when a new version is trained; lists and `job` are the whole of it."""

    least_rows: _Rows | UnsetType = UNSET
    sources: _Sources | UnsetType = UNSET
    most_of_one_key: _KeyShare | UnsetType = UNSET
    trusted_keys: _Keys | UnsetType = UNSET
    cool_down_h: _Hours | UnsetType = UNSET
    budget: _Money | UnsetType | None = UNSET
    hours: _HoursOfDay | UnsetType | None = UNSET
    approval: bool | UnsetType = UNSET
    job: dict[str, Any] | UnsetType = UNSET


class RolloutPatch(msgspec.Struct, forbid_unknown_fields=True):
    """What shall change of how a new version comes to serve everyone; `steps` is the whole list."""

    steps: _Steps | UnsetType = UNSET
    least_sessions: _Sessions | UnsetType = UNSET
    least_minutes: _Minutes | UnsetType = UNSET
    longest_h: _SomeHours | UnsetType = UNSET
    undecided: Literal["rollback", "hold"] | UnsetType = UNSET
    errors: _SomeErrors | UnsetType | None = UNSET
    latency_ratio: _Ratio | UnsetType | None = UNSET
    cost_ratio: _Ratio | UnsetType | None = UNSET
    guard_alpha: _Alpha | UnsetType = UNSET
    holdback: _Holdback | UnsetType = UNSET
    holdback_h: _Hours | UnsetType = UNSET
    adopt: Literal["guard", "ignore"] | UnsetType = UNSET
    approval: bool | UnsetType = UNSET


class PolicyPatch(msgspec.Struct, forbid_unknown_fields=True):
    """What shall change of a policy; what is left out stays. The quality rule is that of the adapter's monitoring."""

    mode: Mode | UnsetType = UNSET
    quality: QualityPatch | UnsetType = UNSET
    retrain: RetrainPatch | UnsetType = UNSET
    rollout: RolloutPatch | UnsetType = UNSET
    reason: Text = ""


class RetrainShape(msgspec.Struct, frozen=True):
    """When a new version is trained; null as `budget` is without limit, as `hours` all day."""

    least_rows: int
    sources: list[LabelSource]
    most_of_one_key: float
    trusted_keys: list[str]
    cool_down_h: float
    budget: float | None
    hours: list[int] | None
    approval: bool
    job: dict[str, Any]


class RolloutShape(msgspec.Struct, frozen=True):
    """How a new version comes to serve everyone; null as a limit does not look at that."""

    steps: list[float]
    least_sessions: int
    least_minutes: float
    longest_h: float
    undecided: Literal["rollback", "hold"]
    errors: float | None
    latency_ratio: float | None
    cost_ratio: float | None
    guard_alpha: float
    holdback: float
    holdback_h: float
    adopt: Literal["guard", "ignore"]
    approval: bool


class PolicyShape(msgspec.Struct, frozen=True):
    """What Ostler may do to an adapter by itself; `number` counts the changes, 0 before the first.

    `warnings` say what keeps it from doing what the policy says, such as that no prompt is captured.
    """

    number: int
    mode: Mode
    quality: QualityRule
    retrain: RetrainShape
    rollout: RolloutShape
    warnings: list[str]


class PastPolicyShape(msgspec.Struct, frozen=True):
    """A policy from its number on up to the next one's, and who made it."""

    number: int
    mode: Mode
    quality: QualityRule
    retrain: RetrainShape
    rollout: RolloutShape
    actor: str
    reason: str
    created_at: datetime


class PolicyController(Controller):
    """What Ostler may do to adapters by itself."""

    path = "/adapters/{name:str}/policy"
    tags = ("Loop",)
    request_class = StrictRequest

    @get("/", summary="Show an adapter's policy", responses=refusals(404))
    async def show(self, name: FromPath[str], directory: NamedDependency[Directory]) -> PolicyShape:
        """What counts as lost quality, when a new version is trained, and how one is rolled out."""
        return _shape(known_adapter(directory, name))

    @patch("/", summary="Change an adapter's policy", responses=refusals(404, 413, 422))
    async def change(
        self,
        name: FromPath[str],
        data: JSONBody[PolicyPatch],
        registry: NamedDependency[Registry],
        directory: NamedDependency[Directory],
        actor: NamedDependency[str],
    ) -> PolicyShape:
        """Change what is said, as the policy's next number; answers when it holds at this gateway."""
        await directory.refresh()  # what another gateway made just now is known, too
        known_adapter(directory, name)
        require_sound_job(data)
        await registry.change_policy(
            name, lambda policy: patched(policy, data), actor=actor, reason=data.reason, check=check_names
        )
        await directory.refresh()
        return _shape(known_adapter(directory, name))

    @get("/history", summary="List an adapter's policies", responses=refusals(404))
    async def history(
        self,
        name: FromPath[str],
        registry: NamedDependency[Registry],
        limit: Annotated[int, QueryParameter(name="limit", ge=1, le=1000)] = 100,
        before: Annotated[int | None, QueryParameter(name="before", ge=1, le=2**31 - 1)] = None,
    ) -> Page[PastPolicyShape]:
        """Newest first; `before` goes on from a policy's number."""
        rows = await registry.policy_history(name, before=before, limit=limit + 1)
        return Page([_past_shape(row) for row in rows[:limit]], has_more=len(rows) > limit)


def patched(policy: Policy, order: PolicyPatch) -> Policy:
    """The policy after the change; its values are checked where it is stored.

    Raises:
        InvalidValue: it is no policy.
    """
    changes: dict[str, Any] = {} if order.mode is UNSET else {"mode": order.mode}
    for part in ("quality", "retrain", "rollout"):
        wanted = getattr(order, part)
        if wanted is not UNSET:
            changes[part] = msgspec.to_builtins(getattr(policy, part)) | said(wanted)
    try:
        return msgspec.convert(msgspec.to_builtins(policy) | changes, Policy)
    except msgspec.ValidationError as error:
        raise InvalidValue(f"the policy makes no sense: {error}", param="policy") from None


def require_sound_job(order: PolicyPatch) -> None:
    """Refuse what the tuning API would not take of the trainings that the policy asks for.

    Raises:
        InvalidRequest: it is too much.
        InvalidValue: the tuning API takes something else.
    """
    from gateway.tuning.standing import require_sound  # the bodies there need this package's fields

    if order.retrain is not UNSET and order.retrain.job is not UNSET:
        require_sound(order.retrain.job)


def _shape(adapter: Adapter) -> PolicyShape:
    policy = adapter.policy
    return PolicyShape(
        number=adapter.policy_number,
        mode=policy.mode,
        quality=policy.quality,
        retrain=_retrain(policy.retrain),
        rollout=_rollout(policy.rollout),
        warnings=_warnings(adapter),
    )


def _warnings(adapter: Adapter) -> list[str]:
    if adapter.policy.mode != "act" or adapter.monitoring.capture > 0:
        return []
    mend = f"`ostler monitoring {adapter.name} --capture 1`"
    return [f"No prompt is captured, so no label has one to learn from, and nothing is ever trained: {mend}"]


def _retrain(rule: RetrainRule) -> RetrainShape:
    return msgspec.convert(msgspec.to_builtins(rule), RetrainShape)


def _rollout(rule: RolloutRule) -> RolloutShape:
    return msgspec.convert(msgspec.to_builtins(rule), RolloutShape)


def _past_shape(row: PolicyRow) -> PastPolicyShape:
    policy = stored_policy(row.policy, msgspec.convert(row.policy["quality"], QualityRule))
    return PastPolicyShape(
        number=row.number,
        mode=policy.mode,
        quality=policy.quality,
        retrain=_retrain(policy.retrain),
        rollout=_rollout(policy.rollout),
        actor=row.actor,
        reason=row.reason,
        created_at=row.created_at,
    )
