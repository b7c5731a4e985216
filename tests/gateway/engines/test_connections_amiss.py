"""The client of one engine, where the engine breaks off, is late or speaks no HTTP, or nobody wants its answer."""

import asyncio
import time

import pytest

from gateway.engines import connections
from gateway.engines.connections import Connections, Reply
from gateway.engines.failures import EngineLate
from tests.conftest import until
from tests.fakes.scripted import Line, answering, scripted
from tests.gateway.engines.forwarding import (
    CHUNKED,
    HELLO,
    LARGE,
    OK,
    SOON_S,
    STREAM,
    ask,
    before,
    client,
    down,
    pieces,
    post,
)
from tests.loops import on_both_loops


@on_both_loops
async def test_a_body_without_a_length_that_is_broken_off_is_not_whole() -> None:
    """A reset is no end."""

    async def script(line: Line) -> None:
        await line.request()
        await line.say(OK + b"\r\nhel")
        await has_begun.wait()
        line.reset()

    has_begun = asyncio.Event()
    async with before(script) as (engine, _):
        with await post(engine) as reply:
            assert await reply.next() == b"hel"
            has_begun.set()
            with down(sent=True):
                await reply.read()


@on_both_loops
@pytest.mark.parametrize("answer", [HELLO, CHUNKED], ids=["length", "chunked"])
@pytest.mark.parametrize("as_stream", [False, True], ids=["whole", "stream"])
async def test_an_answer_cut_short_is_never_taken_for_whole(answer: bytes, as_stream: bool) -> None:
    """Wherever it was cut."""
    left = list(range(len(answer)))

    async def script(line: Line) -> None:
        await line.request()
        await line.say(answer[: left.pop()])
        line.end()

    async with before(script) as (engine, server):
        for count in range(1, len(answer) + 1):
            with down(sent=True), await post(engine) as reply:
                await (pieces(reply) if as_stream else reply.read())
            assert server.connections == count


@on_both_loops
async def test_what_came_before_the_break_is_given_first() -> None:
    """A client of a stream has it, and then hears that it broke."""

    async def script(line: Line) -> None:
        await line.request()
        await line.say(STREAM + b"3\r\nhel\r\n2\r\nlo\r\nxx")

    async with before(script) as (engine, _):
        with await post(engine) as reply:
            assert await reply.next() == b"hello"
            for _ in range(2):
                with down(sent=True):
                    await reply.next()


@on_both_loops
@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9\r\n",
        b"\x16\x03\x01\x00\xa5\x01",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\nabc",
        OK + b"content-length: -5\r\n\r\nhello",
        OK + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
        OK + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\nhello",
        OK + b"transfer-encoding: chunked\r\n\r\nhello",
        OK + b"transfer-encoding: chunked\r\n\r\n2\r\nhello\r\n0\r\n\r\n",
        OK + b"no colon\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_no_answer(answer: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """The connection is closed at once, and that is no fault of the gateway's to be logged."""
    async with before(answering(answer)) as (engine, server):
        with down(sent=True):
            await ask(engine)
        await until(lambda: server.gone == 1)
        assert not caplog.records


