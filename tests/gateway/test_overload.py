"""Too many requests, slow clients and clients that vanish, deadlines, and what a client may not ask for."""

import asyncio
import json
import socket
import time

import httpx
import pytest

from tests.conftest import RunningGateway, serving, until


def chat(**fields: object) -> dict[str, object]:
    """A chat request to `support`."""
    return {"model": "support", "messages": [], **fields}


async def test_what_is_over_the_queue_is_refused_at_once(two: RunningGateway) -> None:
    """With two places and two in the queue, the fifth at once gets 503 with retry-after, and the others are served."""
    settings = two.app.state.settings.model_copy(update={"max_in_flight": 2, "max_queued": 2})
    async with serving(settings) as (url, app):
        two.http.base_url = url
        await two.until_ready()
        two.engine.gate.clear()
        first = [asyncio.create_task(two.chat("support")) for _ in range(4)]
        await until(lambda: app.state.metrics.registry.get_sample_value("ostler_requests_queued") == 2.0)
        refused = await two.chat("support")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        two.engine.gate.set()
        assert {answer.status_code for answer in await asyncio.gather(*first)} == {200}


async def test_a_wait_in_the_queue_has_an_end(two: RunningGateway) -> None:
    """503 after the setting, 504 after the request's own deadline."""
    settings = two.app.state.settings.model_copy(update={"max_in_flight": 1, "max_queued": 9, "queue_wait_s": 0.2})
    async with serving(settings) as (url, app):
        two.http.base_url = url
        await two.until_ready()
        two.engine.gate.clear()
        first = asyncio.create_task(two.chat("support"))
        await until(lambda: app.state.fleet.replica("engine-0").in_flight == 1)
        by_setting, by_header = await asyncio.gather(
            two.http.post("/v1/chat/completions", json=chat()),
            two.http.post("/v1/chat/completions", json=chat(), headers={"x-ostler-timeout-s": "0.1"}),
        )
        assert (by_setting.status_code, by_setting.json()["error"]["code"]) == (503, "overloaded")
        assert (by_header.status_code, by_header.json()["error"]["code"]) == (504, "deadline_exceeded")
        two.engine.gate.set()
        assert (await first).status_code == 200


async def test_a_hot_adapter_does_not_hold_up_a_cold_one(two: RunningGateway) -> None:
    """They take turns in the queue: the cold one's only request is not behind all of the hot one's."""
    await two.push("cold", 5.0)
    assert (await two.promote("cold", 1)).is_success
    settings = two.app.state.settings.model_copy(update={"max_in_flight": 1})
    async with serving(settings) as (url, app):
        two.http.base_url = url
        await two.until_ready()
        two.engine.gate.clear()
        two.engine.bodies.clear()
        hot = [asyncio.create_task(two.chat("support")) for _ in range(10)]
        await until(lambda: app.state.metrics.registry.get_sample_value("ostler_requests_queued") == 9.0)
        cold = asyncio.create_task(two.chat("cold"))
        await until(lambda: app.state.metrics.registry.get_sample_value("ostler_requests_queued") == 10.0)
        two.engine.gate.set()
        assert {answer.status_code for answer in await asyncio.gather(cold, *hot)} == {200}
    order = [body["model"].partition("@")[0] for body in two.engine.bodies]
    assert order.index("cold") <= 3


async def test_a_deadline_by_header_ends_the_request(two: RunningGateway) -> None:
    """504, and the engine's part is cancelled."""
    two.engine.gap_s = 2.0
    response = await two.http.post("/v1/chat/completions", json=chat(), headers={"x-ostler-timeout-s": "0.2"})
    assert (response.status_code, response.json()["error"]["code"]) == (504, "deadline_exceeded")
    await until(lambda: two.engine.cancelled == 1)


@pytest.mark.parametrize("value", ["soon", "-1", "0", "nan", "inf", ""])
async def test_a_senseless_deadline_is_refused(shared_two: RunningGateway, value: str) -> None:
    """400 that names the header."""
    response = await shared_two.http.post("/v1/chat/completions", json=chat(), headers={"x-ostler-timeout-s": value})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "x-ostler-timeout-s"


