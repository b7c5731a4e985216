"""One client's connection: what comes on it reaches the app, and what the app says is valid HTTP, whatever comes."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvicorn

import gateway.leaving
from ostler.http1 import CLIENT_LOST, Connection
from tests.conftest import until

App = Callable[[dict[str, Any], Any, Any], Awaitable[None]]
GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n"
LAST = b"GET /last HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"


class Quick(Connection):
    """With a limit that a test can wait for."""

    head_timeout_s = 0.4


async def answer(send: Any, body: bytes, *headers: tuple[bytes, bytes], status: int = 200) -> None:
    """A whole answer, with its length."""
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [length, *headers]})
    await send({"type": "http.response.body", "body": body})


async def body_of(receive: Any) -> bytes:
    """All that the client sends."""
    parts, more = [], True
    while more:
        message = await receive()
        assert message["type"] == "http.request"
        parts.append(message["body"])
        more = message["more_body"]
    return b"".join(parts)


async def slowly(_scope: dict[str, Any], _receive: Any, send: Any) -> None:
    """Answers after a while, longer than a head may take."""
    await asyncio.sleep(0.8)
    await answer(send, b"ok")


async def echo(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answers with what was asked."""
    body = await body_of(receive)
    await answer(send, b"%b %b %b" % (scope["method"].encode(), scope["path"].encode(), body))


@contextlib.asynccontextmanager
async def listening(app: App, idle_s: int = 30) -> AsyncIterator[int]:
    """A server of an app, which closes what idles for so long after an answer; its port."""
    config = uvicorn.Config(
        app,
        port=0,
        http=Quick,
        lifespan="off",
        log_config=None,
        server_header=False,
        date_header=False,
        timeout_keep_alive=idle_s,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server._serve())
    await until(lambda: server.started)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await task


async def told(app: App, *sent: bytes) -> bytes:
    """All that comes back until the server closes; what is sent goes in so many packets."""
    async with listening(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for packet in sent:
            writer.write(packet)
            await writer.drain()
            await asyncio.sleep(0.02)
        found = await asyncio.wait_for(reader.read(), 20)
        writer.close()
        return found


# What requests say


@pytest.mark.parametrize("cut", [*range(1, len(POST) + 5, 7)])
async def test_a_request_may_come_in_any_pieces(cut: int) -> None:
    """The app gets the same."""
    whole = POST + b"hello"
    assert b"POST / hello" in await told(echo, whole[:cut], whole[cut:] + LAST)


async def test_the_app_is_told_what_was_asked() -> None:
    """In the words of ASGI: the path without its escapes, the query apart, names of headers in lower case."""
    scopes: list[dict[str, Any]] = []

    async def note(scope: dict[str, Any], _receive: Any, send: Any) -> None:
        scopes.append(scope)
        await answer(send, b"ok")

    head = b"GET /a%20b/%C3%A4?x=%31&y HTTP/1.1\r\nHost: me\r\nX-Two: 1\r\nx-two: 2\r\n\r\n"
    absolute = b"GET http://elsewhere/c?d=e HTTP/1.1\r\nhost: x\r\n\r\n"
    await told(note, head + absolute + LAST)
    first, second, last = scopes
    assert (first["method"], first["path"], first["raw_path"]) == ("GET", "/a b/ä", b"/a%20b/%C3%A4")
    assert (first["query_string"], first["http_version"], first["scheme"]) == (b"x=%31&y", "1.1", "http")
    assert first["headers"] == [(b"host", b"me"), (b"x-two", b"1"), (b"x-two", b"2")]
    assert first["client"][0] == first["server"][0] == "127.0.0.1"
    assert (second["path"], second["query_string"], last["path"]) == ("/c", b"d=e", "/last")


async def test_a_chunked_body_comes_whole() -> None:
    """And what stands behind it like a header is none of the next request's."""
    chunked = (
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\nx-late: 1\r\n\r\n"
    )
    found = await told(echo, chunked + LAST)
    assert b"POST / hello" in found
    assert b"GET /last " in found


async def test_requests_sent_at_once_are_answered_in_their_order() -> None:
    """One after the other, however long each takes."""
    running = 0

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        nonlocal running
        running += 1
        assert running == 1
        await asyncio.sleep(0.05 if scope["path"] == "/" else 0)
        await answer(send, scope["path"].encode() + await body_of(receive))
        running -= 1

    found = await told(app, GET + POST + b"hello" + b"GET /third HTTP/1.1\r\nhost: x\r\n\r\n" + LAST)
    bodies = [part.rpartition(b"\r\n\r\n")[2] for part in found.split(b"HTTP/1.1 200 OK")[1:]]
    assert bodies == [b"/", b"/hello", b"/third", b"/last"]


async def test_a_client_that_waits_for_a_word_gets_it() -> None:
    """Once, when the app asks for the body."""
    async with listening(echo) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\nexpect: 100-Continue\r\n\r\n")
        assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10) == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"he")
        await asyncio.sleep(0.05)
        writer.write(b"llo")
        assert (await asyncio.wait_for(reader.readuntil(b"hello"), 10)).startswith(b"HTTP/1.1 200 OK\r\n")
        writer.close()


