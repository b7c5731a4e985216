"""What the gate's comparisons promise, simulated with seeds: few false passes, and power enough."""

from collections.abc import Callable

import numpy as np
import pytest

from tests.tuner.evaluation.measured import ROWS, Rng, mostly_same, right
from tuner.evaluation.comparing import LOSS_BOUND, Compared, compare_losses, compare_scores, differences

RUNS = 1_000
ALPHA = 0.05
# One end of an interval decides, so alpha / 2; and what a simulation of that may show beyond it once in a thousand.
MOST_FALSE_PASSES = ALPHA / 2 + 3.1 * (ALPHA / 2 * (1 - ALPHA / 2) / RUNS) ** 0.5
Draw = Callable[[Rng], tuple[list[float], list[float]]]


def independent(rng: Rng) -> tuple[list[float], list[float]]:
    """Two models that are right as often, each by itself."""
    return right(rng, 0.7), right(rng, 0.7)


def alike(rng: Rng) -> tuple[list[float], list[float]]:
    """Two models that answer most rows alike."""
    incumbent = right(rng, 0.7)
    return mostly_same(rng, incumbent, 0.7, changed=0.1), incumbent


def shares(rng: Rng) -> tuple[list[float], list[float]]:
    """Scores between right and wrong."""
    return list(rng.beta(5, 2, ROWS)), list(rng.beta(5, 2, ROWS))


@pytest.mark.parametrize("draw", [independent, alike, shares])
def test_as_good_as_the_incumbent_seldom_passes(draw: Draw) -> None:
    """At most once in forty."""
    rng = np.random.default_rng(1)
    passed = sum(compare_scores(*draw(rng), ALPHA).low > 0 for _ in range(RUNS))
    assert passed / RUNS <= MOST_FALSE_PASSES


def test_a_loss_that_is_just_not_allowed_seldom_passes() -> None:
    """Of skills that are right or wrong, at a margin of a tenth."""
    rng = np.random.default_rng(2)

    def lost() -> Compared:
        base = right(rng, 0.8, 120)
        kept = [each if rng.random() > 0.125 else 0.0 for each in base]  # 0.8 * 0.125 is the margin
        return compare_scores(kept, base, ALPHA)

    assert sum(lost().low > -0.1 for _ in range(RUNS)) / RUNS <= MOST_FALSE_PASSES


def test_a_rise_of_the_loss_that_is_just_not_allowed_seldom_passes() -> None:
    """Also where few rows make most of it, for which an interval by Student's t would be too narrow."""
    rng = np.random.default_rng(3)

    def raised() -> Compared:
        before = rng.gamma(2.0, 0.2, 60)
        return compare_losses(list(before + 0.5 * (rng.random(60) < 0.1)), list(before), ALPHA)

    found = [raised() for _ in range(RUNS)]
    assert sum(each.high < 0.05 for each in found) / RUNS <= MOST_FALSE_PASSES
    assert np.mean([each.difference for each in found]) == pytest.approx(0.05, abs=0.005)


@pytest.mark.parametrize(
    ("rows", "gain", "lost", "least_power"),
    [
        (200, 0.1, 0.0, 0.99),
        (200, 0.1, 0.05, 0.8),
        (200, 0.05, 0.0, 0.8),
        (100, 0.1, 0.0, 0.83),
        (100, 0.1, 0.05, 0.43),
        (100, 0.05, 0.0, 0.18),
    ],
)
def test_a_gain_is_seen(rows: int, gain: float, lost: float, least_power: float) -> None:
    """Power: of the rows 0.75 right before, and of those `lost` wrong afterwards, made up for by others."""
    rng = np.random.default_rng(4)
    seen = 0
    for _ in range(RUNS):
        before = right(rng, 0.75, rows)
        kept, won = 1 - lost, (gain + 0.75 * lost) / 0.25
        after = [float(rng.random() < (kept if each else won)) for each in before]
        seen += compare_scores(after, before, ALPHA).low > 0
    print(f"{seen} of {RUNS}")
    assert seen / RUNS > least_power


def test_one_row_cannot_decide_alone() -> None:
    """A loss of thousands counts as the bound, in the difference and in the mean; the mean as it is stands beside."""
    before = [0.5] * 100
    found = compare_losses([*before[:-1], 9_000.0], before, ALPHA)
    assert found.difference == pytest.approx(LOSS_BOUND / 100)
    assert found.candidate == pytest.approx(0.5 + LOSS_BOUND / 100)
    assert found.unclipped == pytest.approx(90.495)
    assert found.high <= LOSS_BOUND


def test_only_rows_that_the_other_is_known_on_count() -> None:
    """What the candidate lacks there is the worst."""
    assert differences([1.0, None, 0.5, 1.0], [0.5, 1.0, None, 1.0]) == [0.5, -1.0, None, 0.0]
    found = compare_scores([1.0, None, 0.5], [0.5, 1.0, None], ALPHA)
    assert (found.n, found.candidate, found.reference, found.difference) == (2, 0.5, 0.75, -0.25)
    lost = compare_losses([None, 0.5], [0.5, 0.5], ALPHA)
    assert lost.difference == pytest.approx(LOSS_BOUND / 2)
