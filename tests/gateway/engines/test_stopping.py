"""An engine that stops, or fails on everything and says that it is well: it takes no version and no client along."""

import asyncio
from collections import Counter
from collections.abc import Callable

import httpx
import pytest

from gateway.engines.failures import EngineRefused, EngineStopping
from tests.conftest import RunningGateway, until
from tests.fakes.engine import FakeEngine
from tests.gateway.engines.test_fleet import pair, second_engine, served

__all__ = ["pair", "second_engine"]

PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")


def stops(engine: FakeEngine) -> None:
    """As vLLM from SIGTERM to its end."""
    engine.stopping = True


def drains(engine: FakeEngine) -> None:
    """As vLLM behind its guard, before SIGTERM."""
    engine.draining = True


def fails(engine: FakeEngine) -> None:
    """With words that nobody knows."""
    engine.status = 500


each_way = pytest.mark.parametrize("goes", [stops, drains, fails])


async def ask(gateway: RunningGateway, session: str, model: str = "support") -> httpx.Response:
    """A chat of a session, which has its own engine."""
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
    return await gateway.http.post("/v1/chat/completions", json=body, headers={"x-session-id": session})


async def asked(gateway: RunningGateway, waves: int = 3) -> Counter[int]:
    """The statuses of waves of chats, of so many sessions that each engine gets some."""
    found: Counter[int] = Counter()
    for wave in range(waves):
        answers = await asyncio.gather(*(ask(gateway, f"{wave}-{each}") for each in range(60)))
        found.update(answer.status_code for answer in answers)
    return found


@each_way
async def test_an_engine_that_fails_on_everything_fails_no_client(
    pair: RunningGateway, second_engine: FakeEngine, goes: Callable[[FakeEngine], None]
) -> None:
    """The others serve, the version stays in use, the engine is out, and comes back once it was started again."""
    (name,) = [name for name in second_engine.loaded if name.startswith("support@1")]
    fleet = pair.app.state.fleet
    await asked(pair, waves=1)
    assert served(second_engine)[0] > 5
    goes(second_engine)
    assert await asked(pair) == {200: 180}
    await until(lambda: fleet.reports()[1].state == "down")
    await until(lambda: not fleet._checks)
    assert fleet.breakers.is_closed(name)
    second_engine.status = None
    await second_engine.stop()
    await second_engine.start()
    await until(lambda: fleet.reports()[1].state == "ready")
    second_engine.calls.clear()
    assert await asked(pair, waves=1) == {200: 60}
    assert served(second_engine)[0] > 5


@pytest.mark.parametrize("goes", [stops, drains])
async def test_what_an_engine_that_stops_turned_away_costs_no_retry(
    pair: RunningGateway, second_engine: FakeEngine, goes: Callable[[FakeEngine], None]
) -> None:
    """It never ran: it is sent on even when nothing may be sent again."""
    pair.app.state.inference._dispatcher._retries._left = 0.0
    pair.app.state.inference._dispatcher._retries._ratio = 0.0
    goes(second_engine)
    assert await asked(pair) == {200: 180}
    await until(lambda: pair.app.state.fleet.reports()[1].problem == "the engine is stopping")


@pytest.mark.parametrize("goes", [stops, drains])
@pytest.mark.parametrize("path", PATHS)
async def test_without_another_engine_clients_are_told_to_come_back(
    two: RunningGateway, goes: Callable[[FakeEngine], None], path: str
) -> None:
    """A stream that has begun ends whole; what is new is 503 with retry-after, never the engine's own 500."""
    two.app.state.fleet.wait_s = 0.05
    two.engine.gap_s, two.engine.chunks = 0.1, 5
    stream = asyncio.create_task(two.chat("support", stream=True))
    await until(lambda: two.engine.in_flight.total() == 1)
    goes(two.engine)
    for _ in range(3):
        response = await two.http.post(path, json={"model": "support", "messages": [], "prompt": "x", "input": "x"})
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) > 0
        assert response.json()["error"]["code"] == "engine_unavailable"
    assert (await stream).text.endswith("data: [DONE]\n\n")


async def test_a_draining_engine_is_out_before_anybody_asks_it(pair: RunningGateway, second_engine: FakeEngine) -> None:
    """One look suffices, where one that fails otherwise is forgiven."""
    replica = pair.app.state.fleet.replica(pair.app.state.fleet.reports()[1].id)
    replica._fail(EngineRefused(503, "busy"))
    assert replica.state == "ready"
    replica._fail(EngineStopping(503))
    assert replica.state == "down"
    drains(second_engine)
    await until(lambda: replica.problem == "the engine is stopping")
    second_engine.bodies.clear()
    assert await asked(pair, waves=1) == {200: 60}
    assert second_engine.bodies == []


async def test_an_only_engine_that_fails_on_everything_blames_no_version(two: RunningGateway) -> None:
    """Its base model fails, too: the version serves at once when the engine does."""
    (name,) = [name for name in two.engine.loaded if name.startswith("support@1")]
    fleet = two.app.state.fleet
    fleet.wait_s = 0.05
    fleet._doubts[name] = two.app.state.settings.breaker_failures
    fails(two.engine)
    assert (await ask(two, "any")).status_code in {502, 503}
    await until(lambda: not fleet._checks)
    assert fleet.breakers.is_closed(name)
    await until(lambda: fleet.reports()[0].state == "down")


async def test_a_version_that_fails_on_one_engine_alone_stays_in_use(
    pair: RunningGateway, second_engine: FakeEngine
) -> None:
    """It answers on another engine, so that one's copy is at fault, and has to prove itself anew."""
    (name,) = [name for name in second_engine.loaded if name.startswith("support@1")]
    second_engine.bodies.clear()
    second_engine.refuse_requests.add(name)
    assert await asked(pair) == {200: 180}
    await until(lambda: not pair.app.state.fleet._checks)
    assert pair.app.state.fleet.breakers.is_closed(name)
    await until(lambda: [body for body in second_engine.bodies if body["model"] == name and "logprobs" in body])


@pytest.mark.parametrize("goes", [stops, fails])
async def test_a_load_that_an_engine_fails_as_it_stops_blames_no_version(
    two: RunningGateway, goes: Callable[[FakeEngine], None]
) -> None:
    """Neither the client nor the breaker is told that the version is at fault."""
    two.app.state.fleet.wait_s = 0.05
    name = (await two.http.get("/admin/v1/adapters/support")).json()["versions"][1]["engine_name"]
    assert name not in two.engine.loaded
    goes(two.engine)
    response = await ask(two, "any", "support@2")
    assert (response.status_code, response.json()["error"]["code"]) == (503, "engine_unavailable")
    assert two.app.state.fleet.breakers.is_closed(name)
    assert (name in two.replica.residency._setbacks) == (goes is fails), "it may be what broke the engine"
