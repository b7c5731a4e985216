"""What operators' machines may see: health, metrics, and the list of models for clients."""

import re
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

import monitors.counting
import monitors.metrics
from gateway.errors import Forbidden, Unauthenticated
from gateway.settings import GatewaySettings
from gateway.web import metrics_guard
from monitors.counting import Distribution
from registry.catalog import KEY_INDEX_LENGTH, ApiKey, Catalog, HeldKey, KeyLimits, Scope
from registry.keys import hash_key
from tests.conftest import AdapterMaker, RunningGateway, running_gateway, until
from tests.fakes.engine import FakeEngine
from tests.gateway.answers import error_of, new_key, stranger


async def test_health_needs_no_key(two: RunningGateway) -> None:
    """And says nothing of machines or adapters, ready or not."""
    async with httpx.AsyncClient(base_url=two.url) as nobody:

        async def not_ready() -> bool:
            return (await nobody.get("/readyz")).status_code == 503

        assert (await nobody.get("/livez")).json() == {"status": "ok", "problems": []}
        assert (await nobody.get("/readyz")).json() == {"status": "ok", "problems": []}
        await two.engine.stop()
        await until(not_ready)
        assert (await nobody.get("/livez")).status_code == 200
        ready = await nobody.get("/readyz")
    assert ready.json()["status"] == "not ready"
    assert ready.json()["problems"]
    assert str(two.engine.port) not in ready.text
    assert "support" not in ready.text


async def test_a_stopping_gateway_is_not_ready(gateway: RunningGateway) -> None:
    """So that no new requests are sent to it; it is alive still."""
    gateway.app.state.draining = True
    ready = await gateway.http.get("/readyz")
    assert (ready.status_code, ready.json()) == (
        503,
        {"status": "not ready", "problems": ["the gateway is stopping"]},
    )
    assert (await gateway.http.get("/livez")).status_code == 200


LOOPBACK: list[str | None] = ["127.0.0.1", "::1", "::ffff:127.0.0.1"]
ELSEWHERE: list[str | None] = ["10.0.0.7", "192.168.127.1", "::2", "2001:db8::1", "::ffff:10.0.0.1", "", None]
MESHES: list[str | None] = ["127.0.0.6", "127.8.9.1", "::ffff:127.0.0.6"]
"""From where a mesh's proxy beside the gateway passes on what comes from outside."""
FORWARDED = ["Forwarded", "via", "x-forwarded-for", "x-envoy-external-address", "X-Real-IP"]


@pytest.mark.parametrize("host", LOOPBACK)
def test_metrics_are_open_on_this_machine(host: str | None) -> None:
    """However loopback is written."""
    metrics_guard(_connection(host), None)  # type: ignore[arg-type]


@pytest.mark.parametrize("host", ELSEWHERE + MESHES)
def test_metrics_need_a_key_from_elsewhere(host: str | None) -> None:
    """A connection without an address counts as one from elsewhere."""
    with pytest.raises(Unauthenticated):
        metrics_guard(_connection(host), None)  # type: ignore[arg-type]


