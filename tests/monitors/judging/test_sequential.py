"""The sequential tests, by simulation: arrays of many runs go through the classes that decide."""

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from monitors.judging.sequential import BettingTest, ConfidenceSequence, ECusum, RiseTest, to_difference, to_unit

RUNS = 2_000
LOOKS = 4_000
ALPHA = 0.05
# What a share of 2,000 runs may reach by chance where the rate is alpha: three standard errors.
AT_MOST = ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / RUNS)

Draw = Callable[[np.random.Generator, int], npt.NDArray[np.float64]]


def ties(rng: np.random.Generator, runs: int) -> npt.NDArray[np.float64]:
    """Paired right-or-wrong scores without a difference, 60% of them ties."""
    return rng.choice([0.0, 0.5, 1.0], size=runs, p=[0.2, 0.6, 0.2])


def coin(rng: np.random.Generator, runs: int) -> npt.NDArray[np.float64]:
    """0 or 1, evenly."""
    return rng.integers(0, 2, runs).astype(float)


def rare(rng: np.random.Generator, runs: int) -> npt.NDArray[np.float64]:
    """0.49 nearly always and 1 in the rest, so that the mean is 1/2: nothing is wrong until it is."""
    return np.where(rng.random(runs) < 1 / 51, 1.0, 0.49)


def rarely_bad(rng: np.random.Generator, runs: int) -> npt.NDArray[np.float64]:
    """The same on the other side."""
    return 1 - rare(rng, runs)


def small(rng: np.random.Generator, runs: int) -> npt.NDArray[np.float64]:
    """Close about 1/2."""
    return rng.beta(50, 50, runs)


DRAWS = [ties, coin, rare, rarely_bad, small]


@pytest.mark.parametrize("draw", DRAWS)
def test_the_betting_test_is_hardly_ever_wrong_at_any_look(draw: Draw) -> None:
    """Of 2,000 runs without a difference at most alpha reject at any of 4,000 looks."""
    rng, test = np.random.default_rng(1), BettingTest(0.5, ALPHA)
    for _ in range(LOOKS):
        test.update(draw(rng, RUNS))
    assert np.mean(test.rejected) <= AT_MOST
    assert np.array_equal(test.rejected, test.p_value <= ALPHA)


@pytest.mark.parametrize("null_mean", [0.1, 0.9])
def test_the_betting_test_holds_alpha_for_any_null(null_mean: float) -> None:
    """Also where the null is far from 1/2."""
    rng, test = np.random.default_rng(2), BettingTest(null_mean, ALPHA)
    for _ in range(LOOKS):
        test.update((rng.random(RUNS) < null_mean).astype(float))
    assert np.mean(test.rejected) <= AT_MOST


def test_the_betting_test_holds_alpha_where_the_mean_moves_below_the_null() -> None:
    """The null is 'at most': a mean that wanders below 1/2, as the past goes, is no discovery."""
    rng, test = np.random.default_rng(3), BettingTest(0.5, ALPHA)
    mean = np.full(RUNS, 0.5)
    for _ in range(LOOKS):
        x = (rng.random(RUNS) < mean).astype(float)
        test.update(x)
        mean = np.where(x == 1, 0.5, 0.45)
    assert np.mean(test.rejected) <= AT_MOST


def test_the_betting_test_finds_what_is_there() -> None:
    """A difference of 0.1 among 60% ties is found in nearly every run, and on its own side alone."""
    rng, better, worse = np.random.default_rng(4), BettingTest(0.5, ALPHA), BettingTest(0.5, ALPHA)
    for _ in range(LOOKS):
        x = rng.choice([0.0, 0.5, 1.0], size=200, p=[0.15, 0.6, 0.25])
        better.update(x)
        worse.update(1 - x)
    assert np.mean(better.rejected) > 0.99
    assert np.mean(worse.rejected) <= ALPHA


def test_a_rejection_stays() -> None:
    """What was shown once stays shown, though the evidence melts."""
    test = BettingTest(0.5)
    for x in [1.0] * 20 + [0.0] * 200:
        test.update(x)
    assert test.rejected
    assert test.log_wealth < 0 < test.peak
    assert test.p_value == pytest.approx(math.exp(-test.peak))


