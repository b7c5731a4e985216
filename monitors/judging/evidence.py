"""What the sequential tests of a version know, fed one observation after another, and stored between two of them.

LevelEvidence       the mean score of a version's answers; for the scorer that the quality rule names, a `Watch`, too
DifferenceEvidence  the mean difference to the base or to another version, and whether it is better or worse
Watch               whether the scores fell below what is expected of them

A stored state has the tests' own numbers and a `summary` of them, which can be read without the tests.
"""

import math
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

import msgspec

from monitors.judging.findings import Finding
from monitors.judging.sequential import BettingTest, ConfidenceSequence, ECusum, to_difference, to_unit
from registry.monitoring import QualityRule

_RECENT = 100
"""Over how many observations the recent mean reaches back, about."""
_HIGHEST_LEVEL = 1 - 1e-6
"""The e-CUSUM's level lies below 1."""
_LARGEST_LOG = 60.0
"""Evidence is told as a plain number, up to e to this."""


@dataclass
class Watch:
    """Holds scores against the level that is expected, which the first ones tell if the rule does not.

    The e-CUSUM's null is 'the mean is at least level - drop': a fall that is less than the drop raises no alarm, and
    the drop also makes up for the error of a level that was taken from few observations. Once it was raised an alarm
    stands until the rule changes.

    Attributes:
        rule: what the watch follows.
        gathered, total: how many observations the level was taken from so far, and their sum.
        level: what is expected; None while it is being gathered.
        cusum: the test; None until the level is known, and where level - drop is not above 0.
    """

    rule: QualityRule
    gathered: int = 0
    total: float = 0.0
    level: float | None = None
    cusum: ECusum | None = None

    @classmethod
    def begin(cls, rule: QualityRule, before: Self | None = None) -> Self:
        """A watch from here on; a level that `before` has gathered in the same way stays."""
        watch = cls(rule)
        if rule.level is not None:
            watch.expect(rule.level)
        elif before is not None and _gathers_alike(before.rule, rule):
            watch.gathered, watch.total = before.gathered, before.total
            if before.level is not None:
                watch.expect(before.level)
        return watch

    def expect(self, level: float) -> None:
        """Begin to test against a level."""
        self.level = level
        threshold = min(level - self.rule.drop, _HIGHEST_LEVEL)
        if threshold > 0:
            self.cusum = ECusum(threshold, self.rule.alarm_every)

    def update(self, score: float) -> bool:
        """Take the next score; whether it raises the alarm."""
        if self.level is None:
            self.gathered += 1
            self.total += score
            if self.gathered >= self.rule.level_observations:
                self.expect(self.total / self.gathered)
            return False
        if self.cusum is None or self.alarm:
            return False
        self.cusum.update(score)
        return self.alarm

    @property
    def alarm(self) -> bool:
        """Whether the alarm was raised."""
        return self.cusum is not None and bool(self.cusum.alarm)

    @property
    def ratio(self) -> float:
        """The evidence of a fall, from 0 to 1 where the alarm is raised."""
        return 0.0 if self.cusum is None else max(0.0, float(self.cusum.ratio))

    def state(self) -> dict[str, Any]:
        """Everything, as JSON."""
        cusum = None if self.cusum is None else self.cusum.state()
        rule = msgspec.to_builtins(self.rule)
        return {"rule": rule, "gathered": self.gathered, "total": self.total, "level": self.level, "cusum": cusum}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """The watch that `state` was taken from."""
        rule = msgspec.convert(state["rule"], QualityRule)
        cusum = None if state["cusum"] is None else ECusum.from_state(state["cusum"])
        return cls(rule, state["gathered"], state["total"], state["level"], cusum)


@dataclass
class _Evidence:
    """What both kinds share: a mean with its interval, and a mean of the newest observations.

    `anew` tells when a test last began anew, and why; None if it never did.
    """

    mean: ConfidenceSequence
    recent: float = 0.0
    anew: dict[str, str] | None = None

    def _begin_anew(self, why: str, now: datetime) -> None:
        self.anew = {"at": now.isoformat(), "why": why}

    def _learn(self, unit: float, value: float) -> None:
        self.mean.update(unit)
        self.recent += (value - self.recent) / min(self.mean.count, _RECENT)

    @property
    def count(self) -> int:
        """Observations so far."""
        return self.mean.count


