"""What gateways ask of an agent: versions come, are listed, and go, each name with one content."""

import asyncio
import base64
from pathlib import Path

import pytest

from agent.engine import Engine
from agent.settings import AgentSettings
from registry.artifacts import ArtifactStore
from tests.agent.agents import FlakyStore, RunningAgent, running, stored
from tests.conftest import until
from tests.fakes.engine import FakeEngine


async def test_a_version_is_fetched_and_loaded(
    agent: RunningAgent, store: ArtifactStore, fake_engine: FakeEngine
) -> None:
    """Into a folder that is named for its content, from which the engine has it."""
    version = stored(store, 1)
    answer = await agent.load(version)
    assert answer.status_code == 201
    assert answer.json() == {"engine_name": version.name, "digest": version.digest, "loaded": True}
    folder = Path(fake_engine.loaded[version.name])
    assert folder == agent.settings.agent_cache / "sha256" / version.digest
    original = store.fetch(version.digest)
    for file in folder.iterdir():
        assert file.read_bytes() == (original / file.name).read_bytes()
    assert (await agent.http.get("/v1/versions")).json() == {
        "data": [{"engine_name": version.name, "digest": version.digest}]
    }


async def test_what_the_engine_has_is_not_loaded_again(
    agent: RunningAgent, store: ArtifactStore, fake_engine: FakeEngine
) -> None:
    """The agent says that it was there."""
    version = stored(store, 1)
    await agent.load(version)
    answer = await agent.load(version)
    assert (answer.status_code, answer.json()["loaded"]) == (200, False)
    assert fake_engine.calls["load " + version.name] == 1


async def test_an_unloaded_version_comes_back_without_the_store(
    agent: RunningAgent, store: ArtifactStore, fake_engine: FakeEngine
) -> None:
    """Its files stay; to unload what is not there is fine."""
    version = stored(store, 1)
    await agent.load(version)
    assert (await agent.unload(version)).status_code == 204
    assert fake_engine.loaded == {}
    store.remove(version.digest)
    assert (await agent.load(version)).status_code == 201
    assert await agent.metric("ostler_agent_fetches_total") == 1
    for _ in range(2):
        assert (await agent.unload(version)).status_code == 204


async def test_an_engine_that_restarted_gets_a_version_anew(
    agent: RunningAgent, store: ArtifactStore, fake_engine: FakeEngine
) -> None:
    """The agent asks it what it has, and does not remember."""
    version = stored(store, 1)
    await agent.load(version)
    fake_engine.loaded.clear()
    assert (await agent.load(version)).status_code == 201
    assert version.name in fake_engine.loaded


async def test_an_agent_that_restarted_knows_what_its_engine_has(
    agent_settings: AgentSettings, store: ArtifactStore, fake_engine: FakeEngine
) -> None:
    """From the engine itself."""
    version = stored(store, 1)
    async with running(agent_settings) as agent:
        await agent.load(version)
    async with running(agent_settings) as agent:
        assert (await agent.load(version)).status_code == 200
    assert fake_engine.calls["load " + version.name] == 1


