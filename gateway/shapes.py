"""The JSON that admins and clients see: one struct per shape, and how it is made from the registry's rows."""

from datetime import datetime
from typing import Generic, TypeVar

import msgspec

from registry.catalog import Adapter, ApiKey, Role, Version
from registry.tables import RevisionRow

T = TypeVar("T")


class Page(msgspec.Struct, Generic[T], frozen=True):
    """A list, as every endpoint answers it."""

    data: list[T]
    has_more: bool = False


class VersionShape(msgspec.Struct, frozen=True):
    """One version of an adapter."""

    number: int
    engine_name: str
    digest: str
    state: str
    rank: int
    alpha: float
    parameters: int
    size_bytes: int
    note: str
    created_by: str
    created_at: datetime


class DeploymentShape(msgspec.Struct, frozen=True):
    """What an adapter's name means now."""

    revision: int
    stable: int
    canary: None = None
    shadow: None = None
    fallback: None = None


class AdapterShape(msgspec.Struct, frozen=True):
    """An adapter with its deployment (None before the first promote) and its versions, oldest first."""

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
    """One entry of a deployment's history."""

    revision: int
    action: str
    stable: int
    previous_stable: int | None
    restores: int | None
    actor: str
    reason: str
    created_at: datetime


class KeyShape(msgspec.Struct, frozen=True, omit_defaults=False):
    """An API key without its secret."""

    id: str
    name: str
    hint: str
    role: Role
    adapters: list[str] | None
    created_by: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class NewKeyShape(msgspec.Struct, frozen=True):
    """A key just made. `secret` is shown this once."""

    secret: str
    key: KeyShape


class ReplicaShape(msgspec.Struct, frozen=True):
    """One engine."""

    id: str
    pool: str
    state: str
    running: int
    resident: list[str]
    problem: str | None


class ModelShape(msgspec.Struct, frozen=True):
    """A model as OpenAI's list has it; `root` is the engine name that answers, `parent` the base."""

    id: str
    created: int
    root: str
    parent: str | None
    owned_by: str = "ostler"
    object: str = "model"


def adapter_shape(adapter: Adapter, resident: frozenset[str]) -> AdapterShape:
    """An adapter as admins see it; `resident` are the engine names that are loaded."""
    found = adapter.deployment
    deployment = DeploymentShape(found.revision, found.stable) if found else None
    live = adapter.stable.engine_name if adapter.stable else None
    versions = [version_shape(version, live, resident) for version in adapter.versions.values()]
    return AdapterShape(adapter.name, adapter.base, adapter.created_at, deployment, versions)


def version_shape(version: Version, live: str | None, resident: frozenset[str]) -> VersionShape:
    """A version; its state is `live`, `resident` (loaded, a swap away) or `registered`."""
    state = "live" if version.engine_name == live else "registered"
    if state == "registered" and version.engine_name in resident:
        state = "resident"
    return VersionShape(
        number=version.number,
        engine_name=version.engine_name,
        digest=version.digest,
        state=state,
        rank=version.rank,
        alpha=version.alpha,
        parameters=version.parameters,
        size_bytes=version.size_bytes,
        note=version.note,
        created_by=version.created_by,
        created_at=version.created_at,
    )


def revision_shape(row: RevisionRow) -> RevisionShape:
    """A revision as history shows it."""
    return RevisionShape(
        revision=row.number,
        action=row.action,
        stable=row.stable,
        previous_stable=row.previous_stable,
        restores=row.restores,
        actor=row.actor,
        reason=row.reason,
        created_at=row.created_at,
    )


def key_shape(key: ApiKey) -> KeyShape:
    """A key as lists show it."""
    return KeyShape(
        id=key.id,
        name=key.name,
        hint=key.hint,
        role=key.role,
        adapters=None if key.adapters is None else sorted(key.adapters),
        created_by=key.created_by,
        created_at=key.created_at,
        expires_at=key.expires_at,
        revoked_at=key.revoked_at,
    )


def model_shapes(adapter: Adapter) -> list[ModelShape]:
    """The names that an adapter answers to: its own if it is in service, and one for each version."""
    found = []
    if adapter.stable is not None:
        found.append(_model(adapter.name, adapter.stable, adapter.base))
    found += [_model(f"{adapter.name}@{number}", version, adapter.base) for number, version in adapter.versions.items()]
    return found


def _model(id: str, version: Version, base: str) -> ModelShape:
    return ModelShape(id=id, created=int(version.created_at.timestamp()), root=version.engine_name, parent=base)