@pytest.mark.parametrize("header", FORWARDED)
def test_what_a_proxy_on_this_machine_passes_on_is_from_elsewhere(header: str) -> None:
    """It says so in its headers; a key opens the metrics through it, too."""
    connection = _connection("127.0.0.1", header=header)
    with pytest.raises(Unauthenticated):
        metrics_guard(connection, None)  # type: ignore[arg-type]
    keyed = _connection("127.0.0.1", Scope.METRICS, header=header)
    metrics_guard(keyed, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("host", LOOPBACK + ELSEWHERE + MESHES)
def test_metrics_want_their_scope_where_a_key_is_shown(host: str | None) -> None:
    """A tenant's key would else read of other tenants' adapters through a proxy on this machine."""
    for scope in Scope:
        connection = _connection(host, scope)
        if scope in (Scope.METRICS, Scope.ADMIN):
            metrics_guard(connection, None)  # type: ignore[arg-type]
        else:
            with pytest.raises(Forbidden):
                metrics_guard(connection, None)  # type: ignore[arg-type]
    with pytest.raises(Unauthenticated):
        metrics_guard(_connection(host, None, "sk-other"), None)  # type: ignore[arg-type]


def _connection(
    host: str | None, scope: Scope | None = None, presented: str = "sk-test", header: str | None = None
) -> Any:
    """A connection from there, with the key `sk-test` of that scope, and with a header."""
    held = {}
    if scope is not None:
        key = ApiKey("key_1", "x", "", frozenset({scope}), None, KeyLimits(), "me", datetime.now(UTC))
        held = {hash_key(presented)[:KEY_INDEX_LENGTH]: HeldKey(hash_key(presented), key)}
    directory = SimpleNamespace(catalog=Catalog(change=0, keys=held))
    headers = {header: "anything"} if header else {}
    if scope is not None or presented != "sk-test":
        headers["authorization"] = f"Bearer {presented}"
    return SimpleNamespace(
        client=None if host is None else SimpleNamespace(host=host),
        headers=headers,
        app=SimpleNamespace(state=SimpleNamespace(directory=directory)),
        state=SimpleNamespace(),
        scope={
            "path": "/metrics",
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        },
    )


async def test_metrics_are_in_prometheus_format(two: RunningGateway) -> None:
    """With its content type, for this machine and for admins."""
    await two.chat("support")
    for headers in ({}, {"authorization": f"Bearer {two.key}"}):
        response = await httpx.AsyncClient().get(two.url + "/metrics", headers=headers)
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/plain; version=")
        assert 'ostler_requests_total{adapter="support",' in response.text
    secret, _ = await new_key(two)
    refused = await stranger(two, secret, path="/metrics")
    assert (refused.status_code, error_of(refused)["code"]) == (403, "insufficient_permissions")


async def test_a_key_for_metrics_opens_nothing_else(two: RunningGateway) -> None:
    """No route of the whole schema but the metrics, whatever its method; and no model."""
    secret, _ = await new_key(two, scopes=["metrics"])
    assert (await stranger(two, secret, path="/metrics")).status_code == 200
    paths = (await two.http.get("/schema/openapi.json")).json()["paths"]
    opened = set()
    async with httpx.AsyncClient(base_url=two.url, headers={"authorization": f"Bearer {secret}"}) as http:
        for path, methods in paths.items():
            for method in methods:
                answer = await http.request(method, re.sub(r"{[^}]*}", "1", path), json={"model": "support"})
                if answer.status_code != 403:
                    opened.add(path)
    assert opened == {"/metrics", "/livez", "/readyz"}


async def test_the_list_of_models_is_for_keys_that_use_models(two: RunningGateway) -> None:
    """To ask them or to tune them; a key for feedback alone needs no names."""
    for scope, status in (
        ("inference", 200),
        ("tuning", 200),
        ("admin", 200),
        ("feedback", 403),
        ("metrics", 403),
    ):
        secret, _ = await new_key(two, scopes=[scope])
        for path in ("/v1/models", "/v1/models/support"):
            assert (await stranger(two, secret, path=path)).status_code == status, scope


@pytest.mark.parametrize("moment", ["when asked", "meanwhile", "at the end"])
async def test_other_workers_see_what_requests_have_counted(
    moment: str,
    gateway_settings: GatewaySettings,
    fake_engine: FakeEngine,
    adapter_folder: AdapterMaker,
    sqlite_template: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """When this one is asked for its metrics, now and then, and as it ends; a request itself writes no file."""
    for module in (monitors.counting, monitors.metrics):
        monkeypatch.setattr(module, "is_of_several_processes", lambda: True)
    monkeypatch.setattr(monitors.metrics, "_PUBLISH_EVERY_S", 0.01 if moment == "meanwhile" else 3600.0)
    async with running_gateway(gateway_settings, fake_engine, adapter_folder, sqlite_template) as running:
        overhead: Distribution = running.app.state.metrics._overhead

        def published() -> float:
            return sum(bucket.get() for bucket in overhead._shared)  # type: ignore[attr-defined]  # the library has it

        assert (await running.chat("tiny")).status_code == 200
        await until(lambda: sum(overhead.counts) == 1)
        if moment == "meanwhile":
            await until(lambda: published() == 1)
        else:
            assert published() == 0
        if moment == "when asked":
            assert (await running.http.get("/metrics")).status_code == 200
            assert published() == 1
    assert published() == 1
