"""The JSON that admins and clients see of adapters and keys: a struct per shape, and how the catalog fills it."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Generic, Literal, TypeVar, cast

import msgspec

from registry.catalog import (
    Adapter,
    ApiKey,
    Canary,
    Deployment,
    FallbackStep,
    ForcedPast,
    GateVerdict,
    KeyLimits,
    Scope,
    Shadow,
    Version,
)
from registry.mapping import to_state
from registry.tables import RevisionRow

T = TypeVar("T")
VersionState = Literal["live", "canary", "shadow", "resident", "registered", "archived"]
Fallback = FallbackStep | list[FallbackStep]


class Page(msgspec.Struct, Generic[T], frozen=True):
    """A list, as every endpoint answers it."""

    data: list[T]
    has_more: bool = False


@dataclass(frozen=True, slots=True)
class OnEngines:
    """How versions stand on the engines, by engine name.

    Attributes:
        resident: what is loaded on some engine.
        is_failing: whether the engines fail at it again and again, so that it is left alone for now.
    """

    resident: frozenset[str]
    is_failing: Callable[[str], bool]


class VersionShape(msgspec.Struct, frozen=True):
    """One version of an adapter; it is `failing` while the engines cannot serve it and it is left alone.

    `verdict` is what the tuner's gate said of it, null for what was pushed by hand.
    """

    number: int
    engine_name: str
    digest: str
    state: VersionState
    failing: bool
    archived: bool
    verdict: GateVerdict | None
    rank: int
    alpha: float
    parameters: int
    size_bytes: int
    note: str
    created_by: str
    created_at: datetime


class CanaryShape(msgspec.Struct, frozen=True):
    """The version that gets a share of the sessions; as a `holdback` it is the old one, and the stable one is new."""

    version: int
    weight: float
    holdback: bool


class ShadowShape(msgspec.Struct, frozen=True):
    """What gets a copy of a share of the requests: a version, or the base model."""

    version: int | Literal["base"]
    share: float


class DeploymentShape(msgspec.Struct, frozen=True):
    """What an adapter's name means now."""

    revision: int
    stable: int
    canary: CanaryShape | None
    shadow: ShadowShape | None
    fallback: Fallback | None


class AdapterShape(msgspec.Struct, frozen=True):
    """An adapter with its deployment (null before the first promote) and its versions, oldest first."""

    name: str
    base: str
    created_at: datetime
    deployment: DeploymentShape | None
    versions: list[VersionShape]


class PushedShape(msgspec.Struct, frozen=True):
    """The outcome of a push; `created` is false if the adapter had this content already."""

    adapter: str
    created: bool
    version: VersionShape


class RevisionShape(msgspec.Struct, frozen=True):
    """One entry of a deployment's history: what the name meant from here on.

    `decision` is the id of the decision that it followed from, null for a person's change.
    `forced` has the versions that were made to serve by force, by number, each with what its gate had said of it:
    ``outdated`` if it had passed, but against another version than served until then.
    """

    revision: int
    action: str
    stable: int
    canary: CanaryShape | None
    shadow: ShadowShape | None
    fallback: Fallback | None
    previous_stable: int | None
    restores: int | None
    decision: int | None
    actor: str
    reason: str
    forced: dict[str, ForcedPast] | None
    created_at: datetime


class LimitsShape(msgspec.Struct, frozen=True):
    """How much a key may use over all gateways; null is without limit."""

    requests_per_minute: int | None
    tokens_per_minute: int | None
    concurrent_requests: int | None
    monthly_budget: float | None


class KeyShape(msgspec.Struct, frozen=True):
    """An API key without its secret.

    `previous_valid_until` is until when the secret that was replaced last still works, null if it does not.
    `spent_this_month` is money, in the currency of the prices in the settings, by the calendar of UTC.
    """

    id: str
    name: str
    hint: str
    scopes: list[Scope]
    adapters: list[str] | None
    limits: LimitsShape
    spent_this_month: float
    created_by: str
    created_at: datetime
    expires_at: datetime | None
    previous_valid_until: datetime | None
    revoked_at: datetime | None


class NewKeyShape(msgspec.Struct, frozen=True):
    """A key with a new secret, which is shown this once."""

    secret: str
    key: KeyShape


class ModelShape(msgspec.Struct, frozen=True):
    """A model as OpenAI's list has it; `root` is the engine name that answers, `parent` the base."""

    id: str
    created: int
    root: str
    parent: str | None
    owned_by: str = "ostler"
    object: str = "model"


