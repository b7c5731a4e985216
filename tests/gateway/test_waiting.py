"""What of a request's time is a wait for others, by a clock that only moves when it is told to."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

import gateway.waiting
from gateway.relay import taken_within
from gateway.waiting import Waits


class Clock:
    """In place of the module `time`."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        """Seconds."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of waits."""
    clock = Clock()
    monkeypatch.setattr(gateway.waiting, "time", clock)
    return clock


def test_blocks_add_up_also_those_that_fail(clock: Clock) -> None:
    """And what lies between them is no wait."""
    waits = Waits()
    with waits:
        clock.now += 1
    clock.now += 10
    with contextlib.suppress(ZeroDivisionError), waits:
        clock.now += 2
        raise ZeroDivisionError
    assert waits.seconds == 3


async def test_only_the_entry_of_a_block_is_a_wait(clock: Clock) -> None:
    """As for a place: what is done with it, and how it is given back, is not."""

    @contextlib.asynccontextmanager
    async def place() -> AsyncIterator[str]:
        clock.now += 4
        try:
            yield "place"
        finally:
            clock.now += 20

    waits = Waits()
    with contextlib.suppress(KeyError):
        async with waits.for_entry(place()) as found:
            assert found == "place"
            clock.now += 10
            raise KeyError
    assert (waits.seconds, clock.now) == (4, 134)


async def test_a_client_that_takes_its_time_is_waited_for(clock: Clock) -> None:
    """Its answer's bytes go out when it takes them."""

    async def slow(_: Any) -> None:
        clock.now += 5

    waits = Waits()
    send = taken_within(slow, 60.0, waits)
    await send({})
    await send({})
    assert waits.seconds == 10
