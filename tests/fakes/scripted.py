"""A server that speaks HTTP badly, late or in pieces, as a script says: for what a client of it must bear."""

import asyncio
import contextlib
import re
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

Script = Callable[["Line"], Awaitable[None]]
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n")


class Line:
    """One connection, seen from the server."""

    def __init__(self, server: "Scripted", reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self._server = server
        self._writer = writer

    async def say(self, *pieces: bytes) -> None:
        """Send bytes; each piece arrives by itself."""
        for piece in pieces:
            self._writer.write(piece)
            await self._writer.drain()
            if len(pieces) > 1:
                await asyncio.sleep(0.001)

    def end(self) -> None:
        """Close it in order."""
        self._writer.close()

    def reset(self) -> None:
        """Break it off, so that the client hears of no end."""
        at_once = struct.pack("ii", 1, 0)
        self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        self.drop()

    def drop(self) -> None:
        """Close it, whatever was still to be sent."""
        if not self._writer.is_closing():
            self._writer.transport.abort()

    async def head(self) -> bytes:
        """The head of the next request."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        self._server.heads.append(head)
        return head

    async def request(self) -> None:
        """Take the next request."""
        found = _LENGTH.search(await self.head())
        assert found is not None
        self._server.bodies.append(await self.reader.readexactly(int(found[1])))


class Scripted:
    """The server; its script serves one connection, and what has come is noted.

    Attributes:
        heads, bodies: of all requests.
        connections: how many there were.
        gone: how many of them the client has closed, or the script.
    """

    def __init__(self, script: Script) -> None:
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.connections = self.gone = 0
        self.lines: list[Line] = []
        self.url = ""
        self._script = script

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection until the script or the client ends it."""
        self.connections += 1
        line = Line(self, reader, writer)
        self.lines.append(line)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await self._script(line)
            await reader.read()
        self.gone += 1
        writer.close()


@contextlib.asynccontextmanager
async def scripted(script: Script, tls: ssl.SSLContext | None = None) -> AsyncIterator[Scripted]:
    """A server for as long as the block lasts."""
    found = Scripted(script)
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    found.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    try:
        yield found
    finally:
        server.close()
        for line in found.lines:
            line.drop()


def answering(*pieces: bytes) -> Script:
    """A script that gives every request the same answer."""

    async def script(line: Line) -> None:
        while True:
            await line.request()
            await line.say(*pieces)

    return script