def adapter_shape(adapter: Adapter, engines: OnEngines) -> AdapterShape:
    """An adapter as admins see it."""
    versions = [version_shape(version, adapter.deployment, engines) for version in adapter.versions.values()]
    deployment = deployment_shape(adapter.deployment) if adapter.deployment else None
    return AdapterShape(adapter.name, adapter.base, adapter.created_at, deployment, versions)


def deployment_shape(deployment: Deployment) -> DeploymentShape:
    """A deployment as it stands."""
    return DeploymentShape(
        revision=deployment.revision,
        stable=deployment.stable,
        canary=_canary(deployment.canary),
        shadow=_shadow(deployment.shadow),
        fallback=_fallback(deployment.fallback),
    )


def _canary(canary: Canary | None) -> CanaryShape | None:
    return CanaryShape(canary.version, canary.weight, canary.holdback) if canary else None


def _shadow(shadow: Shadow | None) -> ShadowShape | None:
    if shadow is None:
        return None
    return ShadowShape("base" if shadow.version is None else shadow.version, shadow.share)


def _fallback(steps: tuple[FallbackStep, ...]) -> Fallback | None:
    """One step is said by its word alone."""
    if not steps:
        return None
    return steps[0] if len(steps) == 1 else list(steps)


def version_shape(version: Version, deployment: Deployment | None, engines: OnEngines) -> VersionShape:
    """A version as admins see it."""
    return VersionShape(
        number=version.number,
        engine_name=version.engine_name,
        digest=version.digest,
        state=version_state(version, deployment, engines.resident),
        failing=engines.is_failing(version.engine_name),
        archived=version.archived,
        verdict=version.verdict,
        rank=version.rank,
        alpha=version.alpha,
        parameters=version.parameters,
        size_bytes=version.size_bytes,
        note=version.note,
        created_by=version.created_by,
        created_at=version.created_at,
    )


def version_state(version: Version, deployment: Deployment | None, resident: frozenset[str]) -> VersionState:
    """What a version is used as; if for nothing, whether it is loaded somewhere, and so only a flip away."""
    if version.archived:
        return "archived"
    if deployment is not None:
        if version.number == deployment.stable:
            return "live"
        if deployment.canary is not None and version.number == deployment.canary.version:
            return "canary"
        if deployment.shadow is not None and version.number == deployment.shadow.version:
            return "shadow"
    return "resident" if version.engine_name in resident else "registered"


def revision_shape(row: RevisionRow) -> RevisionShape:
    """A revision as history shows it."""
    state = to_state(row)
    return RevisionShape(
        revision=row.number,
        action=row.action,
        stable=state.stable,
        canary=_canary(state.canary),
        shadow=_shadow(state.shadow),
        fallback=_fallback(state.fallback),
        previous_stable=row.previous_stable,
        restores=row.restores,
        decision=row.decision,
        actor=row.actor,
        reason=row.reason,
        forced=cast("dict[str, ForcedPast] | None", row.forced),
        created_at=row.created_at,
    )


def limits_shape(limits: KeyLimits) -> LimitsShape:
    """A key's limits."""
    return LimitsShape(
        requests_per_minute=limits.requests_per_minute,
        tokens_per_minute=limits.tokens_per_minute,
        concurrent_requests=limits.concurrent_requests,
        monthly_budget=limits.monthly_budget,
    )


def key_shape(key: ApiKey, *, spent: float) -> KeyShape:
    """A key as lists show it, with what it has spent this month."""
    until = key.previous_valid_until
    return KeyShape(
        id=key.id,
        name=key.name,
        hint=key.hint,
        scopes=sorted(key.scopes),
        adapters=None if key.adapters is None else sorted(key.adapters),
        limits=limits_shape(key.limits),
        spent_this_month=spent,
        created_by=key.created_by,
        created_at=key.created_at,
        expires_at=key.expires_at,
        previous_valid_until=until if until is not None and until > datetime.now(UTC) else None,
        revoked_at=key.revoked_at,
    )


def model_shapes(adapter: Adapter) -> list[ModelShape]:
    """The names that an adapter answers to: its own if it is in service, and one for each version that is."""
    found = []
    if adapter.stable is not None:
        found.append(_model(adapter.name, adapter.stable, adapter.base))
    served = (version for version in adapter.versions.values() if not version.archived and version.is_fit)
    found += [_model(f"{adapter.name}@{version.number}", version, adapter.base) for version in served]
    return found


def _model(id: str, version: Version, base: str) -> ModelShape:
    return ModelShape(id=id, created=int(version.created_at.timestamp()), root=version.engine_name, parent=base)
