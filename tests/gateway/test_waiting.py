"""What of a request's time is a wait for others, by a clock that only moves when it is told to."""

import contextlib
from typing import Any

import pytest

import gateway.relay
import gateway.waiting
from gateway.relay import noting_waits
from gateway.waiting import Waits
from tests.gateway.exchanges import an_exchange


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


async def test_a_client_that_takes_its_time_is_waited_for(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answer's bytes go out when it takes them; meanwhile it is known since when."""
    monkeypatch.setattr(gateway.relay, "time", clock)
    exchange = an_exchange()
    since: list[float | None] = []

    async def slow(_: Any) -> None:
        since.append(exchange.sending_since)
        clock.now += 5

    send = noting_waits(slow, exchange)
    await send({})
    await send({})
    assert exchange.waits.seconds == 10
    assert since == [100.0, 105.0]
    assert exchange.sending_since is None