@pytest.mark.parametrize("draw", [coin, rare])
def test_all_intervals_hold_the_mean_at_once(draw: Draw) -> None:
    """Of 2,000 runs at most alpha have any interval, of 4,000, without the mean in it."""
    rng, sequence, failed = np.random.default_rng(5), ConfidenceSequence(ALPHA), np.zeros(RUNS, bool)
    for _ in range(LOOKS):
        sequence.update(draw(rng, RUNS))
        failed |= (sequence.low > 0.5) | (sequence.high < 0.5)
    assert failed.mean() <= AT_MOST
    assert np.all(sequence.high - sequence.low < 0.12)


def test_an_interval_moves_with_the_mean() -> None:
    """It is not held by what was true before: after a fall it is right about the weighted mean of both times."""
    rng, sequence = np.random.default_rng(6), ConfidenceSequence(ALPHA)
    expected, runs = np.zeros(500), 500
    failed = np.zeros(runs, bool)
    for look in range(2_000):
        mean, before = (0.9 if look < 500 else 0.3), sequence.weight
        sequence.update((rng.random(runs) < mean).astype(float))
        expected = expected + (sequence.weight - before) * mean
        truth = expected / sequence.weight
        failed |= (sequence.low > truth) | (sequence.high < truth)
    assert failed.mean() <= ALPHA
    assert np.all(sequence.high < 0.8)


def test_an_interval_without_observations_is_everything() -> None:
    """No data says nothing."""
    sequence = ConfidenceSequence()
    assert (sequence.low, sequence.mean, sequence.high) == (0.0, 0.5, 1.0)


def test_the_intervals_are_those_of_the_paper() -> None:
    """The third interval of 1, 0, 1 at alpha 0.05, by hand."""
    sequence = ConfidenceSequence(0.05)
    for x in (1.0, 0.0, 1.0):
        sequence.update(x)
    log = math.log(2 / 0.05)
    assert sequence.weight == pytest.approx(1.5)  # the first bets are all the largest, 1/2
    assert sequence.weighted == pytest.approx(1.0)
    predictions = (0.5, 0.75, 0.5)
    spread = sum((x - p) ** 2 for x, p in zip((1, 0, 1), predictions, strict=True)) * (math.log(2) - 0.5)
    assert sequence.spread == pytest.approx(spread)
    assert sequence._half_width() == pytest.approx((log + spread) / 1.5)


def falls_short(level: float, every: float, draw: Draw, runs: int = 300, limit: int = 6_000) -> bool:
    """Whether the mean time to a false alarm is surely below `every`: runs are cut off, which only lowers it."""
    rng, cusum, first = np.random.default_rng(7), ECusum(level, every), np.full(runs, float(limit))
    for look in range(1, limit + 1):
        cusum.update(draw(rng, runs))
        first = np.where(cusum.alarm, np.minimum(first, look), first)
        if (first < limit).all():
            break
    return bool(first.mean() + 3 * first.std() / math.sqrt(runs) < every)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.99])
def test_false_alarms_of_right_or_wrong_are_as_rare_as_asked(level: float) -> None:
    """With scores of 0 or 1 whose mean is exactly the level, an alarm comes every 1,000 observations at most."""
    assert not falls_short(level, 1_000, lambda rng, runs: (rng.random(runs) < level).astype(float))


def test_false_alarms_of_graded_scores_are_as_rare_as_asked() -> None:
    """With scores in between, too."""
    assert not falls_short(0.9, 1_000, lambda rng, runs: rng.beta(7.2, 0.8, runs))


def test_false_alarms_of_rare_disasters_are_as_rare_as_asked() -> None:
    """With a score that is nearly always above the level, and 0 otherwise."""
    assert not falls_short(0.9, 1_000, lambda rng, runs: np.where(rng.random(runs) < 0.01, 0.0, 0.9 / 0.99))


