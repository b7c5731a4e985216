"""The way of a client's request: key, limits, body, model, version, replica, and the answer as it comes.

Generic over the engine's endpoints that carry `model`. A raw ASGI handler, because this is the hot path; every other
route is an ordinary Litestar handler. `gateway.dispatch` has the second half of the way: from there on.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Sequence
from typing import Any

from gateway.auth import RawHeaders, authenticate, require
from gateway.body import Body, ClientGone, decode, read_bytes
from gateway.capture import Capture, is_drawn
from gateway.directory import Directory
from gateway.dispatch import Dispatcher, Outbound
from gateway.engines.fleet import Fleet
from gateway.errors import (
    BudgetExceeded,
    EngineUnavailable,
    Forbidden,
    GatewayError,
    GatewayStopping,
    InvalidRequest,
    MethodNotAllowed,
    RateLimited,
)
from gateway.exchange import Exchange, Interruptible, request_id
from gateway.leaving import Leaving
from gateway.limits.admission import Admission
from gateway.limits.limiter import Limiter
from gateway.overdue import GRACE_S, Overdue
from gateway.pricing import Prices
from gateway.priority import LowPriority
from gateway.relay import cut_off, noting_waits, send_error
from gateway.routing import Route, resolve, resolve_evaluation
from gateway.settings import GatewaySettings
from gateway.shadow import Shadower
from gateway.tracing import Tracer
from monitors.metrics import Metrics
from monitors.record import RequestHook
from registry.catalog import ApiKey, Scope
from registry.errors import RegistryError

log = logging.getLogger(__name__)

PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
TIMEOUT_HEADER = "x-ostler-timeout-s"
SESSION_HEADER = "x-session-id"
PURPOSE_HEADER = "x-ostler-purpose"
EVALUATION = "evaluation"
_TIMEOUT, _SESSION, _PURPOSE = (name.encode() for name in (TIMEOUT_HEADER, SESSION_HEADER, PURPOSE_HEADER))
_PATHS_WITH_STREAM_OPTIONS = frozenset({"/v1/chat/completions", "/v1/completions"})
_FORWARDED_HEADERS = {
    name.encode(): name for name in ("traceparent", "tracestate", "anthropic-version", "anthropic-beta")
}


class Inference:
    """Serves the inference endpoints; an ASGI app.

    Args:
        hooks: hear of every request when it is over.
        overdue: ends requests that take too long.
        low_priority: what evaluations ask the engines for.
        tracer: None if there are no traces.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        directory: Directory,
        fleet: Fleet,
        limiter: Limiter,
        admission: Admission,
        shadower: Shadower,
        metrics: Metrics,
        prices: Prices,
        hooks: Sequence[RequestHook],
        low_priority: LowPriority,
        overdue: Overdue,
        tracer: Tracer | None,
    ) -> None:
        self._settings = settings
        self._directory = directory
        self._fleet = fleet
        self._limiter = limiter
        self._shadower = shadower
        self._metrics = metrics
        self._hooks = hooks
        self._too_large = metrics.captures_dropped.labels("too_large")
        self._bases = frozenset(pool.base for pool in settings.all_pools)
        self._dispatcher = Dispatcher(
            fleet,
            admission,
            metrics,
            self._resolve,
            retry_ratio=settings.retry_ratio,
            retry_reserve=float(settings.max_in_flight),
            low_priority=low_priority,
        )
        self._low_priority = low_priority
        self._overdue = overdue
        self._tracer = tracer
        self._prices = prices

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request, whatever its end."""
        headers: RawHeaders = dict(scope["headers"])
        exchange = Exchange(
            path=scope["path"],
            request_id=request_id(_text(headers.get(b"x-request-id"))),
            deadline=time.monotonic() + self._settings.request_timeout_s,
            hooks=self._hooks,
            prices=self._prices,
        )
        if self._tracer is not None:
            words = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers.items()}
            exchange.trace = self._tracer.begin(scope["method"], exchange.path, exchange.started_at, words)
        leaving = Leaving(scope, receive, exchange)
        self._overdue.add(exchange)
        try:
            with Interruptible(exchange):
                await self._serve(exchange, scope["method"], headers, receive, send, leaving)
        except (GatewayError, RegistryError) as error:
            exchange.failed(error)
            if not exchange.answered:
                await send_error(exchange, error, send)
        except ClientGone:
            exchange.error = "client_gone"
        except asyncio.CancelledError:
            # The server ends what outlasts its drain, and waits a moment for what is said here.
            await cut_off(exchange, GatewayStopping("this gateway is stopping", retry_after_s=1.0), send)
        except Exception as error:
            log.error("request %s failed inside the gateway", exchange.request_id, exc_info=error)
            if exchange.answered:
                raise  # the answer has begun; the server closes the connection
            failed = GatewayError("the gateway failed; the request's id finds it in the log")
            exchange.failed(failed)
            await send_error(exchange, failed, send)
        finally:
            self._overdue.discard(exchange)
            leaving.stop()
            if exchange.grant is not None:
                exchange.grant.release(exchange.tokens)
            exchange.finish()

    async def _serve(
        self,
        exchange: Exchange,
        method: str,
        headers: RawHeaders,
        receive: Any,
        send: Any,
        leaving: Leaving,
    ) -> None:
        if method != "POST":
            raise MethodNotAllowed(f"{exchange.path} takes POST, not {method}", allow="POST")
        exchange.key = authenticate(self._directory.catalog, headers)
        require(exchange.key, Scope.INFERENCE)
        exchange.deadline = min(exchange.deadline, exchange.began + _timeout_s(headers))
        exchange.evaluates = _evaluates(headers, exchange.key)
        await self._admit(exchange)
        raw = await self._read(exchange, headers, receive)
        exchange.body_bytes = len(raw)
        body = decode(raw)
        body.check_priority()
        _take_names(exchange, body, headers)
        exchange.route = self._resolve(exchange, body.model)
        if is_drawn(exchange.request_id, exchange.route.capture):
            exchange.capture = Capture(raw, self._settings.capture_bytes, self._too_large.inc)
        keep_usage = True
        if body.stream and exchange.path in _PATHS_WITH_STREAM_OPTIONS:
            keep_usage = body.request_usage()
        onward = _onward_headers(exchange, headers)
        if exchange.evaluates:
            onward.update(self._low_priority.headers)
        leaving.follow()
        await self._dispatcher.answer(Outbound(exchange, body, onward, keep_usage, noting_waits(send, exchange)))
        self._shadower.offer(exchange, body)

    async def _admit(self, exchange: Exchange) -> None:
        assert exchange.key is not None
        try:
            exchange.grant = await self._limiter.admit(exchange.key, exchange.request_id, exchange.left_s + GRACE_S)
        except (RateLimited, BudgetExceeded) as limited:
            self._metrics.rejected.labels(limited.code or "rate_limit").inc()
            raise

    def _resolve(self, exchange: Exchange, model: str) -> Route:
        assert exchange.key is not None
        catalog, allows = self._directory.catalog, self._fleet.breakers.allows
        if exchange.evaluates:
            return resolve_evaluation(catalog, self._bases, exchange.key, model, allows)
        try:
            return resolve(catalog, self._bases, exchange.key, model, exchange.session, allows)
        except EngineUnavailable:  # what is left alone has failed on this request, too, and the log must say so
            exchange.route = resolve(catalog, self._bases, exchange.key, model, exchange.session)
            raise

    async def _read(self, exchange: Exchange, headers: RawHeaders, receive: Any) -> bytes:
        exchange.body_due = min(exchange.deadline, time.monotonic() + self._settings.body_timeout_s)
        with exchange.waits:
            raw = await read_bytes(receive, headers.get(b"content-length"), self._settings.max_body_bytes)
        exchange.body_due = None
        return raw


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")


def _evaluates(headers: RawHeaders, key: ApiKey) -> bool:
    """Whether it is one of the monitor's own requests, which are counted apart.

    Raises:
        InvalidRequest: it has another purpose, and there is none.
        Forbidden: the key is not an admin's.
    """
    purpose = headers.get(_PURPOSE)
    if purpose is None:
        return False
    if purpose != EVALUATION.encode():
        raise InvalidRequest(f"the header {PURPOSE_HEADER} may only be '{EVALUATION}'", param=PURPOSE_HEADER)
    if not key.may(Scope.ADMIN):
        raise Forbidden(f"the header {PURPOSE_HEADER} needs an API key with the scope '{Scope.ADMIN.value}'")
    return True


def _take_names(exchange: Exchange, body: Body, headers: RawHeaders) -> None:
    """Note what the client asks for, and what it calls its conversation and its end user."""
    exchange.model = body.model
    exchange.named_session = _text(headers.get(_SESSION)) or body.session()
    exchange.session = exchange.named_session or exchange.request_id
    exchange.end_user = body.end_user()


def _timeout_s(headers: RawHeaders) -> float:
    """The client's own deadline, in seconds from now; without one it is the settings'.

    Raises:
        InvalidRequest: it is no positive number.
    """
    given = headers.get(_TIMEOUT)
    if given is None:
        return math.inf
    with contextlib.suppress(ValueError):
        if math.isfinite(seconds := float(given)) and seconds > 0:
            return seconds
    raise InvalidRequest(f"the header {TIMEOUT_HEADER} must be a positive number of seconds", param=TIMEOUT_HEADER)


def _onward_headers(exchange: Exchange, headers: RawHeaders) -> dict[str, str]:
    onward = {
        "content-type": "application/json",
        "accept-encoding": "identity",  # what comes is passed on as it is
        "x-request-id": exchange.request_id,
    }
    for name in _FORWARDED_HEADERS.keys() & headers.keys():
        onward[_FORWARDED_HEADERS[name]] = headers[name].decode("latin-1")
    return onward