@on_both_loops
async def test_a_connection_that_breaks_as_it_is_made_was_sent_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the server speaks before it is asked."""
    made = connections._Connection.connection_made

    def make(self: connections._Connection, transport: asyncio.BaseTransport) -> None:
        made(self, transport)
        self.data_received(b"HTTP/1.1 503 Busy\r\n\r\n")

    monkeypatch.setattr(connections._Connection, "connection_made", make)
    async with before(answering(HELLO)) as (engine, server):
        with down(sent=False):
            await ask(engine)
        await until(lambda: server.gone == 1)
        assert server.heads == []


@on_both_loops
@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid", "two..dots"])
async def test_an_engine_that_is_not_there_was_sent_nothing(host: str) -> None:
    """Its port is closed, or its name is none."""
    async with scripted(answering(HELLO)) as server:
        url = server.url.replace("127.0.0.1", host)
    with client(url) as engine, down(sent=False):
        await ask(engine)


@on_both_loops
@pytest.mark.parametrize(("patience_s", "timeout_s"), [(SOON_S, 60.0), (60.0, SOON_S)])
async def test_a_connection_that_does_not_come_in_time_was_sent_nothing(
    monkeypatch: pytest.MonkeyPatch, patience_s: float, timeout_s: float
) -> None:
    """Here TLS is never agreed on; a request with less time than that waits no longer than it has."""
    monkeypatch.setattr(connections, "_CONNECT_TIMEOUT_S", patience_s)

    async def script(line: Line) -> None:
        await line.reader.read()

    async with scripted(script) as server:
        began = time.monotonic()
        with client(server.url.replace("http:", "https:")) as engine, down(sent=False):
            await ask(engine, timeout_s=timeout_s)
        assert time.monotonic() - began < 20
        await until(lambda: server.gone == 1)


@on_both_loops
@pytest.mark.parametrize("begun", [b"", OK, HELLO[:-1], STREAM + b"3\r\nhel\r\n"])
@pytest.mark.parametrize("earlier_s", [None, 60.0, SOON_S / 2])
async def test_an_answer_that_takes_too_long_is_late(begun: bytes, earlier_s: float | None) -> None:
    """However much of it has come, and whatever time an earlier request on the connection had; the engine hears it."""

    async def script(line: Line) -> None:
        if earlier_s:
            await line.request()
            await line.say(HELLO)
        await line.request()
        await line.say(begun)

    async with before(script) as (engine, server):
        if earlier_s:
            await ask(engine, timeout_s=earlier_s)
        began = time.monotonic()
        with pytest.raises(EngineLate):
            await ask(engine, timeout_s=SOON_S)
        assert SOON_S * 0.9 < time.monotonic() - began < 20
        assert server.connections == 1
        await until(lambda: server.gone == 1)


@on_both_loops
async def test_the_time_to_connect_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it took is not there for the answer."""
    opened = Connections._open

    async def slowly(self: Connections, within_s: float) -> connections._Connection:
        await asyncio.sleep(3 * SOON_S)
        return await opened(self, 60.0)

    async def script(line: Line) -> None:
        await line.request()
        await asyncio.sleep(SOON_S)
        await line.say(HELLO)

    monkeypatch.setattr(Connections, "_open", slowly)
    async with before(script) as (engine, _):
        with pytest.raises(EngineLate):
            await ask(engine, timeout_s=2 * SOON_S)


@on_both_loops
async def test_an_answer_in_time_is_not_late_by_an_earlier_requests_deadline() -> None:
    """Each request has its own."""

    async def script(line: Line) -> None:
        await line.request()
        await line.say(HELLO)
        await line.request()
        await asyncio.sleep(3 * SOON_S)
        await line.say(HELLO)

    async with before(script) as (engine, server):
        await ask(engine, timeout_s=SOON_S)
        assert (await ask(engine, timeout_s=60.0))[2] == b"hello"
        await asyncio.sleep(SOON_S)
        assert (server.connections, server.gone) == (1, 0)


@on_both_loops
@pytest.mark.parametrize("words", [b"", b"HTTP/1.1 408 Request Timeout\r\n\r\n", b"\r\n", b"x"])
async def test_a_connection_that_was_closed_or_spoke_by_itself_is_not_used(
    words: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What nobody asked for is nobody's answer."""
    monkeypatch.setattr(connections, "KEEPALIVE_S", 60.0)
    async with before(answering(HELLO)) as (engine, server):
        await ask(engine)
        if words:
            await server.lines[0].say(words)
        else:
            server.lines[0].end()
        await until(lambda: server.gone == 1)
        assert await ask(engine) == (200, "application/json", b"hello")
        assert server.connections == 2


@on_both_loops
async def test_a_connection_that_is_just_breaking_is_not_used() -> None:
    """The loop knows of it a moment before it tells."""
    async with before(answering(HELLO)) as (engine, server):
        await ask(engine)
        engine._idle[0]._transport.abort()
        assert (await ask(engine))[2] == b"hello"
        assert server.connections == 2


@on_both_loops
@pytest.mark.parametrize("answer", [HELLO, CHUNKED], ids=["length", "chunked"])
@pytest.mark.parametrize("more", [b"H", b"HTTP/1.1 200 OK\r\nx-swallow: ", HELLO, b"garbage"])
async def test_what_follows_an_answer_is_not_the_next_ones(answer: bytes, more: bytes) -> None:
    """It came with the answer's end; that answer holds, and the connection is given up."""
    async with before(answering(answer + more)) as (engine, server):
        for _ in range(3):
            status, _, body = await ask(engine)
            assert (status, body) == (200, b"hello")
        assert server.connections == 3


@on_both_loops
async def test_a_kept_connection_that_breaks_may_have_carried_the_request() -> None:
    """So it is not sent again by itself."""

    async def script(line: Line) -> None:
        await line.request()
        await line.say(HELLO)
        await line.request()
        line.end()

    async with before(script) as (engine, server):
        await ask(engine)
        with down(sent=True):
            await ask(engine)
        assert (server.connections, len(server.bodies)) == (1, 2)


@on_both_loops
@pytest.mark.parametrize("begun", [b"", HELLO[:-1], STREAM + b"3\r\nhel\r\n"])
async def test_to_cancel_closes_the_connection(begun: bytes) -> None:
    """Wherever the request is, so that the engine stops its work."""

    async def script(line: Line) -> None:
        await line.request()
        await line.say(begun)

    async def take() -> None:
        reply = await post(engine)  # nothing closes it but what is cancelled
        started.set()
        await (pieces(reply) if begun.startswith(STREAM) else reply.read())

    started = asyncio.Event()
    async with before(script) as (engine, server):
        task = asyncio.ensure_future(take())
        await until(lambda: started.is_set() if begun else server.bodies)
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: server.gone == 1)