def test_an_e_cusum_with_a_level_too_high_is_seen_to_fall_short() -> None:
    """The simulation can tell: a mean below the level brings alarms sooner than the A for the level."""
    assert falls_short(0.9, 1_000, lambda rng, runs: (rng.random(runs) < 0.8).astype(float), runs=200)


def test_a_fall_is_found_though_it_was_good_for_long() -> None:
    """10,000 good scores do not delay the alarm after a fall from 0.9 to 0.6."""
    rng, cusum = np.random.default_rng(8), ECusum(0.9, 10_000)
    for _ in range(10_000):
        cusum.update((rng.random(100) < 0.95).astype(float))
    assert not cusum.alarm.any()
    for _ in range(100):
        cusum.update((rng.random(100) < 0.6).astype(float))
    assert cusum.alarm.mean() > 0.95


def test_the_e_cusum_is_the_mean_of_its_bets() -> None:
    """By hand: max(M, 1) (1 + l (m0 - X)) for each bet, and their mean; 1 at the alarm, which stays."""
    cusum = ECusum(0.5, 4)
    assert cusum.log_evidence == 0
    products = np.ones(len(ECusum.SHARES))
    for x in (0.0, 1.0, *[0.0] * 10):
        cusum.update(x)
        products = np.maximum(products, 1) * (1 + ECusum.SHARES / 0.5 * (0.5 - x))
        assert math.exp(cusum.log_evidence) == pytest.approx(products.mean())
        assert cusum.ratio == pytest.approx(math.log(products.mean()) / math.log(4))
    for _ in range(20):
        cusum.update(1.0)
    assert cusum.alarm
    assert cusum.ratio < 1


@pytest.mark.parametrize("null_mean", [0.05, 0.5])
def test_the_test_for_a_rise_is_hardly_ever_wrong_at_any_look(null_mean: float) -> None:
    """Of 2,000 runs of a mean of exactly the null at most alpha reject at any of 4,000 looks."""
    rng, test = np.random.default_rng(12), RiseTest(null_mean, ALPHA)
    for _ in range(LOOKS):
        test.update((rng.random(RUNS) < null_mean).astype(float))
    assert np.mean(test.rejected) <= AT_MOST


def test_a_rise_is_found_as_soon_after_a_long_good_time() -> None:
    """20 bad observations suffice after 20,000 good ones, where the betting test has not begun to bet."""
    rise, betting = RiseTest(0.05, 0.01), BettingTest(0.05, 0.01)
    for x in [0.0] * 20_000 + [1.0] * 20:
        rise.update(x)
        betting.update(x)
    assert rise.rejected
    assert betting.peak == 0


def test_the_test_for_a_rise_is_a_mixture_of_beginnings_and_bets() -> None:
    """By hand: each beginning has the weight 1 / (t (t + 1)), those to come stand at it, and bets count alike."""
    test, values = RiseTest(0.25), (1.0, 0.0, 1.0, 1.0)
    assert test.log_evidence == 0
    for seen in range(1, len(values) + 1):
        test.update(values[seen - 1])
        evidence = 1 / (seen + 1)
        for begun in range(seen):
            for share in RiseTest.SHARES:
                factors = [1 + share / 0.25 * (x - 0.25) for x in values[begun:seen]]
                evidence += math.prod(factors) / ((begun + 1) * (begun + 2)) / len(RiseTest.SHARES)
        assert math.exp(test.log_evidence) == pytest.approx(evidence)


def test_an_e_cusum_may_have_a_level_for_each_run() -> None:
    """Each goes as it does alone."""
    levels, rng = np.array([0.5, 0.9]), np.random.default_rng(13)
    together, alone = ECusum(levels, 100), [ECusum(float(level), 100) for level in levels]
    for _ in range(200):
        x = (rng.random(2) < 0.5).astype(float)
        together.update(x)
        for test, value in zip(alone, x.tolist(), strict=True):
            test.update(value)
    assert together.log_evidence == pytest.approx([test.log_evidence for test in alone])
    assert together.alarm.tolist() == [test.alarm for test in alone]