async def test_a_load_waits_for_an_unload_that_is_under_way(
    agent: RunningAgent, store: ArtifactStore, fake_engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the engine still has then is not what it will have; and whoever unloads waits for a load."""
    version = stored(store, 1)
    await agent.load(version)
    begun, may_end, unload = asyncio.Event(), asyncio.Event(), Engine.unload

    async def slow(engine: Engine, name: str) -> None:
        begun.set()
        await may_end.wait()
        await unload(engine, name)

    monkeypatch.setattr(Engine, "unload", slow)
    going = [asyncio.create_task(agent.unload(version)) for _ in range(2)]
    await begun.wait()
    coming = asyncio.create_task(agent.load(version))
    done, _ = await asyncio.wait({coming}, timeout=0.2)
    assert not done
    may_end.set()
    assert (await coming).status_code == 201
    assert {(await each).status_code for each in going} == {204}
    assert version.name in fake_engine.loaded
    fake_engine.loaded.clear()
    fake_engine.load_s = 0.2
    coming = asyncio.create_task(agent.load(version))
    await until(lambda: fake_engine.calls["load " + version.name] == 3)
    assert (await agent.unload(version)).status_code == 204
    assert (await coming).status_code == 201
    assert fake_engine.loaded == {}


async def test_who_loads_beside_the_agent_may_be_first(
    agent: RunningAgent, store: ArtifactStore, fake_engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A load that the engine refuses because it has the version is as good as one that it does."""
    version = stored(store, 1)
    load = Engine.load

    async def second(engine: Engine, name: str, path: str) -> None:
        await load(engine, name, path)
        await load(engine, name, path)

    monkeypatch.setattr(Engine, "load", second)
    answer = await agent.load(version)
    assert (answer.status_code, answer.json()["loaded"]) == (200, False)
    assert version.name in fake_engine.loaded


async def test_a_version_is_fetched_without_being_loaded(
    agent: RunningAgent, store: ArtifactStore, fake_engine: FakeEngine
) -> None:
    """With the probes that its engine is then held to, which are the cached ones once they are there."""
    plain, digest = stored(store, 1), store.put_files({"probes.json": b"{}", "weights": b"w"}).digest
    assert (await agent.http.put(f"/v1/contents/{plain.digest}")).json() == {"digest": plain.digest, "probes": None}
    for _ in range(2):
        answer = await agent.http.put(f"/v1/contents/{digest}")
        assert (answer.status_code, answer.json()["probes"]) == (200, base64.b64encode(b"{}").decode())
        store.remove(digest)
    assert (agent.cached(), fake_engine.loaded) == ({plain.digest, digest}, {})
    for wrong in ("0" * 63, "0" * 63 + "G", "..%2f..", digest.upper()):
        assert (await agent.http.put(f"/v1/contents/{wrong}")).status_code in {404, 422}


async def test_two_who_ask_for_a_version_share_one_load(
    agent_settings: AgentSettings, store: ArtifactStore, flaky: FlakyStore, fake_engine: FakeEngine
) -> None:
    """One fetch, one call of the engine; and a name of other content that is asked for meanwhile is refused."""
    version = stored(store, 1)
    flaky.held.clear()
    async with running(agent_settings.model_copy(update={"artifacts_url": flaky.url})) as slow:
        loads = [asyncio.create_task(slow.load(version)) for _ in range(3)]
        await until(lambda: flaky.asked == 1)
        other = version.digest[:8] + "0" * 56
        refused = await slow.http.put(f"/v1/versions/{version.name}", json={"digest": other})
        assert refused.status_code == 409
        assert "other content" in refused.json()["error"]["message"]
        flaky.held.set()
        answers = [answer.json()["loaded"] for answer in await asyncio.gather(*loads)]
    assert sorted(answers) == [False, False, True]
    assert (flaky.asked, fake_engine.calls["load " + version.name]) == (1, 1)


async def test_one_content_under_two_names_is_fetched_once(
    agent_settings: AgentSettings, store: ArtifactStore, flaky: FlakyStore, fake_engine: FakeEngine
) -> None:
    """Whoever pushed it twice has both."""
    version = stored(store, 1)
    twin = type(version)(version.name.replace("support@1", "billing@4"), version.digest, version.size)
    flaky.held.clear()
    async with running(agent_settings.model_copy(update={"artifacts_url": flaky.url})) as slow:
        loads = [asyncio.create_task(slow.load(each)) for each in (version, twin)]
        await until(lambda: flaky.asked == 1)
        flaky.held.set()
        assert [answer.status_code for answer in await asyncio.gather(*loads)] == [201, 201]
    assert flaky.asked == 1
    assert fake_engine.loaded[version.name] == fake_engine.loaded[twin.name]


async def test_a_name_that_the_engine_has_with_other_content_is_refused(
    agent: RunningAgent, store: ArtifactStore, fake_engine: FakeEngine
) -> None:
    """Caches go by the name, so it is never given to other weights."""
    version = stored(store, 1)
    fake_engine.loaded[version.name] = "/elsewhere/sha256/" + version.digest[:8] + "0" * 56
    answer = await agent.load(version)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "other_content")
    assert "elsewhere" not in answer.text


