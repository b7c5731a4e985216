"""A guarded vLLM with its agent, versions in S3, no shared folder: all of it real, as in a pod on a cluster."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

import demo
from tests.conftest import until
from tests.engine.agent_parts import TOKEN, Parts, parts

pytestmark = pytest.mark.engine

FIRST, SECOND = (each.folder for each in demo.ADAPTERS)
STREAMS = 48
SAID_WHILE_STOPPING = "cannot schedule new futures after shutdown"


@pytest.fixture(scope="module")
def pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    """Everything, started once."""
    with parts(tmp_path_factory.mktemp("pod")) as found:
        yield found


def intent(client: openai.OpenAI) -> tuple[str, str]:
    """Which version answered, and what."""
    answer = client.chat.completions.create(
        model="support", temperature=0, messages=[{"role": "user", "content": demo.EXAMPLE_MESSAGE}]
    )
    return answer.model.partition("-")[0], answer.choices[0].message.content or ""


def test_versions_go_live_and_back_from_s3_by_the_agent(pod: Parts) -> None:
    """Pushed, promoted, asked, rolled back: the engine reads the agent's folder, and the gateway has no weights."""
    for folder in (FIRST, SECOND):
        pod.cli("push", str(folder), "--adapter", "support", "--promote")
    client = openai.OpenAI(base_url=f"{pod.gateway_url}/v1", api_key=pod.key)
    version, answer = intent(client)
    assert version == "support@2"
    pod.cli("rollback", "support")
    earlier, other = intent(client)
    assert earlier == "support@1"
    assert other != answer
    pod.cli("rollback", "support", "--to", "2")
    assert intent(client) == (version, answer)
    models = httpx.get(f"http://{pod.address}:{pod.ports.engine}/v1/models").json()["data"]
    roots = {model["root"] for model in models if model["parent"]}
    assert {root.rpartition("/")[0] for root in roots} == {str(pod.agent_cache / "sha256")}
    assert not list((pod.folder / "gateway-cache").rglob("*.safetensors"))
    pod.cli("verify", "support", "2")


def test_vllm_is_managed_from_its_own_pod_alone(pod: Parts) -> None:
    """From another address inference answers and management is 403, whatever headers say; from loopback it works."""
    outside, inside = (f"http://{address}:{pod.ports.engine}" for address in (pod.address, "127.0.0.1"))
    source = httpx.HTTPTransport(local_address=pod.address)
    with httpx.Client(transport=source, timeout=60) as http:
        chat = {"model": demo.BASE_NAME, "max_tokens": 1, "messages": [{"role": "user", "content": "hello"}]}
        assert http.post(f"{outside}/v1/chat/completions", json=chat).status_code == 200
        for path in ("/health", "/metrics", "/v1/models"):
            assert http.get(outside + path).status_code == 200, path
        adapter = {"lora_name": "mine@1-00000000", "lora_path": str(SECOND)}
        for headers in ({}, {"x-forwarded-for": "127.0.0.1"}, {"forwarded": "for=127.0.0.1"}):
            refused = http.post(f"{outside}/v1/load_lora_adapter", json=adapter, headers=headers)
            assert refused.status_code == 403
        for path in ("/docs", "/server_info", "/is_sleeping", "/version", "/ping", "/tokenize"):
            assert http.get(outside + path).status_code == 403, path
    assert httpx.post(f"{inside}/v1/load_lora_adapter", json=adapter, timeout=60).status_code == 200
    gone = httpx.post(f"{inside}/v1/unload_lora_adapter", json={"lora_name": adapter["lora_name"]})
    assert gone.status_code in {200, 404}  # the gateway unloads what its registry does not know


def test_the_agent_asks_for_its_token(pod: Parts) -> None:
    """Its health is for everybody."""
    url = f"http://{pod.address}:{pod.ports.agent}"
    assert httpx.get(f"{url}/readyz").json() == {"status": "ok", "problems": []}
    assert httpx.get(f"{url}/v1/versions").status_code == 401
    listed = httpx.get(f"{url}/v1/versions", headers={"authorization": f"Bearer {TOKEN}"}).json()["data"]
    assert {version["engine_name"].partition("-")[0] for version in listed} == {"support@1", "support@2"}


