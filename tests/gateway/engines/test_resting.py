"""Engines that sleep so that somebody else has their GPU: no request fails or waits for them, and all of them wake."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from gateway.settings import GatewaySettings
from tests.conftest import RunningGateway, serving, until
from tests.fakes.engine import FakeEngine

ALONE, BOTH = "engine-0", ("engine-0", "engine-1")


@pytest.fixture
async def second_engine() -> AsyncIterator[FakeEngine]:
    """Another engine of the same base model."""
    engine = FakeEngine()
    await engine.start()
    yield engine
    await engine.stop()


@pytest.fixture
def gateway_settings(
    gateway_settings: GatewaySettings, fake_engine: FakeEngine, second_engine: FakeEngine
) -> GatewaySettings:
    """A gateway before both."""
    fake_engine.can_sleep = second_engine.can_sleep = True
    return gateway_settings.model_copy(update={"engine_url": f"{fake_engine.url},{second_engine.url}"})


@pytest.fixture
async def two(gateway: RunningGateway) -> RunningGateway:
    """A version that is live on both."""
    await gateway.push("support", 1.0)
    assert (await gateway.promote("support", 1)).is_success
    await until(lambda: _states(gateway, "ready", "ready"))
    return gateway


async def _replicas(gateway: RunningGateway) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await gateway.http.get("/admin/v1/replicas")).json()["data"]
    return found


async def _states(gateway: RunningGateway, *states: str) -> bool:
    return tuple(each["state"] for each in await _replicas(gateway)) == states


async def sleep(gateway: RunningGateway, id: str = ALONE, **order: Any) -> httpx.Response:
    """Have an engine sleep."""
    return await gateway.http.post(f"/admin/v1/replicas/{id}/sleep", json={"holder": "tuner", **order})


async def wake(gateway: RunningGateway, id: str = ALONE, **order: Any) -> httpx.Response:
    """Have it wake."""
    return await gateway.http.post(f"/admin/v1/replicas/{id}/wake", json=order)


async def test_a_sleeping_engine_gets_no_requests_and_serves_again_once_woken(
    two: RunningGateway, fake_engine: FakeEngine
) -> None:
    """The other one serves meanwhile; what it has loaded proves itself anew before it is used."""
    answered = await sleep(two)
    assert (answered.status_code, answered.json()["state"]) == (200, "asleep")
    assert fake_engine.asleep
    answers = await asyncio.gather(*(two.chat("support") for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert fake_engine.touched_asleep == []
    woken = await wake(two, holder="tuner")
    assert (woken.status_code, woken.json()["state"]) == (200, "ready")
    assert not fake_engine.asleep
    assert woken.json()["resident"] == (await _replicas(two))[1]["resident"]


async def test_requests_that_run_end_first(two: RunningGateway, fake_engine: FakeEngine) -> None:
    """Nobody's answer is broken off, and who comes meanwhile is served by the other."""
    fake_engine.gap_s = 0.5
    running = [asyncio.create_task(two.chat("support")) for _ in range(8)]
    await until(lambda: fake_engine.in_flight.total() > 0)
    assert (await sleep(two)).status_code == 200
    assert {answer.status_code for answer in await asyncio.gather(*running)} == {200}
    assert fake_engine.cancelled == 0


async def test_the_only_engine_sleeps_by_force_alone(two: RunningGateway) -> None:
    """For clients would have to wait."""
    assert (await sleep(two, "engine-0")).status_code == 200
    refused = await sleep(two, "engine-1")
    assert refused.status_code == 409
    assert "the only engine that serves tiny" in refused.json()["error"]["message"]
    assert (await two.chat("support")).status_code == 200
    assert (await sleep(two, "engine-1", force=True)).status_code == 200
    waiting = asyncio.create_task(two.chat("support"))
    assert (await wake(two, "engine-1")).status_code == 200
    assert (await waiting).status_code == 200


async def test_an_engine_wakes_by_itself_when_its_time_is_over(two: RunningGateway, fake_engine: FakeEngine) -> None:
    """As when whoever had it sleep was killed; a renewal makes the time longer."""
    assert (await sleep(two, for_s=1)).status_code == 200
    assert (await sleep(two, for_s=1.5, renew=True)).status_code == 200
    assert fake_engine.asleep
    await until(lambda: _states(two, "ready", "ready"))
    assert not fake_engine.asleep
    refused = await sleep(two, for_s=1, renew=True)
    assert refused.status_code == 409
    assert "does not sleep for 'tuner' any more" in refused.json()["error"]["message"]
    assert not fake_engine.asleep


