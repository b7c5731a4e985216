"""The limit on failures: what both versions suffer says nothing, and what one alone does is found after a few."""

import itertools
import json
import math
from collections.abc import Iterator

import numpy as np
import pytest

from monitors.loop.excess import ExcessTest, Tally
from monitors.loop.failures import ALONE_AFTER, MOST_IN_STRETCH, Failures

MOST, ALPHA = 0.05, 0.01
DRAWS, RUNS = 10, 50


def at_most(alpha: float, runs: int) -> float:
    """What a share of the runs may reach by chance where the rate is alpha: three standard errors."""
    return alpha + 3 * math.sqrt(alpha * (1 - alpha) / runs)


def whole(new: Tally, other: Tally) -> list[tuple[Tally, Tally, float, float]]:
    """All that can come of a stretch of that size."""
    found = []
    for failed, others in itertools.product(range(new.requests + 1), range(other.requests + 1)):
        ways = math.comb(new.requests, failed), math.comb(other.requests, others)
        found.append((Tally(failed, new.requests), Tally(others, other.requests), float(ways[0]), float(ways[1])))
    return found


@pytest.mark.parametrize("most", [0.001, 0.05, 0.5])
@pytest.mark.parametrize("sizes", [(1, 1), (1, 20), (20, 1), (3, 5)])
def test_no_bet_wins_on_average_where_the_limit_is_kept(most: float, sizes: tuple[int, int]) -> None:
    """Exactly, whatever the other version's rate is: at the limit, below it, and where both fail alike."""
    test = ExcessTest(most, ALPHA)
    outcomes = whole(Tally(0, sizes[0]), Tally(0, sizes[1]))
    won = np.exp([test._won(new, other) for new, other, _, _ in outcomes])
    for q in (0.0, 0.003, 0.1, 0.5, 0.9, 1.0):
        for p in (q, q + most * (1 - q), q / 2):
            chance = [
                ways * p**n.failed * (1 - p) ** (n.requests - n.failed)
                * others * q**o.failed * (1 - q) ** (o.requests - o.failed)
                for n, o, ways, others in outcomes
            ]  # fmt: skip
            assert (np.array(chance) @ won <= 1 + 1e-9).all()
    ahead = [float(n.failed == n.requests and not o.failed) for n, o, _, _ in outcomes]
    assert (np.array(ahead) @ won).max() > 1.5


def outages(rng: np.random.Generator, length: float, every: float, rate: float) -> Iterator[float]:
    """How often each request fails with the installation: for so many requests at a time, so often, on average."""
    while True:
        yield from [0.0] * int(rng.geometric(1 / every))
        yield from [rate] * int(rng.geometric(1 / length))


def runs_of(rng: np.random.Generator, share: float, requests: int, own: float, rates: Iterator[float]) -> Failures:
    """Many runs of the same traffic, of which the new version has a share and fails by itself with a probability."""
    limit = Failures.begin(most=MOST, alpha=ALPHA)
    for rate in itertools.islice(rates, requests):
        is_new = rng.random() < share
        failed = rng.random(RUNS) < rate + (own * (1 - rate) if is_new else 0.0)
        limit.take("new" if is_new else "old", failed=failed)
    return limit


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
@pytest.mark.parametrize(
    ("length", "every", "rate"),
    [(50, 500, 1.0), (3, 60, 1.0), (300, 600, 0.5)],
    ids=["outages", "blips", "half of all fails for long"],
)
def test_what_both_suffer_takes_no_version_back(share: float, length: float, every: float, rate: float) -> None:
    """Of 500 versions that fail by themselves as often as they may, and with the other one in every outage."""
    rng = np.random.default_rng(int(100 * share + length))
    over = sum(
        int(np.sum(runs_of(rng, share, 600, MOST, outages(rng, length, every, rate)).rejected)) for _ in range(DRAWS)
    )
    assert over / (DRAWS * RUNS) <= at_most(ALPHA, DRAWS * RUNS)


def test_an_outage_after_a_long_good_time_takes_no_version_back() -> None:
    """Nor a dozen of them, each of which fails dozens of its requests in a row."""
    rng, limit = np.random.default_rng(3), Failures.begin(most=MOST, alpha=ALPHA)
    for is_down in itertools.chain.from_iterable([[False] * 500 + [True] * 60] * 12):
        limit.take("new" if rng.random() < 0.25 else "old", failed=is_down)
    held = limit.held()
    assert not held.worse
    assert held.evidence_worse < held.needed_worse / 5


