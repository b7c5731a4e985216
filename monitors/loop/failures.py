"""How often a version fails, held against the other one's failures of the same time, from one request after another.

Requests of both versions make up stretches of the traffic: one ends with the first request of the version that had
none in it yet. Of the other one's only the newest count, so that both are of about the same time. Whose requests came
decides where a stretch ends, never how they went.

Where the other one has no requests, nobody can tell a version's failures from the installation's. Rather than let it
fail for ever, what is allowed is a plain limit then.
"""

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Self

from monitors.judging.sequential import ConfidenceSequence, RiseTest
from monitors.loop.excess import ExcessTest, Tally
from monitors.loop.matching import Arm
from monitors.loop.seen import Held

MOST_IN_STRETCH = 20
"""Requests of one version that count in a stretch; the other one has one in it."""
ALONE_AFTER = 200
"""Requests of the new version in a row after which it is alone: hardly ever, where the other one has 1 in 20."""
_ANSWERS = 20
_LARGEST_LOG = 60.0


@dataclass
class Failures:
    """A limit on failed requests.

    Attributes:
        test: whether the new version fails more often than the other one's failures and what is allowed explain.
        alone: whether it fails more often than is allowed while it is alone. Each of the two has half of alpha.
        mean: the interval of its failures' share.
        arm: whose requests wait for the other version's; of no meaning while none does.
        waiting: whether each of them failed, the oldest first.
        in_a_row: requests of the new version since the other one's last.
        times: how long the newest whole answers of either version took, seconds.
    """

    test: ExcessTest
    alone: RiseTest
    mean: ConfidenceSequence
    arm: Arm = "new"
    waiting: deque[Any] = field(default_factory=lambda: deque(maxlen=MOST_IN_STRETCH))
    in_a_row: int = 0
    times: deque[float] = field(default_factory=lambda: deque(maxlen=_ANSWERS))

    @classmethod
    def begin(cls, *, most: float, alpha: float) -> Self:
        """Without requests."""
        return cls(ExcessTest(most, alpha / 2), RiseTest(most, alpha / 2), ConfidenceSequence(alpha))

    @property
    def most(self) -> float:
        """The share that may fail."""
        return self.test.most

    @property
    def alpha(self) -> float:
        """The probability of ever rejecting a version that keeps the limit."""
        return 2 * self.test.alpha

    @property
    def rejected(self) -> Any:
        """Whether the evidence was ever enough; it stays so."""
        return self.test.rejected | self.alone.rejected

    def take(self, arm: Arm, *, failed: Any) -> None:
        """The next request of one of the two versions, and whether it failed; an array has one for each run."""
        if arm == "new":
            self._take_new(failed * 1.0)
        else:
            self.in_a_row = 0
        if not self.waiting:
            self.arm = arm
        if arm == self.arm:
            self.waiting.append(failed)
            return
        last, others = Tally(failed * 1, 1), Tally(sum(self.waiting), len(self.waiting))
        self.waiting.clear()
        self.test.update(*((last, others) if arm == "new" else (others, last)))

    def _take_new(self, failed: Any) -> None:
        self.mean.update(failed)
        if self.in_a_row >= ALONE_AFTER:
            self.alone.update(failed)
        self.in_a_row += 1

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
            total=float(self.mean.total),
            worse=bool(self.rejected),
            evidence_worse=math.exp(min(float(max(self.test.peak, self.alone.peak)), _LARGEST_LOG)),
            needed_worse=1 / self.test.alpha,
        )

    def state(self) -> dict[str, Any]:
        """Everything, as JSON."""
        return {
            "test": self.test.state(),
            "alone": self.alone.state(),
            "mean": self.mean.state(),
            "arm": self.arm,
            "waiting": list(self.waiting),
            "in_a_row": self.in_a_row,
            "times": list(self.times),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """The limit that `state` was taken from."""
        return cls(
            ExcessTest.from_state(state["test"]),
            RiseTest.from_state(state["alone"]),
            ConfidenceSequence.from_state(state["mean"]),
            state["arm"],
            deque(state["waiting"], MOST_IN_STRETCH),
            state["in_a_row"],
            deque(state["times"], _ANSWERS),
        )
