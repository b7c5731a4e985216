"""Latency: pairs of the same prompt in turn, and an interval for the median ratio that holds for any times."""

import numpy as np
import pytest

from monitors.judging.asking import Asker
from monitors.judging.golden import GoldenRow, Message
from tests.tuner.evaluation.models import FakeModels
from tuner.evaluation.latency import Pair, measure, median_ratio

PROMPTS = [GoldenRow([Message("user", f"question {number}")]) for number in range(5)]


def test_the_interval_is_that_of_order_statistics() -> None:
    """Of 24 at 95%: the 7th and the 18th, as tables of the sign test have it."""
    found = median_ratio([Pair(float(number), 1.0) for number in range(1, 25)], 0.05)
    assert (found.n, found.median, found.low, found.high) == (24, 12.5, 7.0, 18.0)


def test_few_pairs_have_no_interval() -> None:
    """Five flips of a coin cannot be surprising enough; none at all say nothing."""
    found = median_ratio([Pair(2.0, 1.0)] * 5, 0.05)
    assert (found.median, found.low, found.high) == (2.0, None, None)
    assert median_ratio([Pair(2.0, 1.0)] * 6, 0.05).low == 2.0
    assert median_ratio([], 0.05).median is None


def test_the_interval_covers_the_median_of_wild_times() -> None:
    """Simulated with a seed: times with so long a tail that they have no mean."""
    rng = np.random.default_rng(3)
    missed = 0
    for _ in range(1000):
        times = np.exp(rng.standard_cauchy(24).clip(-50, 50))
        found = median_ratio([Pair(float(each), 1.0) for each in times], 0.1)
        assert found.low is not None
        assert found.high is not None
        missed += not found.low <= 1.0 <= found.high
    assert missed / 1000 <= 0.12


async def test_both_are_asked_in_turn() -> None:
    """Each prompt of both, one at a time, first one and then the other first; the first pair only warms up."""
    models = FakeModels()
    pairs = await measure(Asker(models.client(), 4), "new", "old", PROMPTS, alpha=0.05)
    assert len(pairs) == 24
    assert all(pair.candidate > 0 and pair.reference > 0 for pair in pairs)
    asked = [(body["model"], body["messages"][0]["content"]) for body in models.bodies]
    assert asked[:4] == [
        ("old", "question 0"),
        ("new", "question 0"),
        ("new", "question 1"),
        ("old", "question 1"),
    ]
    assert len(asked) == 2 * 25
    assert models.most_at_once == 1
    assert all(body["ignore_eos"] and body["max_tokens"] == 32 for body in models.bodies)


@pytest.mark.parametrize("rows", [PROMPTS, []])
async def test_what_tells_no_tokens_is_no_time(rows: list[GoldenRow]) -> None:
    """Nor is no prompt."""
    models = FakeModels(tells_usage=False)
    assert await measure(Asker(models.client(), 4), "new", "old", rows, alpha=0.05) == []
