"""A gateway whose engine has an agent: all that is loaded there comes by the agent, and the gateway has no weights."""

import errno
import shutil
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from agent.settings import AgentSettings
from gateway.engines.agents import agent_url
from gateway.engines.failures import EngineRefused
from gateway.engines.managing import LATE, Fetched
from gateway.settings import GatewaySettings
from registry.artifacts import ArtifactStore
from registry.errors import StoreFailure
from registry.probes import PROBES_FILE, read_probes
from tests.agent.agents import RunningAgent, running
from tests.conftest import RunningGateway, until
from tests.fakes.engine import FakeEngine

NOBODY = "http://127.0.0.1:1"
"""An address where nobody listens."""
PROBES = Path(__file__).resolve().parents[3] / "demo" / "adapters" / "support" / "2" / PROBES_FILE


@pytest.fixture
def store_url() -> str:
    """A store that is on no disk of the gateway, nor of the agent."""
    return f"memory://{uuid.uuid4().hex}"


@pytest.fixture
def agent_settings(tmp_path: Path, fake_engine: FakeEngine, store_url: str) -> AgentSettings:
    """The agent of the fake engine."""
    return AgentSettings(
        agent_engine_url=fake_engine.url,
        agent_cache=tmp_path / "agent",
        agent_token="between us",
        artifacts_url=store_url,
    )


@pytest.fixture
async def agent(agent_settings: AgentSettings) -> AsyncIterator[RunningAgent]:
    """It runs."""
    async with running(agent_settings) as found:
        yield found


@pytest.fixture
def gateway_settings(gateway_settings: GatewaySettings, agent: RunningAgent, store_url: str) -> GatewaySettings:
    """A gateway that knows of the agent."""
    update = {"engine_agent_port": agent.http.base_url.port, "agent_token": "between us", "artifacts_url": store_url}
    return gateway_settings.model_copy(update=update)


@pytest.fixture
async def two(gateway: RunningGateway) -> RunningGateway:
    """`support` in two versions, version 1 live."""
    await gateway.push("support", 1.0)
    await gateway.push("support", 2.0)
    assert (await gateway.promote("support", 1)).is_success
    return gateway


async def served_by(gateway: RunningGateway) -> str:
    """The version that answers."""
    answer = await gateway.chat("support")
    assert answer.status_code == 200, answer.text
    return answer.headers["x-ostler-version"]


async def test_versions_go_live_and_back_by_the_agent(
    two: RunningGateway, gateway_settings: GatewaySettings, agent_settings: AgentSettings
) -> None:
    """The engine has them from the agent's cache; the gateway never had their weights."""
    assert await served_by(two) == "1"
    assert (await two.promote("support", 2)).is_success
    assert await served_by(two) == "2"
    assert (await two.http.post("/admin/v1/adapters/support/rollback", json={})).is_success
    assert await served_by(two) == "1"
    folders = {Path(path).parent for path in two.engine.loaded.values()}
    assert folders == {agent_settings.agent_cache / "sha256"}
    assert not list(gateway_settings.cache.rglob("*.safetensors"))


async def test_an_engine_that_restarts_gets_its_versions_back(two: RunningGateway) -> None:
    """As without an agent, and what the registry does not know goes."""
    loaded = dict(two.engine.loaded)
    await two.engine.stop()
    await until(lambda: two.replica.state == "down")
    await two.engine.start()
    await until(lambda: loaded.items() <= two.engine.loaded.items())
    two.engine.loaded["stranger@1-00000000"] = "/models/stranger"
    await until(lambda: "stranger@1-00000000" not in two.engine.loaded)
    assert await served_by(two) == "1"


async def test_an_agent_that_is_away_takes_no_engine_out(two: RunningGateway) -> None:
    """What is loaded goes on serving, what is not is refused with the reason, and comes once the agent is back."""
    replica, agents_address = two.replica, two.replica.manager._url  # type: ignore[attr-defined]
    replica.manager._url = NOBODY  # type: ignore[attr-defined]
    refused = await two.promote("support", 2)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "version_not_servable")
    assert "its agent does not answer" in refused.json()["error"]["message"]
    assert await served_by(two) == "1"
    two.engine.loaded.clear()
    await until(lambda: replica.problem is not None and "its agent does not answer" in replica.problem)
    assert (await two.http.get("/readyz")).status_code == 200
    assert (await two.chat("tiny")).status_code == 200
    replica.manager._url = agents_address  # type: ignore[attr-defined]
    await until(lambda: two.engine.loaded)
    assert await served_by(two) == "1"


