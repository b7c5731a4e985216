"""OpenTelemetry traces of inference requests, sent to a collector by OTLP over HTTP, where one is set.

Each request is a span that continues the client's trace, and each time that it is sent to an engine is a span below
it, whose context the engine gets. Attributes are those of OpenTelemetry's conventions for generative AI, where they
exist, and `ostler.*` beside them; none holds a prompt, an answer, a key, or an end user.

Without a collector nothing of OpenTelemetry is imported, and a client's context goes on to the engine as it came.
"""

import asyncio
import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Mapping
from importlib.metadata import version
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from gateway.body import ClientGone
from gateway.engines.failures import EngineDown, EngineLate
from gateway.errors import GatewayError
from monitors.record import RequestRecord
from registry.errors import RegistryError

if TYPE_CHECKING:
    from opentelemetry.trace import Span

_OPERATIONS = {"/v1/completions": "text_completion"}
_CHAT = "chat"
_PROVIDER = "vllm"
_LONGEST_TEXT = 256
_QUEUE_SPANS, _BATCH_SPANS, _BATCH_MS = 16_384, 512, 1000
_EXPORT_TIMEOUT_S = 3.0
_LOG_EVERY_S = 60.0
_CONTEXT_HEADERS = ("traceparent", "tracestate")


class Sending:
    """One time that a request is sent to an engine; a block.

    Attributes:
        headers: what to send.
    """

    def __init__(self, headers: Mapping[str, str]) -> None:
        self.headers = headers

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def answered(self, status: int) -> None:
        """The engine answered, with that HTTP status."""


class Trace:
    """The trace of one request; this one is of nothing."""

    def send(self, replica: str, model: str, headers: Mapping[str, str]) -> Sending:  # noqa: ARG002
        """The request is about to be sent to a replica, for the model of that engine name, with these headers."""
        return Sending(headers)

    def end(self, record: RequestRecord, model: str) -> None:
        """The request is over; `model` is what the client asked for."""


UNTRACED = Trace()


class Tracer:
    """Makes traces, and sends them to a collector in batches, from a thread of its own.

    What it cannot keep up with is dropped; no request waits for it.

    Args:
        endpoint: the collector's address, such as ``http://collector:4318``.
        ratio: the share of requests that are traced, of those that continue no trace; the others are as the client
            has decided.

    Raises:
        ValueError: OpenTelemetry is not installed.
    """

    def __init__(self, endpoint: str, ratio: float) -> None:
        try:
            from opentelemetry import trace
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import SpanLimits, TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError as error:
            raise ValueError(
                "OSTLER_OTLP_ENDPOINT is set, but OpenTelemetry is not installed; install 'ostler[otel]'"
            ) from error
        logging.getLogger(OTLPSpanExporter.__module__).addFilter(_Seldom())
        self._exporter = OTLPSpanExporter(endpoint + "/v1/traces", timeout=_EXPORT_TIMEOUT_S)
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(ratio)),
            resource=Resource.create(
                {
                    "service.name": "ostler-gateway",
                    "service.version": version("ostler"),
                    "service.instance.id": f"{socket.gethostname()}-{os.getpid()}",
                }
            ),
            span_limits=SpanLimits(max_attribute_length=_LONGEST_TEXT),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(
                self._exporter,
                max_queue_size=_QUEUE_SPANS,
                max_export_batch_size=_BATCH_SPANS,
                schedule_delay_millis=_BATCH_MS,
            )
        )
        self.api = trace
        self.spans = self._provider.get_tracer("ostler.gateway")
        self.propagator = TraceContextTextMapPropagator()

    def begin(self, method: str, path: str, started_at: float, headers: Mapping[str, str]) -> Trace:
        """A request came at that path, at a moment in seconds since the epoch, with these headers."""
        span = self.spans.start_span(
            f"{method} {path}",
            context=self.propagator.extract(headers),
            kind=self.api.SpanKind.SERVER,
            attributes={"http.request.method": method, "http.route": path, "url.path": path, **_gen_ai(path)},
            start_time=int(started_at * 1e9),
        )
        return _SpanTrace(self, span, path)

    async def close(self, timeout_s: float) -> None:
        """Send what is left, for at most so long."""
        # A thread of its own that may be left behind: a collector that hangs must not hold up the end of the process.
        done = asyncio.Event()
        loop = asyncio.get_running_loop()

        def flush() -> None:
            self._provider.shutdown()
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits any more
                loop.call_soon_threadsafe(done.set)

        threading.Thread(target=flush, name="last-traces", daemon=True).start()
        try:
            async with asyncio.timeout(timeout_s):
                await done.wait()
        except TimeoutError:
            self._exporter.shutdown()  # type: ignore[no-untyped-call]


