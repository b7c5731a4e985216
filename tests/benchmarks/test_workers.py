"""What a second worker brings, from the processor times of both."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import cast

import pytest

from benchmarks.speed.processes import Cores, Running
from benchmarks.speed.trial import Trial
from benchmarks.speed.workers import Worked, _warm_up, place_of, used


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


class Pressing:
    """A bench whose presses cost a parent nothing, and two workers what is said."""

    def __init__(self, costs_s: Sequence[tuple[float, float]]) -> None:
        self.left = list(costs_s)
        self.cpu_s_by_process = {1: 0.5, 2: 0.0, 3: 0.0}

    async def press(self, **_: object) -> object:
        """One press."""
        first_s, second_s = self.left.pop(0)
        before = self.cpu_s_by_process
        self.cpu_s_by_process = {1: before[1], 2: before[2] + first_s, 3: before[3] + second_s}
        return SimpleNamespace(load=SimpleNamespace(requests=100))

    async def warm_up(self) -> None:
        """Until both had a part."""
        await _warm_up(cast(Trial, self), cast(Running, self), 2)


async def test_what_is_measured_waits_for_the_second_worker() -> None:
    """The whole is ready with its first; a part of some hundredths is what a start takes, not requests."""
    bench = Pressing([(1.0, 0.0), (1.0, 0.05), (0.6, 0.4), (0.5, 0.5)])
    await bench.warm_up()
    assert len(bench.left) == 1


async def test_a_worker_that_never_comes_ends_the_measurement() -> None:
    """With one worker in the place of two it would be wrong."""
    with pytest.raises(RuntimeError, match="of 2 workers some had no part in 100 requests"):
        await Pressing([(1.0, 0.0)] * 10).warm_up()
