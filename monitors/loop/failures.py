"""How often a version fails, held against the other one's failures of the same time, from one request after another.

Requests of both versions make up stretches of the traffic: one ends with the first request of the version that had
none in it yet. Of the other one's only the newest count, so that both are of about the same time. Whose requests came
decides where a stretch ends, never how they went.
"""

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Self

from monitors.judging.sequential import ConfidenceSequence
from monitors.loop.excess import ExcessTest, Tally
from monitors.loop.matching import Arm
from monitors.loop.seen import Held

MOST_IN_STRETCH = 20
"""Requests of one version that count in a stretch; the other one has one in it."""
_ANSWERS = 20
_LARGEST_LOG = 60.0


@dataclass
class Failures:
    """A limit on failed requests.

    Attributes:
        test: whether the new version fails more often than the other one's failures and what is allowed explain.
        mean: the interval of its failures' share.
        arm: whose requests wait for the other version's; of no meaning while none does.
        waiting: whether each of them failed, the oldest first.
        times: how long the newest whole answers of either version took, seconds.
    """

    test: ExcessTest
    mean: ConfidenceSequence
    arm: Arm = "new"
    waiting: deque[Any] = field(default_factory=lambda: deque(maxlen=MOST_IN_STRETCH))
    times: deque[float] = field(default_factory=lambda: deque(maxlen=_ANSWERS))

    @classmethod
    def begin(cls, *, most: float, alpha: float) -> Self:
        """Without requests."""
        return cls(ExcessTest(most, alpha), ConfidenceSequence(alpha))

    def take(self, arm: Arm, *, failed: Any) -> None:
        """The next request of one of the two versions, and whether it failed; an array has one for each run."""
        if arm == "new":
            self.mean.update(failed * 1.0)
        if not self.waiting:
            self.arm = arm
        if arm == self.arm:
            self.waiting.append(failed)
            return
        last, others = Tally(failed * 1, 1), Tally(sum(self.waiting), len(self.waiting))
        self.waiting.clear()
        self.test.update(*((last, others) if arm == "new" else (others, last)))

    def replaced(self) -> None:
        """A request that the new version failed on, and something else answered at that very moment: a stretch."""
        self.mean.update(1.0)
        self.test.update(Tally(1, 1), Tally(0, 1))

    def answered(self, seconds: float) -> None:
        """How long a whole answer of either version took."""
        self.times.append(seconds)

    def is_long(self, seconds: float) -> bool:
        """Whether a wait was longer than each of the newest whole answers took; no while there are only few."""
        return len(self.times) == _ANSWERS and seconds > max(self.times)

    def held(self) -> Held:
        """The numbers that decide."""
        count = self.mean.count
        return Held(
            n=count,
            mean=float(self.mean.mean) if count else None,
            low=float(self.mean.low),
            high=float(self.mean.high),
            worse=bool(self.test.rejected),
            evidence_worse=math.exp(min(float(self.test.peak), _LARGEST_LOG)),
            needed_worse=1 / self.test.alpha,
        )

    def state(self) -> dict[str, Any]:
        """Everything, as JSON."""
        return {
            "test": self.test.state(),
            "mean": self.mean.state(),
            "arm": self.arm,
            "waiting": list(self.waiting),
            "times": list(self.times),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """The limit that `state` was taken from."""
        return cls(
            ExcessTest.from_state(state["test"]),
            ConfidenceSequence.from_state(state["mean"]),
            state["arm"],
            deque(state["waiting"], MOST_IN_STRETCH),
            deque(state["times"], _ANSWERS),
        )
