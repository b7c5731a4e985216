"""The trial of a version: all tests of one rollout, and how far each of them has read; stored between two looks.

A trial keeps the least drop, the error probability and the scorer with which it began: tests whose numbers are changed
in the light of what they say are none. A limit may be changed, and what is held against it begins anew then.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

import msgspec

from monitors.loop.evidence import Beside, Limit
from monitors.loop.failures import Failures
from monitors.loop.matching import Matching
from monitors.loop.seen import Comparison, Held
from monitors.loop.store import Kept
from registry.policies import RolloutRule

_HALF = 0.5
"""What is more than so many times the other's in the median is so in more than half of all pairs."""


class Sides(msgspec.Struct, frozen=True):
    """What is held against what.

    Attributes:
        new, old: the versions' numbers; `new_name` and `old_name` their engine names.
        began_at: sessions and requests from then on count.
        scorer: whose scores.
        paired: whether both versions answer the same requests, one of them in shadow; else each has sessions of its
            own. Settled when the rollout begins.
    """

    adapter: str
    new: int
    old: int
    new_name: str
    old_name: str
    began_at: datetime
    scorer: str
    paired: bool = False


@dataclass
class Ratio:
    """How often a value is more than `ratio` times the one that it is matched with."""

    ratio: float
    limit: Limit
    matching: Matching = field(default_factory=Matching)

    @classmethod
    def begin(cls, ratio: float, alpha: float) -> Self:
        """Without observations."""
        return cls(ratio, Limit.begin(most=_HALF, alpha=alpha))

    def take(self, *, is_new: bool, value: float) -> None:
        """The next value of one of the two versions."""
        pair = self.matching.take("new" if is_new else "old", value)
        if pair is not None:
            self.limit.update(float(pair[0] > self.ratio * pair[1]))


@dataclass
class Trial:
    """The tests of a rollout.

    Attributes:
        incumbent, base: the new version's scores beside the old version's, and the base model's.
        errors, latency, cost: limits, each beside the other version; None where nothing is looked at.
        scores: which sessions' scores wait for their other half.
        observation: the last observation that was read.
        requests: the last request that was read of each recorder (`monitors.log.arrivals`).
        is_behind: whether more requests were there than were read.
    """

    sides: Sides
    incumbent: Beside
    base: Beside
    observation: int
    requests: dict[str, str]
    errors: Failures | None = None
    latency: Ratio | None = None
    cost: Ratio | None = None
    scores: Matching = field(default_factory=Matching)
    is_behind: bool = False

    def follow(self, rule: RolloutRule) -> None:
        """Look at the limits as the policy has them now."""
        alpha = rule.guard_alpha
        self.errors = _failures(self.errors, rule.errors, alpha)
        self.latency = _ratio(self.latency, rule.latency_ratio, alpha)
        self.cost = _ratio(self.cost, rule.cost_ratio, alpha)

    def comparison(self) -> Comparison:
        """The numbers that decide; the base model's once there are any."""
        return Comparison(
            incumbent=self.incumbent.held(),
            base=self.base.held() if self.base.mean.count else None,
            errors=None if self.errors is None else self.errors.held(),
            latency=_held(self.latency),
            cost=_held(self.cost),
        )

    def tests(self) -> dict[str, Any]:
        """What the tests know, as JSON."""
        return {
            "incumbent": self.incumbent.state(),
            "base": self.base.state(),
            "errors": None if self.errors is None else self.errors.state(),
            "latency": _ratio_state(self.latency),
            "cost": _ratio_state(self.cost),
        }

    def cursors(self) -> dict[str, Any]:
        """What is tested, how far it was read, and what waits for its other half, as JSON."""
        return {
            "sides": msgspec.to_builtins(self.sides),
            "observation": self.observation,
            "requests": self.requests,
            "is_behind": self.is_behind,
            "scores": self.scores.state(),
            "latency": None if self.latency is None else self.latency.matching.state(),
            "cost": None if self.cost is None else self.cost.matching.state(),
        }

    @classmethod
    def from_state(cls, tests: dict[str, Any], cursors: dict[str, Any]) -> Self:
        """The trial that both were taken from."""
        return cls(
            sides=msgspec.convert(cursors["sides"], Sides),
            incumbent=Beside.from_state(tests["incumbent"]),
            base=Beside.from_state(tests["base"]),
            observation=cursors["observation"],
            requests=dict(cursors["requests"]),
            errors=None if tests["errors"] is None else Failures.from_state(tests["errors"]),
            latency=_ratio_from(tests["latency"], cursors["latency"]),
            cost=_ratio_from(tests["cost"], cursors["cost"]),
            scores=Matching.from_state(cursors["scores"]),
            is_behind=cursors["is_behind"],
        )


def is_behind(kept: Kept) -> bool:
    """Whether requests of its rollout wait that were there at the last look."""
    return bool(kept.cursors.get("is_behind"))


def _failures(now: Failures | None, most: float | None, alpha: float) -> Failures | None:
    if most is None:
        return None
    same = now is not None and (now.most, now.alpha) == (most, alpha)
    return now if same else Failures.begin(most=most, alpha=alpha)


def _ratio(now: Ratio | None, ratio: float | None, alpha: float) -> Ratio | None:
    if ratio is None:
        return None
    same = now is not None and (now.ratio, now.limit.over.alpha) == (ratio, alpha)
    return now if same else Ratio.begin(ratio, alpha)


def _held(ratio: Ratio | None) -> Held | None:
    return None if ratio is None else ratio.limit.held()


def _ratio_state(ratio: Ratio | None) -> dict[str, Any] | None:
    return None if ratio is None else {"ratio": ratio.ratio, "limit": ratio.limit.state()}


def _ratio_from(tests: dict[str, Any] | None, waiting: dict[str, Any] | None) -> Ratio | None:
    if tests is None:
        return None
    return Ratio(tests["ratio"], Limit.from_state(tests["limit"]), Matching.from_state(waiting))
