"""More versions than room, on several gateways: what others unload or load in a moment is no version's fault."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

import agent.engine
import agent.errors
from agent.settings import AgentSettings
from gateway.body import decode
from gateway.dispatch import Outbound
from gateway.engines.engine import Engine
from gateway.engines.failures import EngineRefused
from gateway.engines.proof import Proof
from gateway.errors import EngineCrowded
from gateway.inference import TIMEOUT_HEADER
from gateway.routing import Route
from gateway.settings import GatewaySettings
from registry.probes import Probes
from tests.agent.agents import RunningAgent, running
from tests.conftest import RunningGateway, until
from tests.fakes.engine import FakeEngine
from tests.gateway.exchanges import an_exchange


@pytest.fixture
async def name(two: RunningGateway) -> str:
    """The version of `support` that is not loaded yet."""
    found: str = (await two.http.get("/admin/v1/adapters/support")).json()["versions"][1]["engine_name"]
    assert found not in two.engine.loaded
    return found


def is_well(two: RunningGateway, name: str) -> bool:
    """Whether nothing is said against the version, and nobody unloaded it."""
    return two.app.state.fleet.breakers.is_closed(name) and not two.engine.calls["unload " + name]


async def test_what_is_there_again_after_the_proof_missed_it_is_not_refused(two: RunningGateway, name: str) -> None:
    """Another gateway has loaded it since; its load is not ours to undo."""
    residency, misses = two.replica.residency, 12
    prove = residency._loader._prover.prove

    async def missing(engine: Engine, asked: str, probes: Probes | None, timeout_s: float) -> Proof:
        nonlocal misses
        if asked != name or not misses:
            return await prove(engine, asked, probes, timeout_s)
        misses -= 1
        folder = two.engine.loaded.pop(name)
        try:
            return await prove(engine, asked, probes, timeout_s)
        finally:
            two.engine.loaded[name] = folder

    residency._loader._prover.prove = missing  # type: ignore[assignment]
    assert (await two.chat("support@2")).status_code == 200
    assert misses == 0
    assert is_well(two, name)
    assert two.engine.calls["load " + name] == 1


async def test_the_bases_absence_is_not_the_versions(two: RunningGateway, name: str) -> None:
    """An engine without its base model is told at once, and no other gateway is suspected."""
    residency = two.replica.residency
    residency._loader._prover.forget()
    two.engine.absent_next = ["tiny"] * 100
    refused = await two.promote("support", 2)
    assert "The model `tiny` does not exist" in refused.json()["error"]["message"]
    assert two.engine.calls["load " + name] == 1


def at_the_request(engine: FakeEngine, name: str, times: int) -> None:
    """Other gateways unload the version each time between its proof and the request."""
    failure, left = engine._failure, times

    def unloaded(model: str, body: dict[str, Any]) -> web.Response | None:
        nonlocal left
        if model == name and "messages" in body and left:
            left -= 1
            engine.loaded.pop(name, None)
        return failure(model, body)

    engine._failure = unloaded  # type: ignore[method-assign]


def at_the_proof(engine: FakeEngine, name: str, times: int) -> None:
    """Other gateways unload the version each time between its load and its proof."""
    engine.absent_next = [name] * times


each_moment = pytest.mark.parametrize("lose", [at_the_request, at_the_proof])
Lose = Callable[[FakeEngine, str, int], None]


@each_moment
async def test_a_request_outlasts_what_others_do(two: RunningGateway, name: str, lose: Lose) -> None:
    """However often the version goes."""
    lose(two.engine, name, 15)
    assert (await two.chat("support@2")).status_code == 200
    assert is_well(two, name)


def before_a_slow_load(engine: FakeEngine, name: str, _times: int) -> None:
    """Once, and then it takes longer than the client waits."""
    at_the_request(engine, name, 1)
    failure = engine._failure

    def slow(model: str, body: dict[str, Any]) -> web.Response | None:
        found = failure(model, body)
        engine.load_s = 5.0 if found is not None else engine.load_s
        return found

    engine._failure = slow  # type: ignore[method-assign]


@pytest.mark.parametrize("lose", [at_the_request, at_the_proof, before_a_slow_load])
async def test_without_lasting_room_clients_are_told_to_come_back(two: RunningGateway, name: str, lose: Lose) -> None:
    """At their deadline: 503, never the engine's own 404, and never that the version is at fault."""
    two.http.headers[TIMEOUT_HEADER] = "0.5"
    lose(two.engine, name, 10_000)
    answer = await two.chat("support@2")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_unavailable")
    assert int(answer.headers["retry-after"]) > 0
    assert is_well(two, name)
    assert two.replica.state == "ready"


