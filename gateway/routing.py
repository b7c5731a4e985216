"""What a client's `model` means: which adapter, which version, and as what it is served."""

from dataclasses import dataclass
from typing import Literal

from gateway.errors import ModelNotFound
from registry.catalog import ApiKey, Catalog, Version
from registry.names import parse_pinned

Variant = Literal["stable", "pinned", "base"]
_NAMES_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request goes. `version` is None for the base model; `model` is the name the engine knows it by."""

    model: str
    variant: Variant
    adapter: str | None
    version: Version | None


def resolve(catalog: Catalog, bases: frozenset[str], key: ApiKey, model: str) -> Route:
    """Find what `model` names.

    Raises:
        ModelNotFound: nothing of that name exists for this key.
    """
    if model in bases:
        if key.may_use(model):
            return Route(model, "base", None, None)
        raise not_found(catalog, bases, key, model)
    adapter = catalog.adapters.get(model)
    if adapter is not None and key.may_use(model):
        if adapter.stable is None:
            raise ModelNotFound(
                f"the adapter '{model}' has no version in service yet; promote one, or name one as '{model}@1'",
                param="model",
            )
        return Route(adapter.stable.engine_name, "stable", model, adapter.stable)
    pinned = parse_pinned(model)
    version = catalog.version(model) if pinned and key.may_use(pinned.adapter) else None
    if version is not None:
        return Route(version.engine_name, "pinned", version.adapter, version)
    raise not_found(catalog, bases, key, model)


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
