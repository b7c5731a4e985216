"""A client that goes away is noticed, whatever the server tells of it."""

import asyncio
from collections.abc import Callable
from typing import Any

from gateway.leaving import CLIENT_LOST, Leaving
from tests.conftest import until


async def never() -> Any:
    """A server that is not to be asked."""
    raise AssertionError("asked for a message")


def test_a_server_with_the_extension_tells_at_once() -> None:
    """And nothing is asked of it, which would take a task."""
    lost: set[Callable[[], None]] = set()
    told: list[str] = []
    leaving = Leaving({"extensions": {CLIENT_LOST: lost}}, never, lambda: told.append("gone"))
    assert not lost
    leaving.follow()
    for tell in lost:
        tell()
    assert told == ["gone"]
    leaving.stop()
    assert not lost


async def test_any_other_server_is_asked_for_its_next_message() -> None:
    """What is no disconnect is passed over."""
    messages: asyncio.Queue[Any] = asyncio.Queue()
    told: list[str] = []
    leaving = Leaving({}, messages.get, lambda: told.append("gone"))
    leaving.follow()
    messages.put_nowait({"type": "http.request"})
    await asyncio.sleep(0.01)
    assert not told
    messages.put_nowait({"type": "http.disconnect"})
    await until(lambda: told == ["gone"])
    leaving.stop()


async def test_after_the_request_nobody_is_told() -> None:
    """The server's next message is another request's."""
    messages: asyncio.Queue[Any] = asyncio.Queue()
    told: list[str] = []
    leaving = Leaving({"extensions": {}}, messages.get, lambda: told.append("gone"))
    leaving.follow()
    await asyncio.sleep(0)
    leaving.stop()
    messages.put_nowait({"type": "http.disconnect"})
    await asyncio.sleep(0.01)
    assert not told


def test_a_request_that_never_followed_can_be_stopped() -> None:
    """One that is refused before its body is read."""
    told: list[str] = []
    scopes: list[Any] = [{}, {"extensions": {CLIENT_LOST: set()}}]
    for scope in scopes:
        Leaving(scope, never, lambda: told.append("gone")).stop()
    assert not told
