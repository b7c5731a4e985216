"""The way of a client's request: key, body, model, version, engine, and the answer as it comes.

Generic over the engine's endpoints that carry `model`. A raw ASGI handler, because this is the hot path; every other
route is an ordinary Litestar handler.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp

from gateway.auth import authenticate
from gateway.body import Body, ClientGone, decode, read_bytes
from gateway.directory import Directory
from gateway.engine import EngineDown, EngineRefused, explain
from gateway.errors import (
    BodyTooSlow,
    DeadlineExceeded,
    EngineError,
    EngineUnavailable,
    GatewayError,
    Headers,
    InvalidRequest,
    MethodNotAllowed,
    VersionNotServable,
    envelope,
    error_headers,
)
from gateway.exchange import Exchange, request_id
from gateway.replica import Replica
from gateway.routing import Route, resolve
from gateway.settings import GatewaySettings
from gateway.usage import TAIL_BYTES, UsageFilter, find_usage
from monitors.metrics import Metrics
from monitors.record import RequestHook
from registry.errors import RegistryError

log = logging.getLogger(__name__)

PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
_PATHS_WITH_STREAM_OPTIONS = frozenset({"/v1/chat/completions", "/v1/completions"})
_FORWARDED_HEADERS = ("traceparent", "tracestate", "anthropic-version", "anthropic-beta")
_SENDS_THAT_MAY_FAIL = 2
_RETRY_PAUSE_S = 0.05
_GRACE_S = 1.0
_RETRY_AFTER_S = 5.0


class Inference:
    """Serves the inference endpoints; an ASGI app.

    Args:
        hooks: hear of every request when it is over.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        directory: Directory,
        replica: Replica,
        metrics: Metrics,
        hooks: Sequence[RequestHook],
    ) -> None:
        self._settings = settings
        self._directory = directory
        self._replica = replica
        self._metrics = metrics
        self._hooks = hooks
        self._bases = frozenset({settings.base})

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request, whatever its end."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        exchange = Exchange(
            path=scope["path"],
            request_id=request_id(headers.get("x-request-id")),
            deadline=time.monotonic() + self._settings.request_timeout_s,
            hooks=self._hooks,
        )
        self._metrics.in_flight.inc()
        try:
            await self._serve(exchange, scope["method"], headers, receive, send)
        except (GatewayError, RegistryError) as error:
            exchange.failed(error)
            if not exchange.answered:
                await _send_error(exchange, error, send)
        except ClientGone:
            exchange.error = "client_gone"
        except Exception as error:
            log.error("request %s failed inside the gateway", exchange.request_id, exc_info=error)
            if exchange.answered:
                raise  # the answer has begun; the server closes the connection
            failed = GatewayError("the gateway failed; the request's id finds it in the log")
            exchange.failed(failed)
            await _send_error(exchange, failed, send)
        finally:
            self._metrics.in_flight.dec()
            exchange.finish()

    async def _serve(
        self, exchange: Exchange, method: str, headers: Mapping[str, str], receive: Any, send: Any
    ) -> None:
        if method != "POST":
            raise MethodNotAllowed(f"{exchange.path} takes POST, not {method}")
        exchange.key = authenticate(self._directory.catalog, headers)
        raw = await self._read(exchange, headers, receive)
        body = decode(raw)
        exchange.route = resolve(self._directory.catalog, self._bases, exchange.key, body.model)
        keep_usage = True
        if body.stream and exchange.path in _PATHS_WITH_STREAM_OPTIONS:
            keep_usage = body.request_usage()
        work = self._forward(exchange, exchange.route, body, keep_usage, headers, send)
        try:
            # Later than the engine's own time-out: this one ends the wait for a client that does not read.
            async with asyncio.timeout(exchange.left_s + _GRACE_S):
                await _while_client_waits(receive, work)
        except TimeoutError:
            raise DeadlineExceeded("the request's deadline passed") from None

    async def _read(self, exchange: Exchange, headers: Mapping[str, str], receive: Any) -> bytes:
        try:
            async with asyncio.timeout(exchange.left_s):
                return await read_bytes(receive, headers.get("content-length"), self._settings.max_body_bytes)
        except TimeoutError:
            raise BodyTooSlow("the body did not come within the request's deadline") from None

    async def _forward(
        self,
        exchange: Exchange,
        route: Route,
        body: Body,
        keep_usage: bool,
        headers: Mapping[str, str],
        send: Any,
    ) -> None:
        """Send the request to the engine until one answer begins, then relay that."""
        data = body.encode_for(route.model)
        onward = _onward_headers(exchange, headers)
        sends = 0
        while True:
            async with self._lease(exchange, route):
                try:
                    answer = await self._replica.engine.forward(
                        exchange.path, data, onward, max(0.001, exchange.left_s)
                    )
                except EngineDown as down:
                    sends += down.sent
                    await self._after_no_answer(exchange, down, sends)
                    continue
                async with answer:
                    try:
                        if not await self._is_the_engines_fault(route, answer.status):
                            await _relay(exchange, answer, keep_usage, send)
                            return
                    except EngineDown:
                        # Only a whole answer that never came ends here; a stream that broke was told to the client.
                        log.info("request %s is sent again: the engine broke off", exchange.request_id)
                    sends += 1
                    await self._after_no_answer(exchange, EngineDown(sent=True), sends)

    async def _is_the_engines_fault(self, route: Route, status: int) -> bool:
        """Whether an answer's status tells of an engine that dies or has restarted, not of this request.

        Raises:
            EngineDown
        """
        if status == 404 and route.version is not None:
            try:
                return await self._replica.has_lost(route.version)
            except EngineRefused:
                return False
        return status >= 500 and not await self._replica.engine.is_healthy()

    @contextlib.asynccontextmanager
    async def _lease(self, exchange: Exchange, route: Route) -> Any:
        async with contextlib.AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(self._replica.lease(route.version, exchange.deadline))
            except VersionNotServable as refused:
                # To this client it is an engine that cannot answer now, not a conflict of its own making.
                raise EngineUnavailable(
                    refused.message, code="version_not_servable", retry_after_s=_RETRY_AFTER_S
                ) from refused
            yield

    async def _after_no_answer(self, exchange: Exchange, down: EngineDown, sends: int) -> None:
        """Go on to another try, unless the time is over or the request itself may be what breaks the engine.

        Raises:
            DeadlineExceeded, EngineUnavailable
        """
        if exchange.left_s <= _RETRY_PAUSE_S:
            raise DeadlineExceeded("the engine did not answer within the request's deadline", retry_after_s=1.0)
        if sends >= _SENDS_THAT_MAY_FAIL:
            raise EngineUnavailable("the engine broke off before it answered", retry_after_s=_RETRY_AFTER_S)
        if down.sent:
            self._replica.suspect()
            await asyncio.sleep(_RETRY_PAUSE_S)
        else:
            self._replica.refused_connection()