async def test_an_upgrade_is_answered_as_if_it_were_not_asked_for() -> None:
    """Its connection is not used again, as what would follow is in nobody's language."""
    found = await told(echo, GET[:-2] + b"connection: upgrade\r\nupgrade: websocket\r\n\r\n")
    assert found.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nconnection: close\r\n" in found


async def test_a_body_with_an_upgrade_is_refused_in_words() -> None:
    """It cannot be read, and must not seem to be empty."""
    found = await told(echo, POST[:-2] + b"connection: upgrade\r\nupgrade: h2c\r\n\r\nhello")
    assert found.startswith(b"HTTP/1.1 400 ")
    assert b"upgrade" in found


# What is no request


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
        b"GET / HTTP/1.1\r\nx: a\0b\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=["no HTTP", "no colon", "a NUL", "two lengths of a kind", "two lengths", "no chunk"],
)
async def test_what_is_no_request_is_refused_and_ends_the_connection(sent: bytes) -> None:
    """Nobody can say where the next one would begin."""
    found = await told(echo, sent)
    assert found.startswith(b"HTTP/1.1 400 ")
    assert found.count(b"HTTP/1.1 ") == 1


async def test_only_a_head_counts_as_one() -> None:
    """Not the body before it, nor the heads before it, however the reads cut them."""

    async def app(scope: dict[str, Any], _receive: Any, send: Any) -> None:
        await answer(send, scope["path"].encode())

    head = b"POST /first HTTP/1.1\r\nhost: x\r\ncontent-length: 70000\r\n\r\n"
    found = await told(app, head, b"z" * 70_000 + LAST[:9], LAST[9:])
    assert found.endswith(b"\r\n\r\n/last")
    many = (GET[:-2] + b"x-long: " + b"y" * 3000 + b"\r\n\r\n") * 60 + LAST
    found = await told(app, *(many[start : start + 3001] for start in range(0, len(many), 3001)))
    assert found.count(b"HTTP/1.1 200 ") == 61


async def test_a_head_without_end_is_refused() -> None:
    """It is not read into memory until its time is over."""
    found = await told(echo, GET[:-2] + b"x-long: ", *[b"x" * 20_000] * 4)
    assert found.startswith(b"HTTP/1.1 431 ")


async def test_nonsense_behind_a_request_leaves_its_answer_as_it_is() -> None:
    """That is the last on its connection."""
    found = await told(slowly, GET, b"nonsense\r\n\r\n")
    assert found.startswith(b"HTTP/1.1 200 OK\r\n")
    assert found.endswith(b"\r\n\r\nok")
    assert found.count(b"HTTP/1.1") == 1