async def test_what_was_lost_is_not_sent_again_without_time_for_another_loss(two: RunningGateway) -> None:
    """Though it is there again: after one more loss it would be too late to tell the client to come back."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    def outbound(deadline_s: float) -> Outbound:
        exchange = an_exchange(deadline_s, route=Route(live, "tiny", "stable", "support", version), lost=1)
        return Outbound(exchange, decode(b'{"model":"support"}'), {}, keep_usage=True, send=send)

    (live,) = two.replica.residency.resident
    version, dispatcher = two.app.state.directory.catalog.version(live), two.app.state.inference._dispatcher
    asked = two.engine.calls[live]
    with pytest.raises(EngineCrowded):
        await dispatcher.answer(outbound(0.04))
    assert (sent, two.engine.calls[live]) == ([], asked)
    await dispatcher.answer(outbound(60.0))
    assert (sent[0]["status"], two.engine.calls[live]) == (200, asked + 1)


async def test_a_gateway_that_cannot_keep_a_live_version_serves_the_rest(two: RunningGateway, name: str) -> None:
    """Its engine is not taken for down, and the version comes once there is room."""
    two.replica.residency._loader.timeout_s = 0.1
    (live,) = two.engine.loaded
    two.engine.absent_next = [live] * 10_000
    two.engine.loaded.clear()
    two.replica.residency.forget(live)
    await until(lambda: "no lasting room" in (two.replica.problem or ""))
    for _ in range(5):
        assert (await two.chat("tiny")).status_code == 200
        assert two.replica.state == "ready"
    assert is_well(two, live)
    two.engine.absent_next.clear()
    await until(lambda: live in two.replica.residency.resident)


async def test_a_load_that_others_were_first_with_and_undid_is_tried_again(two: RunningGateway, name: str) -> None:
    """The engine says that it has the version already, and by the next look it has not."""
    engine, load, left = two.replica.engine, two.replica.engine.load, 4

    async def crossed(asked: str, path: str, timeout_s: float) -> None:
        nonlocal left
        if not left:
            return await load(asked, path, timeout_s)
        left -= 1
        raise EngineRefused(400, f"The lora adapter '{asked}' has already been loaded.")

    engine.load = crossed  # type: ignore[assignment]
    assert (await two.chat("support@2")).status_code == 200
    assert left == 0
    assert is_well(two, name)


@pytest.fixture
async def beside(
    tmp_path: Path, fake_engine: FakeEngine, gateway_settings: GatewaySettings
) -> AsyncIterator[RunningAgent]:
    """An agent of the same engine."""
    settings = AgentSettings(
        agent_engine_url=fake_engine.url, agent_cache=tmp_path / "agent", artifacts_url=gateway_settings.artifacts
    )
    async with running(settings) as found:
        yield found


async def test_so_is_one_by_an_agent(
    two: RunningGateway, name: str, beside: RunningAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It passes the engine's words on."""
    version = two.app.state.directory.catalog.version(name)
    load, left = agent.engine.Engine.load, 4

    async def crossed(engine: agent.engine.Engine, asked: str, path: str) -> None:
        nonlocal left
        if not left:
            return await load(engine, asked, path)
        left -= 1
        raise agent.errors.EngineRefused(400, f"The lora adapter '{asked}' has already been loaded.")

    monkeypatch.setattr(agent.engine.Engine, "load", crossed)

    async def by_agent(_fetched: object, _timeout_s: float) -> bool:
        answer: httpx.Response = await beside.http.put(f"/v1/versions/{name}", json={"digest": version.digest})
        if answer.is_success:
            return bool(answer.json()["loaded"])
        raise EngineRefused(answer.status_code, answer.json()["error"]["message"])

    two.replica.manager.load = by_agent  # type: ignore[assignment]
    assert (await two.chat("support@2")).status_code == 200
    assert left == 0
    assert is_well(two, name)