def _onward_headers(exchange: Exchange, headers: Mapping[str, str]) -> dict[str, str]:
    onward = {
        "content-type": "application/json",
        "accept-encoding": "identity",  # what comes is passed on as it is
        "x-request-id": exchange.request_id,
    }
    onward.update({name: headers[name] for name in _FORWARDED_HEADERS if name in headers})
    return onward


async def _while_client_waits(receive: Any, work: Any) -> None:
    """Run `work`, and cancel it, and with it the engine's part, if the client goes away first.

    Raises:
        ClientGone
    """
    serving = asyncio.ensure_future(work)
    waiting = asyncio.ensure_future(_until_disconnect(receive))
    try:
        await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
            return
        raise ClientGone
    finally:
        waiting.cancel()
        if not serving.done():
            serving.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await serving


async def _until_disconnect(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _relay(exchange: Exchange, answer: aiohttp.ClientResponse, keep_usage: bool, send: Any) -> None:
    if answer.content_type == "text/event-stream":
        await _relay_stream(exchange, answer, keep_usage, send)
    elif answer.status >= 400:
        raise _refused(answer.status, await _whole(exchange, answer))
    else:
        content = await _whole(exchange, answer)
        exchange.usage = find_usage(content)
        content_type = answer.headers.get("content-type", "application/json").encode()
        exchange.status = answer.status
        headers = [(b"content-type", content_type), *exchange.headers()]
        await _send_whole(exchange, answer.status, headers, content, send)


async def _whole(exchange: Exchange, answer: aiohttp.ClientResponse) -> bytes:
    try:
        content = await answer.read()
    except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
        raise EngineDown(sent=True) from error
    exchange.first_byte = time.monotonic()
    return content


def _refused(status: int, content: bytes) -> GatewayError:
    """The engine's own refusal, in our envelope: a 4xx is about the request, anything else about the engine."""
    if 400 <= status < 500:
        message, param = explain(content)
        error = InvalidRequest(message, param=param)
        error.status = status
        return error
    return EngineError("the engine failed on this request", retry_after_s=1.0)


async def _relay_stream(exchange: Exchange, answer: aiohttp.ClientResponse, keep_usage: bool, send: Any) -> None:
    """Pass the events on as they come; what breaks after the first byte is told as a last event."""
    exchange.streamed, exchange.status = True, answer.status
    headers = [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-cache"),
        (b"x-accel-buffering", b"no"),
        *exchange.headers(),
    ]
    hide = None if keep_usage else UsageFilter()
    tail = b""
    try:
        first = await answer.content.readany()
    except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
        raise EngineDown(sent=True) from error
    exchange.first_byte = time.monotonic()
    exchange.answered = True
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    chunk = first
    try:
        while chunk:
            tail = (tail + chunk)[-TAIL_BYTES:]
            if visible := chunk if hide is None else hide.feed(chunk):
                await send({"type": "http.response.body", "body": visible, "more_body": True})
            chunk = await answer.content.readany()
    except (aiohttp.ClientError, TimeoutError, ConnectionError):
        await _end_broken_stream(exchange, send)
        return
    exchange.usage = find_usage(tail)
    await send({"type": "http.response.body", "body": hide.rest() if hide else b"", "more_body": False})


async def _end_broken_stream(exchange: Exchange, send: Any) -> None:
    error: GatewayError
    if exchange.left_s <= 0:
        error = DeadlineExceeded("the request's deadline came before the answer's end")
    else:
        error = EngineError("the engine broke off in the middle of the answer")
    exchange.failed(error)
    kind = b"event: error\n" if exchange.path == "/v1/messages" else b""  # Anthropic's events have names
    event = kind + b"data: " + envelope(error) + b"\n\n"
    await send({"type": "http.response.body", "body": event, "more_body": False})


async def _send_error(exchange: Exchange, error: GatewayError | RegistryError, send: Any) -> None:
    headers = [*error_headers(error), *exchange.headers()]
    await _send_whole(exchange, error.status, headers, envelope(error), send)


async def _send_whole(exchange: Exchange, status: int, headers: Headers, content: bytes, send: Any) -> None:
    exchange.answered = True
    length = (b"content-length", str(len(content)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": content, "more_body": False})