async def test_an_engine_that_does_not_wake_gets_no_requests(two: RunningGateway, fake_engine: FakeEngine) -> None:
    """It is tried again until it does, as when its memory is not free yet."""
    assert (await sleep(two)).status_code == 200
    fake_engine.refuse_wake = True
    waking = asyncio.create_task(wake(two))
    await until(lambda: fake_engine.calls["/wake_up"] > 1)
    assert (await two.chat("support")).status_code == 200
    assert fake_engine.touched_asleep == []
    fake_engine.refuse_wake = False
    assert (await waking).status_code == 200


async def test_an_engine_sleeps_for_one_holder_at_a_time(two: RunningGateway) -> None:
    """Another can neither take nor end it; a person who names no holder can end it."""
    assert (await sleep(two)).status_code == 200
    assert (await sleep(two, holder="another", force=True)).status_code == 409
    assert (await wake(two, holder="another")).status_code == 409
    assert (await wake(two)).status_code == 200
    assert (await sleep(two, holder="another")).status_code == 200


async def test_an_engine_without_sleep_mode_says_how_to_start_it(two: RunningGateway, fake_engine: FakeEngine) -> None:
    """And serves on."""
    fake_engine.can_sleep = False
    refused = await sleep(two)
    assert refused.status_code == 409
    assert "--enable-sleep-mode" in refused.json()["error"]["message"]
    assert await _states(two, "ready", "ready")


async def test_an_engine_that_is_away_is_not_put_to_sleep(two: RunningGateway, fake_engine: FakeEngine) -> None:
    """The client is told to come again."""
    await fake_engine.stop()
    refused = await sleep(two)
    assert refused.status_code == 503
    assert refused.headers["retry-after"]


@pytest.mark.parametrize("what", ["sleep", "wake"])
async def test_an_unknown_replica_is_not_found(two: RunningGateway, what: str) -> None:
    """By name."""
    answer = await (sleep if what == "sleep" else wake)(two, "engine-7")
    assert answer.status_code == 404
    assert answer.json()["error"]["param"] == "replica_id"


async def test_a_second_gateway_keeps_to_it(
    two: RunningGateway, gateway_settings: GatewaySettings, fake_engine: FakeEngine
) -> None:
    """One that starts while an engine sleeps neither uses nor wakes it, until it is woken by the other."""
    assert (await sleep(two)).status_code == 200
    headers = {"authorization": f"Bearer {two.key}"}
    async with serving(gateway_settings) as (url, _), httpx.AsyncClient(base_url=url, headers=headers) as other:
        await until(lambda: _is_up(other))
        body = {"model": "support", "messages": [{"role": "user", "content": "hello"}]}
        for _ in range(10):
            assert (await other.post("/v1/chat/completions", json=body)).status_code == 200
        assert fake_engine.asleep
        assert fake_engine.touched_asleep == []
        assert (await wake(two)).status_code == 200
        await until(lambda: _is_ready_for(other))


async def test_a_gateway_that_finds_an_engine_asleep_for_nobody_wakes_it(
    two: RunningGateway, gateway_settings: GatewaySettings, fake_engine: FakeEngine
) -> None:
    """As after all gateways were down while the time of its sleep ended."""
    fake_engine.asleep = True
    async with serving(gateway_settings) as (url, _):
        headers = {"authorization": f"Bearer {two.key}"}
        async with httpx.AsyncClient(base_url=url, headers=headers) as other:
            await until(lambda: _is_ready_for(other))
    assert not fake_engine.asleep


async def _is_up(http: httpx.AsyncClient) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return (await http.get("/readyz")).status_code == 200
    return False


async def _is_ready_for(http: httpx.AsyncClient) -> bool:
    found = (await http.get("/admin/v1/replicas")).json()["data"]
    return all(each["state"] == "ready" for each in found)


async def test_how_long_an_engine_was_idle_is_told(two: RunningGateway) -> None:
    """A request sets it back to nothing."""
    await until(lambda: _idle_for(two, 1.0))
    await two.chat("support", user="ann")
    assert not await _idle_for(two, 1.0)


async def _idle_for(gateway: RunningGateway, seconds: float) -> bool:
    return all(each["idle_s"] >= seconds for each in await _replicas(gateway))
