"""The rules of a deployment: what a patch makes of it, and what a rollback would put in its place.

Plain functions over immutable values, without a database.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Any

from registry.catalog import Canary, Deployment, FallbackStep, Shadow
from registry.errors import Conflict, InvalidValue

_FALLBACK_STEPS = ("previous", "base")


class Unset(Enum):
    """The type of `UNSET`, which stands for what a patch leaves as it is; None is a value of its own."""

    UNSET = "unset"


UNSET = Unset.UNSET


@dataclass(frozen=True, slots=True)
class Patch:
    """A wanted change of a deployment; what is left out stays.

    `force` has it serve clients also with a version that its gate has not let through, or held against another.
    """

    stable: int | Unset = UNSET
    canary: Canary | Unset | None = UNSET
    shadow: Shadow | Unset | None = UNSET
    fallback: tuple[FallbackStep, ...] | Unset = UNSET
    force: bool = False


@dataclass(frozen=True, slots=True)
class State:
    """What one revision says; a rollback restores all of it."""

    stable: int
    canary: Canary | None = None
    shadow: Shadow | None = None
    fallback: tuple[FallbackStep, ...] = ()

    @property
    def versions(self) -> frozenset[int]:
        """The versions that requests are sent to."""
        canary = {self.canary.version} if self.canary else set()
        shadow = {self.shadow.version} if self.shadow and self.shadow.version is not None else set()
        return frozenset({self.stable} | canary | shadow)

    @property
    def suspect(self) -> int:
        """The version that a plain rollback takes away: the newest one, so the canary if it is not a holdback."""
        return self.stable if self.canary is None or self.canary.holdback else self.canary.version

    @property
    def answering(self) -> frozenset[int]:
        """The versions whose answers clients get."""
        return frozenset({self.stable} | ({self.canary.version} if self.canary else set()))

    def serves(self, version: int) -> bool:
        """Whether clients get answers of that version, as stable or as canary."""
        return version in self.answering


def patched(state: State | None, patch: Patch) -> State:
    """What the patch makes of a deployment; None is one that has not begun.

    A canary that becomes stable is no canary any more.

    Raises:
        Conflict: nothing serves yet, and the patch names no stable version.
        InvalidValue: a share is no number from 0 to 1, the canary is the stable version, or what is to be held back
            is not what serves until this change.
    """
    _check(patch)
    stable = patch.stable
    if isinstance(stable, Unset):
        if state is None:
            raise Conflict("the adapter has no deployment yet: promote a version first", param="stable")
        stable = state.stable
    canary = (state.canary if state else None) if isinstance(patch.canary, Unset) else patch.canary
    if canary is not None and canary.version == stable:
        if not isinstance(patch.canary, Unset):
            raise InvalidValue(f"the canary must be another version than the stable one, {stable}", param="canary")
        canary = None
    if isinstance(patch.canary, Canary) and patch.canary.holdback:
        _check_holdback(state, patch.canary.version)
    shadow = (state.shadow if state else None) if isinstance(patch.shadow, Unset) else patch.shadow
    fallback = (state.fallback if state else ()) if isinstance(patch.fallback, Unset) else patch.fallback
    return State(stable, canary, shadow, fallback)


def _check(patch: Patch) -> None:
    if isinstance(patch.canary, Canary):
        _check_share(patch.canary.weight, "canary.weight")
    if isinstance(patch.shadow, Shadow):
        _check_share(patch.shadow.share, "shadow.share")
    if not isinstance(patch.fallback, Unset):
        unknown = [step for step in patch.fallback if step not in _FALLBACK_STEPS]
        if unknown or len(set(patch.fallback)) < len(patch.fallback):
            raise InvalidValue("fallback lists 'previous' and 'base', each once at most", param="fallback")


def _check_holdback(state: State | None, version: int) -> None:
    """It must be what serves, and so is replaced by this change, or what is held back already."""
    held = state.canary.version if state and state.canary and state.canary.holdback else None
    if state is None or version not in (state.stable, held):
        raise InvalidValue(
            f"version {version} cannot be held back: a holdback is the version that serves until another one is "
            "promoted in the same change",
            param="canary.holdback",
        )


def _check_share(value: float, param: str) -> None:
    if isinstance(value, bool) or not 0 <= value <= 1:  # which NaN is not, either
        raise InvalidValue(f"{param} must be a number from 0 to 1, not {value}", param=param)


def action_of(before: State | None, after: State) -> str:
    """The word for a change in history: that of the weightiest part that it touches."""
    if before is None or before.stable != after.stable:
        return "promote"
    if before.canary != after.canary:
        return "canary"
    return "shadow" if before.shadow != after.shadow else "fallback"


def describe(deployment: Deployment | None) -> dict[str, Any] | None:
    """A deployment as the audit log keeps it."""
    if deployment is None:
        return None
    canary, shadow = deployment.canary, deployment.shadow
    return {
        "revision": deployment.revision,
        "stable": deployment.stable,
        "canary": _describe_canary(canary) if canary else None,
        "shadow": {"version": shadow.version, "share": shadow.share} if shadow else None,
        "fallback": list(deployment.fallback),
    }


def _describe_canary(canary: Canary) -> dict[str, Any]:
    found = {"version": canary.version, "weight": canary.weight}
    return found | ({"holdback": True} if canary.holdback else {})
