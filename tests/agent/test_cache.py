"""The agent's cache: within its size, and never without what its engine uses."""

import asyncio
import errno
import json
import os
import shutil
import threading
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.app import create_agent
from agent.cache import Cache
from agent.errors import CacheFull
from agent.metrics import AgentMetrics
from agent.settings import AgentSettings
from registry.artifact_files import ArtifactReader, Manifest
from registry.artifacts import Artifact, ArtifactStore, artifact_of
from tests.agent.agents import KIB, RunningAgent, Stored, running, stored
from tests.conftest import until
from tests.fakes.engine import FakeEngine


async def load_and_unload(agent: RunningAgent, *versions: Stored) -> None:
    """Have versions in the cache that the engine does not use."""
    for version in versions:
        assert (await agent.load(version)).is_success
        await agent.unload(version)


async def test_the_least_recently_used_makes_room(agent: RunningAgent, store: ArtifactStore) -> None:
    """By loads, not by when it came."""
    one, two, three, four = (stored(store, number) for number in range(1, 5))
    await load_and_unload(agent, one, two, three, one, four)
    assert agent.cached() == {one.digest, three.digest, four.digest}
    assert await agent.metric("ostler_agent_evictions_total") == 1
    assert await agent.metric("ostler_agent_cache_bytes") == sum(each.size for each in (one, three, four))
    assert agent.leftovers() == []


async def test_the_order_of_use_survives_a_restart(agent_settings: AgentSettings, store: ArtifactStore) -> None:
    """As do the files."""
    one, two, three, four = (stored(store, number) for number in range(1, 5))
    async with running(agent_settings) as agent:
        await load_and_unload(agent, one, two, three)
        for age, version in enumerate((three, one, two)):  # as if a day had passed each time
            os.utime(agent.settings.agent_cache / "sha256" / version.digest, (age * 86400, age * 86400))
        await load_and_unload(agent, three)
    async with running(agent_settings) as agent:
        assert await agent.metric("ostler_agent_cached_versions") == 3
        await load_and_unload(agent, four)
        assert agent.cached() == {two.digest, three.digest, four.digest}


async def test_what_the_engine_has_registered_stays(
    agent: RunningAgent, store: ArtifactStore, fake_engine: FakeEngine
) -> None:
    """However old it is, as vLLM reads it again; where that leaves no room, nothing goes and the figures are told."""
    one, two, three, four = (stored(store, number) for number in range(1, 5))
    assert (await agent.load(one)).is_success
    await load_and_unload(agent, two, three, four)
    assert agent.cached() == {one.digest, three.digest, four.digest}
    for version in (three, four):
        await agent.load(version)
    answer = await agent.load(two)
    assert (answer.status_code, answer.json()["error"]["code"]) == (507, "cache_full")
    for words in ("0.1 MiB", "0.3 MiB of the agent's 0.3 MiB", "OSTLER_AGENT_CACHE_GIB"):
        assert words in answer.json()["error"]["message"]
    assert agent.cached() == {one.digest, three.digest, four.digest}
    assert set(fake_engine.loaded) == {one.name, three.name, four.name}
    await agent.unload(one)
    assert (await agent.load(two)).is_success


async def test_what_the_engine_has_registered_stays_after_a_restart_of_the_agent(
    agent_settings: AgentSettings, store: ArtifactStore
) -> None:
    """The new one asks its engine before it evicts, and evicts nothing if that does not answer."""
    one, two, three, four = (stored(store, number) for number in range(1, 5))
    async with running(agent_settings) as agent:
        await agent.load(one)
        await load_and_unload(agent, two, three)
    async with running(agent_settings) as agent:
        assert (await agent.load(four)).is_success
        assert agent.cached() == {one.digest, three.digest, four.digest}


async def test_what_is_being_loaded_stays(agent: RunningAgent, store: ArtifactStore, fake_engine: FakeEngine) -> None:
    """The engine has not registered it yet, and is reading it."""
    one, *others = (stored(store, number) for number in range(1, 5))
    fake_engine.load_s = 60.0
    load = asyncio.create_task(agent.load(one))
    await until(lambda: fake_engine.calls["load " + one.name])
    fake_engine.load_s = 0.0
    await load_and_unload(agent, *others)
    assert one.digest in agent.cached()
    load.cancel()