@dataclass
class LevelEvidence(_Evidence):
    """How good a version's answers are under one scorer; `watch` is None unless the quality rule names the scorer."""

    watch: Watch | None = None

    @classmethod
    def begin(cls, alpha: float) -> Self:
        """Without observations."""
        return cls(ConfidenceSequence(alpha))

    def update(self, score: float) -> list[Finding]:
        """Take the next score, in [0, 1]; what it establishes."""
        self._learn(score, score)
        return ["alarm"] if self.watch is not None and self.watch.update(score) else []

    def state(self) -> dict[str, Any]:
        """Everything, as JSON."""
        watch = None if self.watch is None else self.watch.state()
        stored = {"mean": self.mean.state(), "recent": self.recent, "anew": self.anew, "watch": watch}
        return stored | {"summary": self.summary()}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """The evidence that `state` was taken from."""
        watch = None if state["watch"] is None else Watch.from_state(state["watch"])
        return cls(ConfidenceSequence.from_state(state["mean"]), state["recent"], state["anew"], watch)

    def adopt(self, rule: QualityRule, scorer: str, now: datetime) -> bool:
        """Follow a quality rule from now on; whether that changed anything."""
        changed = self.mean.alpha != rule.alpha
        if changed:
            self.mean, self.recent = ConfidenceSequence(rule.alpha), 0.0
            self._begin_anew(f"alpha became {rule.alpha:g}", now)
        before = self.watch
        if rule.scorer != scorer:
            self.watch = None
        elif before is None or _differences(before.rule, rule):
            self.watch = Watch.begin(rule, before)
            if before is not None:
                self._begin_anew(f"the quality rule changed: {_differences(before.rule, rule)}", now)
        return changed or self.watch is not before

    def summary(self) -> dict[str, Any]:
        """The numbers that people and metrics are shown."""
        shown = _shown(self.mean, self.recent, float)
        return shown if self.watch is None else shown | {"watch": _shown_watch(self.watch)}


@dataclass
class DifferenceEvidence(_Evidence):
    """How much better a version is than what it is held against; `better` and `worse` test either side alone."""

    better: BettingTest = field(default_factory=lambda: BettingTest(0.5))
    worse: BettingTest = field(default_factory=lambda: BettingTest(0.5))

    @classmethod
    def begin(cls, alpha: float) -> Self:
        """Without observations."""
        return cls(ConfidenceSequence(alpha), better=BettingTest(0.5, alpha), worse=BettingTest(0.5, alpha))

    def update(self, difference: float) -> list[Finding]:
        """Take the next difference, in [-1, 1]; what it establishes."""
        unit = to_unit(difference)
        self._learn(unit, difference)
        return [
            *self._bet(self.better, unit, "better"),
            *self._bet(self.worse, 1 - unit, "worse"),
        ]

    def adopt(self, rule: QualityRule, _scorer: str, now: datetime) -> bool:
        """Follow a quality rule from now on; whether that changed anything."""
        if self.mean.alpha == rule.alpha:
            return False
        begun = self.begin(rule.alpha)
        self.mean, self.recent, self.better, self.worse = begun.mean, 0.0, begun.better, begun.worse
        self._begin_anew(f"alpha became {rule.alpha:g}", now)
        return True

    def _bet(self, test: BettingTest, unit: float, finding: Finding) -> list[Finding]:
        before = test.rejected
        test.update(unit)
        return [finding] if test.rejected and not before else []

    def state(self) -> dict[str, Any]:
        """Everything, as JSON."""
        tests = {"mean": self.mean.state(), "better": self.better.state(), "worse": self.worse.state()}
        return {**tests, "recent": self.recent, "anew": self.anew, "summary": self.summary()}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """The evidence that `state` was taken from."""
        return cls(
            ConfidenceSequence.from_state(state["mean"]),
            state["recent"],
            state["anew"],
            BettingTest.from_state(state["better"]),
            BettingTest.from_state(state["worse"]),
        )

    def summary(self) -> dict[str, Any]:
        """The numbers that people and metrics are shown; the evidence is the largest so far."""
        return _shown(self.mean, self.recent, lambda unit: float(to_difference(unit))) | {
            "better": bool(self.better.rejected),
            "worse": bool(self.worse.rejected),
            "evidence_better": _plain(self.better.peak),
            "evidence_worse": _plain(self.worse.peak),
            "evidence_needed": 1 / self.better.alpha,
        }


def _gathers_alike(one: QualityRule, other: QualityRule) -> bool:
    gathering = one.level is None and other.level is None
    return gathering and (one.scorer, one.level_observations) == (other.scorer, other.level_observations)


def _differences(before: QualityRule, after: QualityRule) -> str:
    """What changed of what a watch follows, in words; empty if nothing did."""
    fields = ("level", "level_observations", "drop", "alarm_every")
    pairs = [(name, getattr(before, name), getattr(after, name)) for name in fields]
    return ", ".join(f"{name} from {_word(old)} to {_word(new)}" for name, old, new in pairs if old != new)


def _word(value: float | None) -> str:
    return "the first observations' mean" if value is None else f"{value:g}"


def _shown(mean: ConfidenceSequence, recent: float, scale: Any) -> dict[str, Any]:
    return {
        "observations": mean.count,
        "mean": scale(mean.mean) if mean.count else None,
        "low": scale(mean.low),
        "high": scale(mean.high),
        "recent": recent if mean.count else None,
    }


def _shown_watch(watch: Watch) -> dict[str, Any]:
    return {
        "level": watch.level,
        "gathered": watch.gathered,
        "to_gather": watch.rule.level_observations,
        "drop": watch.rule.drop,
        "alarm_every": watch.rule.alarm_every,
        "ratio": watch.ratio,
        "alarm": watch.alarm,
        "tests": watch.cusum is not None,
    }


def _plain(log: float) -> float:
    return math.exp(min(float(log), _LARGEST_LOG))
