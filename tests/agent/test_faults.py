"""What goes wrong on the way from the store to the disk: a clear error, a clean cache, and it works the next time."""

import asyncio
import errno
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent.settings import AgentSettings
from registry.artifact_files import ArtifactReader
from registry.artifacts import ArtifactStore
from tests.agent.agents import KIB, FlakyStore, RunningAgent, running, stored
from tests.conftest import until
from tests.fakes.engine import FakeEngine
from tests.ports import free_port


def weights_of(store: ArtifactStore, digest: str) -> Path:
    """The file with a stored version's weights."""
    assert store.folder is not None
    return store.folder / "sha256" / digest / "adapter_model.safetensors"


async def assert_failed(agent: RunningAgent, answer: httpx.Response, status: int, code: str, *words: str) -> None:
    """A clear error that shows no path, and nothing left of the version."""
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    for each in words:
        assert each in answer.json()["error"]["message"]
    assert str(agent.settings.agent_cache.parent) not in answer.text
    assert agent.cached() == set()
    assert agent.leftovers() == []
    assert await agent.metric("ostler_agent_cache_bytes") == 0
    assert await agent.metric(f'ostler_agent_fetch_failures_total{{reason="{code}"}}') >= 1


@pytest.mark.parametrize("damage", ["weights", "shorter", "manifest", "gone"])
async def test_damaged_content_is_not_loaded(
    agent: RunningAgent, store: ArtifactStore, fake_engine: FakeEngine, damage: str
) -> None:
    """Wherever the damage is; once the store is mended the version loads."""
    version = stored(store, 1)
    weights = weights_of(store, version.digest)
    good = weights.read_bytes()
    manifest = weights.parent / "manifest.json"
    kept = manifest.read_bytes()
    if damage == "weights":
        weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    elif damage == "shorter":
        weights.write_bytes(good[:1000])
    elif damage == "manifest":
        manifest.write_bytes(kept.replace(b"weights", b"things").replace(b"model", b"motel"))
    else:
        manifest.unlink()
    words = {"shorter": "gave 1000 of 102400 bytes", "gone": "lacks the content"}.get(damage, "is damaged")
    await assert_failed(agent, await agent.load(version), 503, "artifact_store_unavailable", words)
    assert fake_engine.loaded == {}
    weights.write_bytes(good)
    manifest.write_bytes(kept)
    assert (await agent.load(version)).status_code == 201


async def test_a_download_that_breaks_off_leaves_nothing(
    agent_settings: AgentSettings, store: ArtifactStore, flaky: FlakyStore
) -> None:
    """The connection ends in the middle of the weights; the next try has them whole."""
    version = stored(store, 1)
    flaky.cut_after = 50 * KIB
    async with running(agent_settings.model_copy(update={"artifacts_url": flaky.url})) as agent:
        await assert_failed(agent, await agent.load(version), 503, "artifact_store_unavailable", "could not be read")
        flaky.cut_after = None
        assert (await agent.load(version)).status_code == 201


async def test_a_store_that_is_away_is_told_and_takes_no_engine_out(
    agent_settings: AgentSettings, store: ArtifactStore, flaky: FlakyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is cached still loads; the agent stays ready, says what is amiss, and says when it is over."""
    monkeypatch.setattr("agent.app._STORE_LOOK_S", 0.02)
    cached, other = stored(store, 1), stored(store, 2)
    async with running(agent_settings.model_copy(update={"artifacts_url": flaky.url})) as agent:
        await agent.load(cached)
        await agent.unload(cached)
        await flaky.stop()
        assert (await agent.load(cached)).status_code == 201
        answer = await agent.load(other)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "artifact_store_unavailable")
        assert agent.cached() == {cached.digest}

        async def problems() -> list[str]:
            health = await agent.http.get("/readyz")
            assert health.status_code == 200
            found: list[str] = health.json()["problems"]
            return found

        await until(problems)
        assert "127.0.0.1" not in (await problems())[0]
        assert await agent.metric("ostler_agent_store_reachable") == 0


async def test_a_disk_that_gets_full_leaves_nothing(
    agent: RunningAgent, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the agent's disk that is named, not the store."""
    version = stored(store, 1)
    write = os.write

    def full(handle: int, content: Any) -> int:
        if len(content) < 100 * KIB:
            return write(handle, content)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("agent.cache.os.write", full)
    await assert_failed(
        agent, await agent.load(version), 507, "disk_failure", "the agent's cache", "No space left on device"
    )
    monkeypatch.undo()
    assert (await agent.load(version)).status_code == 201


async def test_a_file_that_the_system_takes_no_more_of_leaves_nothing(
    agent_settings: AgentSettings, store: ArtifactStore
) -> None:
    """The system itself ends the write in its middle, here by its limit for files; what fits is loaded all the same."""
    small, large = stored(store, 1, 50 * KIB), stored(store, 2, 300 * KIB)
    settings = agent_settings.model_copy(update={"agent_port": free_port()})
    process = start(settings)
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{settings.agent_port}", timeout=60) as http:
            await until(lambda: answers(http), 60)
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (256 * KIB, 256 * KIB))
            agent = RunningAgent(settings, http)
            await assert_failed(agent, await agent.load(large), 507, "disk_failure", "File too large")
            assert (await agent.load(small)).status_code == 201
    finally:
        process.kill()
        process.wait()


