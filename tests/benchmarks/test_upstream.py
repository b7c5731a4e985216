"""The upstream of the benchmarks, which answers as vLLM does."""

import asyncio
import time
from collections.abc import AsyncIterator

import aiohttp
import pytest

from benchmarks.speed.upstream import EVENTS, Upstream, serve
from tests.ports import free_port

CHAT, LOAD, UNLOAD = "/v1/chat/completions", "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
VERSION = {"lora_name": "support@1", "lora_path": "/adapters/1"}


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """A client of one."""
    port = free_port()
    serving = asyncio.create_task(serve(Upstream("tiny"), port))
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        async with asyncio.timeout(10):
            while not await _is_there(session):
                await asyncio.sleep(0.01)
        yield session
    serving.cancel()


async def _is_there(session: aiohttp.ClientSession) -> bool:
    try:
        return await _post(session, "/set", {}) == (200, "{}")
    except aiohttp.ClientConnectionError:
        return False


async def _post(session: aiohttp.ClientSession, path: str, body: object) -> tuple[int, str]:
    async with session.post(path, json=body) as response:
        return response.status, await response.text()


async def test_only_what_is_loaded_answers(http: aiohttp.ClientSession) -> None:
    """Or a benchmark would not see a gateway that asks too early or too late."""
    asked = {"model": "support@1", "stream": False}
    status, said = await _post(http, CHAT, asked)
    assert (status, "`support@1` does not exist" in said) == (404, True)
    assert (await _post(http, LOAD, VERSION))[0] == 200
    status, said = await _post(http, CHAT, asked)
    assert (status, '"model":"support@1"' in said) == (200, True)
    assert (await _post(http, UNLOAD, VERSION))[0] == 200
    assert (await _post(http, CHAT, asked))[0] == 404
    assert (await _post(http, CHAT, {"model": "tiny"}))[0] == 200


async def test_loads_and_unloads_are_refused_as_vllm_refuses_them(http: aiohttp.ClientSession) -> None:
    """A second load of a name, and the unload of one that is not there."""
    assert (await _post(http, UNLOAD, VERSION))[0] == 404
    assert (await _post(http, LOAD, VERSION))[0] == 200
    status, said = await _post(http, LOAD, VERSION)
    assert (status, "has already been loaded" in said) == (400, True)


async def test_a_load_takes_as_long_as_it_is_told_to(http: aiohttp.ClientSession) -> None:
    """And requests are answered meanwhile."""
    await _post(http, "/set", {"load_s": 0.2})
    began = time.monotonic()
    load = asyncio.create_task(_post(http, LOAD, VERSION))
    assert (await _post(http, CHAT, {"model": "tiny"}))[0] == 200
    assert not load.done()
    await load
    assert time.monotonic() - began >= 0.2


async def test_an_adapter_proves_itself(http: aiohttp.ClientSession) -> None:
    """Its log probabilities are steady and differ from the base model's; one that is not loaded has none."""
    asked = {"model": "support@1", "prompt": ["a", "b"]}
    assert (await _post(http, "/v1/completions", asked))[0] == 404
    await _post(http, LOAD, VERSION)
    first, again = await _post(http, "/v1/completions", asked), await _post(http, "/v1/completions", asked)
    _, base = await _post(http, "/v1/completions", {**asked, "model": "tiny"})
    assert first == again
    assert first[1].replace("support@1", "tiny") != base


async def test_a_stream_has_its_events_and_its_end(http: aiohttp.ClientSession) -> None:
    """With the usage where it is asked for."""
    for options, more in (({}, 1), ({"stream_options": {"include_usage": True}}, 2)):
        _, said = await _post(http, CHAT, {"model": "tiny", "stream": True, **options})
        events = said.split("\n\n")[:-1]
        assert len(events) == EVENTS + more
        assert events[-1] == "data: [DONE]"
        assert ("completion_tokens" in events[-2]) is (more == 2)
