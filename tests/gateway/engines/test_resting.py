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
    return await _states_of(gateway.http, *states)


async def _states_of(http: httpx.AsyncClient, *states: str) -> bool:
    found = (await http.get("/admin/v1/replicas")).json()["data"]
    return tuple(each["state"] for each in found) == states


@contextlib.asynccontextmanager
async def another_gateway(first: RunningGateway, settings: GatewaySettings) -> AsyncIterator[httpx.AsyncClient]:
    """A second gateway of the same database, once it has seen all engines."""
    headers = {"authorization": f"Bearer {first.key}"}
    async with serving(settings) as (url, _), httpx.AsyncClient(base_url=url, headers=headers, timeout=20) as other:
        await until(lambda: _is_up(other))
        await until(lambda: _is_ready_for(other))
        yield other


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


async def test_two_who_ask_at_once_leave_one_engine_that_serves(two: RunningGateway) -> None:
    """Each alone might have its engine sleep; together they would take the pool's last."""
    answers = await asyncio.gather(sleep(two, "engine-0", holder="one"), sleep(two, "engine-1", holder="another"))
    assert sorted(answer.status_code for answer in answers) == [200, 409]
    assert (await two.chat("support")).status_code == 200
    refused = max(answers, key=lambda answer: answer.status_code)
    assert "the only engine that serves tiny" in refused.json()["error"]["message"]


async def test_two_gateways_leave_one_engine_that_serves(
    two: RunningGateway, gateway_settings: GatewaySettings
) -> None:
    """Asked for one engine each, at once, and again, as who comes first differs."""
    async with another_gateway(two, gateway_settings) as other:
        for _ in range(5):
            answers = await asyncio.gather(
                sleep(two, "engine-0"),
                other.post("/admin/v1/replicas/engine-1/sleep", json={"holder": "another"}),
            )
            assert sorted(answer.status_code for answer in answers) == [200, 409]
            for each in BOTH:
                assert (await wake(two, each)).status_code == 200
            await until(lambda: _is_ready_for(other))


async def test_an_order_that_is_refused_leaves_what_was_ordered_before(
    two: RunningGateway, fake_engine: FakeEngine, second_engine: FakeEngine
) -> None:
    """Whoever asks twice still has the GPU, whatever became of the other engine."""
    assert (await sleep(two)).status_code == 200
    await second_engine.stop()
    await until(lambda: _states(two, "asleep", "down"))
    assert (await sleep(two)).status_code == 409
    assert (await sleep(two, renew=True)).status_code == 200
    assert fake_engine.asleep


async def test_the_lease_lasts_while_requests_end(two: RunningGateway, fake_engine: FakeEngine) -> None:
    """However short it is: it counts from when the engine sleeps, which nothing reaches while it does."""
    fake_engine.gap_s = 2.0
    running = [asyncio.create_task(two.chat("support")) for _ in range(8)]
    await until(lambda: fake_engine.in_flight.total() > 0)
    assert (await sleep(two, for_s=1)).status_code == 200
    assert fake_engine.asleep
    assert await _states(two, "asleep", "ready")
    fake_engine.gap_s = 0.0
    assert {answer.status_code for answer in await asyncio.gather(*running)} == {200}
    await until(lambda: _states(two, "ready", "ready"))
    assert fake_engine.touched_asleep == []


async def test_an_engine_that_fails_to_sleep_is_woken(two: RunningGateway, fake_engine: FakeEngine) -> None:
    """For it may sleep all the same, and then nobody would ever know."""
    fake_engine.fail_sleep = True
    refused = await sleep(two)
    assert refused.status_code == 409
    assert "it failed after all" in refused.json()["error"]["message"]
    assert not fake_engine.asleep
    await until(lambda: _states(two, "ready", "ready"))
    assert fake_engine.touched_asleep == []


async def test_an_engine_that_is_woken_while_its_requests_end_stays_awake(
    two: RunningGateway, fake_engine: FakeEngine
) -> None:
    """Who had it sleep is told so."""
    replica = two.app.state.fleet.replica(ALONE)
    replica.in_flight += 1
    falling = asyncio.create_task(sleep(two))
    await until(lambda: _states(two, "asleep", "ready"))
    assert (await wake(two)).status_code == 200
    refused = await falling
    replica.in_flight -= 1
    assert refused.status_code == 409
    assert "does not sleep for 'tuner' any more" in refused.json()["error"]["message"]
    assert fake_engine.calls["/sleep"] == 0


