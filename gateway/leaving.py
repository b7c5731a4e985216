"""Whether a client is still there: when it goes away, its request is interrupted, and with it the engine's part."""

import asyncio
from collections.abc import Callable
from typing import Any

from gateway.body import ClientGone
from gateway.exchange import Exchange

CLIENT_LOST = "ostler.client_lost"
"""An extension of ASGI: a set of functions that are called when the client's connection is lost."""


class Leaving:
    """Interrupts a request if its client goes away, from when it is told to follow until it is told to stop.

    A server that lacks the extension says so only to who asks it for the next message; that takes a task.
    """

    __slots__ = ("_exchange", "_lost", "_receive", "_waiting")

    def __init__(self, scope: Any, receive: Any, exchange: Exchange) -> None:
        self._lost: set[Callable[[], None]] | None = scope.get("extensions", {}).get(CLIENT_LOST)
        self._receive = receive
        self._exchange = exchange
        self._waiting: asyncio.Task[None] | None = None

    def follow(self) -> None:
        """Begin, once the request's body has been read."""
        if self._lost is not None:
            self._lost.add(self._interrupt)
        else:
            self._waiting = asyncio.create_task(self._until_disconnect())

    def stop(self) -> None:
        """The request is over."""
        if self._lost is not None:
            self._lost.discard(self._interrupt)
        elif self._waiting is not None:
            self._waiting.cancel()

    async def _until_disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._interrupt()

    def _interrupt(self) -> None:
        self._exchange.interrupt(ClientGone())
