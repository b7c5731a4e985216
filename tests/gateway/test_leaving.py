"""A client that goes away is noticed, whatever the server tells of it."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from gateway.body import ClientGone
from gateway.exchange import Exchange, Interruptible
from gateway.leaving import CLIENT_LOST, Leaving
from tests.gateway.exchanges import an_exchange

Told = set[Callable[[], None]]


async def never() -> Any:
    """A server that is not to be asked."""
    raise AssertionError("asked for a message")


async def waiting(exchange: Exchange, leaving: Leaving) -> None:
    """A request that waits, until its client leaves."""
    with Interruptible(exchange):
        leaving.follow()
        await asyncio.sleep(60)


async def test_a_server_with_the_extension_tells_at_once() -> None:
    """And nothing is asked of it, which would take a task."""
    lost: Told = set()
    exchange = an_exchange()
    leaving = Leaving({"extensions": {CLIENT_LOST: lost}}, never, exchange)
    assert not lost
    serving = asyncio.create_task(waiting(exchange, leaving))
    await asyncio.sleep(0)
    for tell in lost:
        tell()
    with pytest.raises(ClientGone):
        await serving
    leaving.stop()
    assert not lost


async def test_any_other_server_is_asked_for_its_next_message() -> None:
    """What is no disconnect is passed over."""
    messages: asyncio.Queue[Any] = asyncio.Queue()
    exchange = an_exchange()
    leaving = Leaving({}, messages.get, exchange)
    serving = asyncio.create_task(waiting(exchange, leaving))
    messages.put_nowait({"type": "http.request"})
    await asyncio.sleep(0.01)
    assert not serving.done()
    messages.put_nowait({"type": "http.disconnect"})
    with pytest.raises(ClientGone):
        await serving
    leaving.stop()


async def test_after_the_request_nobody_is_told() -> None:
    """The server's next message is another request's."""
    messages: asyncio.Queue[Any] = asyncio.Queue()
    exchange = an_exchange()
    leaving = Leaving({"extensions": {}}, messages.get, exchange)
    leaving.follow()
    await asyncio.sleep(0)
    leaving.stop()
    messages.put_nowait({"type": "http.disconnect"})
    await asyncio.sleep(0.01)
    assert exchange.interruption is None


async def test_a_request_that_never_followed_can_be_stopped() -> None:
    """One that is refused before its body is read."""
    exchange = an_exchange()
    scopes: list[Any] = [{}, {"extensions": {CLIENT_LOST: set()}}]
    for scope in scopes:
        Leaving(scope, never, exchange).stop()
    assert exchange.interruption is None


async def test_a_cancellation_by_others_stays_one() -> None:
    """As when the server stops: only an interruption has a reason."""
    exchange = an_exchange()
    serving = asyncio.create_task(waiting(exchange, Leaving({"extensions": {CLIENT_LOST: set()}}, never, exchange)))
    await asyncio.sleep(0)
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert serving.cancelled()


async def test_after_its_block_a_request_is_not_interrupted() -> None:
    """What is still to be said to the client is said."""
    exchange = an_exchange()
    with Interruptible(exchange):
        pass
    exchange.interrupt(ClientGone())
    await asyncio.sleep(0)
    assert exchange.interruption is None


async def test_an_interrupted_task_is_as_good_as_before() -> None:
    """It goes on to tell the client; a time-out that it sets there would take a cancellation for its own."""
    exchange = an_exchange()
    with pytest.raises(ClientGone), Interruptible(exchange):  # noqa: PT012 - it is raised at the end
        exchange.interrupt(ClientGone())
        await asyncio.sleep(60)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
