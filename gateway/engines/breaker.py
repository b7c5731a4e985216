"""Breakers: what fails again and again is left alone, for pauses that grow, and comes back by a trial."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

State = Literal["closed", "open", "half_open"]


@dataclass(slots=True)
class Breaker:
    """One thing that may fail. Closed it is used; open it is not; half open one trial decides.

    Args:
        failures: failures in a row that open it.
        pause_s: the first pause; each further one is twice as long.
        longest_s: the longest pause.
        clock: seconds, monotonic.
    """

    failures: int
    pause_s: float
    longest_s: float
    clock: Callable[[], float] = time.monotonic
    _failed: int = 0
    _pause: float = 0.0
    _until: float = 0.0
    _trial_until: float = 0.0

    @property
    def state(self) -> State:
        """`half_open` once the pause is over."""
        if self._pause == 0.0:
            return "closed"
        return "open" if self.clock() < self._until else "half_open"

    @property
    def retry_in_s(self) -> float | None:
        """Seconds until the next trial; None while it is closed."""
        return None if self._pause == 0.0 else max(0.0, self._until - self.clock())

    def allows(self) -> bool:
        """Whether to use it now. Half open, the first to ask is the trial, and others are told no meanwhile."""
        state = self.state
        if state != "half_open":
            return state == "closed"
        now = self.clock()
        if now < self._trial_until:
            return False
        # A trial that never reports back does not block for ever.
        self._trial_until = now + min(self._pause, self.longest_s)
        return True

    def succeeded(self) -> None:
        """It worked."""
        self._failed, self._pause, self._trial_until = 0, 0.0, 0.0

    def failed(self, *, certain: bool = False, least_s: float = 0.0) -> None:
        """It failed; `certain` opens at once what would else take several failures, for `least_s` or more."""
        if self.state == "open" and self._pause >= least_s:
            return  # of a use that began before it opened: still the same outage
        self._failed += 1
        if self._pause or certain or self._failed >= self.failures:
            self._pause = max(min(self._pause * 2 or self.pause_s, self.longest_s), least_s)
            self._until = self.clock() + self._pause


def _tell_nobody(_name: str, _state: State) -> None:
    pass


class Breakers:
    """A breaker for each name that has failed lately; what works has none.

    Args:
        make: makes a breaker.
        told: hears of each name whose breaker has just opened or closed.
    """

    def __init__(self, make: Callable[[], Breaker], told: Callable[[str, State], None] = _tell_nobody) -> None:
        self._make = make
        self._told = told
        self._breakers: dict[str, Breaker] = {}

    def allows(self, name: str) -> bool:
        """Whether to use it now; half open, only the first to ask may."""
        found = self._breakers.get(name)
        return found is None or found.allows()

    def is_closed(self, name: str) -> bool:
        """Whether nothing is known against it. Asking is no trial."""
        found = self._breakers.get(name)
        return found is None or found.state == "closed"

    def succeeded(self, name: str) -> None:
        """It worked."""
        found = self._breakers.pop(name, None)
        if found is not None and found.retry_in_s is not None:
            self._told(name, "closed")

    def failed(self, name: str, *, certain: bool = False, least_s: float = 0.0) -> None:
        """It failed; see `Breaker.failed`."""
        found = self._breakers.setdefault(name, self._make())
        was_closed = found.state == "closed"
        found.failed(certain=certain, least_s=least_s)
        if was_closed and found.state != "closed":
            self._told(name, "open")
