"""How much each version is used, on a clock that the tests turn."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.engines.heat import HALF_LIFE_S, Heat

YEAR = 365 * 86_400.0


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 5_000.0

    def __call__(self) -> float:
        """The time."""
        return self.now


def test_a_count_is_halved_in_each_half_life() -> None:
    """And what was never used has none."""
    clock = Clock()
    heat = Heat(clock=clock)
    for _ in range(8):
        heat.use("a")
    assert heat.of("a") == pytest.approx(8)
    clock.now += HALF_LIFE_S
    assert heat.of("a") == pytest.approx(4)
    clock.now += 2 * HALF_LIFE_S
    assert heat.of("a") == pytest.approx(1)
    assert heat.of("b") == 0.0


def test_new_uses_count_more_than_old_ones() -> None:
    """Four uses two half-lives ago are as much as one now."""
    clock = Clock()
    heat = Heat(10.0, clock)
    for _ in range(4):
        heat.use("old")
    clock.now += 20
    heat.use("new")
    assert heat.of("old") == pytest.approx(heat.of("new")) == pytest.approx(1)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 50 * HALF_LIFE_S)), max_size=60))
def test_it_is_the_sum_of_what_faded(uses: list[tuple[str, float]]) -> None:
    """However often the counts were written anew meanwhile."""
    clock = Clock()
    heat = Heat(clock=clock)
    when: dict[str, list[float]] = {name: [] for name in "abc"}
    for name, pause in uses:
        clock.now += pause
        heat.use(name)
        when[name].append(clock.now)
    for name, times in when.items():
        expected = math.fsum(0.5 ** ((clock.now - time) / HALF_LIFE_S) for time in times)
        assert heat.of(name) == pytest.approx(expected, rel=1e-6, abs=1e-200)


def test_years_do_not_overflow_it() -> None:
    """A use each hour for thirty years, and a look long after: finite numbers, in the right order."""
    clock = Clock()
    heat = Heat(clock=clock)
    for hour in range(30 * 365 * 24):
        clock.now += 3_600
        heat.use("steady")
        if hour == 0:
            heat.use("once")
    assert 1.0 <= heat.of("steady") < 1.001
    assert heat.of("once") == 0.0
    clock.now += 100 * YEAR
    assert heat.of("steady") == 0.0
    heat.use("steady")
    assert heat.of("steady") == pytest.approx(1)


def test_names_do_not_pile_up() -> None:
    """Of very many the hottest are kept, with their counts."""
    heat = Heat(clock=Clock())
    for _ in range(3):
        heat.use("hot")
    for number in range(50_000):
        heat.use(f"name-{number}")
    assert len(heat._counts) <= 10_001
    assert heat.of("hot") == pytest.approx(3)
    assert heat.of("name-49999") == pytest.approx(1)
