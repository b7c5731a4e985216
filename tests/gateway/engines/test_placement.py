"""Rendezvous hashing: who is home to what, how little moves when a replica comes or goes, and how even it is."""

import math
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.engines.placement import DEFAULT_HOMES, fraction, homes, ranked

NAMES = [f"adapter-{number}@1-{number:08x}" for number in range(6_000)]
WORDS = [("support", "7-1f3a9c2e", "x"), ("", ""), ("ä", "\N{SNOWMAN}"), ("a",), ("a", "b")]


def replicas(count: int) -> list[str]:
    """Ids of replicas."""
    return [f"engine-{number}" for number in range(count)]


def first(name: str, among: list[str]) -> str:
    """The first home of a name."""
    return ranked(name, among)[0]


def within(found: int, expected: float, of: int) -> bool:
    """Whether a count lies within 3 standard errors of the share that is expected of it."""
    return abs(found - expected * of) <= 3 * math.sqrt(of * expected * (1 - expected))


@pytest.mark.parametrize("before", [1, 2, 3, 9])
def test_a_new_replica_takes_its_share_and_moves_nothing_else(before: int) -> None:
    """What moves goes to the new one, and that is one of n names within 3 standard errors."""
    new = f"engine-{before}"
    moved = [name for name in NAMES if first(name, replicas(before)) != first(name, replicas(before + 1))]
    assert {first(name, replicas(before + 1)) for name in moved} == {new}
    assert within(len(moved), 1 / (before + 1), len(NAMES))


def test_a_replica_that_goes_moves_its_own_names_alone() -> None:
    """They spread evenly over those that are left."""
    left = [one for one in replicas(5) if one != "engine-2"]
    orphans = [name for name in NAMES if first(name, replicas(5)) == "engine-2"]
    for name in set(NAMES) - set(orphans):
        assert first(name, left) == first(name, replicas(5))
    taken = Counter(first(name, left) for name in orphans)
    assert all(within(taken[one], 1 / 4, len(orphans)) for one in left)


@given(st.text(), st.sets(st.text(min_size=1), min_size=1, max_size=8), st.text(min_size=1))
def test_the_order_of_the_others_stays(name: str, among: set[str], new: str) -> None:
    """A replica that comes is put somewhere into the ranking, and nothing else in it moves."""
    after = ranked(name, among | {new})
    assert sorted(after) == sorted(among | {new})
    assert tuple(one for one in after if one != new) == tuple(one for one in ranked(name, among) if one != new)


def test_names_are_spread_evenly() -> None:
    """Each replica is the first home of its share, within 3 standard errors."""
    counts = Counter(first(name, replicas(7)) for name in NAMES)
    assert all(within(counts[one], 1 / 7, len(NAMES)) for one in replicas(7))


@pytest.mark.parametrize(
    ("replicas_there", "count", "expected"),
    [(5, 0, 3), (2, 0, 2), (1, 0, 1), (5, 1, 1), (5, 4, 4), (2, 4, 2), (0, 0, 0)],
)
def test_homes_are_the_first_ones(replicas_there: int, count: int, expected: int) -> None:
    """As many as are set, 0 being all up to three; those that rank highest."""
    among = frozenset(replicas(replicas_there))
    found = homes("support@1-0a1b2c3d", among, count)
    assert found == set(ranked("support@1-0a1b2c3d", among)[:expected])
    assert len(found) == expected
    assert DEFAULT_HOMES == 3


def test_fractions_are_uniform() -> None:
    """The Kolmogorov-Smirnov distance of 10,000 of them is below the bound that 1 in 1,000 samples exceeds."""
    values = sorted(fraction("support", "canary", f"session-{number}") for number in range(10_000))
    count = len(values)
    distance = max(max((index + 1) / count - value, value - index / count) for index, value in enumerate(values))
    assert distance < 1.95 / math.sqrt(count)


@given(st.lists(st.text()))
def test_fractions_lie_below_one(words: list[str]) -> None:
    """And not below 0, so that a weight of 1 is all and one of 0 is none."""
    assert 0.0 <= fraction(*words) < 1.0


def test_words_are_kept_apart() -> None:
    """Where one word ends and the next begins counts, and so does their order."""
    assert len({fraction("ab", "c"), fraction("a", "bc"), fraction("abc"), fraction("c", "ab")}) == 4


def test_fractions_are_the_same_in_every_process() -> None:
    """Whatever seed that process hashes with: gateways must agree, and a restart must move nobody."""
    code = f"from gateway.engines.placement import fraction; print([fraction(*words) for words in {WORDS!r}])"
    for seed in ("1", "2"):
        found = subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        )
        assert found.stdout.strip() == str([fraction(*words) for words in WORDS])


def test_fractions_never_change() -> None:
    """A release that hashed otherwise would move every session and every home at once."""
    assert fraction("support", "support@7-1f3a9c2e", "session-1") == 0.44995420825129095
