"""An engine's answer on its way to the client, where the engine answers oddly or breaks off within an event."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from gateway.answer import Answer
from gateway.capture import Capture
from gateway.errors import EngineError, InvalidRequest
from gateway.relay import relay, whole
from gateway.usage import Usage
from tests.conftest import RunningGateway
from tests.fakes.engine import FakeEngine
from tests.fakes.scripted import answering
from tests.gateway.engines.forwarding import STREAM, before, post
from tests.gateway.engines.test_stopping import PATHS
from tests.gateway.exchanges import an_exchange

EVENT = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
USAGE_EVENT = b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\n'
HALF = b'data: {"id":"c","cho'
WHOLE = b'{"id":"c","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}'


def streams(*pieces: bytes, ends: bool) -> Callable[..., Any]:
    """How an engine streams these pieces, and ends the answer in order or breaks off."""

    async def stream(request: web.Request, _model: str, _body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
            await asyncio.sleep(0.01)
        if not ends:
            assert request.transport is not None
            request.transport.close()
        return response

    return stream


async def streamed(gateway: RunningGateway, path: str, **fields: Any) -> bytes:
    """What a client gets of a stream."""
    body = {"model": "support", "stream": True, "messages": [], "prompt": "x", "input": "x", **fields}
    response = await gateway.http.post(path, json=body)
    assert response.status_code == 200
    return response.content


def set_stream(engine: FakeEngine, *pieces: bytes, ends: bool) -> None:
    """Have it stream these pieces."""
    engine._stream = streams(*pieces, ends=ends)  # type: ignore[method-assign]


each_path = pytest.mark.parametrize("path", PATHS)
each_usage = pytest.mark.parametrize("fields", [{}, {"stream_options": {"include_usage": True}}], ids=["", "usage"])


@each_path
@each_usage
async def test_an_engine_that_breaks_off_within_an_event_leaves_no_half_of_it(
    two: RunningGateway, path: str, fields: dict[str, Any]
) -> None:
    """The client gets the whole events before it, and then ours, which it can read."""
    crlf = EVENT.replace(b"\n", b"\r\n")
    set_stream(two.engine, EVENT, EVENT + HALF[:5], HALF[5:] + b"ices", b"\n", ends=False)
    found = await streamed(two, path, **fields)
    assert found.startswith(EVENT + EVENT)
    last = found.removeprefix(EVENT + EVENT)
    assert last.startswith(b"event: error\ndata: {" if path == "/v1/messages" else b'data: {"error":')
    assert last.count(b"data:") == 1
    set_stream(two.engine, crlf, HALF, ends=False)
    assert (await streamed(two, path, **fields)) == crlf + last


@each_path
@each_usage
async def test_what_is_left_at_a_streams_end_goes_out(two: RunningGateway, path: str, fields: dict[str, Any]) -> None:
    """Though no empty line follows it."""
    set_stream(two.engine, EVENT, b"data: [DO", b"NE]\n", ends=True)
    assert await streamed(two, path, **fields) == EVENT + b"data: [DONE]\n"


async def test_the_usage_that_nobody_asked_for_is_hidden_whatever_the_lines_end_with(two: RunningGateway) -> None:
    """An engine behind another server may write them in HTTP's way."""
    first, usage, done = (event.replace(b"\n", b"\r\n") for event in (EVENT, USAGE_EVENT, b"data: [DONE]\n\n"))
    set_stream(two.engine, first + usage[:30], usage[30:] + done, ends=True)
    assert await streamed(two, PATHS[0]) == first + done
    assert await streamed(two, PATHS[0], stream_options={"include_usage": True}) == first + usage + done


class Client:
    """What a client gets; it may go away as the body is sent to it."""

    def __init__(self, *, leaves: bool = False) -> None:
        self.got: list[Any] = []
        self._leaves = leaves

    async def send(self, message: Any) -> None:
        """Take a message."""
        self.got.append(message)
        if self._leaves and message["type"] == "http.response.body":
            raise asyncio.CancelledError

    @property
    def body(self) -> bytes:
        """All that came."""
        return b"".join(message.get("body", b"") for message in self.got)


def said(status: str, content_type: bytes, content: bytes) -> bytes:
    """An engine's answer."""
    head = b"HTTP/1.1 %s\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n"
    return head % (status.encode(), content_type, len(content)) + content


REFUSED = b'{"error":{"message":"no such tool","param":"tools"}}'


@pytest.mark.parametrize("read_before", [False, True], ids=["", "read before"])
@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [("400 Bad", InvalidRequest, "no such tool"), ("500 Broken", EngineError, "the engine failed on this request")],
)
async def test_an_error_that_calls_itself_a_stream_is_told_as_every_other(
    read_before: bool, status: str, kind: type[Exception], message: str
) -> None:
    """In the envelope, with its status, and though it was looked at before."""
    client = Client()
    async with before(answering(said(status, b"text/event-stream", REFUSED))) as (engine, _):
        with await post(engine) as reply:
            if read_before:
                await whole(an_exchange(), reply)
            with pytest.raises(kind, match=message):
                await relay(an_exchange(), reply, keep_usage=True, send=client.send)
    assert client.got == []


@pytest.mark.parametrize("status", ["204 No Content", "205 Reset Content", "304 Not Modified"])
@pytest.mark.parametrize("content_type", [b"application/json", b"text/event-stream"])
async def test_an_answer_without_content_is_none(status: str, content_type: bytes) -> None:
    """No engine answers so; a client would wait for what cannot come, or take it for an answer."""
    client = Client()
    async with before(answering(said(status, content_type, b""))) as (engine, _):
        with await post(engine) as reply, pytest.raises(EngineError, match=f"no answer but status {status[:3]}"):
            await relay(an_exchange(), reply, keep_usage=True, send=client.send)
    assert client.got == []


async def test_a_stream_is_known_by_its_type_in_any_case() -> None:
    """As all media types are."""
    answer = STREAM.replace(b"text/event-stream", b"Text/Event-Stream; Charset=UTF-8") + b"3\r\na\n\n\r\n0\r\n\r\n"
    client, exchange = Client(), an_exchange()
    async with before(answering(answer)) as (engine, _):
        with await post(engine) as reply:
            await relay(exchange, reply, keep_usage=True, send=client.send)
    assert (exchange.streamed, client.body) == (True, b"a\n\n")


async def test_an_answer_goes_out_before_it_is_read() -> None:
    """Nobody waits until its tokens are counted."""
    exchange, told = an_exchange(), []

    async def send(message: Any) -> None:
        told.append((message["type"], exchange.answer == Answer()))

    async with before(answering(said("200 OK", b"application/json", WHOLE))) as (engine, _):
        with await post(engine) as reply:
            await relay(exchange, reply, keep_usage=True, send=send)
    assert told == [("http.response.start", True), ("http.response.body", True)]
    assert exchange.answer.usage == Usage(7, 3)


async def test_a_client_that_leaves_as_its_answer_is_sent_pays_for_it() -> None:
    """The engine has made all of it; and it is kept, if it was drawn for that."""
    exchange = an_exchange(capture=Capture(b"prompt", 1000, lambda: None))
    async with before(answering(said("200 OK", b"application/json", WHOLE))) as (engine, _):
        with await post(engine) as reply, pytest.raises(asyncio.CancelledError):
            await relay(exchange, reply, keep_usage=True, send=Client(leaves=True).send)
    assert exchange.tokens == 10
    assert exchange.answer.completion_id == "c"
    assert exchange.capture is not None
    assert exchange.capture.text is not None
    assert exchange.capture.text.answer == WHOLE