async def test_a_version_over_the_caches_size_is_refused(agent: RunningAgent, store: ArtifactStore) -> None:
    """Before any of it is fetched, and without evicting for it."""
    small, large = stored(store, 1), stored(store, 2, 400 * KIB)
    await load_and_unload(agent, small)
    answer = await agent.load(large)
    assert (answer.status_code, answer.json()["error"]["code"]) == (507, "version_too_large")
    assert "0.4 MiB" in answer.json()["error"]["message"]
    assert agent.cached() == {small.digest}
    assert await agent.metric("ostler_agent_fetched_bytes_total") == small.size


async def test_a_damaged_copy_is_fetched_again(agent: RunningAgent, store: ArtifactStore) -> None:
    """Each load looks at every byte, unless that was just done and nobody has written to it since."""
    version = stored(store, 1)
    await load_and_unload(agent, version)
    file = agent.settings.agent_cache / "sha256" / version.digest / "adapter_model.safetensors"
    content = file.read_bytes()
    file.write_bytes(b"x" + content[1:])
    assert (await agent.load(version)).status_code == 201
    assert file.read_bytes() == content
    assert await agent.metric("ostler_agent_fetches_total") == 2
    assert agent.leftovers() == []


async def test_a_load_hashes_what_it_needs_once(
    agent: RunningAgent, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway asks for the files and then for the load; a download is hashed as it comes, a copy after a minute."""
    hashed: list[str] = []

    def hashing(files: dict[str, Path]) -> Artifact:
        hashed.append("once")
        return artifact_of(files)

    monkeypatch.setattr("agent.wholeness.artifact_of", hashing)
    version = stored(store, 1)
    for _ in range(2):
        assert (await agent.http.put(f"/v1/contents/{version.digest}")).status_code == 200
        await load_and_unload(agent, version)
    assert hashed == []
    monkeypatch.setattr("agent.wholeness._HOLDS_S", 0.0)
    await load_and_unload(agent, version)
    assert hashed == ["once"]


async def test_a_copy_that_somebody_took_away_is_fetched_again(agent: RunningAgent, store: ArtifactStore) -> None:
    """The agent does not insist on what it remembers."""
    version = stored(store, 1)
    await load_and_unload(agent, version)
    shutil.rmtree(agent.settings.agent_cache / "sha256" / version.digest)
    assert (await agent.load(version)).status_code == 201
    assert await agent.metric("ostler_agent_cache_bytes") == version.size


async def test_probes_are_for_nobody_else(agent: RunningAgent, store: ArtifactStore) -> None:
    """They may hold what users said; the weights are as readable as the umask has it."""
    files = {"adapter_config.json": b"{}", "probes.json": json.dumps({}).encode()}
    artifact = store.put_files(files)
    await agent.load(Stored(f"support@1-{artifact.digest[:8]}", artifact.digest, artifact.size_bytes))
    folder = agent.settings.agent_cache / "sha256" / artifact.digest
    assert (folder / "probes.json").stat().st_mode & 0o777 == 0o600
    assert (folder / "adapter_config.json").stat().st_mode & 0o004


async def test_one_folder_has_one_agent(agent: RunningAgent) -> None:
    """A second one would sweep and evict what is not its own."""
    with pytest.raises(ValueError, match="another agent uses the folder in OSTLER_AGENT_CACHE"):
        create_agent(agent.settings)


def test_a_folder_that_cannot_be_used_is_told(agent_settings: AgentSettings, tmp_path: Path) -> None:
    """At the start, without its path."""
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="the folder in OSTLER_AGENT_CACHE cannot be used: Not a directory"):
        create_agent(agent_settings.model_copy(update={"agent_cache": tmp_path / "file" / "cache"}))


async def test_an_eviction_that_fails_leaves_nothing(
    agent: RunningAgent, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it had moved out of the way is deleted all the same."""
    await load_and_unload(agent, *(stored(store, number) for number in range(1, 4)))
    large, rename, moved = stored(store, 4, 300 * KIB), Path.rename, Counter[str]()

    def fail_once(path: Path, target: Path) -> Path:
        moved[path.parent.name] += 1
        if path.parent.name == "sha256" and moved["sha256"] == 2:
            raise OSError(errno.EIO, "Input/output error")
        return rename(path, target)

    with monkeypatch.context() as broken:
        broken.setattr(Path, "rename", fail_once)
        assert (await agent.load(large)).json()["error"]["code"] == "disk_failure"
    assert moved["sha256"] == 2
    assert agent.leftovers() == []
    assert len(agent.cached()) == 2
    assert (await agent.load(large)).status_code == 201


async def test_a_folder_that_the_agent_did_not_note_is_replaced(agent: RunningAgent, store: ArtifactStore) -> None:
    """Whatever lies there under a version's digest."""
    for number, kind in enumerate(("folder", "file", "link"), 1):
        version = stored(store, number)
        place = agent.settings.agent_cache / "sha256" / version.digest
        if kind == "folder":
            place.mkdir()
            (place / "strange").touch()
        elif kind == "file":
            place.touch()
        else:
            place.symlink_to("/nowhere/at/all")
        assert (await agent.load(version)).status_code == 201
        assert sorted(file.name for file in place.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
        await agent.unload(version)
    assert agent.leftovers() == []


async def test_an_agent_starts_on_a_folder_that_it_cannot_read(
    agent_settings: AgentSettings, store: ArtifactStore
) -> None:
    """It drops what it cannot measure."""
    version = stored(store, 1)
    place = agent_settings.agent_cache / "sha256" / version.digest
    place.mkdir(parents=True)
    (place / "adapter_config.json").symlink_to("/nowhere/at/all")
    async with running(agent_settings) as agent:
        assert agent.cached() == set()
        assert (await agent.load(version)).status_code == 201


class Room:
    """A cache alone, before an engine of which the test says what it has registered."""

    def __init__(self, store: ArtifactStore, settings: AgentSettings) -> None:
        self.registered: list[str] = []
        self.asked, self.may_answer = asyncio.Event(), asyncio.Event()
        self.may_answer.set()
        reader, folder = ArtifactReader(str(store.folder)), settings.agent_cache
        self.cache = Cache(reader, folder, 210 * KIB, self.in_use, AgentMetrics())

    async def in_use(self) -> list[str]:
        """What it had when it was asked."""
        found = list(self.registered)
        self.asked.set()
        await self.may_answer.wait()
        return found

    def has(self, version: Stored) -> bool:
        """Whether the version's folder is there."""
        return self.cache.place(version.digest).is_dir()


@pytest.fixture
async def room(store: ArtifactStore, agent_settings: AgentSettings) -> AsyncIterator[Room]:
    """With room for two small versions."""
    found = Room(store, agent_settings)
    yield found
    await found.cache.close()


async def test_what_is_registered_while_the_engine_is_asked_stays(room: Room, store: ArtifactStore) -> None:
    """The engine's answer does not have it yet, and nobody holds it any more when that comes."""
    old, other, new = (stored(store, number) for number in range(1, 4))

    async def bring(version: Stored) -> None:
        async with room.cache.hold(version.digest):
            pass

    async with room.cache.hold(old.digest) as folder:
        await bring(other)
        room.may_answer.clear()
        coming = asyncio.create_task(bring(new))
        await room.asked.wait()
        room.registered.append(str(folder))

        async def answer() -> None:
            await asyncio.sleep(0)
            room.may_answer.set()

        answering = asyncio.create_task(answer())
    await asyncio.gather(coming, answering)
    assert (room.has(old), room.has(other), room.has(new)) == (True, False, True)


async def test_a_fetch_that_nobody_waits_for_keeps_its_room(
    room: Room, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it has ended; then it may be evicted as any other."""
    large, small = stored(store, 1, 150 * KIB), stored(store, 2)
    may_go_on, download = threading.Event(), Cache._download

    def slow(cache: Cache, digest: str, manifest: Manifest) -> None:
        if digest == large.digest:
            may_go_on.wait()
        download(cache, digest, manifest)

    monkeypatch.setattr(Cache, "_download", slow)
    left = asyncio.create_task(room.cache.hold(large.digest).__aenter__())
    await until(lambda: large.digest in room.cache._sizes)
    left.cancel()
    await asyncio.gather(left, return_exceptions=True)
    with pytest.raises(CacheFull):
        await room.cache.hold(small.digest).__aenter__()
    may_go_on.set()
    await until(lambda: room.has(large) and not room.cache._fetches)
    async with room.cache.hold(small.digest):
        assert (room.has(large), room.has(small)) == (False, True)
