"""What the engine's guard lets through, from where: vLLM's management is for its own pod alone."""

import importlib.util
import os
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

FILE = Path(__file__).resolve().parents[2] / "helm" / "files" / "engine_guard.py"
MANAGEMENT = (
    "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter",
    "/sleep",
    "/wake_up",
    "/is_sleeping",
    "/collective_rpc",
    "/reset_prefix_cache",
    "/server_info",
    "/docs",
    "/openapi.json",
    "/",
)


@pytest.fixture(scope="module")
def guard() -> ModuleType:
    """The module, as vLLM imports it."""
    spec = importlib.util.spec_from_file_location("engine_guard", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def reached(scope: Any, _receive: Any, send: Any) -> None:
    """An app that answers whatever it is asked."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["path"].encode()})


async def ask(app: Any, path: str, client: str, **headers: str) -> httpx.Response:
    """A request from an address."""
    transport = httpx.ASGITransport(app=app, client=(client, 50000))
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with httpx.AsyncClient(transport=transport, base_url="http://engine") as http:
        return await http.post(path, headers=named)


@pytest.mark.parametrize("client", ["10.1.2.3", "fd00::7", "::ffff:10.1.2.3", "127.0.0.6", "", "127.0.0.1.example"])
async def test_other_addresses_reach_the_open_paths_alone(guard: ModuleType, client: str) -> None:
    """The rest is 403 in OpenAI's envelope, before vLLM sees it."""
    app = guard.LoopbackOnly(reached)
    for path in guard.OPEN_PATHS:
        assert (await ask(app, path, client)).text == path
    for path in MANAGEMENT:
        refused = await ask(app, path, client)
        assert (refused.status_code, refused.json()["error"]["type"]) == (403, "permission_error"), path


@pytest.mark.parametrize("client", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
async def test_the_pod_itself_reaches_everything(guard: ModuleType, client: str) -> None:
    """By either version of IP."""
    app = guard.LoopbackOnly(reached)
    for path in (*guard.OPEN_PATHS, *MANAGEMENT):
        assert (await ask(app, path, client)).text == path


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions/../../load_lora_adapter",
        "//v1/load_lora_adapter",
        "/v1/models/",
        "/metrics/../sleep",
        "/v1/chat/completions%2f..%2f..%2fload_lora_adapter",
        "/%76%31/load_lora_adapter",
        "/V1/LOAD_LORA_ADAPTER",
    ],
)
async def test_spellings_of_paths_open_nothing(guard: ModuleType, path: str) -> None:
    """Only the listed ones, letter by letter."""
    assert (await ask(guard.LoopbackOnly(reached), path, "10.1.2.3")).status_code == 403


@pytest.mark.parametrize(
    "header",
    [
        {"x_forwarded_for": "127.0.0.1"},
        {"X_Forwarded_For": "10.1.2.3, ::1"},
        {"x_forwarded_proto": "https"},
        {"forwarded": "for=127.0.0.1"},
        {"x_envoy_external_address": "10.1.2.3"},
        {"via": "1.1 proxy"},
    ],
)
async def test_no_header_makes_a_request_local(guard: ModuleType, header: dict[str, str]) -> None:
    """Neither behind a server that trusts every proxy, nor by a proxy of the pod's own."""
    trusting = ProxyHeadersMiddleware(guard.LoopbackOnly(reached), trusted_hosts="*")
    for client in ("10.1.2.3", "127.0.0.1"):
        assert (await ask(trusting, "/v1/load_lora_adapter", client, **header)).status_code == 403
        assert (await ask(trusting, "/v1/chat/completions", client, **header)).status_code == 200


async def test_websockets_are_for_the_pod_alone(guard: ModuleType) -> None:
    """Whatever their path."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope: dict[str, Any] = {"type": "websocket", "path": "/v1/responses", "client": ("10.1.2.3", 1), "headers": []}
    await guard.LoopbackOnly(reached)(scope, None, send)
    assert sent == [{"type": "websocket.close", "code": 1008}]


async def test_the_server_itself_may_start_and_stop(guard: ModuleType) -> None:
    """What is no request passes."""
    seen = []

    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        seen.append(scope["type"])

    await guard.LoopbackOnly(app)({"type": "lifespan"}, None, None)
    assert seen == ["lifespan"]


async def test_a_request_without_an_address_is_not_local(guard: ModuleType) -> None:
    """Such as one by a Unix socket that a volume shares."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope: dict[str, Any] = {"type": "http", "path": "/sleep", "client": None, "headers": []}
    await guard.LoopbackOnly(reached)(scope, None, send)
    assert sent[0]["status"] == 403


DRAINED = ("/health", "/v1/models", "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")


@pytest.mark.parametrize("client", ["10.1.2.3", "127.0.0.1"])
async def test_a_drained_engine_takes_nothing_new(
    guard: ModuleType, client: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 with retry-after, to its agent, too; its metrics are told on, and its agent may still manage it."""
    file = tmp_path / "draining"
    monkeypatch.setenv("OSTLER_ENGINE_DRAIN_FILE", str(file))
    app = guard.LoopbackOnly(reached)
    assert (await ask(app, "/health", client)).status_code == 200
    file.touch()
    for path in DRAINED:
        refused = await ask(app, path, client)
        assert (refused.status_code, refused.json()["error"]["type"]) == (503, "service_unavailable_error"), path
        assert int(refused.headers["retry-after"]) > 0
    assert (await ask(app, "/metrics", client)).status_code == 200
    managed = (await ask(app, "/v1/unload_lora_adapter", client)).status_code
    assert managed == (200 if client == "127.0.0.1" else 403)


async def test_what_runs_when_an_engine_is_drained_goes_on(
    guard: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To its end."""
    file = tmp_path / "draining"
    monkeypatch.setenv("OSTLER_ENGINE_DRAIN_FILE", str(file))

    async def drained_meanwhile(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun, ", "more_body": True})
        file.touch()
        await send({"type": "http.response.body", "body": b"ended"})

    app = guard.LoopbackOnly(drained_meanwhile)
    assert (await ask(app, "/v1/chat/completions", "10.1.2.3")).text == "begun, ended"
    assert (await ask(app, "/v1/chat/completions", "10.1.2.3")).status_code == 503


async def test_a_drain_of_an_earlier_container_is_over(
    guard: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file outlives a container that is restarted in its pod, and must not drain the next one."""
    file = tmp_path / "draining"
    file.touch()
    os.utime(file, (time.time() - 5, time.time() - 5))
    monkeypatch.setenv("OSTLER_ENGINE_DRAIN_FILE", str(file))
    app = guard.LoopbackOnly(reached)
    assert (await ask(app, "/v1/chat/completions", "10.1.2.3")).status_code == 200
    file.touch()
    assert (await ask(app, "/v1/chat/completions", "10.1.2.3")).status_code == 503


async def test_without_a_file_there_is_no_draining(guard: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where nobody drains."""
    monkeypatch.delenv("OSTLER_ENGINE_DRAIN_FILE", raising=False)
    assert (await ask(guard.LoopbackOnly(reached), "/health", "10.1.2.3")).status_code == 200
