"""Has what is written in one turn of the event loop go out together.

uvicorn writes a response's head and its body apart. Each write is a packet and a system call, which takes about as long
as a third of all that a gateway does for a request.
"""

import asyncio
from typing import Any


class Joining:
    """A transport whose writes wait for the end of the loop's turn; all else is the transport's own.

    Args:
        transport: what it writes to.
        loop: whose turns count.
    """

    __slots__ = ("_loop", "_transport", "_waiting", "is_closing")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._waiting: list[bytes] = []
        self.is_closing = transport.is_closing  # asked with every response

    def write(self, data: bytes) -> None:
        """Write it, after what has been written before."""
        if not self._waiting:
            self._loop.call_soon(self._flush)
        self._waiting.append(data)

    def close(self) -> None:
        """Close the connection once all is written."""
        self._flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def _flush(self) -> None:
        if self._waiting:
            self._transport.write(b"".join(self._waiting))
            self._waiting.clear()
