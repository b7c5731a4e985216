"""Rows as the immutable values that the rest of Ostler sees."""

from typing import Any, TypeAlias, cast

from sqlalchemy import Row

from registry.catalog import ApiKey, Canary, Deployment, FallbackStep, GateVerdict, KeyLimits, Scope, Shadow, Version
from registry.deployments import State
from registry.tables import ApiKeyRow, RevisionRow, VersionRow

BASE_MODEL = "base"

# Entities where a change is made, bare rows where the whole catalog is read: they take a third of the time.
AnyVersion: TypeAlias = VersionRow | Row[Any]
AnyRevision: TypeAlias = RevisionRow | Row[Any]
AnyKey: TypeAlias = ApiKeyRow | Row[Any]


def to_version(adapter: str, row: AnyVersion) -> Version:
    """The immutable form of a version's row."""
    return Version(
        adapter=adapter,
        number=row.number,
        engine_name=row.engine_name,
        digest=row.digest,
        rank=row.rank,
        alpha=row.alpha,
        parameters=row.parameters,
        size_bytes=row.size_bytes,
        note=row.note,
        created_by=row.created_by,
        created_at=row.created_at,
        archived=row.archived_at is not None,
        verdict=cast("GateVerdict | None", row.verdict),
    )


def to_state(row: AnyRevision) -> State:
    """What a revision says."""
    canary = None if row.canary is None else Canary(row.canary, row.canary_weight or 0.0, row.is_holdback)
    shadow = None
    if row.shadow is not None:
        shadow = Shadow(None if row.shadow == BASE_MODEL else int(row.shadow), row.shadow_share or 0.0)
    fallback = cast("list[FallbackStep]", row.fallback)
    return State(row.stable, canary, shadow, tuple(fallback))


def state_columns(state: State) -> dict[str, Any]:
    """The columns of a revision that says this; the inverse of `to_state`."""
    canary, shadow = state.canary, state.shadow
    target = None if shadow is None else BASE_MODEL if shadow.version is None else str(shadow.version)
    return {
        "stable": state.stable,
        "canary": canary.version if canary else None,
        "canary_weight": float(canary.weight) if canary else None,
        "is_holdback": canary.holdback if canary else False,
        "shadow": target,
        "shadow_share": float(shadow.share) if shadow else None,
        "fallback": list(state.fallback),
    }


def to_deployment(row: AnyRevision, before: AnyRevision | None, undo: AnyRevision | None) -> Deployment:
    """What a revision makes an adapter's name mean.

    Warm stay what a plain rollback would serve, and what clients were served until this revision: the way back, and
    after a rollback the way forwards again.
    """
    state = to_state(row)
    warm = set(to_state(undo).versions) if undo is not None else set()
    if before is not None:
        warm |= {before.stable} | ({before.canary} if before.canary is not None else set())
    previous = _before_stable(row, undo)
    warm |= {previous} if previous is not None else set()
    return Deployment(
        revision=row.number,
        stable=state.stable,
        canary=state.canary,
        shadow=state.shadow,
        fallback=state.fallback,
        previous=previous,
        warm=frozenset(warm - state.versions),
    )


def _before_stable(row: AnyRevision, undo: AnyRevision | None) -> int | None:
    """The version before the stable one. Where a rollback would only end a canary, it is one step further back."""
    if row.undo_stable != row.stable or undo is None:
        return row.undo_stable
    return None if undo.undo_stable == row.stable else undo.undo_stable


def to_key(row: AnyKey) -> ApiKey:
    """The immutable form of a key's row, without its hashes.

    A scope that this program does not know is left out: it opens nothing here. The next one, which gave it, may have
    migrated the database while this one runs on.
    """
    return ApiKey(
        id=row.id,
        name=row.name,
        hint=row.hint,
        scopes=frozenset(scope for scope in Scope if scope in row.scopes),
        adapters=None if row.adapters is None else frozenset(row.adapters),
        limits=KeyLimits(
            requests_per_minute=row.requests_per_minute,
            tokens_per_minute=row.tokens_per_minute,
            concurrent_requests=row.concurrent_requests,
            monthly_budget=row.monthly_budget,
        ),
        created_by=row.created_by,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        previous_valid_until=row.previous_until,
    )