async def test_the_agents_reason_reaches_the_admin(two: RunningGateway, store_url: str) -> None:
    """Content that was damaged in the store is named, and the live version stays."""
    files = MemoryFileSystem()
    for weights in files.glob(f"{store_url.removeprefix('memory:/')}/sha256/*/adapter_model.safetensors"):
        files.pipe_file(weights, files.cat_file(weights)[:-1] + b"?")
    refused = await two.promote("support", 2)
    assert refused.status_code == 409
    message = refused.json()["error"]["message"]
    assert "its agent says: the content stored as" in message
    assert "is damaged" in message
    assert await served_by(two) == "1"


async def test_another_token_is_told(two: RunningGateway) -> None:
    """As a setting that is wrong, not as an engine that is."""
    two.replica.manager._headers = {"authorization": "Bearer another"}  # type: ignore[attr-defined]
    await two.push("support", 3.0)
    refused = await two.promote("support", 3)
    assert refused.status_code == 409
    assert "its agent says: this needs the agent's token" in refused.json()["error"]["message"]


async def test_an_engine_sleeps_and_wakes_by_its_agent(two: RunningGateway) -> None:
    """One that cannot sleep is told apart from one whose agent is away."""
    order = {"holder": "tuner", "force": True}
    refused = await two.http.post("/admin/v1/replicas/engine-0/sleep", json=order)
    assert (refused.status_code, "cannot sleep" in refused.text) == (409, True)
    two.engine.can_sleep = True
    assert (await two.http.post("/admin/v1/replicas/engine-0/sleep", json=order)).is_success
    assert two.engine.asleep
    assert (await two.http.post("/admin/v1/replicas/engine-0/wake", json={})).is_success
    assert not two.engine.asleep
    assert await served_by(two) == "1"


@pytest.mark.parametrize(
    ("engine", "agent"),
    [
        ("http://10.0.0.7:8000", "http://10.0.0.7:8083"),
        ("http://[fd00::7]:8000", "http://[fd00::7]:8083"),
        ("https://user:word@engines.example:8443/vllm", "http://engines.example:8083"),
    ],
)
def test_the_agent_is_at_the_engines_host(engine: str, agent: str) -> None:
    """With its own port, and with nothing else of the engine's address."""
    assert agent_url(engine, 8083) == agent