class _Seldom(logging.Filter):
    """Lets one line a minute through: a collector that is away is news only once."""

    def __init__(self) -> None:
        super().__init__()
        self._silent_until = 0.0

    def filter(self, record: logging.LogRecord) -> bool:  # noqa: ARG002 - all of them say the same
        now = time.monotonic()
        if now < self._silent_until:
            return False
        self._silent_until = now + _LOG_EVERY_S
        return True


class _SpanTrace(Trace):
    def __init__(self, tracer: Tracer, span: "Span", path: str) -> None:
        self._tracer = tracer
        self._span = span
        self._path = path

    def send(self, replica: str, model: str, headers: Mapping[str, str]) -> Sending:
        api, gen_ai = self._tracer.api, _gen_ai(self._path)
        span = self._tracer.spans.start_span(
            f"{gen_ai['gen_ai.operation.name']} {model}",
            context=api.set_span_in_context(self._span),
            kind=api.SpanKind.CLIENT,
            attributes={**gen_ai, "gen_ai.request.model": model, "ostler.replica": replica},
        )
        onward = {name: value for name, value in headers.items() if name not in _CONTEXT_HEADERS}
        self._tracer.propagator.inject(onward, context=api.set_span_in_context(span))
        return _SpanSending(onward, span)

    def end(self, record: RequestRecord, model: str) -> None:
        span = self._span
        if span.is_recording():
            gen_ai = _gen_ai(self._path)
            if record.pool is not None:
                span.update_name(f"{gen_ai['gen_ai.operation.name']} {record.adapter or record.pool}")
            span.set_attributes(_attributes(record, model))
            if record.error is not None and (record.status >= 500 or record.status < 400):
                _mark_failed(span, record.error)
        span.end()


class _SpanSending(Sending):
    def __init__(self, headers: Mapping[str, str], span: "Span") -> None:
        super().__init__(headers)
        self._span = span
        self._failed = False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not self._failed:
            _mark_failed(self._span, _error_type(error))
        self._span.end()

    def answered(self, status: int) -> None:
        self._span.set_attribute("http.response.status_code", status)
        if status >= 400:
            self._failed = True
            _mark_failed(self._span, str(status))


def _error_type(error: BaseException) -> str:
    """The stable word for what ended a sending; a kind of error that has none is named as in Python."""
    match error:
        case asyncio.CancelledError():
            return "cancelled"
        case ClientGone():
            return "client_gone"
        case EngineLate():
            return "deadline_exceeded"
        case EngineDown():
            return "engine_down"
        case GatewayError() | RegistryError() if error.code is not None:
            return error.code
    return type(error).__name__


def _mark_failed(span: "Span", error: str) -> None:
    from opentelemetry.trace import StatusCode

    span.set_attribute("error.type", error)
    span.set_status(StatusCode.ERROR)


def _gen_ai(path: str) -> dict[str, str]:
    return {"gen_ai.operation.name": _OPERATIONS.get(path, _CHAT), "gen_ai.provider.name": _PROVIDER}


def _attributes(record: RequestRecord, model: str) -> dict[str, Any]:
    """What a finished request says of itself, without what is not known."""
    found = {
        "http.response.status_code": record.status,
        "error.type": record.error,
        "gen_ai.request.model": model or None,
        "gen_ai.response.model": record.model if record.first_byte_s is not None else None,
        "gen_ai.response.id": record.completion_id,
        "gen_ai.response.finish_reasons": [record.finish_reason] if record.finish_reason else None,
        "gen_ai.usage.input_tokens": record.prompt_tokens,
        "gen_ai.usage.output_tokens": record.completion_tokens,
        "gen_ai.conversation.id": record.session,
        "ostler.request_id": record.request_id,
        "ostler.adapter": record.adapter,
        "ostler.version": record.version,
        "ostler.variant": record.variant,
        "ostler.replica": record.replica,
    }
    return {name: value for name, value in found.items() if value is not None}
