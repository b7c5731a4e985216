"""A client of one engine before a server with a script, and answers to write into one."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest

from gateway.engines.connections import Connections, Reply
from gateway.engines.failures import EngineDown
from tests.fakes.scripted import Script, Scripted, scripted

OK = b"HTTP/1.1 200 OK\r\n"
HELLO = OK + b"content-type: application/json\r\ncontent-length: 5\r\n\r\nhello"
CHUNKED = (
    b"HTTP/1.1 100 Continue\r\ncontent-type: x\r\ncontent-length: 0\r\n\r\n"
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nx-empty:\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
    b"3;name=value\r\nhel\r\n2\r\nlo\r\n0\r\ncontent-type: trailer\r\nx-more: 1\r\n\r\n"
)
STREAM = OK + b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
HEADERS = {"content-type": "application/json", "x-request-id": "req-1"}
LARGE = 24 << 20
SOON_S = 0.1


@contextmanager
def client(url: str) -> Iterator[Connections]:
    """Connections to a server, closed after the block."""
    found = Connections(url)
    yield found
    found.close()


@asynccontextmanager
async def before(script: Script) -> AsyncIterator[tuple[Connections, Scripted]]:
    """A client before a server."""
    async with scripted(script) as server:
        with client(server.url) as engine:
            yield engine, server


async def post(engine: Connections, body: bytes = b"{}", timeout_s: float = 60.0) -> Reply:
    """One request."""
    return await engine.post("/v1/chat/completions", body, HEADERS, timeout_s)


async def ask(engine: Connections, body: bytes = b"{}", timeout_s: float = 60.0) -> tuple[int, str, bytes]:
    """One request with its whole answer: status, content type, body."""
    with await post(engine, body, timeout_s) as reply:
        return reply.status, reply.content_type, await reply.read()


async def pieces(reply: Reply) -> list[bytes]:
    """The answer's body, as it comes."""
    found = []
    while piece := await reply.next():
        found.append(piece)
    return found


@contextmanager
def down(*, sent: bool) -> Iterator[None]:
    """The engine breaks off in the block, and is not only late."""
    with pytest.raises(EngineDown) as caught:
        yield
    assert (caught.value.sent, type(caught.value)) == (sent, EngineDown)
