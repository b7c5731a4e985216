"""The tests of a rollout, each fed one pair of sessions, or one request, after another.

Beside     a version's scores beside another's: whether it is worse, and whether it is not worse by what matters
Limit      how often something happens that may happen at most so often: a failed request, a slower or dearer answer

Both hold at every look (`monitors.judging.sequential`), so a rollout may be looked at after every session.
"""

import math
from dataclasses import dataclass
from typing import Any, Self

from monitors.judging.sequential import BettingTest, ConfidenceSequence, RiseTest, to_difference, to_unit
from monitors.loop.seen import Held

_LARGEST_LOG = 60.0


@dataclass
class Beside:
    """Differences of scores, in [-1, 1]: of a version and of what it is held against.

    Attributes:
        worse: against 'the mean difference is at least 0', with half of alpha: a version is held against the stable one
            and against the base model, and is taken back for either, which errs with probability alpha at most in all.
        not_worse: against 'the mean difference is at most -drop'; it is wrong about a version that is worse by the
            drop or more with probability alpha at most.
        mean: the interval of the mean.
    """

    worse: BettingTest
    not_worse: BettingTest
    mean: ConfidenceSequence

    @classmethod
    def begin(cls, *, drop: float, alpha: float) -> Self:
        """Without observations."""
        return cls(BettingTest(0.5, alpha / 2), BettingTest(float(to_unit(-drop)), alpha), ConfidenceSequence(alpha))

    def update(self, difference: Any) -> None:
        """Take the next difference. Raises ValueError outside [-1, 1]."""
        unit = to_unit(difference)
        self.worse.update(1 - unit)
        self.not_worse.update(unit)
        self.mean.update(unit)

    def held(self) -> Held:
        """The numbers that decide."""
        count = self.mean.count
        return Held(
            n=count,
            mean=float(to_difference(self.mean.mean)) if count else None,
            low=float(to_difference(self.mean.low)),
            high=float(to_difference(self.mean.high)),
            total=float(2 * self.mean.total - count),
            worse=bool(self.worse.rejected),
            not_worse=bool(self.not_worse.rejected),
            evidence_worse=_plain(self.worse.peak),
            evidence_not_worse=_plain(self.not_worse.peak),
            needed=1 / self.not_worse.alpha,
            needed_worse=1 / self.worse.alpha,
        )

    def state(self) -> dict[str, Any]:
        """Everything, as JSON."""
        return {"worse": self.worse.state(), "not_worse": self.not_worse.state(), "mean": self.mean.state()}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """The tests that `state` was taken from."""
        return cls(
            BettingTest.from_state(state["worse"]),
            BettingTest.from_state(state["not_worse"]),
            ConfidenceSequence.from_state(state["mean"]),
        )


@dataclass
class Limit:
    """How often something happens, each time 0 or 1, against 'at most `most` of the time'.

    A burst is found as soon after a long good time as at once.
    """

    over: RiseTest
    mean: ConfidenceSequence

    @classmethod
    def begin(cls, *, most: float, alpha: float) -> Self:
        """Without observations."""
        return cls(RiseTest(most, alpha), ConfidenceSequence(alpha))

    def update(self, happened: Any) -> None:
        """Take the next one, 0 or 1."""
        self.over.update(happened)
        self.mean.update(happened)

    def held(self) -> Held:
        """The numbers that decide."""
        count = self.mean.count
        return Held(
            n=count,
            mean=float(self.mean.mean) if count else None,
            low=float(self.mean.low),
            high=float(self.mean.high),
            total=float(self.mean.total),
            worse=bool(self.over.rejected),
            evidence_worse=_plain(self.over.peak),
            needed_worse=1 / self.over.alpha,
        )

    def state(self) -> dict[str, Any]:
        """Everything, as JSON."""
        return {"over": self.over.state(), "mean": self.mean.state()}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """The test that `state` was taken from."""
        return cls(RiseTest.from_state(state["over"]), ConfidenceSequence.from_state(state["mean"]))


def _plain(log: float) -> float:
    return math.exp(min(float(log), _LARGEST_LOG))