@pytest.mark.parametrize(("share", "most"), [(0.05, 6), (0.25, 12), (0.5, 20), (0.95, 160)])
@pytest.mark.parametrize("good", [0, 2_000])
def test_a_burst_of_one_version_alone_is_found_soon(share: float, most: int, good: int) -> None:
    """After a few failures; where the other one is held back, after a few of its answers. In each of 20 runs."""
    rng, calm, failures = np.random.default_rng(4), Failures.begin(most=MOST, alpha=ALPHA), 0
    for _ in range(good):
        calm.take("new" if rng.random() < share else "old", failed=False)
    for _ in range(20):
        limit, failures = Failures.from_state(calm.state()), 0
        while not limit.held().worse:
            is_new = rng.random() < share
            failures += is_new
            limit.take("new" if is_new else "old", failed=is_new)
        assert failures <= most


def test_a_third_that_fails_is_found() -> None:
    """Though much less than all does, and one in a hundred of the other's, too."""
    rng, limit = np.random.default_rng(5), Failures.begin(most=MOST, alpha=ALPHA)
    for _ in range(300):
        limit.take("new", failed=bool(rng.random() < 0.33))
        limit.take("old", failed=bool(rng.random() < 0.01))
    assert limit.held().worse


def test_without_the_other_version_nothing_is_established_at_first() -> None:
    """It cannot be told from the installation, unless something else answers in its place."""
    limit = Failures.begin(most=MOST, alpha=ALPHA)
    for _ in range(ALONE_AFTER):
        limit.take("new", failed=True)
    held = limit.held()
    assert (held.n, held.worse, held.evidence_worse) == (ALONE_AFTER, False, 1.0)
    for _ in range(8):
        limit.replaced()
    assert limit.held().worse


@pytest.mark.parametrize("others", [0, 50])
@pytest.mark.parametrize("good", [0, 5_000])
def test_a_version_that_is_alone_keeps_a_plain_limit(others: int, good: int) -> None:
    """From the outset, or since the other one has requests no longer: a burst of it is found after a few failures."""
    limit = Failures.begin(most=MOST, alpha=ALPHA)
    for _ in range(others):
        limit.take("old", failed=False)
    for _ in range(max(good, ALONE_AFTER)):
        limit.take("new", failed=not good)
    assert not limit.held().worse
    for _ in range(15):
        limit.take("new", failed=True)
    assert limit.held().worse
    assert limit.held().evidence_worse >= limit.held().needed_worse


def test_one_that_is_alone_and_keeps_the_limit_is_hardly_ever_taken_back() -> None:
    """Of 2,000, each of which fails as often as it may."""
    rng, limit = np.random.default_rng(7), Failures.begin(most=MOST, alpha=ALPHA)
    for _ in range(ALONE_AFTER + 1_000):
        limit.take("new", failed=rng.random(2_000) < MOST)
    assert limit.rejected.mean() <= at_most(ALPHA / 2, 2_000)


def test_the_plain_limit_counts_no_more_once_the_other_version_answers() -> None:
    """What it failed on with the installation, say."""
    limit = Failures.begin(most=MOST, alpha=ALPHA)
    for number in range(30 * ALONE_AFTER):
        limit.take("new" if number % ALONE_AFTER else "old", failed=True)
    assert not limit.held().worse
    assert limit.alone.count == 0


def test_only_the_newest_count_in_a_stretch() -> None:
    """So that both sides are of about the same time."""
    long, short = (Failures.begin(most=MOST, alpha=ALPHA) for _ in range(2))
    for limit, before in ((long, 300), (short, 0)):
        for number in range(before + MOST_IN_STRETCH):
            limit.take("old", failed=number < before)
        limit.take("new", failed=True)
    assert long.test.state() == short.test.state()


def test_a_limit_on_failures_continues_after_a_restart_to_the_last_bit() -> None:
    """Stored as JSON and restored after each request."""
    rng = np.random.default_rng(6)
    through, stopped = (Failures.begin(most=MOST, alpha=ALPHA) for _ in range(2))
    for number in range(300 + 2 * ALONE_AFTER):
        arm, failed = "new" if number >= 300 or rng.random() < 0.4 else "old", bool(rng.random() < 0.3)
        for limit in (through, stopped):
            limit.take("new" if arm == "new" else "old", failed=failed)
            limit.answered(number / 10)
        if number % 50 == 0:
            through.replaced()
            stopped.replaced()
        stopped = Failures.from_state(json.loads(json.dumps(stopped.state(), allow_nan=False)))
    assert stopped.state() == through.state()
    assert stopped.held() == through.held()


@pytest.mark.parametrize(("most", "alpha"), [(0.0, 0.01), (1.0, 0.01), (0.05, 0.0), (0.05, 1.0)])
def test_a_limit_outside_its_range_is_refused(most: float, alpha: float) -> None:
    """A share that may fail, and a probability."""
    with pytest.raises(ValueError, match="between 0 and 1"):
        ExcessTest(most, alpha)