async def test_an_answer_that_has_begun_is_cut_off_if_its_request_turns_out_to_be_none() -> None:
    """What it would say next could be taken for its end."""
    lost = asyncio.Event()

    async def app(_scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"some", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        lost.set()

    found = await told(app, b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n", b"zz\r\n")
    assert found.endswith(b"\r\n\r\n4\r\nsome\r\n")
    await asyncio.wait_for(lost.wait(), 10)


async def test_nothing_follows_a_refusal() -> None:
    """Also where it does not go out at once, because the client reads slowly."""
    sends = asyncio.Event()

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["path"] == "/big":
            await answer(send, b"w" * 8_000_000)
            return
        while (await receive())["type"] != "http.disconnect":
            pass
        await answer(send, b"too late")
        sends.set()

    async with listening(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(b"GET /big HTTP/1.1\r\nhost: x\r\n\r\n")
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        await asyncio.sleep(0.2)
        writer.write(b"zz\r\n")
        await asyncio.wait_for(sends.wait(), 10)
        found = await asyncio.wait_for(reader.read(), 20)
        assert found.count(b"HTTP/1.1 400 ") == 1
        assert b"too late" not in found
        writer.close()


async def test_a_client_that_leaves_with_requests_behind_is_told_lost() -> None:
    """They are read ahead, so its end is seen."""
    lost = asyncio.Event()

    async def app(scope: dict[str, Any], _receive: Any, _send: Any) -> None:
        scope["extensions"][CLIENT_LOST].add(lost.set)
        await asyncio.sleep(60)

    async with listening(app) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET * 4)
        await asyncio.sleep(0.1)
        writer.close()
        await asyncio.wait_for(lost.wait(), 10)


# What is answered


async def test_a_head_goes_out_before_a_body_that_waits_for_it() -> None:
    """An app may begin its answer before it reads."""

    async def app(_scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": await body_of(receive)})

    async with listening(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(POST)
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).startswith(b"HTTP/1.1 200 ")
        writer.write(b"hello")
        await asyncio.wait_for(reader.readuntil(b"hello"), 10)
        writer.close()


async def test_a_client_that_was_not_asked_for_its_body_is_not_kept() -> None:
    """Whether it sends it all the same, nobody knows; it must not be taken for a request, nor a request for it."""

    async def app(_scope: dict[str, Any], _receive: Any, send: Any) -> None:
        await answer(send, b"no", status=401)

    found = await told(app, POST[:-2] + b"expect: 100-continue\r\n\r\n", LAST)
    assert found.count(b"HTTP/1.1 ") == 1
    assert b"\r\nconnection: close\r\n" in found


async def test_names_of_headers_may_be_in_any_case() -> None:
    """An app's own framing is not added to ours."""

    async def app(_scope: dict[str, Any], _receive: Any, send: Any) -> None:
        headers = [(b"Content-Length", b"2"), (b"Transfer-Encoding", b"chunked"), (b"Connection", b"x, Close")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok"})

    found = await told(app, GET)
    assert found == b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: x, Close\r\n\r\nok"


async def test_an_app_may_begin_again_after_a_head_that_could_not_be() -> None:
    """What the first one said of its length is forgotten."""

    async def app(_scope: dict[str, Any], _receive: Any, send: Any) -> None:
        with contextlib.suppress(RuntimeError):
            await answer(send, b"long", (b"x", b"a\0b"))
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b"err"})

    assert b"\r\n\r\n3\r\nerr\r\n0\r\n\r\nHTTP/1.1 500 " in await told(app, GET + LAST)


async def test_an_answer_without_a_length_comes_in_chunks() -> None:
    """With an end of its own, so that the connection stays."""

    async def app(_scope: dict[str, Any], _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-a", b"1")]})
        for part in (b"some", b"", b"x" * 17):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body"})

    found = await told(app, GET + LAST)
    head = b"HTTP/1.1 200 OK\r\nx-a: 1\r\ntransfer-encoding: chunked\r\n"
    body = b"4\r\nsome\r\n11\r\n" + b"x" * 17 + b"\r\n0\r\n\r\n"
    assert found == head + b"\r\n" + body + head + b"connection: close\r\n\r\n" + body


async def test_a_client_of_the_old_version_gets_no_chunks() -> None:
    """The end of the connection is that of the answer."""

    async def app(_scope: dict[str, Any], _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"some", "more_body": True})
        await send({"type": "http.response.body", "body": b"thing"})

    found = await told(app, b"GET / HTTP/1.0\r\n\r\n")
    assert found == b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nsomething"


@pytest.mark.parametrize(
    ("sent", "status"), [(GET.replace(b"GET", b"HEAD"), 200), (GET, 204), (GET, 304)], ids=["HEAD", "204", "304"]
)
async def test_some_answers_have_no_body(sent: bytes, status: int) -> None:
    """Whatever the app sends; the head is as it would be."""

    async def app(scope: dict[str, Any], _receive: Any, send: Any) -> None:
        await answer(send, b"hello", status=status if scope["path"] == "/" else 200)

    found = await told(app, sent + LAST)
    first, _, rest = found.partition(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 %d " % status)
    assert b"content-length: 5" in first
    assert rest.startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize("size", [10, 200_000])
async def test_answers_of_any_size_come_whole(size: int) -> None:
    """Also those that are larger than what is sent at once."""

    async def app(_scope: dict[str, Any], _receive: Any, send: Any) -> None:
        await answer(send, b"y" * size)

    assert (await told(app, LAST)).endswith(b"\r\n\r\n" + b"y" * size)


async def test_a_header_cannot_end_its_line() -> None:
    """What an app puts into one by mistake makes no header, and no answer, of its own."""

    async def app(_scope: dict[str, Any], _receive: Any, send: Any) -> None:
        await answer(send, b"ok", (b"x-a", b"1\r\nset-cookie: 2"))

    found = await told(app, GET)
    assert found.startswith(b"HTTP/1.1 500 ")
    assert b"cookie" not in found


async def _raises(_scope: dict[str, Any], _receive: Any, _send: Any) -> None:
    raise ValueError("a secret")


async def _says_nothing(_scope: dict[str, Any], _receive: Any, _send: Any) -> None:
    return


async def _too_short(_scope: dict[str, Any], _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
    await send({"type": "http.response.body", "body": b"short"})


async def _body_first(_scope: dict[str, Any], _receive: Any, send: Any) -> None:
    await send({"type": "http.response.body", "body": b"short"})


@pytest.mark.parametrize("app", [_raises, _says_nothing, _too_short, _body_first])
async def test_an_app_that_fails_before_its_answer_goes_out_is_told_as_500(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    """Why stands in the log alone."""
    with caplog.at_level(logging.ERROR):
        found = await told(app, GET)
    assert found.startswith(b"HTTP/1.1 500 ")
    assert b"secret" not in found
    assert [record.name for record in caplog.records] == ["ostler.http1"]


async def test_an_app_that_fails_in_its_answer_ends_the_connection() -> None:
    """The client sees that the answer is not whole."""

    async def app(_scope: dict[str, Any], _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"some", "more_body": True})
        raise ValueError

    assert (await told(app, GET)).endswith(b"\r\n\r\n4\r\nsome\r\n")


async def test_what_fails_after_an_answer_leaves_the_next_one_alone() -> None:
    """It stands in the log."""

    async def app(scope: dict[str, Any], _receive: Any, send: Any) -> None:
        await answer(send, scope["path"].encode())
        if scope["path"] == "/":
            await asyncio.sleep(0.05)
            raise BaseExceptionGroup("late", [ValueError()])
        await asyncio.sleep(0.2)

    async def slow_last(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["path"] == "/last":
            await asyncio.sleep(0.2)
        await app(scope, receive, send)

    assert (await told(slow_last, GET + LAST)).endswith(b"\r\n\r\n/last")


async def test_whatever_comes_out_of_an_app_ends_its_request() -> None:
    """Nothing else would end it."""

    async def app(_scope: dict[str, Any], _receive: Any, _send: Any) -> None:
        raise BaseExceptionGroup("all", [asyncio.CancelledError()])

    assert (await told(app, GET)).startswith(b"HTTP/1.1 500 ")


# How much is read and written


async def test_a_body_that_the_app_does_not_take_is_not_read_into_memory() -> None:
    """The client can send so much and no more until the app goes on; then it gets everything."""
    may_read = asyncio.Event()

    async def app(_scope: dict[str, Any], receive: Any, send: Any) -> None:
        await may_read.wait()
        await answer(send, str(len(await body_of(receive))).encode())

    size = 50_000_000
    async with listening(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % size)
        writer.write(b"z" * size)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(writer.drain(), 0.5)
        may_read.set()
        await asyncio.wait_for(reader.readuntil(b"50000000"), 20)
        writer.close()


async def test_a_body_that_was_not_wanted_does_not_stop_the_next_request() -> None:
    """An app may answer before it has read it."""

    async def app(scope: dict[str, Any], _receive: Any, send: Any) -> None:
        await answer(send, scope["path"].encode())

    size = 300_000
    head = b"POST /first HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % size
    found = await told(app, head, b"z" * size, LAST)
    assert b"\r\n\r\n/first" in found
    assert found.endswith(b"\r\n\r\n/last")


async def test_an_app_waits_for_a_client_that_takes_nothing() -> None:
    """So much is written ahead and no more; the rest follows as the client takes it."""
    sent, parts = 0, 400

    async def app(_scope: dict[str, Any], _receive: Any, send: Any) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(parts):
            await send({"type": "http.response.body", "body": b"w" * 65536, "more_body": True})
            sent += 1
        await send({"type": "http.response.body"})

    async with listening(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(LAST)
        await asyncio.sleep(0.5)
        assert 0 < sent < parts
        found = await asyncio.wait_for(reader.read(), 20)
        assert found.count(b"w") == parts * 65536
        writer.close()


# When it is closed


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HTTP/1.1\r\nhost: x\r\nx-slow:", b"G"], ids=["nothing", "half", "a byte"]
)
async def test_a_connection_without_a_whole_head_is_closed(sent: bytes) -> None:
    """Whether it sent nothing or a part."""
    assert await told(slowly, sent) == b""


async def test_requests_on_one_connection_are_served_however_long_they_take() -> None:
    """The limit is for the head alone, and not for the time between two requests."""
    async with listening(slowly) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            writer.write(GET)
            found = await asyncio.wait_for(reader.readuntil(b"ok"), 10)
            assert found.startswith(b"HTTP/1.1 200")
            await asyncio.sleep(0.6)
        writer.close()


async def trickle(writer: asyncio.StreamWriter) -> None:
    """A head that never ends, byte by byte, and never idle."""
    with contextlib.suppress(ConnectionError):
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("when", ["with them", "while they go out", "after them"])
async def test_a_head_behind_other_requests_must_come_whole_once_they_are_answered(when: str) -> None:
    """Its time begins with the last answer's end, however long the answers took, and what comes does not prolong it."""
    begun = b"GET / HTTP/1.1\r\nx-slow:"
    async with listening(slowly) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET + GET + begun if when == "with them" else GET + GET)
        await asyncio.sleep(0.1)
        if when == "while they go out":
            writer.write(begun)
        for _ in range(2):
            found = await asyncio.wait_for(reader.readuntil(b"ok"), 10)
            assert found.startswith(b"HTTP/1.1 200")
        if when == "after them":
            writer.write(begun)
        slow = asyncio.create_task(trickle(writer))
        assert await asyncio.wait_for(reader.read(), 10) == b""
        slow.cancel()
        writer.close()


@pytest.mark.parametrize("behind", [1, 2], ids=["one answer", "two answers"])
async def test_a_head_that_ends_in_its_time_is_served_whatever_it_waited_for(behind: int) -> None:
    """It has begun with the first request, and ends after the last answer."""
    async with listening(slowly) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET * behind + GET[:8])
        for _ in range(behind):
            await asyncio.wait_for(reader.readuntil(b"ok"), 10)
        writer.write(GET[8:])
        found = await asyncio.wait_for(reader.readuntil(b"ok"), 10)
        assert found.startswith(b"HTTP/1.1 200")
        writer.close()


@pytest.mark.parametrize(
    ("length", "then"), [(b"0", b"\r\n"), (b"9", b"half"), (b"4", b"rest")], ids=["a blank line", "half", "a rest"]
)
async def test_what_begins_no_request_does_not_keep_a_connection(length: bytes, then: bytes) -> None:
    """As little as silence does: a request must follow an answer, not a rest of the body that was not waited for."""
    async with listening(slowly, idle_s=1) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: " + length + b"\r\n\r\n")
        await asyncio.wait_for(reader.readuntil(b"ok"), 10)
        writer.write(then)
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()


async def test_a_lost_connection_is_told_to_who_wants_to_know() -> None:
    """At once, for each request that is under way on it, and not to those that are over."""
    heard: list[str] = []
    scopes: list[dict[str, Any]] = []

    async def slow(scope: dict[str, Any], receive: Any, _send: object) -> None:
        scopes.append(scope)
        lost = scope["extensions"][CLIENT_LOST]
        lost.add(over := lambda: heard.append("over"))
        lost.discard(over)
        lost.add(lambda: heard.append("lost"))
        await receive()
        heard.append((await receive())["type"])

    async with listening(slow) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET)
        await until(lambda: bool(scopes))
        await asyncio.sleep(0.05)
        assert not heard
        writer.close()
        await until(lambda: heard == ["lost", "http.disconnect"])


async def test_a_server_that_stops_answers_what_is_under_way() -> None:
    """And closes then, and at once what idles."""
    async with listening(slowly) as port:
        idle, _idle = await asyncio.open_connection("127.0.0.1", port)
        _idle.write(GET)
        await asyncio.wait_for(idle.readuntil(b"ok"), 10)
        busy, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET)
        await asyncio.sleep(0.05)
    assert await idle.read() == b""
    found = await busy.read()
    assert found.endswith(b"\r\n\r\nok")
    assert b"\r\nconnection: close\r\n" in found


async def test_a_body_under_way_still_comes_when_the_server_stops() -> None:
    """Its request is answered, too."""
    async with listening(echo) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(POST + b"he")
        await asyncio.sleep(0.1)

        async def rest() -> None:
            await asyncio.sleep(0.2)
            writer.write(b"llo")

        late = asyncio.create_task(rest())
    await late
    assert (await reader.read()).endswith(b"POST / hello")


def test_the_gateway_knows_the_extension_by_the_same_name() -> None:
    """It cannot import it from here, nor this from there."""
    assert CLIENT_LOST == gateway.leaving.CLIENT_LOST
