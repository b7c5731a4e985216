"""What the sequential tests of a version know, fed one observation after another, and stored between two of them.

LevelEvidence       the mean score of a version's answers
DifferenceEvidence  the mean difference to the base or to another version, and whether it is better or worse
Watch               whether what the quality rule names, scores or differences, fell below what is expected of it

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
    stands until the rule changes; behind it the e-CUSUM begins anew and counts, so that what is done about it again
    and again has new evidence each time.

    Observations lie in [0, 1]: scores as they are, differences as `to_unit` has them.

    Attributes:
        rule: what the watch follows, in the units of what it watches.
        gathered, total: how many observations the level was taken from so far, and their sum.
        level: what is expected of an observation; None while it is being gathered.
        cusum: the test; None until the level is known, and where level - drop is not above the least there can be.
        alarms: how often the evidence was complete, from nothing each time.
        again: the test since the last of these; None before the first.
    """

    rule: QualityRule
    gathered: int = 0
    total: float = 0.0
    level: float | None = None
    cusum: ECusum | None = None
    alarms: int = 0
    again: ECusum | None = None

    @classmethod
    def begin(cls, rule: QualityRule, before: Self | None = None) -> Self:
        """A watch from here on; a level that `before` has gathered in the same way stays."""
        watch = cls(rule, alarms=0 if before is None else before.alarms)
        if rule.level is not None:
            watch.expect(rule.level if rule.against == "level" else float(to_unit(rule.level)))
        elif before is not None and _gathers_alike(before.rule, rule):
            watch.gathered, watch.total = before.gathered, before.total
            if before.level is not None:
                watch.expect(before.level)
        return watch

    def expect(self, level: float) -> None:
        """Begin to test against a level."""
        self.level = level
        drop = self.rule.drop if self.rule.against == "level" else self.rule.drop / 2
        threshold = min(level - drop, _HIGHEST_LEVEL)
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
        if self.cusum is None:
            return False
        stood = self.alarm
        test = self.cusum if self.again is None else self.again
        test.update(score)
        if test.alarm:
            self.alarms += 1
            self.again = ECusum(test.level, test.alarm_every)
        return self.alarm and not stood

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
        return {
            "rule": msgspec.to_builtins(self.rule),
            "gathered": self.gathered,
            "total": self.total,
            "level": self.level,
            "cusum": None if self.cusum is None else self.cusum.state(),
            "alarms": self.alarms,
            "again": None if self.again is None else self.again.state(),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """The watch that `state` was taken from."""
        rule = msgspec.convert(state["rule"], QualityRule)
        cusum = None if state["cusum"] is None else ECusum.from_state(state["cusum"])
        again = None if state.get("again") is None else ECusum.from_state(state["again"])
        if again is None and cusum is not None and cusum.alarm:  # it was stored before alarms were counted
            again = ECusum(cusum.level, cusum.alarm_every)
        alarms = state.get("alarms", int(again is not None))
        return cls(rule, state["gathered"], state["total"], state["level"], cusum, alarms, again)


@dataclass
class _Evidence:
    """What both kinds share: a mean with its interval, and a mean of the newest observations.

    `anew` tells when a test last began anew, and why; None if it never did. `watch` is None unless the quality rule
    watches this; `alarms` is how many alarms an earlier watch had raised when it ended, and the next one counts on.
    """

    mean: ConfidenceSequence
    recent: float = 0.0
    anew: dict[str, str] | None = None
    watch: Watch | None = field(default=None, kw_only=True)
    alarms: int = field(default=0, kw_only=True)

    def _adopt_watch(self, rule: QualityRule, now: datetime, *, is_watched: bool) -> bool:
        before = self.watch
        if before is not None:
            self.alarms = before.alarms
        if not is_watched:
            self.watch = None
        elif before is None or _differences(before.rule, rule):
            self.watch = Watch.begin(rule, before)
            self.watch.alarms = self.alarms
            if before is not None:
                self._begin_anew(f"the quality rule changed: {_differences(before.rule, rule)}", now)
        return self.watch is not before

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
    """How good a version's answers are under one scorer."""

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
        return stored | {"alarms": self.alarms, "summary": self.summary()}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """The evidence that `state` was taken from."""
        watch = None if state["watch"] is None else Watch.from_state(state["watch"])
        mean, alarms = ConfidenceSequence.from_state(state["mean"]), state.get("alarms", 0)
        return cls(mean, state["recent"], state["anew"], watch=watch, alarms=alarms)

    def adopt(self, rule: QualityRule, now: datetime, *, is_watched: bool) -> bool:
        """Follow a quality rule from now on, which watches these scores or others; whether that changed anything."""
        changed = self.mean.alpha != rule.alpha
        if changed:
            self.mean, self.recent = ConfidenceSequence(rule.alpha), 0.0
            self._begin_anew(f"alpha became {rule.alpha:g}", now)
        return self._adopt_watch(rule, now, is_watched=is_watched) or changed

    def summary(self) -> dict[str, Any]:
        """The numbers that people and metrics are shown."""
        shown = _shown(self.mean, self.recent, float)
        return shown if self.watch is None else shown | {"watch": _shown_watch(self.watch)}


@dataclass
class DifferenceEvidence(_Evidence):
    """How much better a version is than what it is held against; `better` and `worse` test either side alone.

    A watch against the incumbent looks from the other side: the version that is tested is the one from before, and what
    it is held against the stable one, whose advantage may fall.
    """

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
            *self._watched(unit),
        ]

    def _watched(self, unit: float) -> list[Finding]:
        if self.watch is None:
            return []
        return ["alarm"] if self.watch.update(1 - unit if self.watch.rule.against == "incumbent" else unit) else []

    def adopt(self, rule: QualityRule, now: datetime, *, is_watched: bool) -> bool:
        """Follow a quality rule from now on, which watches this or something else; whether that changed anything."""
        changed = self.mean.alpha != rule.alpha
        if changed:
            begun = self.begin(rule.alpha)
            self.mean, self.recent, self.better, self.worse = begun.mean, 0.0, begun.better, begun.worse
            self._begin_anew(f"alpha became {rule.alpha:g}", now)
        return self._adopt_watch(rule, now, is_watched=is_watched) or changed

    def _bet(self, test: BettingTest, unit: float, finding: Finding) -> list[Finding]:
        before = test.rejected
        test.update(unit)
        return [finding] if test.rejected and not before else []

    def state(self) -> dict[str, Any]:
        """Everything, as JSON."""
        tests = {"mean": self.mean.state(), "better": self.better.state(), "worse": self.worse.state()}
        watch = None if self.watch is None else self.watch.state()
        stored = {"recent": self.recent, "anew": self.anew, "watch": watch, "alarms": self.alarms}
        return {**tests, **stored, "summary": self.summary()}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """The evidence that `state` was taken from; one from before differences were watched has no watch."""
        watch = state.get("watch")
        return cls(
            ConfidenceSequence.from_state(state["mean"]),
            state["recent"],
            state["anew"],
            BettingTest.from_state(state["better"]),
            BettingTest.from_state(state["worse"]),
            watch=None if watch is None else Watch.from_state(watch),
            alarms=state.get("alarms", 0),
        )

    def summary(self) -> dict[str, Any]:
        """The numbers that people and metrics are shown; the evidence is the largest so far."""
        shown = _shown(self.mean, self.recent, lambda unit: float(to_difference(unit))) | {
            "better": bool(self.better.rejected),
            "worse": bool(self.worse.rejected),
            "evidence_better": _plain(self.better.peak),
            "evidence_worse": _plain(self.worse.peak),
            "evidence_needed": 1 / self.better.alpha,
        }
        return shown if self.watch is None else shown | {"watch": _shown_watch(self.watch)}