async def test_a_name_must_agree_with_its_content(agent: RunningAgent, store: ArtifactStore) -> None:
    """Its last eight digits are the digest's first; nothing is fetched for one that does not."""
    version = stored(store, 1)
    for name in ("support@1-00000000", "support@1", "support", "../../etc@1-" + version.digest[:8]):
        answer = await agent.http.put(f"/v1/versions/{name}", json={"digest": version.digest})
        assert answer.status_code in {404, 422}, name
    for body in (b"", b"{", b'{"digest": 1}', b'{"digest": "../secret"}', b'{"digest": "", "path": "/etc"}'):
        answer = await agent.http.put(f"/v1/versions/{version.name}", content=body)
        assert answer.status_code == 422, body
        assert answer.json()["error"]["type"] == "invalid_request_error"
    assert agent.cached() == set()


async def test_the_engines_refusal_is_passed_on_without_its_paths(
    agent: RunningAgent, store: ArtifactStore, fake_engine: FakeEngine
) -> None:
    """With the engine's status; the version may be tried again."""
    version = stored(store, 1)
    fake_engine.refuse_load[version.name] = "the rank is too high in {path}/adapter_config.json"
    answer = await agent.load(version)
    assert answer.status_code == 500
    assert answer.json()["error"] == {
        "message": "the rank is too high in [path]",
        "type": "server_error",
        "param": None,
        "code": "engine_refused",
    }
    fake_engine.refuse_load.clear()
    assert (await agent.load(version)).status_code == 201


async def test_an_engine_that_is_away_is_told(
    agent: RunningAgent, store: ArtifactStore, fake_engine: FakeEngine
) -> None:
    """In answers, in /readyz and in the metrics; the agent itself lives on, and fetches nothing for it."""
    version = stored(store, 1)
    await fake_engine.stop()
    answer = await agent.load(version)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_unavailable")
    assert (await agent.unload(version)).status_code == 503
    assert (await agent.http.get("/v1/versions")).status_code == 503
    assert agent.cached() == set()
    assert "the agent's engine does not answer" in (await agent.http.get("/readyz")).json()["problems"]
    assert (await agent.http.get("/livez")).status_code == 200
    assert await agent.metric("ostler_agent_engine_up") == 0
    await fake_engine.start()
    assert (await agent.http.get("/readyz")).status_code == 200
    assert (await agent.load(version)).status_code == 201


async def test_sleep_is_passed_on(agent: RunningAgent, fake_engine: FakeEngine) -> None:
    """An engine without sleep mode knows none of it."""
    for ask in (agent.http.get("/v1/is_sleeping"), agent.http.post("/v1/sleep"), agent.http.post("/v1/wake_up")):
        assert (await ask).status_code == 404
    fake_engine.can_sleep = True
    assert (await agent.http.post("/v1/sleep")).status_code == 200
    assert fake_engine.asleep
    assert (await agent.http.get("/v1/is_sleeping")).json() == {"is_sleeping": True}
    assert (await agent.http.post("/v1/wake_up")).json() == {"is_sleeping": False}
    assert not fake_engine.asleep


async def test_only_who_has_the_token_manages(
    agent_settings: AgentSettings, store: ArtifactStore, fake_engine: FakeEngine
) -> None:
    """Health and metrics are for everybody."""
    version = stored(store, 1)
    async with running(agent_settings.model_copy(update={"agent_token": "right"})) as closed:
        for shown in ("", "right", "Bearer wrong", "Bearer right2", "Bearer é"):
            closed.http.headers.update({b"authorization": shown.encode()})
            answer = await closed.load(version)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), shown
            assert (await closed.http.post("/v1/sleep")).status_code == 401
            assert (await closed.http.get("/readyz")).status_code == 200
            assert (await closed.http.get("/metrics")).status_code == 200
        assert fake_engine.loaded == {}
        closed.http.headers["authorization"] = "Bearer right"
        assert (await closed.load(version)).status_code == 201


async def test_paths_and_methods_that_are_not_there_are_told_in_the_envelope(agent: RunningAgent) -> None:
    """As everything else is."""
    assert (await agent.http.get("/v1/other")).json()["error"]["code"] == "path_not_found"
    assert (await agent.http.patch("/v1/versions")).status_code == 405