@pytest.mark.parametrize("value", [-1, 10, "5", 1.5, True, [1]])
async def test_no_client_puts_itself_before_the_others(shared_two: RunningGateway, value: object) -> None:
    """The engine's priority is from 0 to 9, where shadows have 10; anything else is refused."""
    shared_two.engine.bodies.clear()
    response = await shared_two.http.post("/v1/chat/completions", json=chat(priority=value))
    assert (response.status_code, response.json()["error"]["param"]) == (400, "priority")
    assert shared_two.engine.bodies == []


async def test_a_priority_in_bounds_goes_on(two: RunningGateway) -> None:
    """As the client sent it."""
    response = await two.http.post("/v1/chat/completions", json=chat(priority=5))
    assert response.status_code == 200
    assert two.engine.bodies[-1]["priority"] == 5


async def test_a_body_that_trickles_in_is_cut_off(two: RunningGateway) -> None:
    """408 after the setting, so that slow clients hold nothing for long."""
    settings = two.app.state.settings.model_copy(update={"body_timeout_s": 0.3})
    async with serving(settings) as (url, _):
        port = httpx.URL(url).port
        assert port is not None
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {two.key}\r\n"
        writer.write(head.encode() + b"content-length: 100\r\n\r\n{")
        await writer.drain()
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n"), 10)
        assert b" 408 " in answer
        writer.close()


async def test_a_client_that_takes_nothing_loses_its_place(two: RunningGateway) -> None:
    """Its stream is ended after the setting, and the engine's part with it, long before the request's deadline."""
    settings = two.app.state.settings.model_copy(update={"stall_timeout_s": 0.4, "max_in_flight": 1})
    async with serving(settings) as (url, app):
        two.http.base_url = url
        await two.until_ready()
        two.engine.chunks, two.engine.padding = 4000, "x" * 20_000
        port = httpx.URL(url).port
        assert port is not None
        with socket.create_connection(("127.0.0.1", port)) as stalled:
            stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            body = json.dumps(chat(stream=True)).encode()
            head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {two.key}\r\n"
            stalled.sendall(head.encode() + f"content-length: {len(body)}\r\n\r\n".encode() + body)
            await until(lambda: app.state.fleet.replica("engine-0").in_flight == 1)
            await until(lambda: app.state.fleet.replica("engine-0").in_flight == 0)
        two.engine.chunks, two.engine.padding = 3, ""
        assert (await two.chat("support")).status_code == 200


async def test_a_client_that_leaves_the_queue_leaves_no_trace(two: RunningGateway) -> None:
    """Its place in the queue is free, and its request never reaches the engine."""
    settings = two.app.state.settings.model_copy(update={"max_in_flight": 1})
    async with serving(settings) as (url, app):
        two.http.base_url = url
        await two.until_ready()
        two.engine.gate.clear()
        first = asyncio.create_task(two.chat("support"))
        await until(lambda: two.engine.in_flight.total() == 1)
        two.engine.bodies.clear()
        leaving = [asyncio.create_task(two.chat("support")) for _ in range(5)]
        await until(lambda: app.state.metrics.registry.get_sample_value("ostler_requests_queued") == 5.0)
        for task in leaving:
            task.cancel()
        await until(lambda: app.state.metrics.registry.get_sample_value("ostler_requests_queued") == 0.0)
        two.engine.gate.set()
        assert (await first).status_code == 200
        assert two.engine.bodies == []
        began = time.monotonic()
        assert (await two.chat("support")).status_code == 200
        assert time.monotonic() - began < 5


async def test_a_retry_budget_that_is_used_up_ends_retries(two: RunningGateway) -> None:
    """Then an engine that breaks off is told to the client at once."""
    two.app.state.inference._dispatcher._retries._left = 0.0
    two.app.state.inference._dispatcher._retries._ratio = 0.0
    two.engine.dying = True
    two.engine.status = 500
    response = await two.chat("support")
    assert (response.status_code, response.json()["error"]["code"]) == (503, "engine_unavailable")
    two.engine.dying, two.engine.status = False, None
