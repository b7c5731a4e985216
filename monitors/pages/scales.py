"""Where values stand in a plot: coordinates in SVG's units, and round ticks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_PAD = 0.12
_MOST_TICKS = 5
_NICE = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Scale:
    """A straight line from values to coordinates."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """The coordinate of a value."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 2)

    def ticks(self) -> list[dict[str, Any]]:
        """A few round values with their coordinates."""
        step = _step((self.high - self.low) / _MOST_TICKS)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        values = [number * step for number in range(first, last + 1)]
        return [{"at": self.at(value), "text": f"{value:.6g}"} for value in values]


def around(values: Sequence[float], start: float, end: float) -> Scale:
    """A scale that leaves some room on both sides of the values."""
    low, high = min(values), max(values)
    pad = _PAD * (high - low) or 1.0
    return Scale(low - pad, high + pad, start, end)


def between(values: Sequence[float], start: float, end: float) -> Scale:
    """A scale from the least value to the largest."""
    low, high = min(values), max(values)
    return Scale(low, high if high > low else low + 1, start, end)


def _step(least: float) -> float:
    """The least round number that is no smaller."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * nice for nice in _NICE if power * nice >= least * (1 - 1e-9))
