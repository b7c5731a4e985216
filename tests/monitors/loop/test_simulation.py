"""The whole decision code over simulated traffic, on a small scale; `benchmarks/loop.py` has the large one."""

import math
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmarks import loop as simulation
from benchmarks.loop import BAD, KINDS, NEVER, POLICY, Traffic, Trial, Watches, guard, roll_out, watch
from monitors.judging.evidence import Watch
from registry.monitoring import QualityRule

ROLLOUTS = 150
REQUESTS = 12_000
ALPHA = POLICY.quality.alpha


def at_most(alpha: float, runs: int) -> float:
    """What a share of the runs may reach by chance where the rate is alpha: three standard errors."""
    return alpha + 3 * math.sqrt(alpha * (1 - alpha) / runs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("level", [None, 0.95])
def test_the_simulated_watch_is_the_monitors(kind: Traffic, level: float | None) -> None:
    """Run by run: the same levels, and alarms at the same sessions."""
    rule, rng = QualityRule(level=level, level_observations=50, alarm_every=20), np.random.default_rng(1)
    together, alone = Watches(rule, 4), [Watch.begin(rule) for _ in range(4)]
    for session in range(500):
        scores = kind.draw(rng, 4, 0.0 if session < 200 else -0.3)
        together.update(scores)
        for watching, score in zip(alone, scores.tolist(), strict=True):
            watching.update(score)
        assert together.alarms.tolist() == [each.alarms for each in alone]
    assert together.level == pytest.approx([each.level for each in alone])
    assert together.alarms.min() > 1


def test_trainings_without_a_change_are_as_rare_as_asked() -> None:
    """Where quality lies just at what raises an alarm, with a gate that refuses each; a threshold trains far more."""
    kind = KINDS[1]
    found = watch(np.random.default_rng(2), kind, QualityRule(level=kind.mean + 0.05, alarm_every=100), 50, 2_000)
    assert 0 < found.loop.mean() <= 2_000 / 100
    calm = watch(np.random.default_rng(3), KINDS[0], QualityRule(alarm_every=1_000), 50, 2_000)
    assert calm.loop.mean() <= 2_000 / 1_000 / 10 < calm.naive.mean()


def test_a_fall_begins_a_training_soon() -> None:
    """In each of 20 runs, from 0.9 to 0.5."""
    found = watch(np.random.default_rng(4), KINDS[1], QualityRule(level=0.9), 20, 600, -0.4)
    assert (found.first > 200).all()
    assert np.median(found.first) < 260


def test_versions_that_are_as_good_are_hardly_ever_taken_back() -> None:
    """As good as the stable version and as the base model, which are two tests, and together no more than alpha."""
    ends = roll_out(np.random.default_rng(5), KINDS[1], Trial(0.0, 0.0), POLICY, ROLLOUTS, REQUESTS)
    outcomes = Counter(ends.outcomes)
    assert sum(outcomes[each] for each in BAD) / ROLLOUTS <= at_most(ALPHA, ROLLOUTS)
    assert np.mean(ends.promoted_at != NEVER) > 0.8
    assert ends.naive.mean() < 0.7


def test_versions_that_are_worse_by_the_least_drop_are_hardly_ever_promoted() -> None:
    """And what is far worse is taken back soon."""
    ends = roll_out(np.random.default_rng(6), KINDS[1], Trial(-0.05), POLICY, ROLLOUTS, REQUESTS)
    assert np.mean(ends.promoted_at != NEVER) <= at_most(ALPHA, ROLLOUTS)
    far = roll_out(np.random.default_rng(7), KINDS[1], Trial(-0.3), POLICY, 50, REQUESTS)
    assert set(far.outcomes) == {"worse_than_stable"}
    assert np.median(far.ended_at) < 1_500


def test_a_limit_that_is_kept_stops_hardly_any_version() -> None:
    """Just kept; broken, it stops each."""
    kept = guard(np.random.default_rng(8), 0.05, 0.05, 0.01, 300, 2_000)
    assert kept.over.mean() <= at_most(0.01, 300)
    assert guard(np.random.default_rng(9), 0.05, 0.3, 0.01, 100, 500, good=2_000).over.all()


def test_all_tables_are_made_in_one_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a few short runs of each; a table that is named is printed, and is the same one."""
    page = tmp_path / "loop.md"
    few = {"RUNS": 2, "SESSIONS": 300, "ROLLOUTS": 2, "GUARD_REQUESTS": 50, "KINDS": KINDS[2:], "RESULTS": page}
    for name, value in few.items():
        monkeypatch.setattr(simulation, name, value)
    monkeypatch.setattr(sys, "argv", ["loop"])
    simulation.main()
    made = page.read_text()
    assert made.count("\n## ") == len(simulation.PARTS)
    assert made.count("\n| graded, mean 0.8 | ") == 4 + 2 + len(simulation.TRIALS)
    monkeypatch.setattr(sys, "argv", ["loop", "limits"])
    simulation.main()
    limits = capsys.readouterr().out
    assert limits.startswith("## Limits")
    assert made.endswith(limits)
