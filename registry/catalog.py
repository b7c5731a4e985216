"""What exists and what is live, as one immutable picture that requests are served from.

A gateway keeps one in memory and replaces it whole; nothing in it ever changes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from registry.names import parse_pinned


class Role(StrEnum):
    """What an API key may do: `admin` everything, `client` the endpoints under /v1."""

    ADMIN = "admin"
    CLIENT = "client"


@dataclass(frozen=True, slots=True)
class Version:
    """One immutable set of weights.

    `rank` and `alpha` are LoRA's; `parameters` counts the adapter's own weights; `digest` is the SHA-256 of the
    canonical content, in hex.
    """

    adapter: str
    number: int
    engine_name: str
    digest: str
    rank: int
    alpha: float
    parameters: int
    size_bytes: int
    note: str
    created_by: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Deployment:
    """What an adapter's name means now.

    `stable` serves; `warm` are the versions that a rollback may need next and that therefore stay resident.
    """

    revision: int
    stable: int
    warm: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Adapter:
    """A named capability of a base model, with its versions by number."""

    name: str
    base: str
    created_at: datetime
    versions: Mapping[int, Version]
    deployment: Deployment | None

    @property
    def stable(self) -> Version | None:
        """The version that the bare name serves; None before the first promote."""
        return self.versions[self.deployment.stable] if self.deployment else None


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key that may be used; `adapters` limits it to some adapters, None means all and the base models."""

    id: str
    name: str
    hint: str
    role: Role
    adapters: frozenset[str] | None
    created_by: str
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None

    def may_use(self, name: str) -> bool:
        """Whether the adapter or base of that name exists for this key."""
        return self.adapters is None or name in self.adapters


@dataclass(frozen=True, slots=True)
class Catalog:
    """Everything a request needs to know as of one change; `keys` are by SHA-256, revoked ones left out."""

    change: int
    adapters: Mapping[str, Adapter] = field(default_factory=dict)
    keys: Mapping[str, ApiKey] = field(default_factory=dict)

    def version(self, model: str) -> Version | None:
        """The version that ``support@7`` or ``support@7-1f3a9c2e`` names; None if there is none such."""
        pinned = parse_pinned(model)
        if pinned is None:
            return None
        adapter = self.adapters.get(pinned.adapter)
        version = adapter.versions.get(pinned.number) if adapter else None
        if version is None or pinned.digest_prefix not in (None, version.engine_name.rpartition("-")[2]):
            return None
        return version

    def with_deployment(self, name: str, deployment: Deployment, change: int) -> "Catalog":
        """The same picture after one deployment changed."""
        adapters = dict(self.adapters)
        adapters[name] = replace(adapters[name], deployment=deployment)
        return replace(self, change=change, adapters=adapters)