@on_both_loops
async def test_to_cancel_while_it_connects_leaves_nothing_open() -> None:
    """The engine sees the connection go."""

    async def script(line: Line) -> None:
        await line.reader.read()

    async with scripted(script) as server:
        with client(server.url.replace("http:", "https:")) as engine:
            task = asyncio.ensure_future(ask(engine))
            await until(lambda: server.connections == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await until(lambda: server.gone == 1)


@on_both_loops
async def test_to_close_before_the_end_closes_the_connection() -> None:
    """Once and for all; what was not read then never is."""

    async def script(line: Line) -> None:
        await line.request()
        await line.say(STREAM + b"3\r\nhel\r\n")

    async with before(script) as (engine, server):
        reply = await post(engine)
        assert await reply.next() == b"hel"
        reply.close()
        reply.close()
        await until(lambda: server.gone == 1)
        for read in (reply.next, reply.read):
            with down(sent=True):
                await read()


@on_both_loops
async def test_an_answer_given_back_is_not_taken_for_an_empty_one() -> None:
    """By who still waited for it in the moment in which it came."""

    async def script(line: Line) -> None:
        await line.request()
        await line.say(HELLO[:-5])

    async with before(script) as (engine, _):
        for read in (Reply.next, Reply.read):
            reply = await post(engine)
            waiting = asyncio.ensure_future(read(reply))
            await asyncio.sleep(0)
            assert reply._connection is not None
            reply._connection.data_received(b"hello")
            reply.close()
            with down(sent=True):
                await waiting
            engine.close()


@on_both_loops
@pytest.mark.parametrize("value", ["a\r\nx: y", "a\rb", "a\nb", "a\0b", "\r\n\r\nGET / HTTP/1.1", "\u20ac"])
@pytest.mark.parametrize("as_name", [False, True])
async def test_a_header_cannot_end_its_line(value: str, as_name: bool) -> None:
    """Nothing is sent; nor if it holds what no header can."""
    headers = {value: "x"} if as_name else {"traceparent": value}
    async with before(answering(HELLO)) as (engine, server):
        with pytest.raises(ValueError, match=r"end of a line|can't encode"):
            await engine.post("/v1/completions", b"", headers, 5.0)
        assert (server.connections, server.heads) == (0, [])


@on_both_loops
async def test_an_answer_before_the_whole_request_holds() -> None:
    """But its connection, on which the rest of the request would still come, does not."""

    async def script(line: Line) -> None:
        await line.head()
        await line.say(b"HTTP/1.1 413 Too Large\r\ncontent-length: 5\r\n\r\nlarge")
        await asyncio.sleep(60)

    async with before(script) as (engine, server):
        for count in (1, 2):
            assert await ask(engine, bytes(LARGE)) == (413, "", b"large")
            assert server.connections == count


@on_both_loops
async def test_a_connection_that_breaks_while_it_is_written_to_may_have_carried_the_request() -> None:
    """The engine has its head."""

    async def script(line: Line) -> None:
        await line.head()
        line.reset()

    async with before(script) as (engine, _):
        with down(sent=True):
            await ask(engine, bytes(LARGE))
