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
        each.adopt(QualityRule(level_observations=10), NOW, is_watched=True)
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


def test_behind_an_alarm_that_stands_the_evidence_is_counted_from_nothing() -> None:
    """The alarm is raised once; how often it would have been again is known, and grows only while quality is lost."""
    watch = Watch.begin(QualityRule(level=0.9, alarm_every=100))
    raised = [watch.update(0.0) for _ in range(100)]
    assert raised.count(True) == 1
    first = raised.index(True) + 1
    assert watch.alarms == 100 // first
    for _ in range(1_000):
        assert not watch.update(1.0)
    assert (watch.alarm, watch.alarms) == (True, 100 // first)


@pytest.mark.parametrize("kind", [LevelEvidence, DifferenceEvidence])
def test_alarms_are_counted_on_after_a_time_without_a_watch(
    kind: type[LevelEvidence] | type[DifferenceEvidence],
) -> None:
    """Another scorer was watched meanwhile, say, over a restart; else a new one looks like an old one."""
    rule = QualityRule(level=0.9, alarm_every=100)
    if kind is DifferenceEvidence:
        rule = QualityRule(against="base", level=0.5, alarm_every=100)
    evidence = kind.begin(0.05)
    counts = []
    for _ in range(2):
        evidence.adopt(rule, NOW, is_watched=True)
        while evidence.watch is not None and not evidence.watch.alarm:
            evidence.update(0.0)
        counts.append(0 if evidence.watch is None else evidence.watch.alarms)
        for _ in range(2):
            evidence.adopt(rule, NOW, is_watched=False)
            evidence = kind.from_state(json.loads(json.dumps(evidence.state())))
            assert evidence.watch is None
    assert counts == [1, 2]
    before = evidence.state()
    del before["alarms"]
    assert kind.from_state(before).alarms == 0


def test_counted_alarms_survive_a_restart_and_a_change_of_the_rule() -> None:
    """Else one that was answered would seem new; a state from before they were counted has one if it stands."""
    rule = QualityRule(level=0.9, alarm_every=100)
    watch, restored = Watch.begin(rule), Watch.begin(rule)
    for _ in range(100):
        watch.update(0.0)
        restored = Watch.from_state(json.loads(json.dumps(restored.state())))
        restored.update(0.0)
    assert restored.state() == watch.state()
    assert Watch.begin(QualityRule(level=0.8), watch).alarms == watch.alarms
    old = watch.state()
    del old["alarms"], old["again"]
    assert Watch.from_state(old).alarms == 1
    assert not Watch.from_state(old).update(0.0)
