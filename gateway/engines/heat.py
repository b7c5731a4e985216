"""How much each version is used now: a count of its requests that fades, halved in each half-life."""

import math
import time
from collections.abc import Callable, Mapping

HALF_LIFE_S = 300.0
_KEPT = 10_000
_COLD = 0.01


class Heat:
    """The fading counts. Rather than age them all, each new use counts for more; only their ratios matter.

    Attributes:
        others: the same of other gateways, as they told last.
    """

    def __init__(self, half_life_s: float = HALF_LIFE_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = math.log(2) / half_life_s
        self._clock = clock
        self._epoch = clock()
        self._counts: dict[str, float] = {}
        self.others: Mapping[str, float] = {}

    def use(self, name: str) -> None:
        """Count one request."""
        age = (self._clock() - self._epoch) * self._rate
        if age > 600.0 or len(self._counts) > _KEPT:  # before exp overflows, and before names pile up
            self._restart()
            age = 0.0
        self._counts[name] = self._counts.get(name, 0.0) + math.exp(age)

    def of(self, name: str) -> float:
        """The count as of now, with what other gateways have told of theirs."""
        return self._counts.get(name, 0.0) * self._scale + self.others.get(name, 0.0)

    def own(self) -> dict[str, float]:
        """What this gateway has counted, as of now; what has gone cold is left out."""
        scale = self._scale
        return {name: count * scale for name, count in self._counts.items() if count * scale >= _COLD}

    @property
    def _scale(self) -> float:
        return math.exp((self._epoch - self._clock()) * self._rate)

    def _restart(self) -> None:
        scale = self._scale
        hottest = sorted(((count * scale, name) for name, count in self._counts.items()), reverse=True)[: _KEPT // 2]
        self._counts = {name: count for count, name in hottest}
        self._epoch = self._clock()
