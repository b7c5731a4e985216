"""What a version's tests know: false alarms are as rare as was asked for, and states survive to the last digit."""

import json
import random
from statistics import median

import pytest

from monitors.judging.evidence import DifferenceEvidence, LevelEvidence, Watch
from registry.monitoring import QualityRule
from tests.monitors.judging.rows import NOW

RULE = QualityRule(alarm_every=10_000)


def alarmed_after(watch: Watch, rng: random.Random, mean: float, sessions: int) -> int | None:
    """After how many sessions of that mean, right or wrong, the alarm is raised; None if it is not."""
    return next((n for n in range(1, sessions + 1) if watch.update(float(rng.random() < mean))), None)


def test_a_gathered_level_raises_no_more_false_alarms_than_were_asked_for() -> None:
    """The level is an estimate, and the drop makes up for its error: of 60 runs of 1,500 sessions, at most 9."""
    alarms = 0
    for seed in range(60):
        alarms += alarmed_after(Watch.begin(RULE), random.Random(seed), 0.85, 1500) is not None
    assert alarms <= 60 * 1500 / RULE.alarm_every


def test_a_fall_is_found_soon() -> None:
    """From 0.9 to 0.5 within some dozens of sessions, in each of 40 runs."""
    delays = []
    for seed in range(40):
        watch, rng = Watch.begin(RULE), random.Random(seed)
        assert alarmed_after(watch, rng, 0.9, 300) is None
        delays.append(alarmed_after(watch, rng, 0.5, 500))
    found = [delay for delay in delays if delay is not None]
    assert len(found) == len(delays)
    assert median(found) < 60


def test_a_fall_that_is_less_than_the_drop_raises_no_alarm() -> None:
    """Nor does a rise."""
    for mean in (0.87, 0.95):
        watch = Watch.begin(QualityRule(level=0.9))
        assert alarmed_after(watch, random.Random(1), mean, 3000) is None


@pytest.mark.parametrize(("level", "drop", "tests"), [(1.0, 0.0, True), (0.05, 0.05, False), (0.0, 0.5, False)])
def test_levels_at_the_edges_can_be_expected(level: float, drop: float, tests: bool) -> None:
    """Where level - drop is not above 0, no fall can be seen."""
    watch = Watch.begin(QualityRule(level=level, drop=drop))
    for score in (1.0, 0.0, 0.5):
        watch.update(score)
    assert (watch.cusum is not None) is tests
    assert watch.ratio >= 0


@pytest.mark.parametrize("kind", [LevelEvidence, DifferenceEvidence])
def test_a_state_survives_json(kind: type[LevelEvidence] | type[DifferenceEvidence]) -> None:
    """In the middle of it, without any change of what follows."""
    rng = random.Random(1)
    whole, parts = kind.begin(0.05), kind.begin(0.05)
    for each in (whole, parts):
        each.adopt(QualityRule(level_observations=10), "feedback", NOW)
    for _ in range(60):
        value = rng.random()
        whole.update(value)
        parts.update(value)
        parts = kind.from_state(json.loads(json.dumps(parts.state())))
    assert parts.state() == whole.state()


def test_the_newest_mean_follows_what_is_new() -> None:
    """While the interval's middle still remembers what was."""
    evidence = LevelEvidence.begin(0.05)
    for score in [1.0] * 300 + [0.0] * 300:
        evidence.update(score)
    summary = evidence.summary()
    assert summary["recent"] < 0.06
    assert 0.6 < summary["mean"] < 0.9
