"""Connections whose requests do not come are closed; those that do come are served."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn

import gateway.leaving
from ostler.heads import CLIENT_LOST, TimedHeads
from tests.conftest import until


class Quick(TimedHeads):
    """With a limit that a test can wait for."""

    head_timeout_s = 0.4


async def hello(scope: dict[str, object], receive: object, send: object) -> None:
    """Answers after a while, longer than a head may take."""
    if scope["type"] == "http":
        await asyncio.sleep(0.8)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})  # type: ignore[operator]
        await send({"type": "http.response.body", "body": b"ok"})  # type: ignore[operator]


@contextlib.asynccontextmanager
async def listening(app: Any, idle_s: int = 30) -> AsyncIterator[int]:
    """A server of an app, which closes what idles for so long after an answer; its port."""
    config = uvicorn.Config(
        app, port=0, http=Quick, lifespan="off", log_config=None, timeout_keep_alive=idle_s, timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server._serve())
    await until(lambda: server.started)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await task


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """A server's port."""
    async with listening(hello) as port:
        yield port


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HTTP/1.1\r\nhost: x\r\nx-slow:", b"G"], ids=["nothing", "half", "a byte"]
)
async def test_a_connection_without_a_whole_head_is_closed(port: int, sent: bytes) -> None:
    """Whether it sent nothing or a part."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()


async def test_requests_on_one_connection_are_served_however_long_they_take(port: int) -> None:
    """The limit is for the head alone, and not for the time between two requests."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(2):
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        answer = await asyncio.wait_for(reader.readuntil(b"ok"), 10)
        assert answer.startswith(b"HTTP/1.1 200")
        await asyncio.sleep(0.6)
    writer.close()


async def test_a_later_head_must_come_whole_too(port: int) -> None:
    """Whatever was served on the connection before."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    await asyncio.wait_for(reader.readuntil(b"ok"), 10)
    writer.write(b"GET / HTTP/1.1\r\nx-slow:")
    assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()


async def trickle(writer: asyncio.StreamWriter) -> None:
    """A head that never ends, byte by byte, and never idle."""
    with contextlib.suppress(ConnectionError):
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("when", ["with them", "while they go out", "after them"])
async def test_a_head_behind_other_requests_must_come_whole_once_they_are_answered(port: int, when: str) -> None:
    """Its time begins with the last answer's end, however long the answers took, and what comes does not prolong it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    requests, begun = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" * 2, b"GET / HTTP/1.1\r\nx-slow:"
    writer.write(requests + begun if when == "with them" else requests)
    await asyncio.sleep(0.1)
    if when == "while they go out":
        writer.write(begun)
    for _ in range(2):
        answer = await asyncio.wait_for(reader.readuntil(b"ok"), 10)
        assert answer.startswith(b"HTTP/1.1 200")
    if when == "after them":
        writer.write(begun)
    slow = asyncio.create_task(trickle(writer))
    assert await asyncio.wait_for(reader.read(), 10) == b""
    slow.cancel()
    writer.close()


@pytest.mark.parametrize("behind", [1, 2], ids=["one answer", "two answers"])
async def test_a_head_that_ends_in_its_time_is_served_whatever_it_waited_for(port: int, behind: int) -> None:
    """It has begun with the first request, and ends after the last answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" * behind + b"GET / HT")
    for _ in range(behind):
        await asyncio.wait_for(reader.readuntil(b"ok"), 10)
    writer.write(b"TP/1.1\r\nhost: x\r\n\r\n")
    answer = await asyncio.wait_for(reader.readuntil(b"ok"), 10)
    assert answer.startswith(b"HTTP/1.1 200")
    writer.close()


@pytest.mark.parametrize(
    ("length", "then"), [(b"0", b"\r\n"), (b"9", b"half"), (b"4", b"rest")], ids=["a blank line", "half", "a rest"]
)
async def test_what_begins_no_request_does_not_keep_a_connection(length: bytes, then: bytes) -> None:
    """As little as silence does: a request must follow an answer, not a rest of the body that was not waited for."""
    async with listening(hello, idle_s=1) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: " + length + b"\r\n\r\n")
        await asyncio.wait_for(reader.readuntil(b"ok"), 10)
        writer.write(then)
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()


async def test_a_lost_connection_is_told_to_who_wants_to_know() -> None:
    """At once, for each request that is under way on it, and not to those that are over."""
    told: list[str] = []
    scopes: list[dict[str, Any]] = []

    async def slow(scope: dict[str, Any], _receive: object, _send: object) -> None:
        scopes.append(scope)
        lost = scope["extensions"][CLIENT_LOST]
        lost.add(over := lambda: told.append("over"))
        lost.discard(over)
        lost.add(lambda: told.append("lost"))
        await asyncio.sleep(60)

    async with listening(slow) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        await until(lambda: bool(scopes))
        await asyncio.sleep(0.05)
        assert not told
        writer.close()
        await until(lambda: told == ["lost"])


def test_the_gateway_knows_it_by_the_same_name() -> None:
    """It cannot import it from here, nor this from there."""
    assert CLIENT_LOST == gateway.leaving.CLIENT_LOST
