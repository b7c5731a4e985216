"""Traces, through a whole gateway before a fake engine, as a collector gets them by OTLP."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from gateway import tracing
from gateway.app import create_app
from gateway.body import ClientGone
from gateway.engines.failures import EngineDown, EngineLate
from gateway.errors import DeadlineExceeded
from gateway.settings import GatewaySettings
from gateway.tracing import Tracer
from monitors.privacy.names import pseudonym
from registry.errors import NotFound
from tests.conftest import AdapterMaker, RunningGateway, serving, until
from tests.fakes.collector import Collector, Seen
from tests.fakes.engine import FakeEngine
from tests.gateway.several import two_workers, valkey

__all__ = ["valkey"]

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CONTEXT = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=1"}
UNSAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
CHAT = "/v1/chat/completions"


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    """A collector that listens."""
    collector = Collector()
    await collector.start()
    yield collector
    await collector.stop()


@pytest.fixture
def gateway_settings(
    gateway_settings: GatewaySettings, collector: Collector, request: pytest.FixtureRequest
) -> GatewaySettings:
    """The usual ones with traces, and what a test's parameter says."""
    changes = {"otlp_endpoint": collector.url, **getattr(request, "param", {})}
    return gateway_settings.model_copy(update=changes)


def with_settings(**changes: object) -> pytest.MarkDecorator:
    """A gateway with these settings."""
    return pytest.mark.parametrize("gateway_settings", [changes], indirect=True)


async def spans_of(collector: Collector, count: int = 1) -> tuple[Seen, Seen]:
    """The span of a request and the last of those below it, once so many requests' have come."""
    await until(lambda: len(collector.of_kind("SERVER")) == count)
    return collector.of_kind("SERVER")[-1], collector.of_kind("CLIENT")[-1]


def sent_on(headers: Mapping[str, str]) -> tuple[str, str, bool]:
    """The context that the engine got: trace, span, and whether it is sampled."""
    _, trace, span, flags = headers["traceparent"].split("-")
    return trace, span, bool(int(flags, 16) & 1)


async def test_a_request_continues_the_clients_trace_and_reaches_the_engine(
    two: RunningGateway, collector: Collector
) -> None:
    """The gateway's span is below the client's, that of the sending below the gateway's, and the engine gets it."""
    body = {"model": "support", "messages": [], "user": "u-1"}
    response = await two.http.post(CHAT, json=body, headers={**CONTEXT, "x-session-id": "talk"})
    server, client = await spans_of(collector)
    name = response.json()["model"]
    assert (server.trace, server.parent, server.name) == (TRACE, PARENT, "chat support")
    assert (client.trace, client.parent, client.name) == (TRACE, server.id, f"chat {name}")
    assert sent_on(two.engine.headers[-1]) == (TRACE, client.id, True)
    assert two.engine.headers[-1]["tracestate"] == "vendor=1"
    assert not server.failed
    assert not client.failed
    assert server.attributes == {
        "http.request.method": "POST",
        "http.route": CHAT,
        "url.path": CHAT,
        "http.response.status_code": 200,
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": "support",
        "gen_ai.response.model": name,
        "gen_ai.response.id": "c",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.conversation.id": pseudonym("talk"),
        "ostler.request_id": response.headers["x-request-id"],
        "ostler.adapter": "support",
        "ostler.version": 1,
        "ostler.variant": "stable",
        "ostler.replica": "engine-0",
    }
    assert client.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": name,
        "http.response.status_code": 200,
        "ostler.replica": "engine-0",
    }


async def test_a_request_without_a_trace_begins_one(two: RunningGateway, collector: Collector) -> None:
    """What a client sends as its context and is none begins a new one, too."""
    await two.http.post(CHAT, json={"model": "support", "messages": []}, headers={"traceparent": "none"})
    server, client = await spans_of(collector)
    assert (server.parent, server.trace) == ("", client.trace)
    assert sent_on(two.engine.headers[-1]) == (server.trace, client.id, True)


