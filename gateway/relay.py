"""The engine's answer on its way to the client: bytes as they come, and what breaks told as an error."""

import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from gateway.answer import StreamedAnswer, read_whole
from gateway.engines.connections import Reply
from gateway.engines.engine import explain
from gateway.engines.failures import EngineDown
from gateway.errors import (
    DeadlineExceeded,
    EngineError,
    GatewayError,
    Headers,
    InvalidRequest,
    envelope,
    error_headers,
)
from gateway.events import WholeEvents
from gateway.exchange import Exchange
from gateway.usage import UsageFilter
from registry.errors import RegistryError

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
_WITHOUT_CONTENT = frozenset({204, 205, 304})


def noting_waits(send: Send, exchange: Exchange) -> Send:
    """`send`, which notes how long the client takes over it: that is a wait, and may be too long a one."""
    waits = exchange.waits

    async def send_and_wait(message: Message) -> None:
        began = exchange.sending_since = time.monotonic()
        try:
            await send(message)
        finally:
            exchange.sending_since = None
            waits.seconds += time.monotonic() - began

    return send_and_wait


async def relay(exchange: Exchange, answer: Reply, keep_usage: bool, send: Send) -> None:
    """Give an engine's answer to the client.

    Raises:
        InvalidRequest, EngineError: the engine refused the request, or failed on it.
        EngineDown: it broke off before the client got a byte.
    """
    if answer.status >= 400:  # whatever its type
        raise _refused(exchange, answer.status, await whole(exchange, answer))
    if answer.status in _WITHOUT_CONTENT:
        raise EngineError(f"the engine gave no answer but status {answer.status}", retry_after_s=1.0)
    if answer.content_type.lower().startswith("text/event-stream"):
        await _relay_stream(exchange, answer, keep_usage, send)
        return
    content = await whole(exchange, answer)
    content_type = (answer.content_type or "application/json").encode("latin-1")
    exchange.status = answer.status
    headers = [(b"content-type", content_type), *exchange.prepared]
    try:
        await _send_whole(exchange, answer.status, headers, content, send)
    finally:  # not before, for nobody needs to wait for it; its tokens were spent even if the client goes away here
        exchange.answer = read_whole(exchange.path, content)
        if exchange.capture is not None:
            exchange.capture.keep(content)


async def whole(exchange: Exchange, answer: Reply) -> bytes:
    """All of an answer; read again it is the same.

    Raises:
        EngineDown
    """
    with exchange.waits:
        content = await answer.read()
    exchange.first_byte = time.monotonic()
    return content


def _refused(exchange: Exchange, status: int, content: bytes) -> GatewayError:
    """The engine's own refusal, in our envelope: a 4xx is about the request, anything else about the engine."""
    if 400 <= status < 500:
        message, param = explain(content)
        error = InvalidRequest(message, param=param)
        error.status = status
        return error
    failed = EngineError("the engine failed on this request", retry_after_s=1.0)
    failed.retry = exchange.sends == 1  # if two replicas fail on it, a third try is of no use
    return failed


async def _relay_stream(exchange: Exchange, answer: Reply, keep_usage: bool, send: Send) -> None:
    """Pass whole events on as they come; what breaks after the first byte is told as a last event."""
    headers = [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-cache"),
        (b"x-accel-buffering", b"no"),
        *exchange.prepared,
    ]
    events = WholeEvents() if keep_usage else UsageFilter()
    seen = StreamedAnswer(exchange.path, exchange.body_bytes)
    chunk = await _next(exchange, answer)
    exchange.first_byte = time.monotonic()
    exchange.answered = exchange.streamed = True
    exchange.status = answer.status
    exchange.answer = seen
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    try:
        while chunk:
            seen.feed(chunk)
            if exchange.capture is not None:
                exchange.capture.keep(chunk)
            if visible := events.feed(chunk):
                await send({"type": "http.response.body", "body": visible, "more_body": True})
            chunk = await _next(exchange, answer)
    except EngineDown:
        await _end_broken_stream(exchange, send)
        return
    seen.end()
    await send({"type": "http.response.body", "body": events.rest(), "more_body": False})


async def _next(exchange: Exchange, answer: Reply) -> bytes:
    """The next bytes of a stream, as many as are there; none at its end."""
    with exchange.waits:
        return await answer.next()


async def cut_off(exchange: Exchange, error: GatewayError, send: Send) -> None:
    """End a request before its time: with an error event if it streams, else with an error."""
    exchange.failed(error)
    if not exchange.answered:
        await send_error(exchange, error, send)
    elif exchange.streamed:
        await _send_last_event(exchange, error, send)


async def _end_broken_stream(exchange: Exchange, send: Send) -> None:
    error: GatewayError
    if exchange.left_s <= 0:
        error = DeadlineExceeded("the request's deadline came before the answer's end")
    else:
        error = EngineError("the engine broke off in the middle of the answer")
    await cut_off(exchange, error, send)


async def _send_last_event(exchange: Exchange, error: GatewayError, send: Send) -> None:
    kind = b"event: error\n" if exchange.path == "/v1/messages" else b""  # Anthropic's events have names
    event = kind + b"data: " + envelope(error) + b"\n\n"
    await send({"type": "http.response.body", "body": event, "more_body": False})


async def send_error(exchange: Exchange, error: GatewayError | RegistryError, send: Send) -> None:
    """Tell the client why it gets no answer."""
    headers = [*error_headers(error), *exchange.headers()]
    await _send_whole(exchange, error.status, headers, envelope(error), send)


async def _send_whole(exchange: Exchange, status: int, headers: Headers, content: bytes, send: Send) -> None:
    exchange.answered = True
    length = (b"content-length", str(len(content)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": content, "more_body": False})
