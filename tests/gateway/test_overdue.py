"""What takes too long is ended: a body that does not come, an answer, a client that takes nothing."""

import asyncio
import time

import pytest

from gateway.body import ClientGone
from gateway.errors import BodyTooSlow, DeadlineExceeded
from gateway.exchange import Exchange
from gateway.overdue import GRACE_S, LOOK_EVERY_S, Overdue
from monitors.metrics import Metrics
from tests.gateway.exchanges import an_exchange

STALL_S = 7.0


@pytest.fixture
def metrics() -> Metrics:
    """Those of a gateway."""
    return Metrics()


@pytest.fixture
def overdue(metrics: Metrics) -> Overdue:
    """Clients may stall for `STALL_S`."""
    return Overdue(STALL_S, metrics)


async def ended_at(overdue: Overdue, exchange: Exchange, moment: float) -> BaseException | None:
    """What the request's task is interrupted for, if it waits when it is looked at in that moment."""
    overdue.look(moment)
    try:
        await asyncio.sleep(0)
    except asyncio.CancelledError:
        assert exchange.task is not None
        exchange.task.uncancel()
        return exchange.interruption
    return None


async def test_a_request_ends_a_little_after_its_deadline(overdue: Overdue) -> None:
    """Not at it: then the engine's part is given up, which is told to the client better."""
    exchange = an_exchange()
    overdue.add(exchange)
    assert await ended_at(overdue, exchange, exchange.deadline + GRACE_S - 0.01) is None
    assert isinstance(await ended_at(overdue, exchange, exchange.deadline + GRACE_S), DeadlineExceeded)


async def test_a_body_must_come_in_time(overdue: Overdue) -> None:
    """Once it is there, its time says nothing any more."""
    exchange = an_exchange(body_due=100.0)
    exchange.deadline = 1000.0
    overdue.add(exchange)
    assert await ended_at(overdue, exchange, 99.9) is None
    assert isinstance(await ended_at(overdue, exchange, 100.0), BodyTooSlow)
    other = an_exchange()
    other.deadline = 1000.0
    overdue.add(other)
    assert await ended_at(overdue, other, 100.0) is None


async def test_a_client_that_takes_nothing_is_gone(overdue: Overdue) -> None:
    """However often it did before; while nothing is being sent, it need not take anything."""
    exchange = an_exchange(sending_since=100.0)
    exchange.deadline = 1000.0
    overdue.add(exchange)
    assert await ended_at(overdue, exchange, 100.0 + STALL_S - 0.01) is None
    exchange.sending_since = None
    assert await ended_at(overdue, exchange, 100.0 + STALL_S) is None
    exchange.sending_since = 200.0
    assert isinstance(await ended_at(overdue, exchange, 200.0 + STALL_S), ClientGone)


async def test_a_request_that_is_over_is_left_alone(overdue: Overdue) -> None:
    """Its task may serve another one by then."""
    exchange = an_exchange()
    overdue.add(exchange)
    overdue.discard(exchange)
    assert await ended_at(overdue, exchange, exchange.deadline + 100.0) is None
    overdue.add(exchange)
    exchange.task = None
    overdue.look(exchange.deadline + 100.0)
    assert exchange.interruption is None


async def test_it_tells_how_many_are_being_served(overdue: Overdue, metrics: Metrics) -> None:
    """As of when it looked last."""
    found = [an_exchange(), an_exchange(), an_exchange()]
    for exchange in found:
        overdue.add(exchange)
    overdue.look(0.0)
    assert metrics.registry.get_sample_value("ostler_requests_in_flight") == 3
    overdue.discard(found[0])
    overdue.look(0.0)
    assert metrics.registry.get_sample_value("ostler_requests_in_flight") == 2


async def test_the_first_reason_counts(overdue: Overdue) -> None:
    """And the task is cancelled once, so that what it does to clean up is not cut short."""
    exchange = an_exchange()
    overdue.add(exchange)
    gone = ClientGone()
    exchange.interrupt(gone)
    overdue.look(exchange.deadline + GRACE_S)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 1
    assert await ended_at(overdue, exchange, 0.0) is gone


async def test_it_looks_all_the_time(overdue: Overdue) -> None:
    """Without being told to."""
    following = asyncio.create_task(overdue.follow())

    async def served() -> Exchange:
        exchange = an_exchange(deadline_s=-GRACE_S)
        overdue.add(exchange)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return exchange
        raise AssertionError("it was not interrupted")

    began = time.monotonic()
    exchange = await asyncio.create_task(served())
    following.cancel()
    assert isinstance(exchange.interruption, DeadlineExceeded)
    assert time.monotonic() - began >= LOOK_EVERY_S
