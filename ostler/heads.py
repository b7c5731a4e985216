"""uvicorn's HTTP protocol, which also closes connections whose requests do not come, and tells of lost clients.

uvicorn closes a connection that idles after a response. It waits for ever for the first request, and for the end of
a request's head. The body has a limit of its own, in the gateway.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_TIMEOUT_S = 20.0
CLIENT_LOST = "ostler.client_lost"
"""An extension of ASGI, which `gateway.leaving` describes; an agent serves here, too, and has no gateway."""


class TimedHeads(HttpToolsProtocol):
    """A connection whose next request's head must come within `HEAD_TIMEOUT_S` of its opening or its first byte.

    A head that begins while answers before it still go out has that time from their end.
    """

    head_timeout_s = HEAD_TIMEOUT_S

    def connection_made(self, transport: Any) -> None:
        """A client connected."""
        super().connection_made(transport)
        self._lost: set[Callable[[], None]] = set()
        self._extensions = {CLIENT_LOST: self._lost}
        self._is_head_due = True
        self._late: asyncio.TimerHandle | None = None
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._cancel()
        super().connection_lost(exc)
        for tell in tuple(self._lost):
            tell()

    def data_received(self, data: bytes) -> None:
        """Most heads come in one piece, for which no timer is needed."""
        super().data_received(data)
        if self.cycle is not None and self.cycle.response_complete:
            if self._is_head_due:
                self._expect_head()
            else:
                self._idle_on()

    def on_response_complete(self) -> None:
        """An answer is out, behind which the next request may have begun already."""
        super().on_response_complete()
        if self._is_head_due and self.cycle.response_complete:  # else another request is answered before that one
            self._expect_head()

    def on_message_begin(self) -> None:
        """A request's first bytes came, maybe while the answer to the one before still goes out."""
        self._is_head_due = True
        super().on_message_begin()
        self.scope["extensions"] = self._extensions  # type: ignore[typeddict-item]  # a name of ours

    def on_headers_complete(self) -> None:
        """Its head is whole."""
        self._is_head_due = False
        self._cancel()
        super().on_headers_complete()

    def _expect_head(self) -> None:
        if self._late is None and not self.transport.is_closing():
            self._late = self.loop.call_later(self.head_timeout_s, self.transport.close)

    def _idle_on(self) -> None:
        """What came begins no request: blank lines, or the rest of a body; uvicorn has ended the idling for it."""
        if not self.transport.is_closing():
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _cancel(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
