"""Agents and stores that hang, that are set up wrong or that cannot do one thing: what is loaded stays in service."""

import asyncio
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from agent import engine as agents_engine
from agent import errors as agents_errors
from gateway.engines.failures import EngineDown, EngineRefused
from registry.errors import InvalidAdapter, StoreFailure
from tests.conftest import RunningGateway, until
from tests.gateway.engines.test_agents import (
    NOBODY,
    agent,
    agent_settings,
    away,
    five,
    gateway_settings,
    served_by,
    store_url,
    two,
)

__all__ = ["agent", "agent_settings", "five", "gateway_settings", "store_url", "two"]


@pytest.fixture
def silent() -> Iterator[str]:
    """An address where somebody listens and never answers."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        found.listen(100)
        yield f"http://127.0.0.1:{found.getsockname()[1]}"


async def test_an_agent_that_does_not_reach_its_engine_takes_nothing_out(
    two: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway has eyes of its own: the engine answers, so only what needs the agent is refused."""

    async def lost(*_: Any, **__: Any) -> bytes:
        raise agents_errors.EngineDown("the agent's engine does not answer")

    monkeypatch.setattr(agents_engine.Engine, "_ask", lost)
    refused = await two.chat("support@2")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "version_not_servable")
    assert refused.json()["error"]["message"].endswith("its agent could not load it")
    two.replica.suspect(in_doubt=True)
    await until(lambda: not two.replica._in_doubt)
    assert two.replica.state == "ready"
    assert await served_by(two) == "1"
    refused = await two.promote("support", 2)
    assert "its agent does not reach the engine" in refused.json()["error"]["message"]
    two.replica.refused_connection()
    await until(lambda: two.replica.state == "ready")
    assert await served_by(two) == "1"
    assert two.replica.residency.resident


async def test_an_engine_that_does_not_say_whether_it_sleeps_is_asked_to_answer(two: RunningGateway) -> None:
    """Whatever becomes of the question."""

    async def gone() -> bool | None:
        raise EngineDown(sent=True)

    two.replica.manager.is_sleeping = gone  # type: ignore[method-assign]
    two.replica.refused_connection()
    await until(lambda: two.replica.state == "ready")
    assert await served_by(two) == "1"


async def test_an_agent_that_hangs_takes_nothing_out(two: RunningGateway, silent: str) -> None:
    """After a blip of the engine what it has is proven by the store's probes, within the time for both."""
    two.replica.residency._loader.timeout_s = 3.0
    two.replica.manager._url = silent  # type: ignore[attr-defined]
    two.replica.refused_connection()
    await until(lambda: two.replica.state == "ready")
    assert await served_by(two) == "1"
    assert two.replica.problem is None
    assert two.engine.calls["load " + next(iter(two.engine.loaded))] == 1


