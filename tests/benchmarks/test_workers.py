"""What a second worker brings, from the processor times of both."""

import pytest

from benchmarks.speed.processes import Cores
from benchmarks.speed.workers import Worked, place_of, used


def test_two_workers_that_cost_nothing_extra_and_share_evenly_do_twice_as_much() -> None:
    """Whatever the requests per second were while the load took part of their cores."""
    one, two = Worked(1000, (2.0,)), Worked(1500, (1.5, 1.5))
    assert two.capacity / one.capacity == 2.0
    assert two.evenness == 1.0


def test_the_busiest_worker_is_the_limit() -> None:
    """A second one that gets nothing brings nothing."""
    one = Worked(1000, (2.0,))
    assert Worked(1000, (2.0, 0.0)).capacity / one.capacity == 1.0
    assert Worked(1000, (1.5, 0.5)).capacity / one.capacity == pytest.approx(4 / 3)
    assert Worked(1000, (2.0, 0.0)).evenness == 0.5


def test_more_work_for_each_request_takes_from_it() -> None:
    """As the formula in the module's text has it: 2 x work of one / work of two x evenness."""
    one, two = Worked(1000, (2.0,)), Worked(1000, (1.4, 1.1))
    formula = 2 * one.cpu_s_per_1000 / two.cpu_s_per_1000 * two.evenness
    assert two.capacity / one.capacity == pytest.approx(formula)
    assert two.cpu_s_per_1000 == pytest.approx(2.5)


def test_the_parent_is_no_worker() -> None:
    """What counts is what was used meanwhile, by as many as there are workers."""
    before = {1: 5.0, 2: 3.0, 3: 3.0}
    after = {1: 5.1, 2: 4.0, 3: 5.0}
    assert used(before, after, 2) == (2.0, 1.0)
    assert used({7: 1.0}, {7: 4.0}, 1) == (3.0,)


def test_each_worker_has_as_much_beside_it() -> None:
    """Where the load has no cores of its own it is on one worker's, or on both; else it is never on theirs."""
    assert place_of(1, Cores((0, 1), (0, 1))) == Cores((0,), (0,))
    assert place_of(2, Cores((0, 1), (0, 1))) == Cores((0, 1), (0, 1))
    assert place_of(1, Cores((0, 1), (2, 3))) == Cores((0,), (2, 3))
