"""Intervals for means of scores: they cover as often as they say, at any size and for any scores."""

from collections.abc import Callable

import numpy as np
import pytest

from monitors.judging.intervals import mean_of_differences, mean_of_scores

RUNS = 300
ALPHA = 0.1
# More misses than this would have a chance of one in a thousand if the error probability were ALPHA.
MOST_MISSES = 47
DRAWS: dict[str, tuple[Callable[[np.random.Generator, int], np.ndarray], float]] = {
    "mostly right": (lambda rng, n: (rng.random(n) < 0.95).astype(float), 0.95),
    "a coin": (lambda rng, n: (rng.random(n) < 0.5).astype(float), 0.5),
    "shares": (lambda rng, n: rng.beta(5, 2, n), 5 / 7),
    "skewed": (lambda rng, n: rng.beta(0.1, 2, n), 0.1 / 2.1),
}


@pytest.mark.parametrize("n", [5, 30, 200])
@pytest.mark.parametrize("kind", DRAWS)
def test_the_interval_covers_the_mean(kind: str, n: int) -> None:
    """Simulated with a seed: at most as many misses as the error probability allows."""
    draw, mean = DRAWS[kind]
    rng = np.random.default_rng(n)
    found = [mean_of_scores(draw(rng, n).tolist(), ALPHA) for _ in range(RUNS)]
    assert all(0 <= each.low <= (each.mean or 0) <= each.high <= 1 for each in found)
    assert sum(not each.low <= mean <= each.high for each in found) <= MOST_MISSES


def test_the_order_of_a_sorted_set_does_not_matter() -> None:
    """All wrong rows first would look like a mean that changes; the interval still covers, and is as narrow."""
    rng = np.random.default_rng(7)
    found = [mean_of_scores(sorted((rng.random(100) < 0.7).astype(float)), ALPHA) for _ in range(RUNS)]
    assert sum(not each.low <= 0.7 <= each.high for each in found) <= MOST_MISSES
    assert np.mean([each.high - each.low for each in found]) < 0.25


def test_more_rows_make_it_narrower() -> None:
    """Ten right rows prove little, a thousand much."""
    ten, hundred, thousand = (mean_of_scores([1.0] * n) for n in (10, 100, 1000))
    assert 0.5 < ten.low < 0.75
    assert 0.94 < hundred.low < 0.97
    assert 0.99 < thousand.low < 1
    assert (ten.n, ten.mean, ten.high) == (10, 1.0, 1.0)


def test_without_scores_everything_is_possible() -> None:
    """No data is inconclusive."""
    none = mean_of_scores([])
    assert (none.n, none.mean, none.low, none.high) == (0, None, 0.0, 1.0)
    none = mean_of_differences([])
    assert (none.n, none.mean, none.low, none.high) == (0, None, -1.0, 1.0)


def test_differences_lie_between_minus_one_and_one() -> None:
    """And turn round with their sign."""
    differences = [0.5, 0.25, -0.25, 1.0, 0.0] * 20
    found, turned = mean_of_differences(differences), mean_of_differences([-each for each in differences])
    assert found.mean == pytest.approx(0.3)
    assert 0 < found.low < 0.3 < found.high < 1
    assert turned.low == pytest.approx(-found.high, abs=1e-9)
    assert turned.high == pytest.approx(-found.low, abs=1e-9)