async def test_an_engine_that_is_woken_while_it_falls_asleep_stays_awake(
    two: RunningGateway, fake_engine: FakeEngine
) -> None:
    """As when its lease ended because that took so long."""
    fake_engine.in_flight["of a client of its own"] += 1
    falling = asyncio.create_task(sleep(two))
    await until(lambda: fake_engine.calls["/sleep"] > 0)
    await two.registry.release_lease(*await _lease(two))
    fake_engine.in_flight.clear()
    assert (await falling).status_code == 409
    assert not fake_engine.asleep
    await until(lambda: _states(two, "ready", "ready"))


async def test_an_engine_in_doubt_is_asked_whether_it_sleeps(two: RunningGateway, fake_engine: FakeEngine) -> None:
    """Somebody may have it sleep who did not ask the gateway."""
    fake_engine.asleep = True
    two.app.state.fleet.replica(ALONE).suspect(in_doubt=True)
    await until(lambda: not fake_engine.asleep)
    assert fake_engine.touched_asleep == []


async def test_gateways_that_number_the_engines_differently_mean_the_same_one(
    two: RunningGateway, gateway_settings: GatewaySettings, fake_engine: FakeEngine, second_engine: FakeEngine
) -> None:
    """As while a new list of engines is rolled out."""
    turned = gateway_settings.model_copy(update={"engine_url": f"{second_engine.url},{fake_engine.url}"})
    async with another_gateway(two, turned) as other:
        assert (await sleep(two, "engine-0")).status_code == 200
        await until(lambda: _states_of(other, "ready", "asleep"))
        body = {"model": "support", "messages": [{"role": "user", "content": "hello"}]}
        for _ in range(5):
            assert (await other.post("/v1/chat/completions", json=body)).status_code == 200
        renewed = await other.post(
            "/admin/v1/replicas/engine-1/sleep", json={"holder": "tuner", "for_s": 60, "renew": True}
        )
        assert renewed.status_code == 200
    assert fake_engine.asleep
    assert fake_engine.touched_asleep == []


async def test_a_sleeping_engine_is_told_apart_from_one_that_is_down(
    two: RunningGateway, fake_engine: FakeEngine
) -> None:
    """In the metrics; one that dies in its sleep is down."""
    assert (await sleep(two)).status_code == 200
    await until(lambda: _shows(two, asleep=(1, 0), ready=(0, 1)))
    await fake_engine.stop()
    await until(lambda: _shows(two, asleep=(0, 0), ready=(0, 1)))


async def test_a_gateway_whose_engines_all_sleep_is_ready(two: RunningGateway, second_engine: FakeEngine) -> None:
    """Whoever forced that has clients wait, which they only can if they reach it; if one is down, they wait in vain."""
    assert (await sleep(two, "engine-0")).status_code == 200
    assert (await sleep(two, "engine-1", force=True)).status_code == 200
    assert (await two.http.get("/readyz")).status_code == 200
    await second_engine.stop()
    await until(lambda: _states(two, "asleep", "down"))
    assert (await two.http.get("/readyz")).status_code == 503


@pytest.mark.parametrize("answer", [(403, "no"), (501, "{}"), (200, "hello"), (200, "[]"), (500, "")])
async def test_an_engine_that_hides_its_sleep_serves(
    two: RunningGateway, fake_engine: FakeEngine, answer: tuple[int, str]
) -> None:
    """As behind a proxy that lets only some paths through; it can only not be had to sleep."""
    fake_engine.sleep_answer = answer
    await fake_engine.stop()
    await until(lambda: _states(two, "down", "ready"))
    await fake_engine.start()
    await until(lambda: _states(two, "ready", "ready"))
    refused = await sleep(two)
    assert refused.status_code == 409
    assert "--enable-sleep-mode" in refused.json()["error"]["message"]


async def _lease(gateway: RunningGateway) -> tuple[str, str]:
    """Name and holder of the only lease of a sleeping engine."""
    ((key, (holder, _)),) = (await gateway.registry.held_leases("asleep ")).items()
    return "asleep " + key, holder


async def _shows(gateway: RunningGateway, **states: tuple[int, int]) -> bool:
    """Whether the metrics, which may be a second old, say so of both engines."""
    text = (await gateway.http.get("/metrics")).text
    lines = {
        f'ostler_replica_{state}{{replica="{each}"}} {float(is_so)}'
        for state, both in states.items()
        for each, is_so in zip(BOTH, both, strict=True)
    }
    return lines <= set(text.splitlines())


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