def refusing(five: RunningGateway, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have no version unloaded that is tried first; the list of all that are tried."""
    tries: list[str] = []
    manager = five.replica.manager
    unload = manager.unload

    async def stuck(name: str) -> None:
        tries.append(name)
        if name == tries[0]:
            raise EngineRefused(503, "its agent does not answer")
        await unload(name)

    monkeypatch.setattr(manager, "unload", stuck)
    return tries


async def test_what_cannot_be_unloaded_keeps_nothing_else(
    five: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one makes room."""
    tries = refusing(five, monkeypatch)
    five.replica.residency.slots = 2
    await until(lambda: len(five.engine.loaded) == 2)
    assert tries[0] in five.engine.loaded
    assert five.replica.residency.resident == five.engine.loaded.keys()


async def test_while_unloads_fail_what_is_tried_serves_on(
    five: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent that hangs would else take one after the other out of service."""
    residency, tries, end = five.replica.residency, list[str](), asyncio.Event()

    async def hang(name: str) -> None:
        tries.append(name)
        if len(tries) > 1:
            await end.wait()
        raise EngineRefused(504, "its agent did not do it in time, and goes on")

    loaded = dict(five.engine.loaded)
    monkeypatch.setattr(residency.manager, "unload", hang)
    residency.slots = 2
    await until(lambda: len(tries) == 2)
    assert tries[0] != tries[1]
    assert residency.resident == loaded.keys()
    calls = five.engine.calls.copy()
    for adapter in {name.partition("@")[0] for name in loaded}:
        assert (await asyncio.wait_for(five.chat(adapter), 5)).status_code == 200
    assert not [name for name in five.engine.calls - calls if name.startswith("load")]
    assert residency.is_loading, "it still hangs"
    end.set()


async def test_an_unload_waits_for_an_agent_for_seconds_only(five: RunningGateway, silent: str) -> None:
    """The gateway follows the engine by the same loop."""
    asked = []
    ask = five.replica.manager._ask  # type: ignore[attr-defined]

    async def noted(method: str, path: str, **given: Any) -> bytes:
        asked.append((method, given.get("timeout_s", 10.0)))
        answer: bytes = await ask(method, path, **given)
        return answer

    manager = five.replica.manager
    manager._ask = noted  # type: ignore[attr-defined]
    five.replica.residency.slots = 2
    await until(lambda: "DELETE" in dict(asked))
    five.replica.refused_connection()
    await until(lambda: "GET" in dict(asked))
    assert max(dict(asked)[method] for method in ("DELETE", "GET")) <= 3.0


async def unloading(five: RunningGateway, monkeypatch: pytest.MonkeyPatch) -> tuple[str, asyncio.Event]:
    """A version that is just being unloaded, which fails once the event is set."""
    tries, end = list[str](), asyncio.Event()

    async def slow(name: str) -> None:
        tries.append(name)
        await end.wait()
        raise EngineRefused(503, "its agent does not answer")

    monkeypatch.setattr(five.replica.manager, "unload", slow)
    five.replica.residency.slots = 2
    await until(lambda: tries)
    return tries[0], end


async def test_what_was_not_unloaded_needs_no_load_for_who_waited(
    five: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor a proof: nothing happened to it."""
    name, end = await unloading(five, monkeypatch)
    waiting = asyncio.create_task(five.chat(name.partition("@")[0]))
    await until(lambda: name in five.replica.residency._loads)
    five.engine.bodies.clear()
    end.set()
    assert (await waiting).status_code == 200
    assert [body["model"] for body in five.engine.bodies if "logprobs" in body] == []


@pytest.mark.parametrize("leaves", [True, False])
async def test_a_promotion_waits_for_what_is_just_being_unloaded(
    five: RunningGateway, monkeypatch: pytest.MonkeyPatch, leaves: bool
) -> None:
    """Though it serves on meanwhile; it is loaded again if it left."""
    tries, end, manager = list[str](), asyncio.Event(), five.replica.manager
    unload = manager.unload

    async def slow(name: str) -> None:
        tries.append(name)
        if len(tries) == 2:
            await end.wait()
            if leaves:
                return await unload(name)
        raise EngineRefused(503, "its agent does not answer")

    monkeypatch.setattr(manager, "unload", slow)
    residency, fleet = five.replica.residency, five.app.state.fleet
    residency.slots = 2
    await until(lambda: len(tries) == 2)
    version = five.app.state.directory.catalog.version(tries[1])
    assert version.engine_name in residency.resident
    residency.slots = 5
    five.engine.calls.clear()

    async def ready() -> bool:
        async with fleet.everywhere([version], "tiny", time.monotonic() + 5):
            return version.engine_name in five.engine.loaded and version.engine_name not in residency._unloads

    promotion = asyncio.create_task(ready())
    await until(lambda: version.engine_name in residency._holds)
    end.set()
    assert await promotion
    assert five.engine.calls["load " + version.engine_name] == leaves


async def test_what_a_dead_engine_had_does_not_come_back_with_a_failed_unload(
    five: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine that follows has not got it."""
    name, end = await unloading(five, monkeypatch)
    five.replica.residency.clear()
    five.engine.refuse_load[name] = "no room"
    del five.engine.loaded[name]
    end.set()
    await until(lambda: name not in five.replica.residency._unloads)
    assert name not in five.replica.residency.resident


async def message_to_clients(gateway: RunningGateway, name: str) -> str:
    """What a client hears whose version was lost and cannot be had again."""
    gateway.engine.loaded.clear()
    gateway.replica.residency.forget(name)
    answer = await gateway.chat(name.partition("@")[0])
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "version_not_servable")
    message: str = answer.json()["error"]["message"]
    return message


async def test_clients_do_not_read_what_is_amiss_with_agents(two: RunningGateway, silent: str) -> None:
    """That nobody is there, that it hangs, or that something else is."""
    (name,) = two.engine.loaded
    manager = two.replica.manager
    manager._timeout_s = 0.3  # type: ignore[attr-defined]
    for address in (NOBODY, silent, two.engine.url):
        manager._url = address  # type: ignore[attr-defined]
        two.app.state.fleet.breakers.succeeded(name)
        assert await message_to_clients(two, name) == f"the engine refused {name}: its agent could not load it"


async def test_clients_do_not_read_what_is_amiss_with_the_store(
    two: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log and the admin do."""
    (name,) = two.engine.loaded

    async def failing(_: object) -> None:
        raise StoreFailure("the artifact store could not be read: bucket models")

    monkeypatch.setattr(two.replica.manager, "fetch", failing)
    assert await message_to_clients(two, name) == f"{name} cannot be loaded"
    await until(lambda: "bucket models" in (two.replica.problem or ""))


async def test_damaged_probes_of_an_agent_are_read_from_the_store(
    two: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which has none here, so the base decides; while it is away there is nothing to prove by."""
    manager = two.replica.manager
    version = two.app.state.directory.catalog.version(next(iter(two.engine.loaded)))

    async def damaged(*_: Any) -> None:
        raise InvalidAdapter("probes.json: not JSON", reason="probes", file="probes.json")

    monkeypatch.setattr(manager, "_fetched_probes", damaged)
    assert await manager.probes(version) is None
    monkeypatch.setattr(MemoryFileSystem, "cat_file", away)
    with pytest.raises(StoreFailure):
        await manager.probes(version)


@pytest.mark.parametrize("amiss", ["hangs", "damaged"])
async def test_a_verdict_is_told_whatever_becomes_of_the_probes(
    two: RunningGateway, monkeypatch: pytest.MonkeyPatch, amiss: str
) -> None:
    """In time, as one replica's problem."""

    async def probes(_: object) -> None:
        if amiss == "hangs":
            await asyncio.Event().wait()
        raise InvalidAdapter("probes.json: not JSON", reason="probes", file="probes.json")

    monkeypatch.setattr(two.replica.manager, "probes", probes)
    two.replica.residency._loader.timeout_s = 0.2
    answer = await two.http.post("/admin/v1/adapters/support/versions/1/verify")
    assert answer.status_code == 200, answer.text
    (verdict,) = answer.json()["data"]
    assert verdict["problem"] == {"hangs": "its probes did not come in time", "damaged": "probes.json: not JSON"}[amiss]