def follows(watch: dict[str, Any] | None, rule: QualityRule) -> bool:
    """Whether the watch of a stored state follows the rule as it is now."""
    return watch is not None and not _differences(msgspec.convert(watch["rule"], QualityRule), rule)


def _gathers_alike(one: QualityRule, other: QualityRule) -> bool:
    gathering = one.level is None and other.level is None
    return gathering and all(
        getattr(one, name) == getattr(other, name) for name in ("scorer", "against", "level_observations")
    )


def _differences(before: QualityRule, after: QualityRule) -> str:
    """What changed of what a watch follows, in words; empty if nothing did."""
    fields = ("against", "level", "level_observations", "drop", "alarm_every")
    pairs = [(name, getattr(before, name), getattr(after, name)) for name in fields]
    return ", ".join(f"{name} from {_word(old)} to {_word(new)}" for name, old, new in pairs if old != new)


def _word(value: float | str | None) -> str:
    if isinstance(value, str):
        return value
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
    known = watch.level is not None and watch.rule.against != "level"
    return {
        "against": watch.rule.against,
        "level": float(to_difference(watch.level)) if known else watch.level,
        "gathered": watch.gathered,
        "to_gather": watch.rule.level_observations,
        "drop": watch.rule.drop,
        "alarm_every": watch.rule.alarm_every,
        "ratio": watch.ratio,
        "alarm": watch.alarm,
        "alarms": watch.alarms,
        "tests": watch.cusum is not None,
    }


def _plain(log: float) -> float:
    return math.exp(min(float(log), _LARGEST_LOG))
