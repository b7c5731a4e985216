"""Breakers, on a clock that the tests turn: when they open, for how long, and what brings a thing back."""

from collections.abc import Callable

import pytest

from gateway.engines.breaker import Breaker, Breakers, State


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """The time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock that stands."""
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    """Opens after 3 failures; pauses of 1 to 5 seconds."""
    return Breaker(3, 1.0, 5.0, clock)


def fail(breaker: Breaker, times: int) -> None:
    """Fail so often."""
    for _ in range(times):
        breaker.failed()


def test_it_opens_after_so_many_failures_in_a_row(breaker: Breaker) -> None:
    """Not after one less, and not if one between them worked."""
    fail(breaker, 2)
    breaker.succeeded()
    fail(breaker, 2)
    assert (breaker.state, breaker.allows(), breaker.retry_in_s) == ("closed", True, None)
    breaker.failed()
    assert (breaker.state, breaker.allows(), breaker.retry_in_s) == ("open", False, 1.0)


def test_a_certain_failure_opens_it_at_once(breaker: Breaker) -> None:
    """One is enough."""
    breaker.failed(certain=True)
    assert breaker.state == "open"


def test_pauses_double_up_to_the_longest(breaker: Breaker, clock: Clock) -> None:
    """As long as each trial fails; once one works, the next pause is the first again."""
    fail(breaker, 3)
    pauses = []
    for _ in range(5):
        pause = breaker.retry_in_s
        assert pause is not None
        pauses.append(pause)
        clock.now += pause
        assert breaker.allows()
        breaker.failed()
    assert pauses == [1.0, 2.0, 4.0, 5.0, 5.0]
    breaker.succeeded()
    fail(breaker, 3)
    assert breaker.retry_in_s == 1.0


@pytest.mark.parametrize("certain", [False, True])
def test_failures_of_before_it_opened_do_not_lengthen_the_pause(breaker: Breaker, clock: Clock, certain: bool) -> None:
    """Many requests are under way when a version breaks, and each of them tells of it; that is one outage."""
    fail(breaker, 3)
    clock.now += 0.5
    for _ in range(100):
        breaker.failed(certain=certain)
    assert breaker.retry_in_s == 0.5


def test_half_open_lets_one_trial_through(breaker: Breaker, clock: Clock) -> None:
    """Others are told no until the trial has told how it went."""
    fail(breaker, 3)
    clock.now += 0.999
    assert not breaker.allows()
    clock.now += 0.001
    assert (breaker.state, breaker.retry_in_s) == ("half_open", 0.0)
    assert [breaker.allows() for _ in range(3)] == [True, False, False]
    breaker.succeeded()
    assert (breaker.state, breaker.allows(), breaker.allows()) == ("closed", True, True)


def test_a_trial_that_fails_opens_it_again(breaker: Breaker, clock: Clock) -> None:
    """One failure is enough then, and after the longer pause there is a new trial."""
    fail(breaker, 3)
    clock.now += 1
    assert breaker.allows()
    breaker.failed()
    assert (breaker.state, breaker.retry_in_s) == ("open", 2.0)
    clock.now += 2
    assert [breaker.allows() for _ in range(2)] == [True, False]


def test_one_failed_trial_is_enough_after_a_certain_failure(breaker: Breaker, clock: Clock) -> None:
    """Though there were fewer failures than it would else take."""
    breaker.failed(certain=True)
    clock.now += 1
    assert breaker.allows()
    breaker.failed()
    assert (breaker.state, breaker.retry_in_s) == ("open", 2.0)


def test_no_pause_is_longer_than_the_longest(clock: Clock) -> None:
    """Not even the first, where the settings say so."""
    breaker = Breaker(1, 8.0, 2.0, clock)
    for _ in range(3):
        breaker.failed()
        assert breaker.retry_in_s == 2.0
        clock.now += 2
        assert breaker.allows()


def test_a_trial_that_never_reports_gives_way_to_another(breaker: Breaker, clock: Clock) -> None:
    """After one more pause; a client that left must not keep a version out of service."""
    fail(breaker, 3)
    clock.now += 1
    assert breaker.allows()
    clock.now += 0.999
    assert not breaker.allows()
    clock.now += 0.001
    assert [breaker.allows() for _ in range(2)] == [True, False]


def test_looking_is_no_trial(breaker: Breaker, clock: Clock) -> None:
    """Asking for the state takes nobody's turn."""
    fail(breaker, 3)
    clock.now += 1
    assert (breaker.state, breaker.state, breaker.allows()) == ("half_open", "half_open", True)


Told = list[tuple[str, State]]


@pytest.fixture
def told() -> Told:
    """What was told."""
    return []


def test_a_grave_failure_opens_it_for_longer(breaker: Breaker, clock: Clock) -> None:
    """Also where it is open already, once; the next trial may be lost, and no later one waits as long for it."""
    breaker.failed(certain=True)
    for _ in range(2):
        breaker.failed(certain=True, least_s=300.0)
    assert breaker.retry_in_s == 300.0
    clock.now += 300
    assert [breaker.allows(), breaker.allows()] == [True, False]
    clock.now += 5
    assert breaker.allows()
    breaker.failed()
    assert breaker.retry_in_s == 5.0


@pytest.fixture
def breakers(clock: Clock, told: Told) -> Breakers:
    """Breakers of 2 failures and pauses from 1 second."""
    make: Callable[[], Breaker] = lambda: Breaker(2, 1.0, 8.0, clock)  # noqa: E731
    return Breakers(make, lambda name, state: told.append((name, state)))


def test_each_name_has_its_own(breakers: Breakers) -> None:
    """What one fails at is nothing against another."""
    breakers.failed("a", certain=True)
    breakers.failed("b")
    assert [breakers.allows(name) for name in "abc"] == [False, True, True]
    assert [breakers.is_closed(name) for name in "abc"] == [False, True, True]


def test_opening_and_closing_are_told_once(breakers: Breakers, told: Told, clock: Clock) -> None:
    """Failures and successes that change nothing are not, nor is a trial that failed."""
    breakers.succeeded("a")
    breakers.failed("a")
    breakers.succeeded("a")
    breakers.failed("a")
    assert told == []
    breakers.failed("a")
    breakers.failed("a")
    clock.now += 1
    assert breakers.allows("a")
    breakers.failed("a")
    assert told == [("a", "open")]
    clock.now += 2
    breakers.succeeded("a")
    breakers.succeeded("a")
    assert told == [("a", "open"), ("a", "closed")]


def test_asking_whether_it_is_closed_is_no_trial(breakers: Breakers, clock: Clock) -> None:
    """Half open counts as not closed, and the trial is still to be had."""
    breakers.failed("a", certain=True)
    clock.now += 1
    assert not breakers.is_closed("a")
    assert [breakers.allows("a"), breakers.allows("a")] == [True, False]