async def test_an_engine_that_is_drained_and_stopped_breaks_no_stream(pod: Parts) -> None:
    """As preStop and SIGTERM do under load: what runs ends whole, what is new is 503 with retry-after, never a 500."""
    headers = {"authorization": f"Bearer {pod.key}"}
    async with httpx.AsyncClient(base_url=pod.gateway_url, headers=headers, timeout=120, trust_env=False) as http:
        ended: list[str] = []
        begun: list[int] = []
        streams = [asyncio.create_task(stream(http, each, begun, ended)) for each in range(STREAMS)]
        stopped, found = asyncio.Event(), Counter[tuple[int, bool]]()
        chats = [asyncio.create_task(chat_until(http, stopped, found)) for _ in range(4)]
        await until(lambda: len(begun) == STREAMS and found[200, False] >= 4, 60)

        pod.drain_file.touch()
        await until(lambda: found[503, True] >= 4, 60)
        agent = f"http://{pod.address}:{pod.ports.agent}/readyz"
        assert (await http.get(agent)).status_code == 503
        assert pod.engine is not None
        pod.engine.terminate()
        assert not ended, "the streams were too short to say anything"
        pod.drain_file.unlink()  # as where no guard drains: from here on vLLM answers by itself
        await until(lambda: fails_itself(http, pod), 60)
        assert await words_on_every_path(http, pod) == {SAID_WHILE_STOPPING}
        engine = pod.engine
        await asyncio.gather(*streams)
        await until(lambda: engine.poll() is not None, 60)
        stopped.set()
        await asyncio.gather(*chats)
    assert ended == ["length"] * STREAMS
    assert found.keys() == {(200, False), (503, True)}
    assert engine.returncode == 0


async def stream(http: httpx.AsyncClient, number: int, begun: list[int], ended: list[str]) -> None:
    """A long stream; notes that it began, and the reason of its end if that is whole."""
    body = {"model": "support", "stream": True, "max_tokens": 400, "ignore_eos": True}
    body["messages"] = [{"role": "user", "content": f"tell me of {number}"}]
    text = ""
    async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
        async for part in answer.aiter_text():
            if not text:
                begun.append(number)
            text += part
    reason = text.rpartition('"finish_reason":"')[2].partition('"')[0]
    ended.append(reason if text.endswith("data: [DONE]\n\n") else text[-200:])


async def chat_until(http: httpx.AsyncClient, stopped: asyncio.Event, found: Counter[tuple[int, bool]]) -> None:
    """One short chat after the other; counts statuses, and whether they come with retry-after."""
    body = {"model": "support", "max_tokens": 2, "messages": [{"role": "user", "content": "hello"}]}
    while not stopped.is_set():
        answer = await http.post("/v1/chat/completions", json=body)
        found[answer.status_code, "retry-after" in answer.headers] += 1


async def fails_itself(http: httpx.AsyncClient, pod: Parts) -> bool:
    """Whether vLLM has heard that it is to end."""
    body = {"model": demo.BASE_NAME, "prompt": "hello", "max_tokens": 1}
    return (await http.post(f"{pod.engine_url}/v1/completions", json=body)).status_code == 500


async def words_on_every_path(http: httpx.AsyncClient, pod: Parts) -> set[str]:
    """What the engine itself says to whatever is new."""
    messages = [{"role": "user", "content": "hello"}]
    bodies: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"messages": messages},
        "/v1/completions": {"prompt": "hello"},
        "/v1/responses": {"input": "hello"},
        "/v1/messages": {"messages": messages, "max_tokens": 4},
    }
    found = set()
    for path, body in bodies.items():
        answer = await http.post(pod.engine_url + path, json={"model": demo.BASE_NAME, **body})
        assert answer.status_code == 500, path
        found.add(answer.json()["error"]["message"])
    return found
