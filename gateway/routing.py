"""What a client's `model` means: which adapter, which version, and as what it is served."""

from collections.abc import Callable, Iterator
from typing import Literal

import msgspec

from gateway.engines.placement import fraction
from gateway.errors import EngineUnavailable, ModelNotFound
from registry.catalog import Adapter, ApiKey, Canary, Catalog, Shadow, Version
from registry.names import parse_pinned

Variant = Literal["stable", "canary", "pinned", "fallback", "shadow", "base", "evaluation"]
Allows = Callable[[str], bool]
_NAMES_SHOWN = 20


class Route(msgspec.Struct, frozen=True):
    """Where a request goes.

    Attributes:
        model: the name that the engine knows it by.
        pool: the base model's name; its replicas can serve it.
        version: None for the base model.
        shadow: what gets a copy, if the request is drawn for it.
        capture: the share of requests whose text is kept.
        intended: the number of the version whose turn it was, where this serves in its place.
    """

    model: str
    pool: str
    variant: Variant
    adapter: str | None
    version: Version | None
    shadow: Shadow | None = None
    capture: float = 0.0
    intended: int | None = None


def resolve(
    catalog: Catalog, bases: frozenset[str], key: ApiKey, model: str, session: str, allows: Allows = lambda _: True
) -> Route:
    """Find what `model` names.

    Args:
        catalog: what exists.
        bases: the base models' names.
        key: who asks.
        model: what the client said.
        session: what a canary's split is by.
        allows: whether the version of an engine name may be used now; no is what its breaker says.

    Raises:
        ModelNotFound: nothing of that name exists for this key.
        EngineUnavailable: the version fails on the engines now, and the deployment names nothing to fall back on.
    """
    if model in bases:
        if key.may_use(model):
            return Route(model, model, "base", None, None)
        raise not_found(catalog, bases, key, model)
    adapter = catalog.adapters.get(model)
    if adapter is not None and key.may_use(model):
        return _deployed(adapter, session, allows)
    pinned = parse_pinned(model)
    version = catalog.version(model) if pinned and key.may_use(pinned.adapter) else None
    if version is None:
        raise not_found(catalog, bases, key, model)
    if not allows(version.engine_name):
        raise _failing(model)
    adapter = catalog.adapters[version.adapter]
    return _exactly(adapter, version, "pinned", adapter.monitoring.capture)


def resolve_evaluation(
    catalog: Catalog, bases: frozenset[str], key: ApiKey, model: str, allows: Allows = lambda _: True
) -> Route:
    """Find what `model` names for one of the monitor's own requests.

    A bare adapter is its stable version and nothing else: what it measures must be what it names.

    Raises:
        ModelNotFound, EngineUnavailable: as in `resolve`.
    """
    adapter = catalog.adapters.get(model)
    if adapter is not None and adapter.stable is not None and key.may_use(model):
        if not allows(adapter.stable.engine_name):
            raise _failing(model)
        return _exactly(adapter, adapter.stable, "evaluation")
    return msgspec.structs.replace(resolve(catalog, bases, key, model, "", allows), variant="evaluation", capture=0.0)


def _exactly(adapter: Adapter, version: Version, variant: Variant, capture: float = 0.0) -> Route:
    return Route(version.engine_name, adapter.base, variant, adapter.name, version, capture=capture)


def _deployed(adapter: Adapter, session: str, allows: Allows) -> Route:
    """The first of what the deployment offers to this session that is not failing."""
    if adapter.deployment is None:
        raise ModelNotFound(
            f"the adapter '{adapter.name}' has no version in service yet; promote one, or name one as "
            f"'{adapter.name}@1'",
            param="model",
        )
    shadow, capture = adapter.deployment.shadow, adapter.monitoring.capture
    intended: int | None = None
    for variant, version in _offers(adapter, session):
        if version is None:
            return Route(adapter.base, adapter.base, variant, adapter.name, None, shadow, capture, intended)
        if allows(version.engine_name):
            return Route(version.engine_name, adapter.base, variant, adapter.name, version, shadow, capture, intended)
        intended = version.number if intended is None else intended
    raise _failing(adapter.name)


def _offers(adapter: Adapter, session: str) -> Iterator[tuple[Variant, Version | None]]:
    """What serves this session, best first; a version None is the base model."""
    deployment = adapter.deployment
    assert deployment is not None
    stable = adapter.versions[deployment.stable]
    if deployment.canary is not None:
        if is_canary_session(adapter, deployment.canary, session):
            yield "canary", adapter.versions[deployment.canary.version]
            yield "fallback", stable
        else:
            yield "stable", stable
    else:
        yield "stable", stable
    for step in deployment.fallback:
        if step == "base":
            yield "fallback", None
        elif deployment.previous is not None:
            previous = adapter.versions[deployment.previous]
            if not previous.archived:
                yield "fallback", previous


def is_canary_session(adapter: Adapter, canary: Canary, session: str) -> bool:
    """Whether a session is on the canary.

    The same answer in every process and at any time; a higher weight only adds sessions. The new version's engine name
    is part of the hash, so that it is not the same sessions that try every canary. A holdback is what the promoted
    version would not have got as a canary either: no session that has seen it goes back to the old one.
    """
    if canary.holdback:
        promoted = adapter.stable
        assert promoted is not None
        return fraction(adapter.name, promoted.engine_name, session) >= 1.0 - canary.weight
    return fraction(adapter.name, adapter.versions[canary.version].engine_name, session) < canary.weight


def _failing(model: str) -> EngineUnavailable:
    return EngineUnavailable(
        f"'{model}' fails on the engines now; it is tried again after a pause",
        code="version_not_servable",
        retry_after_s=5.0,
    )


def visible_models(catalog: Catalog, bases: frozenset[str], key: ApiKey) -> list[str]:
    """The names that this key may say, bases last."""
    served = [name for name, adapter in catalog.adapters.items() if adapter.deployment and key.may_use(name)]
    return sorted(served) + sorted(base for base in bases if key.may_use(base))


def not_found(catalog: Catalog, bases: frozenset[str], key: ApiKey, model: str) -> ModelNotFound:
    """The error that names what exists for this key instead."""
    names = visible_models(catalog, bases, key)
    shown = ", ".join(names[:_NAMES_SHOWN]) or "none"
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    asked = model if len(model) <= 100 else model[:100] + "..."
    return ModelNotFound(f"the model '{asked}' does not exist for this API key; there is: {shown}{more}", param="model")
