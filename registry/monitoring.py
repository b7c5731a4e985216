"""How an adapter is watched: what of its traffic is kept, how its answers are scored, and when to raise an alarm."""

import math
from typing import Any, Literal

import msgspec

from registry.errors import InvalidValue

Against = Literal["level", "base", "incumbent"]


class ScorerChoice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A scorer (a name of `monitors.judging.scorers`) and its options, such as a JSON Schema."""

    scorer: str
    options: dict[str, Any] = {}


class QualityRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What counts as lost quality.

    Attributes:
        scorer: whose scores decide; ``feedback`` is what clients and people said.
        against: what is watched: the ``level`` of the version's scores, or how much better they are than those of the
            ``base`` model, or of the ``incumbent``, the version that served before, to the same requests.
        level: the mean that is expected, of scores in [0, 1], of differences in [-1, 1]; None takes it from the
            version's first observations.
        level_observations: how many observations that takes.
        drop: the least fall below the level that matters, above 0 and below 1; nothing can fall by it from a level that
            is not above `least` + drop.
        alarm_every: least mean number of observations between two false alarms (the A of e-CUSUM).
        alpha: the error probability of tests and intervals.
    """

    scorer: str = "feedback"
    against: Against = "level"
    level: float | None = None
    level_observations: int = 200
    drop: float = 0.05
    alarm_every: int = 10_000
    alpha: float = 0.05

    @property
    def least(self) -> float:
        """The least that an observation can be: of scores 0, of differences -1."""
        return 0.0 if self.against == "level" else -1.0

    def can_fall(self, level: float) -> bool:
        """Whether the mean can fall by the drop from that level, so that an alarm can ever come."""
        return level - self.drop > self.least


class DriftRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How traffic is held against what the version was made for.

    Attributes:
        every_h: hours between two looks; 0 looks never.
        window_rows: how many of the newest requests a look takes.
        reference_rows: how many of the version's first requests are the reference, without training prompts.
        false_alarms_per_week: the expected number of false alarms, over all columns together.
    """

    every_h: float = 6.0
    window_rows: int = 200
    reference_rows: int = 1000
    false_alarms_per_week: float = 0.1


class Monitoring(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one adapter is watched.

    Attributes:
        capture: share of requests whose prompt and answer are kept, after redaction; 0 keeps none.
        capture_days: how long they are kept.
        scorers: what scores captured answers, beside what clients say of them.
        quality: what counts as lost quality.
        drift: how traffic is held against the reference.
        golden_every_h: hours between two runs of the golden set; 0 runs it on demand alone.
    """

    capture: float = 0.0
    capture_days: float = 30.0
    scorers: tuple[ScorerChoice, ...] = ()
    quality: QualityRule = QualityRule()
    drift: DriftRule = DriftRule()
    golden_every_h: float = 24.0

    def check(self) -> None:
        """Raise InvalidValue, with `param` for the field, if a number is outside what is allowed."""
        quality, drift = self.quality, self.drift
        _require("capture", self.capture, 0, 1)
        _require("capture_days", self.capture_days, 1 / 24, 36_500)
        _require("golden_every_h", self.golden_every_h, 0, 8_760)
        if not 0 < quality.drop < 1:
            raise InvalidValue(
                f"quality.drop must be a number above 0 and below 1, not {quality.drop:g}: the least fall that matters",
                param="quality.drop",
            )
        if quality.level is not None:
            _require("quality.level", quality.level, quality.least, 1)
            _require_fall(quality, quality.level)
        _require("quality.level_observations", quality.level_observations, 10, 1_000_000)
        _require("quality.alarm_every", quality.alarm_every, 2, 1e12)
        _require("quality.alpha", quality.alpha, 1e-9, 0.5)
        _require("drift.every_h", drift.every_h, 0, 8_760)
        _require("drift.window_rows", drift.window_rows, 20, 100_000)
        _require("drift.reference_rows", drift.reference_rows, 50, 1_000_000)
        _require("drift.false_alarms_per_week", drift.false_alarms_per_week, 1e-6, 100)


def stored_monitoring(stored: dict[str, Any] | None) -> Monitoring:
    """What the database holds; the defaults where it holds nothing. Fields of later versions are left out."""
    if stored is None:
        return Monitoring()
    known = {name: stored[name] for name in Monitoring.__struct_fields__ if name in stored}
    return msgspec.convert(known, Monitoring)


def _require(param: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise InvalidValue(f"{param} must be a number from {low:g} to {high:g}, not {value:g}", param=param)


def _require_fall(rule: QualityRule, level: float) -> None:
    if not rule.can_fall(level):
        raise InvalidValue(
            f"from a quality.level of {level:g} nothing can fall by a quality.drop of {rule.drop:g}, so no alarm could "
            f"ever come; say a level above {rule.least + rule.drop:g}, or a smaller drop",
            param="quality.level",
        )
