"""What did not work with a version in one engine, why, and when it is tried again: ever later while it fails."""

from collections.abc import Container
from dataclasses import dataclass

from gateway.engines.breaker import Breaker

_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0
_BREAKS = 2
"""How often in a row the engine has to go away with something before that is at fault: once, a connection was cut."""
_FIRST_PAUSE_AFTER_BREAKS_S = 300.0
_LONGEST_PAUSE_AFTER_BREAKS_S = 3600.0


@dataclass(slots=True)
class _Setback:
    reason: str
    breaker: Breaker
    breaks: int = 0
    """How often in a row the engine went away with it."""
    waits: bool = False
    """Whether its pause begins only once the engine is back."""


class Setbacks:
    """The setbacks in one engine, by engine name; what works has none."""

    def __init__(self) -> None:
        self._found: dict[str, _Setback] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._found

    def __len__(self) -> int:
        return len(self._found)

    def note(self, name: str, reason: str) -> None:
        """It failed."""
        self._of(name, reason).breaker.failed()

    def broke(self, name: str, reason: str) -> None:
        """The engine went away with it; by the second time it is at fault, and rests far longer, as engines start."""
        found = self._of(name, reason)
        found.breaks += 1
        if found.breaks < _BREAKS:
            found.breaker.failed()
            return
        if found.breaks == _BREAKS:
            found.breaker = Breaker(1, _FIRST_PAUSE_AFTER_BREAKS_S, _LONGEST_PAUSE_AFTER_BREAKS_S)
        found.waits = True

    def _of(self, name: str, reason: str) -> _Setback:
        found = self._found.setdefault(name, _Setback(reason, Breaker(1, _FIRST_PAUSE_S, _LONGEST_PAUSE_S)))
        found.reason = reason
        return found

    def engine_answers(self) -> None:
        """The engine is well: the pauses of what it went away with begin."""
        for found in self._found.values():
            if found.waits:
                found.waits = False
                found.breaker.failed()

    def survived(self, name: str) -> None:
        """The engine refused it and is well, so it does not break the engine any more."""
        found = self._found.get(name)
        if found is not None and found.breaks:
            del self._found[name]

    def allows(self, name: str) -> bool:
        """Whether to try it now; after a pause, only the first to ask may."""
        found = self._found.get(name)
        return found is None or (not found.waits and found.breaker.allows())

    def rests(self, name: str) -> bool:
        """Whether it is left alone now. Asking is no try."""
        found = self._found.get(name)
        return found is not None and (found.waits or found.breaker.state == "open")

    def forbids(self, name: str) -> bool:
        """Whether nobody may try it now, as it broke the engine."""
        return self.rests(name) and self._found[name].breaks >= _BREAKS

    def reason(self, name: str) -> str:
        """Why it failed the last time.

        Raises:
            KeyError: it has none.
        """
        return self._found[name].reason

    def forget(self, name: str) -> None:
        """It worked, or does not matter any more."""
        self._found.pop(name, None)

    def forget_all_but(self, names: Container[str]) -> None:
        """The others do not matter any more."""
        self._found = {name: found for name, found in self._found.items() if name in names}

    def engine_is_new(self) -> None:
        """Nothing is known of how versions do in it, but that some broke the last one."""
        self._found = {name: found for name, found in self._found.items() if found.breaks}
