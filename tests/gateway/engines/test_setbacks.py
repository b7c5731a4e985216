"""Setbacks: what failed in one engine rests for pauses that grow, and far longer if it breaks the engine."""

import pytest

from gateway.engines.setbacks import Setbacks


@pytest.fixture
def setbacks() -> Setbacks:
    """One version failed, one broke the engine, and with one it went away for once."""
    found = Setbacks()
    found.note("refused", "no room")
    found.broke("once", "the engine went away")
    found.broke("poison", "the engine went away")
    found.broke("poison", "the engine went away")
    return found


def test_what_failed_rests_and_what_broke_the_engine_is_forbidden(setbacks: Setbacks) -> None:
    """With the reason; what broke it once, or is not known, may be tried."""
    names = ("refused", "once", "poison", "other")
    assert [setbacks.rests(name) for name in names] == [True, True, True, False]
    assert [setbacks.forbids(name) for name in names] == [False, False, True, False]
    assert [setbacks.allows(name) for name in names] == [False, False, False, True]
    assert setbacks.reason("refused") == "no room"


def test_pauses_grow_while_it_fails(setbacks: Setbacks) -> None:
    """Each one begins when the one before is over, and after it there is one try."""
    breaker = setbacks._found["refused"].breaker
    now = breaker.clock()
    breaker.clock = lambda: now
    pauses = []
    for _ in range(8):
        pause = breaker.retry_in_s
        assert pause is not None
        pauses.append(round(pause))
        now += pause
        assert [setbacks.allows("refused") for _ in range(2)] == [True, False]
        setbacks.note("refused", "again")
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]


def test_what_breaks_the_engine_rests_for_long_once_that_is_back(setbacks: Setbacks) -> None:
    """However long the engine was away; after the pause there is one try."""
    breaker = setbacks._found["poison"].breaker
    now = breaker.clock()
    breaker.clock = lambda: now
    pauses = []
    for _ in range(6):
        now += 10_000
        assert setbacks.forbids("poison")
        assert not setbacks.allows("poison")
        setbacks.engine_answers()
        pause = breaker.retry_in_s
        assert pause is not None
        pauses.append(round(pause))
        now += pause / 2
        assert setbacks.forbids("poison")
        setbacks.engine_answers()
        now += pause / 2
        assert not setbacks.forbids("poison")
        assert [setbacks.allows("poison") for _ in range(2)] == [True, False]
        setbacks.broke("poison", "again")
    assert pauses == [300, 600, 1200, 2400, 3600, 3600]


def test_only_a_refusal_says_that_it_does_not_break_the_engine(setbacks: Setbacks) -> None:
    """What did not come in time says nothing of that."""
    for name in ("once", "poison"):
        setbacks.note(name, "it was still being loaded")
    setbacks.broke("once", "the engine went away")
    assert [setbacks.forbids(name) for name in ("once", "poison")] == [True, True]
    for name in ("once", "poison", "refused"):
        setbacks.survived(name)
    assert [name in setbacks for name in ("once", "poison", "refused")] == [False, False, True]


def test_a_new_engine_is_told_only_of_what_broke_the_last_one(setbacks: Setbacks) -> None:
    """It may have the room that the other had not; what works, or is gone, is forgotten."""
    setbacks.engine_is_new()
    assert ("refused" in setbacks, "once" in setbacks, "poison" in setbacks, len(setbacks)) == (False, True, True, 2)
    setbacks.note("gone", "why")
    setbacks.forget_all_but({"poison"})
    assert ("gone" in setbacks, "poison" in setbacks) == (False, True)
    setbacks.forget("poison")
    assert not setbacks