async def test_each_endpoint_is_traced(gateway: RunningGateway, collector: Collector) -> None:
    """With the operation that it is."""
    operations = {"/v1/completions": "text_completion", "/v1/messages": "chat", "/v1/responses": "chat"}
    for count, (path, operation) in enumerate(operations.items(), 1):
        await gateway.http.post(path, json={"model": "tiny"})
        server, _ = await spans_of(collector, count)
        assert (server.name, server.attributes["http.route"]) == (f"{operation} tiny", path)
        assert "ostler.adapter" not in server.attributes


async def test_what_the_client_decided_is_kept(two: RunningGateway, collector: Collector) -> None:
    """A trace that it does not sample stays unsampled, here and at the engine; one that it samples is told."""
    for context in (UNSAMPLED, CONTEXT):
        await two.http.post(CHAT, json={"model": "support", "messages": []}, headers=context)
    trace, _, sampled = sent_on(two.engine.headers[-2])
    assert (trace, sampled) == (TRACE, False)
    await spans_of(collector)
    assert len(collector.of_kind("SERVER")) == 1


@with_settings(otlp_sample_ratio=0.0)
async def test_the_ratio_is_for_those_that_continue_nothing(two: RunningGateway, collector: Collector) -> None:
    """None of them at 0, and still all that a client samples."""
    for headers in ({}, CONTEXT):
        await two.http.post(CHAT, json={"model": "support", "messages": []}, headers=headers)
    assert not sent_on(two.engine.headers[-2])[2]
    server, _ = await spans_of(collector)
    assert server.trace == TRACE


async def test_a_failure_is_told(two: RunningGateway, collector: Collector) -> None:
    """On the gateway's span as the client's error, on the sending's as the engine's."""
    two.engine.status = 500
    await two.chat("support")
    server, client = await spans_of(collector)
    assert (server.failed, server.attributes["error.type"]) == (True, "engine_error")
    assert (server.attributes["http.response.status_code"], client.attributes["http.response.status_code"]) == (
        502,
        500,
    )
    assert (client.failed, client.attributes["error.type"]) == (True, "500")


async def test_a_deadline_is_told_as_that(two: RunningGateway, collector: Collector) -> None:
    """On the span of the sending, too: the engine was only not quick enough."""
    two.engine.gap_s = 30.0
    body = {"model": "support", "messages": []}
    response = await two.http.post(CHAT, json=body, headers={"x-ostler-timeout-s": "0.3"})
    assert response.status_code == 504
    server, client = await spans_of(collector)
    assert server.attributes["error.type"] == client.attributes["error.type"] == "deadline_exceeded"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (asyncio.CancelledError(), "cancelled"),
        (ClientGone(), "client_gone"),
        (EngineDown(sent=False), "engine_down"),
        (EngineDown(sent=True), "engine_down"),
        (EngineLate(), "deadline_exceeded"),
        (DeadlineExceeded("late"), "deadline_exceeded"),
        (NotFound("gone"), "not_found"),
        (ZeroDivisionError("a prompt"), "ZeroDivisionError"),
    ],
)
def test_what_ended_a_sending_is_told_by_its_kind(error: BaseException, told: str) -> None:
    """Not as a failure of the engine, where it was none."""
    assert tracing._error_type(error) == told


async def test_a_refusal_is_no_failure_of_the_gateway(gateway: RunningGateway, collector: Collector) -> None:
    """It has the client's error and no span below it; nothing of what was asked for is left out or trusted."""
    await gateway.chat("nobody" * 100)
    await until(lambda: collector.spans)
    (server,) = collector.spans
    assert (server.failed, server.name) == (False, f"POST {CHAT}")
    assert (server.attributes["error.type"], server.attributes["http.response.status_code"]) == ("model_not_found", 404)
    assert server.attributes["gen_ai.request.model"] == ("nobody" * 100)[:256]