async def test_a_versions_probes_come_from_the_agent_or_the_store(
    two: RunningGateway, gateway_settings: GatewaySettings, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Either may be away; from the store they come without the weights, and each is held against the digest."""
    store = ArtifactStore(store_url, gateway_settings.cache)
    artifact = store.put_files({PROBES_FILE: PROBES.read_bytes(), "adapter_model.safetensors": b"weights"})
    found = two.app.state.directory.catalog.version(next(iter(two.engine.loaded)))
    version = replace(found, digest=artifact.digest)
    manager = two.replica.manager
    assert (await manager.fetch(version)).probes == read_probes(PROBES.parent)
    with monkeypatch.context() as outage:
        outage.setattr(MemoryFileSystem, "cat_file", away)
        assert await manager.probes(version) == read_probes(PROBES.parent)
    manager._url = NOBODY  # type: ignore[attr-defined]
    files = MemoryFileSystem()
    folder = f"{store_url.removeprefix('memory:/')}/sha256/{artifact.digest}"
    files.rm(f"{folder}/adapter_model.safetensors")
    assert await manager.probes(version) == read_probes(PROBES.parent)
    files.pipe_file(f"{folder}/{PROBES_FILE}", PROBES.read_bytes().replace(b"1", b"2", 1))
    with pytest.raises(StoreFailure, match="is damaged"):
        await manager.probes(version)


def away(*_: Any, **__: Any) -> bytes:
    """What a store that is away answers."""
    raise OSError(errno.EIO, "away")


ADAPTERS = "abcde"


@pytest.fixture
async def five(gateway: RunningGateway) -> RunningGateway:
    """Five adapters live, on an engine that holds three."""
    gateway.replica.residency.slots = 3
    for adapter in ADAPTERS:
        await gateway.push(adapter, 1.0 + ord(adapter) / 1000)
        assert (await gateway.promote(adapter, 1)).is_success
    await until(lambda: len(gateway.engine.loaded) == 3)
    return gateway


async def outcomes(gateway: RunningGateway) -> dict[str, int]:
    """The status that each adapter's clients get, those of what is loaded last."""
    loaded = {name.partition("@")[0] for name in gateway.engine.loaded}
    return {adapter: (await gateway.chat(adapter)).status_code for adapter in sorted(ADAPTERS, key=loaded.__contains__)}


async def test_an_agent_that_is_away_costs_nothing_that_is_loaded(five: RunningGateway) -> None:
    """However often others are asked for: what cannot be unloaded is not forgotten."""
    loaded = dict(five.engine.loaded)
    five.replica.manager._url = NOBODY  # type: ignore[attr-defined]
    for _ in range(2):
        found = await outcomes(five)
        assert {adapter for adapter, status in found.items() if status == 200} == {
            name.partition("@")[0] for name in loaded
        }
    assert five.engine.loaded == loaded
    assert five.replica.residency.resident == loaded.keys()
    assert five.replica.state == "ready"


async def test_what_is_not_unloaded_is_not_forgotten(five: RunningGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays resident, and is tried again until it goes."""
    residency, tries = five.replica.residency, list[str]()

    async def refuse(name: str) -> None:
        tries.append(name)
        raise EngineRefused(503, "its agent does not answer")

    loaded = dict(five.engine.loaded)
    with monkeypatch.context() as refusing:
        refusing.setattr(residency.manager, "unload", refuse)
        residency.slots = 2
        await until(lambda: len(tries) > 2)
        await until(lambda: residency.resident == loaded.keys() and not residency.is_loading)
        assert five.engine.loaded == loaded
    await until(lambda: len(five.engine.loaded) == 2)
    assert residency.resident == five.engine.loaded.keys()


async def test_a_store_that_is_away_costs_nothing_that_an_agent_has(
    five: RunningGateway, agent_settings: AgentSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of that loads, also after a restart of the engine; and for what it has not nothing makes room."""
    monkeypatch.setattr(MemoryFileSystem, "cat_file", away)
    assert set((await outcomes(five)).values()) == {200}
    await five.engine.stop()
    await until(lambda: five.replica.state == "down")
    five.engine.loaded.clear()
    await five.engine.start()
    await until(lambda: len(five.engine.loaded) == 3 and five.replica.state == "ready")
    assert set((await outcomes(five)).values()) == {200}
    loaded = dict(five.engine.loaded)
    here = {Path(path).name for path in loaded.values()}
    for folder in (agent_settings.agent_cache / "sha256").iterdir():
        if folder.name not in here:
            shutil.rmtree(folder)
    assert sorted((await outcomes(five)).values()) == [200, 200, 200, 503, 503]
    assert five.engine.loaded == loaded


async def test_what_an_engine_has_after_all_needs_only_its_proof(two: RunningGateway) -> None:
    """Neither a blip of the engine, nor a gateway that starts, takes a version out while the agent is away."""
    assert await served_by(two) == "1"
    two.replica.manager._url = NOBODY  # type: ignore[attr-defined]
    two.replica.refused_connection()
    await until(lambda: two.replica.state == "ready")
    assert await served_by(two) == "1"
    assert two.engine.calls["load " + next(iter(two.engine.loaded))] == 1


async def test_what_is_loaded_too_late_and_fails_its_proof_is_unloaded(two: RunningGateway) -> None:
    """The gateway had given up waiting, and it is its load all the same."""
    await two.push("support", 3.0)
    manager, name = two.replica.manager, next(iter(two.engine.loaded))
    load = manager.load

    async def late(fetched: Fetched, timeout_s: float) -> bool:
        await load(fetched, timeout_s)
        raise EngineRefused(LATE, "its agent did not do it in time, and goes on")

    manager.load = late  # type: ignore[method-assign]
    assert (await two.promote("support", 3)).status_code == 409
    manager.load = load  # type: ignore[method-assign]
    added = (two.engine.loaded.keys() - {name}).pop()
    two.engine.idle.add(added)
    refused = await two.promote("support", 3)
    assert "does nothing" in refused.json()["error"]["message"]
    assert added not in two.engine.loaded


async def test_clients_are_not_told_of_the_set_up(two: RunningGateway) -> None:
    """A wrong token is the operators' matter; so is the size of a cache."""
    two.replica.manager._headers = {}  # type: ignore[attr-defined]
    two.engine.loaded.clear()
    two.replica.has_lost(two.app.state.directory.catalog.version(next(iter(two.replica.residency.resident))))
    answer = await two.chat("support")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "version_not_servable")
    assert answer.json()["error"]["message"].endswith("its agent could not load it")
