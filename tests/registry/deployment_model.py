"""What the registry should do with one adapter, as plain values: the oracle of the state machine's test.

It knows nothing of the stored undo pointers: where a rollback leads is worked out from the whole history each time.
"""

from dataclasses import dataclass, replace
from typing import TypeAlias

from registry.catalog import Deployment
from registry.deployments import Patch, State, patched
from registry.errors import Conflict, NotFound, NothingToRollBack, RegistryError, RevisionMismatch, Stopped


@dataclass(frozen=True)
class Revision:
    """One entry of the history; `restores` is set on a rollback, `decision` on an automatic change."""

    state: State
    restores: int | None = None
    decision: int | None = None


def on_trial(state: State) -> int:
    """The version that came last: the canary, but where that is the old version held back."""
    return state.canary.version if state.canary and not state.canary.holdback else state.stable


@dataclass(frozen=True)
class Model:
    """An adapter with its versions (archived or not, from number 1) and its history (from revision 1).

    `stopped` has the adapter's name while it is paused, and an empty one while everything is frozen.
    """

    archived: tuple[bool, ...] = ()
    history: tuple[Revision, ...] = ()
    changes: int = 0
    stopped: frozenset[str] = frozenset()

    @property
    def state(self) -> State | None:
        """What the name means now."""
        return self.history[-1].state if self.history else None

    @property
    def deployment(self) -> Deployment | None:
        """The same as the catalog has it, without what stays warm."""
        return self.deployment_at(len(self.history)) if self.history else None

    def deployment_at(self, number: int) -> Deployment:
        """The deployment that a revision made."""
        state, undo = self.history[number - 1].state, self.undo(number)
        previous = self.history[undo - 1].state.stable if undo else None
        if undo and previous == state.stable:  # only a canary would end; what is before it is one step further back
            further = self.undo(undo)
            previous = self.history[further - 1].state.stable if further else None
            previous = None if previous == state.stable else previous
        return Deployment(number, state.stable, state.canary, state.shadow, state.fallback, previous)

    def origin(self, number: int) -> int:
        """The revision that first brought the state of this one."""
        return self.history[number - 1].restores or number

    def undo(self, number: int) -> int | None:
        """Where a plain rollback leads from a revision: back along its chain, past all that serves the suspect."""
        suspect = on_trial(self.history[number - 1].state)
        step = self._parent(self.origin(number))
        while step is not None and self.history[step - 1].state.serves(suspect):
            step = self._parent(step)
        return step

    def _parent(self, origin: int) -> int | None:
        return self.origin(origin - 1) if origin > 1 else None

    def with_revision(self, revision: Revision) -> "Model":
        """After one more revision; what it needs comes back from the archive."""
        after = replace(self, history=(*self.history, revision), changes=self.changes + 1)
        return replace(after, archived=tuple(flag and n not in after.needed for n, flag in enumerate(self.archived, 1)))

    @property
    def needed(self) -> frozenset[int]:
        """The versions that the deployment leads to."""
        found = self.deployment
        if found is None:
            return frozenset()
        back = {found.previous} if found.previous and "previous" in found.fallback else set()
        return found.versions | back


Outcome: TypeAlias = tuple[Model, object]
"""The model after a call, and what the caller got: a value, or the type of the error."""


@dataclass(frozen=True)
class Register:
    """Push new weights."""

    digest: str

    def on(self, model: Model) -> Outcome:
        """The next version; its number is the answer."""
        after = replace(model, archived=(*model.archived, False), changes=model.changes + 1)
        return after, len(after.archived)


@dataclass(frozen=True)
class Change:
    """Promote, canary, shadow or fallback."""

    patch: Patch
    expected: int | None = None
    decision: int | None = None

    def on(self, model: Model) -> Outcome:
        """The new deployment."""
        try:
            _require_seen(model, self.expected, self.decision)
            return _changed(model, self.patch, self.decision)
        except RegistryError as error:
            return model, type(error)


def _changed(model: Model, patch: Patch, decision: int | None) -> Outcome:
    after = patched(model.state, patch)
    if after == model.state:
        return model, model.deployment
    for number in sorted(after.versions):
        if not 0 < number <= len(model.archived):
            raise NotFound("")
        if model.archived[number - 1]:
            raise Conflict("")
    made = model.with_revision(Revision(after, decision=decision))
    return made, made.deployment


def _require_seen(model: Model, expected: int | None, decision: int | None) -> None:
    if not model.archived:
        raise NotFound("")
    if expected is not None and expected != len(model.history):
        raise RevisionMismatch("")
    if decision is not None and model.stopped:
        raise Stopped("")


@dataclass(frozen=True)
class Rollback:
    """Back, or to a revision."""

    to: int | None = None
    expected: int | None = None
    decision: int | None = None

    def on(self, model: Model) -> Outcome:
        """The new deployment."""
        try:
            _require_seen(model, self.expected, self.decision)
            return _rolled_back(model, self.to, self.decision)
        except RegistryError as error:
            return model, type(error)


def _rolled_back(model: Model, to: int | None, decision: int | None) -> Outcome:
    current = len(model.history)
    wanted = model.undo(current) if to is None and current else to
    if not current or wanted is None:
        raise NothingToRollBack("")
    if not 0 < wanted <= current:
        raise NotFound("")
    target = model.origin(wanted)
    if target in (current, model.history[-1].restores):
        return model, model.deployment
    made = model.with_revision(Revision(model.history[target - 1].state, target, decision))
    return made, made.deployment


@dataclass(frozen=True)
class Archive:
    """Out of service, or back."""

    number: int
    archived: bool

    def on(self, model: Model) -> Outcome:
        """Whether it is archived now."""
        if not 0 < self.number <= len(model.archived):
            return model, NotFound
        if self.archived and self.number in model.needed:
            return model, Conflict
        if model.archived[self.number - 1] == self.archived:
            return model, self.archived
        flags = list(model.archived)
        flags[self.number - 1] = self.archived
        return replace(model, archived=tuple(flags), changes=model.changes + 1), self.archived


@dataclass(frozen=True)
class Halt:
    """Stop automatic change, or end that: of the adapter, or of all where it has no name."""

    name: str
    stopped: bool

    def on(self, model: Model) -> Outcome:
        """Nothing is answered."""
        if self.name and not model.archived:
            return model, NotFound
        if (self.name in model.stopped) == self.stopped:
            return model, None
        stopped = model.stopped ^ {self.name}
        return replace(model, stopped=stopped, changes=model.changes + 1), None


Call: TypeAlias = Register | Change | Rollback | Archive | Halt
