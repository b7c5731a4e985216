"""What came back: each answer with how good it was, each failure, and how quality went over time."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import sqrt
from statistics import fmean, stdev
from typing import Literal

__all__ = ["Answered", "Failure", "Ledger", "Mean", "World", "mean_of", "served"]

World = Literal["before", "shifted"]
_Z = 1.96
"""Of the normal distribution, for intervals of 95%."""


@dataclass(frozen=True)
class Answered:
    """One answered request.

    Attributes:
        at: when it was answered, seconds since the story began.
        world: which kind of tickets there were.
        key: whose.
        version, variant: what answered.
        quality: the share of right fields.
        seconds: how long the client waited.
    """

    at: float
    world: World
    key: str
    version: int
    variant: str
    quality: float
    seconds: float


@dataclass(frozen=True)
class Failure:
    """One request that failed: when, of what (`answer` or `feedback`), and how."""

    at: float
    what: str
    how: str


@dataclass(frozen=True)
class Mean:
    """A mean of `n` answers with an interval that holds the true one in about 95 of 100 cases."""

    n: int
    mean: float
    low: float
    high: float
    at: float = 0.0


@dataclass
class Ledger:
    """Everything that clients saw."""

    answers: list[Answered] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    said: int = 0

    @property
    def requests(self) -> int:
        """Requests that were answered or failed, feedback included."""
        return len(self.answers) + self.said + len(self.failures)

    def recent(self, n: int) -> Mean | None:
        """Of the newest answers; None before the first."""
        return mean_of(self.answers[-n:]) if self.answers else None

    def course(self, window: int) -> list[Mean]:
        """Quality over time: a mean of each `window` answers that follow one another."""
        parts = (self.answers[start : start + window] for start in range(0, len(self.answers), window))
        return [mean_of(part) for part in parts if len(part) >= max(2, window // 2)]


def mean_of(answers: Sequence[Answered]) -> Mean:
    """The mean quality of some answers, one at least."""
    values = [each.quality for each in answers]
    mean = fmean(values)
    half = _Z * (stdev(values) if len(values) > 1 else 0.5) / sqrt(len(values))
    middle = fmean(each.at for each in answers)
    return Mean(len(values), mean, max(0.0, mean - half), min(1.0, mean + half), middle)


def served(answers: Iterable[Answered]) -> dict[int, int]:
    """How many answers each version gave."""
    counts: dict[int, int] = {}
    for each in answers:
        counts[each.version] = counts.get(each.version, 0) + 1
    return dict(sorted(counts.items()))