async def test_an_agent_that_is_killed_while_it_fetches_leaves_nothing(
    agent_settings: AgentSettings, store: ArtifactStore, flaky: FlakyStore, fake_engine: FakeEngine
) -> None:
    """The next one sweeps what had come, has the version's own room again, and loads it."""
    version = stored(store, 1, 300 * KIB)
    settings = agent_settings.model_copy(update={"artifacts_url": flaky.url, "agent_port": free_port()})
    flaky.held.clear()
    process = start(settings)
    url = f"http://127.0.0.1:{settings.agent_port}"
    try:
        async with httpx.AsyncClient(base_url=url, timeout=60) as http:
            await until(lambda: answers(http), 60)
            load = asyncio.create_task(http.put(f"/v1/versions/{version.name}", json={"digest": version.digest}))
            await until(lambda: flaky.asked == 1)
            process.kill()
            process.wait()
            with pytest.raises(httpx.TransportError):
                await load
    finally:
        process.kill()
        process.wait()
    assert list((settings.agent_cache / ".staging").iterdir())
    assert list((settings.agent_cache / "sha256").iterdir()) == []
    flaky.held.set()
    async with running(settings) as agent:
        assert agent.leftovers() == []
        assert (await agent.load(version)).status_code == 201
        assert version.name in fake_engine.loaded


def start(settings: AgentSettings) -> subprocess.Popen[bytes]:
    """An agent in a process of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OSTLER_")}
    own = {f"OSTLER_{name.upper()}": str(value) for name, value in settings.model_dump().items()}
    return subprocess.Popen([sys.executable, "-m", "ostler", "agent"], env=kept | own)


async def answers(http: httpx.AsyncClient) -> bool:
    """Whether the agent answers yet."""
    try:
        return (await http.get("/livez")).is_success
    except httpx.TransportError:
        return False


async def test_a_store_that_never_answers_keeps_no_agent_from_ending(agent_settings: AgentSettings) -> None:
    """It is told as a store that is away, and a stop in order is one: exit code 0."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(50)
        store = f"http://127.0.0.1:{silent.getsockname()[1]}/store"
        settings = agent_settings.model_copy(update={"artifacts_url": store, "agent_port": free_port()})
        process = start(settings)
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{settings.agent_port}", timeout=60) as http:
                await until(lambda: answers(http), 60)
                health = await http.get("/readyz")
                assert health.json()["problems"] == ["the artifact store has not answered yet"]
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, 60) == 0
        finally:
            process.kill()
            process.wait()


async def test_a_store_that_stops_answering_is_told(
    agent_settings: AgentSettings, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the look at it that hangs is the only one; and told again when it is over."""
    monkeypatch.setattr("agent.app._STORE_LOOK_S", 0.02)
    monkeypatch.setattr("agent.app._STORE_ANSWER_S", 0.02)
    goes_on, looks = threading.Event(), Counter[str]()
    goes_on.set()

    def reach(_reader: ArtifactReader) -> None:
        looks["begun"] += 1
        goes_on.wait()

    monkeypatch.setattr(ArtifactReader, "reach", reach)
    async with running(agent_settings) as agent:

        async def problems() -> list[str]:
            found: list[str] = (await agent.http.get("/readyz")).json()["problems"]
            return found

        await until(lambda: looks["begun"] > 1)
        assert await problems() == []
        goes_on.clear()
        await until(problems)
        begun = looks["begun"]
        assert await problems() == ["the artifact store does not answer"]
        assert await agent.metric("ostler_agent_store_reachable") == 0
        assert looks["begun"] == begun
        goes_on.set()
        await until(lambda: looks["begun"] > begun)
        assert await agent.metric("ostler_agent_store_reachable") == 1


async def test_an_agent_that_stops_while_it_fetches_ends_the_fetch(
    agent_settings: AgentSettings, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two parts, with nothing left behind."""
    monkeypatch.setattr("registry.artifact_files._PART_BYTES", 1)  # so that it takes far longer than the test
    version = stored(store, 1)
    async with running(agent_settings) as agent:
        load = asyncio.create_task(agent.load(version))
        await until(agent.leftovers)
    assert agent.leftovers() == []
    assert agent.cached() == set()
    await asyncio.gather(load, return_exceptions=True)