@pytest.mark.parametrize(
    "make", [lambda: BettingTest(0.5), lambda: RiseTest(0.5), ConfidenceSequence, lambda: ECusum(0.9, 10_000)]
)
def test_a_hundred_thousand_observations_stay_finite(make: Callable[[], Any]) -> None:
    """The evidence neither overflows nor vanishes, whatever comes, and the state stays as large as it was."""
    test, rng = make(), np.random.default_rng(9)
    for values in (np.ones(30_000), np.zeros(40_000), rng.random(30_000)):
        for x in values.tolist():
            test.update(x)
        assert len(json.dumps(test.state(), allow_nan=False)) < 1_000
    assert test.count == 100_000


@pytest.mark.parametrize(
    "make",
    [lambda: BettingTest(0.4, 0.01), lambda: RiseTest(0.4, 0.01), ConfidenceSequence, lambda: ECusum(0.8, 500)],
)
def test_a_restart_continues_to_the_last_bit(make: Callable[[], Any]) -> None:
    """A test that is stored as JSON and restored after each observation ends where one that runs through does."""
    values = np.random.default_rng(10).random(300)
    through, stopped = make(), make()
    for x in values.tolist():
        through.update(x)
        stopped = type(stopped).from_state(json.loads(json.dumps(stopped.state())))
        stopped.update(x)
    assert stopped.state() == through.state()


@pytest.mark.parametrize(
    "make",
    [lambda: BettingTest(0.4, 0.01), lambda: RiseTest(0.4, 0.01), ConfidenceSequence, lambda: ECusum(0.8, 500)],
)
def test_arrays_and_numbers_agree(make: Callable[[], Any]) -> None:
    """A run in an array goes as it does alone, so what a simulation shows of the one holds for the other."""
    values = np.random.default_rng(11).random((300, 3))
    together, alone = make(), make()
    for row in values:
        together.update(row)
        alone.update(float(row[1]))
    for name, value in alone.state().items():
        many = np.asarray(getattr(together, name))
        one = many[1] if many.ndim and many.shape[0] == 3 else many
        assert np.allclose(one, value, rtol=1e-9)


@pytest.mark.parametrize("wrong", [-0.001, 1.001, math.nan, math.inf, np.array([0.5, math.nan])])
@pytest.mark.parametrize(
    "make", [lambda: BettingTest(0.5), lambda: RiseTest(0.5), ConfidenceSequence, lambda: ECusum(0.9, 1_000)]
)
def test_an_observation_outside_the_range_is_refused(make: Callable[[], Any], wrong: Any) -> None:
    """It raises a clear error and leaves the test as it was."""
    test = make()
    test.update(0.5)
    before = test.state()
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        test.update(wrong)
    assert test.state() == before


@pytest.mark.parametrize(
    "make",
    [
        lambda: BettingTest(0.0),
        lambda: BettingTest(1.0),
        lambda: BettingTest(0.5, alpha=0.0),
        lambda: RiseTest(0.0),
        lambda: RiseTest(0.5, alpha=1.0),
        lambda: ConfidenceSequence(1.0),
        lambda: ECusum(1.0, 1_000),
        lambda: ECusum(math.nan, 1_000),
        lambda: ECusum(np.array([0.5, 1.0]), 1_000),
        lambda: ECusum(0.9, 1),
        lambda: ECusum(0.9, math.inf),
    ],
)
def test_parameters_that_promise_nothing_are_refused(make: Callable[[], Any]) -> None:
    """A null, an alpha, a level or an A that no test could keep raises at once."""
    with pytest.raises(ValueError, match="must"):
        make()


def test_the_state_of_another_test_is_refused() -> None:
    """No test begins from another's numbers."""
    with pytest.raises(TypeError):
        ECusum.from_state(BettingTest(0.5).state())


def test_differences_and_observations_are_the_same_thing() -> None:
    """-1, 0 and 1 are 0, 1/2 and 1, and back."""
    assert [to_unit(d) for d in (-1.0, 0.0, 1.0)] == [0.0, 0.5, 1.0]
    assert [to_difference(to_unit(d)) for d in (-1.0, -0.25, 1.0)] == [-1.0, -0.25, 1.0]
