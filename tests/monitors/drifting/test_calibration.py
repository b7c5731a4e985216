"""Thresholds of drift: what they promise holds, by simulation, and what they do with what was never seen."""

import math

import msgspec
import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import binomtest, ks_2samp, norm

from monitors.drifting import calibration
from monitors.drifting.calibration import (
    Null,
    from_json,
    holm,
    null_of_categories,
    null_of_numbers,
    null_of_vectors,
    per_look,
    to_json,
)

RUNS = 300


def random_generator(seed: int = 1) -> np.random.Generator:
    """The same numbers each time."""
    return np.random.default_rng(seed)


def ks(reference: np.ndarray, current: np.ndarray) -> float:
    """The statistic of a number."""
    return float(ks_2samp(reference, current, method="asymp").statistic)


def test_the_statistics_are_those_of_scipy() -> None:
    """What is drawn thousands of times, vectorized, is what a window is measured by."""
    rng = random_generator()
    counts = rng.multinomial(50, [0.2, 0.0, 0.5, 0.3], size=4) / 50
    other = rng.multinomial(80, [0.3, 0.1, 0.4, 0.2], size=4) / 80
    assert calibration._js_distances(counts, other) == pytest.approx(
        [jensenshannon(a, b) for a, b in zip(counts, other, strict=True)]
    )
    samples = [
        [np.repeat(np.arange(4), np.rint(side[i] * rows).astype(int)) for side, rows in ((counts, 50), (other, 80))]
        for i in range(4)
    ]
    assert calibration._ks_distances(counts, other) == pytest.approx([ks(*pair) for pair in samples])


@pytest.mark.parametrize(("reference_rows", "rows"), [(200, 50), (200, 200)])
@pytest.mark.parametrize("kind", ["number", "category", "vector"])
def test_false_alarms_are_as_rare_as_stated(kind: str, reference_rows: int, rows: int) -> None:
    """Also where the window is as long as the reference, whose own chance matters as much then."""
    rng = random_generator(3)
    alarms = sum(_alarm(kind, reference_rows, rows, rng) for _ in range(RUNS))
    assert binomtest(alarms, RUNS).proportion_ci(0.99).low <= 0.05
    assert alarms > 0, "a threshold that nothing reaches would hold, too"


def _alarm(kind: str, reference_rows: int, rows: int, rng: np.random.Generator) -> bool:
    if kind == "number":
        reference, current = (np.round(rng.lognormal(3, 0.5, size)) for size in (reference_rows, rows))
        return null_of_numbers(reference, rows, rng, 300).p_value(ks(reference, current)) <= 0.05
    if kind == "category":
        names, shares = ["stop", "length", "tool"], [0.9, 0.07, 0.03]
        drawn, new = (rng.choice(names, size, p=shares) for size in (reference_rows, rows))
        counts = [[np.mean(side == name) for name in names] for side in (drawn, new)]
        return null_of_categories(list(drawn), rows, rng, 300).p_value(float(jensenshannon(*counts))) <= 0.05
    vectors, current = (rng.normal(size=(size, 8)) for size in (reference_rows, rows))
    distance = float(np.linalg.norm(vectors.mean(axis=0) - current.mean(axis=0)))
    return null_of_vectors(vectors, rows, rng, 300).p_value(distance) <= 0.05


def test_small_probabilities_err_on_the_safe_side() -> None:
    """Far beyond what the draws show, the threshold is above the true one, and not far above."""
    null = Null.of(np.abs(random_generator().normal(size=5000)), 50, 100)
    for level in (1e-3, 1e-4, 1e-5):
        true = norm.isf(level / 2)
        assert true * 0.97 <= null.threshold(level) <= true * 1.4


@pytest.mark.parametrize("level", [0.4, 0.05, 0.011, 1e-3, 1e-6])
def test_a_statistic_at_the_threshold_is_as_improbable_as_asked(level: float) -> None:
    """And one clearly below it is not: p-values and thresholds tell the same story, ties or not."""
    smooth = random_generator().exponential(size=5000)
    for statistics in (smooth, np.round(smooth, 1), np.round(smooth)):
        null = Null.of(statistics, 50, 100)
        threshold = null.threshold(level)
        assert null.p_value(threshold) <= level
        assert null.p_value(threshold - 1e-6) > level


def test_what_never_varied_may_vary_a_little() -> None:
    """A new value in a window is no alarm for a reference without it; a third of them is."""
    rng = random_generator()
    shares = {count: [1 - count / 100, count / 100] for count in (1, 33)}
    for count, is_alarm in ((1, False), (33, True)):
        current = np.asarray([16.0] * (100 - count) + [30.0] * count)
        number = null_of_numbers(np.full(500, 16.0), 100, rng, 2000)
        assert (number.p_value(ks(np.full(500, 16.0), current)) < 1e-3) is is_alarm
        category = null_of_categories(["stop"] * 500, 100, rng, 2000)
        assert (category.p_value(float(jensenshannon([1, 0], shares[count]))) < 1e-3) is is_alarm


def test_a_distribution_comes_back_from_the_database_as_it_was() -> None:
    """As JSON, and small."""
    null = null_of_numbers(random_generator().normal(size=100), 50, random_generator(), 1000)
    stored = msgspec.json.encode(to_json(null))
    assert from_json(msgspec.json.decode(stored)) == null
    assert len(stored) < 10_000


def test_holms_procedure() -> None:
    """The smallest against a share of alpha, each next against a larger one, until one does not fall."""
    p_values = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}
    assert holm(p_values, 0.05) == (frozenset({"a", "d"}), 0.05 / 2)
    assert holm({"a": 0.02, "b": 0.03}, 0.05) == (frozenset({"a", "b"}), 0.05)
    assert holm({"a": 0.03, "b": 0.03}, 0.05) == (frozenset(), 0.025)
    assert holm({}, 0.05) == (frozenset(), 0.05)


def test_false_alarms_per_week_are_shared_out_over_the_looks() -> None:
    """28 looks a week, each with a 28th of the rate."""
    assert per_look(0.1, 6) == pytest.approx(0.1 / 28)
    assert per_look(1000, 24) == 0.5
    assert math.isclose(per_look(1, 168), 0.5)
