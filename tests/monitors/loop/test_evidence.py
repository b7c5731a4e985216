"""The tests of a rollout: what they are against, that they hold at every look, and that a restart changes nothing."""

import json
import math
from typing import Any

import numpy as np
import pytest

from monitors.loop.evidence import Beside, Limit
from monitors.loop.seen import Held

DROP, ALPHA, RUNS = 0.05, 0.05, 1_000


def fed(test: Any, values: Any) -> Held:
    """What the test says after these."""
    for value in values:
        test.update(value)
    held = test.held()
    assert isinstance(held, Held)
    return held


def at_most(alpha: float) -> float:
    """What a share of the runs may reach by chance where the rate is alpha: three standard errors."""
    return alpha + 3 * math.sqrt(alpha * (1 - alpha) / RUNS)


def test_without_observations_nothing_is_established() -> None:
    """And nothing is excluded."""
    for held in (Beside.begin(drop=DROP, alpha=ALPHA).held(), Limit.begin(most=0.05, alpha=0.01).held()):
        assert (held.n, held.mean, held.worse, held.not_worse) == (0, None, False, False)
        assert (held.evidence_worse, held.evidence_not_worse) == (1.0, 1.0)
    assert (Beside.begin(drop=DROP, alpha=ALPHA).held().low, Limit.begin(most=0.05, alpha=0.01).held().low) == (-1, 0)


@pytest.mark.parametrize(
    ("difference", "worse", "not_worse"), [(-0.5, True, False), (0.3, False, True), (0.0, False, True)]
)
def test_differences_are_told_apart(difference: float, worse: bool, not_worse: bool) -> None:
    """Always the same one: worse, better, and none, which is no loss that matters."""
    held = fed(Beside.begin(drop=DROP, alpha=ALPHA), [difference] * 2_000)
    assert (held.worse, held.not_worse) == (worse, not_worse)
    assert held.mean == pytest.approx(difference, abs=1e-9)
    assert held.low <= difference <= held.high


def test_both_can_be_established_of_a_version_that_is_worse_by_less_than_matters() -> None:
    """It is worse, and it is not worse by the least drop."""
    held = fed(Beside.begin(drop=0.2, alpha=ALPHA), [-0.1] * 3_000)
    assert (held.worse, held.not_worse) == (True, True)


def test_worse_has_half_of_alpha_and_not_worse_all_of_it() -> None:
    """Two tests take a version back: beside the stable one, and beside the base model."""
    held = Beside.begin(drop=DROP, alpha=ALPHA).held()
    assert (held.needed, held.needed_worse) == (20, 40)
    for value, name, needed in ((-1.0, "worse", 40), (1.0, "not_worse", 20)):
        test = Beside.begin(drop=DROP, alpha=ALPHA)
        while not getattr(test.held(), name):
            assert getattr(test.held(), f"evidence_{name}") < needed
            test.update(value)
        assert getattr(test.held(), f"evidence_{name}") >= needed


def test_a_version_that_is_as_good_is_hardly_ever_found_worse_at_any_look() -> None:
    """Of 1,000 rollouts over 2,000 pairs."""
    rng, test = np.random.default_rng(1), Beside.begin(drop=DROP, alpha=ALPHA)
    for _ in range(2_000):
        test.update(rng.choice([-1.0, 0.0, 1.0], size=RUNS, p=[0.2, 0.6, 0.2]))
    assert np.mean(test.worse.rejected) <= at_most(ALPHA / 2)


def test_a_version_that_is_worse_by_the_least_drop_is_hardly_ever_found_not_worse_at_any_look() -> None:
    """Of 1,000 rollouts over 2,000 pairs; one that is as good is, soon."""
    rng, worse, good = np.random.default_rng(2), Beside.begin(drop=DROP, alpha=ALPHA), None
    for _ in range(2_000):
        worse.update(rng.choice([-1.0, 0.0, 1.0], size=RUNS, p=[0.225, 0.6, 0.175]))
    assert np.mean(worse.not_worse.rejected) <= at_most(ALPHA)
    good = Beside.begin(drop=DROP, alpha=ALPHA)
    for _ in range(2_000):
        good.update(rng.choice([-1.0, 0.0, 1.0], size=RUNS, p=[0.1, 0.8, 0.1]))
    assert np.mean(good.not_worse.rejected) > 0.9


def test_a_limit_that_is_just_kept_is_hardly_ever_found_broken() -> None:
    """Of 1,000 versions over 1,000 requests of which just the share fails that may."""
    rng, test = np.random.default_rng(3), Limit.begin(most=0.05, alpha=0.01)
    for _ in range(1_000):
        test.update((rng.random(RUNS) < 0.05).astype(float))
    assert np.mean(test.over.rejected) <= at_most(0.01)


@pytest.mark.parametrize("good", [0, 50, 5_000])
def test_a_burst_of_errors_is_found_within_some_requests(good: int) -> None:
    """However long all went well before: of all that fail within a dozen, of a third that fails within 150."""
    assert fed(Limit.begin(most=0.05, alpha=0.01), [0.0] * good + [1.0] * 12).worse
    rng, test = np.random.default_rng(4), Limit.begin(most=0.05, alpha=0.01)
    for _ in range(good):
        test.update(np.zeros(200))
    for _ in range(150):
        test.update((rng.random(200) < 0.33).astype(float))
    assert np.mean(test.over.rejected) > 0.95


def test_a_limit_tells_the_share() -> None:
    """Of all requests, with its interval; what it needs is its own alpha."""
    held = fed(Limit.begin(most=0.5, alpha=0.01), [1.0, 0.0, 0.0, 0.0] * 100)
    assert (held.n, held.worse, held.not_worse) == (400, False, False)
    assert held.mean == pytest.approx(0.25, abs=0.02)
    assert held.low < 0.25 < held.high
    assert held.needed_worse == pytest.approx(100)


@pytest.mark.parametrize(
    "make", [lambda: Beside.begin(drop=DROP, alpha=ALPHA), lambda: Limit.begin(most=0.3, alpha=ALPHA)]
)
def test_a_restart_continues_to_the_last_bit(make: Any) -> None:
    """Stored as JSON and restored after each observation."""
    values = (np.random.default_rng(5).random(200) < 0.4).astype(float)
    through, stopped = make(), make()
    for value in values.tolist():
        through.update(value)
        stopped = type(stopped).from_state(json.loads(json.dumps(stopped.state(), allow_nan=False)))
        stopped.update(value)
    assert stopped.state() == through.state()
    assert stopped.held() == through.held()


@pytest.mark.parametrize("wrong", [-1.01, 1.01, math.nan])
def test_a_difference_outside_its_range_is_refused(wrong: float) -> None:
    """And nothing is half counted."""
    test = Beside.begin(drop=DROP, alpha=ALPHA)
    before = test.state()
    with pytest.raises(ValueError, match="must lie in"):
        test.update(wrong)
    assert test.state() == before
