"""What exists and what is live, as one immutable picture that requests are served from.

A gateway keeps one in memory and replaces it whole; nothing in it ever changes.
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Literal

from registry.monitoring import Monitoring
from registry.names import parse_pinned
from registry.policies import Policy

KEY_INDEX_LENGTH = 16
FallbackStep = Literal["previous", "base"]
GateVerdict = Literal["candidate", "passed", "rejected"]
ForcedPast = Literal["candidate", "rejected", "outdated"]
"""What a version was forced past: a verdict, or that it passed its gate against another version than served."""


class Scope(StrEnum):
    """What an API key may do. `admin` includes the others; `metrics` is for Prometheus, and opens its page alone."""

    INFERENCE = "inference"
    FEEDBACK = "feedback"
    TUNING = "tuning"
    METRICS = "metrics"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Version:
    """One immutable set of weights.

    `rank` and `alpha` are LoRA's; `parameters` counts the adapter's own weights; `digest` is the SHA-256 of the
    canonical content, in hex. An archived version is kept but not served. `verdict` is the tuner's gate's: a
    ``candidate`` is at the gate still, and neither it nor a ``rejected`` one is promoted unless by force; None for what
    was pushed by hand, which no gate has seen.
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
    archived: bool = False
    verdict: GateVerdict | None = None

    @property
    def is_fit(self) -> bool:
        """Whether nothing is known that speaks against serving it."""
        return self.verdict in (None, "passed")


@dataclass(frozen=True, slots=True)
class Canary:
    """A version that gets a share of the sessions; `weight` lies in [0, 1].

    With `holdback` it is the old version, which keeps that share after a promotion: then what is on trial is the stable
    one.
    """

    version: int
    weight: float
    holdback: bool = False


@dataclass(frozen=True, slots=True)
class Shadow:
    """What gets a copy of a sampled share of the requests; `version` None is the base model, `share` in [0, 1]."""

    version: int | None
    share: float


@dataclass(frozen=True, slots=True)
class Deployment:
    """What an adapter's name means now.

    `stable` serves, `canary` its share; `fallback` is what serves, in this order, while neither can. `previous` is the
    stable version of before the present one; `warm` are those that a rollback may need, which therefore stay resident.
    """

    revision: int
    stable: int
    canary: Canary | None = None
    shadow: Shadow | None = None
    fallback: tuple[FallbackStep, ...] = ()
    previous: int | None = None
    warm: frozenset[int] = frozenset()

    @property
    def versions(self) -> frozenset[int]:
        """The versions that this deployment sends requests to."""
        shadow = {self.shadow.version} if self.shadow and self.shadow.version is not None else set()
        return frozenset({self.stable} | ({self.canary.version} if self.canary else set()) | shadow)


@dataclass(frozen=True, slots=True)
class Adapter:
    """A named capability of a base model, with its versions by number.

    `policy` is what Ostler may do to it by itself and `policy_number` counts its changes, 0 before the first; the
    policy's quality rule is always that of `monitoring`.
    """

    name: str
    base: str
    created_at: datetime
    versions: Mapping[int, Version]
    deployment: Deployment | None
    monitoring: Monitoring = Monitoring()  # noqa: RUF009 - it is immutable
    policy: Policy = Policy()  # noqa: RUF009 - it is immutable
    policy_number: int = 0

    @property
    def stable(self) -> Version | None:
        """The version that the bare name serves; None before the first promote."""
        return self.versions[self.deployment.stable] if self.deployment else None


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """How much an API key may use, over all gateways; None is without limit.

    `monthly_budget` is money, in the currency of the prices in the settings, per calendar month (UTC).
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_requests: int | None = None
    monthly_budget: float | None = None

    @property
    def is_uncounted(self) -> bool:
        """Whether no limit of these is counted request by request."""
        return self.requests_per_minute is None and self.tokens_per_minute is None and self.concurrent_requests is None


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key that may be used; `adapters` limits it to some adapters, None means all and the base models.

    `previous_valid_until` is until when the secret works that the last rotation replaced, also if that is over.
    """

    id: str
    name: str
    hint: str
    scopes: frozenset[Scope]
    adapters: frozenset[str] | None
    limits: KeyLimits
    created_by: str
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    previous_valid_until: datetime | None = None

    def may(self, scope: Scope) -> bool:
        """Whether the key has the right."""
        return scope in self.scopes or Scope.ADMIN in self.scopes

    def may_use(self, name: str) -> bool:
        """Whether the adapter or base of that name exists for this key."""
        return self.adapters is None or name in self.adapters


@dataclass(frozen=True, slots=True)
class HeldKey:
    """A key under one of its hashes (SHA-256, hex), valid until `until`: a rotated key has an old and a new one."""

    hash: str
    key: ApiKey
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Catalog:
    """Everything a request needs to know as of one change.

    `keys` are by the first characters of their hash, `KEY_INDEX_LENGTH` of them; revoked ones are left out.
    """

    change: int
    adapters: Mapping[str, Adapter] = field(default_factory=dict)
    keys: Mapping[str, HeldKey] = field(default_factory=dict)

    def key(self, hash: str) -> HeldKey | None:
        """The key of that hash. Found by a part of it and then compared in constant time."""
        held = self.keys.get(hash[:KEY_INDEX_LENGTH])
        return held if held is not None and hmac.compare_digest(held.hash, hash) else None

    def version(self, model: str) -> Version | None:
        """The version that ``support@7`` or ``support@7-1f3a9c2e`` names; None if there is none such in service."""
        pinned = parse_pinned(model)
        if pinned is None:
            return None
        adapter = self.adapters.get(pinned.adapter)
        version = adapter.versions.get(pinned.number) if adapter else None
        if version is None or version.archived:
            return None
        return version if pinned.digest_prefix in (None, version.engine_name.rpartition("-")[2]) else None

    def knows(self, engine_name: str) -> bool:
        """Whether some version, in service or archived, has that engine name."""
        pinned = parse_pinned(engine_name)
        adapter = self.adapters.get(pinned.adapter) if pinned else None
        version = adapter.versions.get(pinned.number) if adapter and pinned else None
        return version is not None and version.engine_name == engine_name

    def with_deployment(self, name: str, deployment: Deployment, change: int) -> "Catalog":
        """The same picture after one deployment changed."""
        adapters = dict(self.adapters)
        adapters[name] = replace(adapters[name], deployment=deployment)
        return replace(self, change=change, adapters=adapters)