async def test_a_broken_stream_is_a_failure(two: RunningGateway, collector: Collector) -> None:
    """Though its status was 200."""
    two.engine.break_after = 1
    await two.chat("support", stream=True)
    server, _ = await spans_of(collector)
    assert (server.failed, server.attributes["error.type"]) == (True, "engine_error")


async def test_what_is_left_is_sent_at_the_end(
    gateway_settings: GatewaySettings, gateway: RunningGateway, collector: Collector
) -> None:
    """A gateway that stops right after a request has sent its spans."""
    async with serving(gateway_settings) as (url, app):
        await until(lambda: app.state.fleet.readiness().ready)
        assert (await gateway.http.post(url + "/v1/completions", json={"model": "tiny"})).is_success
    assert [span.kind for span in collector.spans] == ["CLIENT", "SERVER"]


async def test_a_collector_that_hangs_holds_up_nothing(two: RunningGateway, collector: Collector) -> None:
    """Neither requests nor, beyond a bound, the end."""
    collector.hangs = True
    assert (await two.chat("support")).status_code == 200
    await until(lambda: collector.asked)
    assert (await two.chat("support")).status_code == 200
    tracer: Tracer = two.app.state.tracer
    async with asyncio.timeout(10):
        await tracer.close(0.05)


@with_settings(otlp_endpoint="")
async def test_without_a_collector_the_clients_context_goes_on_as_it_came(two: RunningGateway) -> None:
    """Nothing is added or taken."""
    await two.http.post(CHAT, json={"model": "support", "messages": []}, headers=CONTEXT)
    assert two.engine.headers[-1].items() >= CONTEXT.items()
    await two.chat("support")
    assert "traceparent" not in two.engine.headers[-1]


def test_without_a_collector_nothing_of_opentelemetry_is_imported() -> None:
    """It is an extra, and takes its time to import."""
    code = (
        "import sys; from gateway.app import create_app; from gateway.settings import GatewaySettings; "
        "create_app(GatewaySettings(base='tiny')); print(*sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # Redis's client imports the part about metrics, where that is installed.
    of_traces = ("opentelemetry.exporter", "opentelemetry.sdk.trace", "opentelemetry.proto")
    assert not [module for module in ran.stdout.split() if module.startswith(of_traces)]


def test_a_missing_package_is_a_clear_error(gateway_settings: GatewaySettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the start, and it says what to install."""
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ValueError, match=r"OSTLER_OTLP_ENDPOINT is set, .* install 'ostler\[otel\]'"):
        create_app(gateway_settings)


async def test_each_worker_sends_its_own(
    fake_engine: FakeEngine,
    collector: Collector,
    postgres_url: str,
    valkey: str,
    tmp_path: Path,
    adapter_folder: AdapterMaker,
) -> None:
    """Of several workers none loses a span, and the engine is told the trace of each request."""
    start = two_workers(tmp_path, fake_engine, postgres_url, valkey, adapter_folder, otlp_endpoint=collector.url)
    async with start as workers:
        fake_engine.headers.clear()
        sent = 0

        async def send_one() -> None:
            nonlocal sent
            async with workers.client() as http:  # a new connection, which goes to either worker
                assert (await http.post("/v1/completions", json={"model": "support", "prompt": "x"})).is_success
            sent += 1

        async def both_served() -> bool:
            await asyncio.gather(*(send_one() for _ in range(8)))
            return len({span.process for span in collector.spans}) == 2

        await until(both_served, 60)
        await workers.stop()
    servers, clients = collector.of_kind("SERVER"), collector.of_kind("CLIENT")
    assert len(servers) == len(clients) == sent
    assert {span.parent for span in clients} == {span.id for span in servers}
    told = {sent_on(headers) for headers in fake_engine.headers if "traceparent" in headers}
    assert told == {(span.trace, span.id, True) for span in clients}
