"""A started gateway without its database: chat goes on, changes get 503, and no record is lost."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import asyncpg
import httpx
import pytest

from gateway.settings import GatewaySettings
from registry.artifacts import ArtifactStore
from registry.catalog import Scope
from registry.database import connect, migrate
from registry.registry import Registry
from tests.conftest import AdapterMaker, RunningGateway, serving, until
from tests.fakes.engine import FakeEngine
from tests.postgres import StoppablePostgres
from tests.registry.lora_samples import BASE


@dataclass
class Served:
    """A gateway and the PostgreSQL server that it uses."""

    gateway: RunningGateway
    postgres: StoppablePostgres

    async def records(self) -> Counter[str]:
        """How often each request id stands in the request log."""
        connection = await asyncpg.connect(self.postgres.url)
        try:
            rows = await connection.fetch("SELECT request_id FROM request_log")
        finally:
            await connection.close()
        return Counter(row["request_id"] for row in rows)


@pytest.fixture
async def served(
    gateway_settings: GatewaySettings, fake_engine: FakeEngine, adapter_folder: AdapterMaker
) -> AsyncIterator[Served]:
    """`support` is live, on a PostgreSQL that can be stopped."""
    postgres = await asyncio.to_thread(StoppablePostgres)
    try:
        settings = gateway_settings.model_copy(update={"database_url": postgres.url, "record_buffer": 200})
        database = connect(postgres.url)
        await migrate(database)
        own = Registry(database, ArtifactStore(settings.artifacts, settings.cache), (BASE,))
        _, key = await own.create_key("test", scopes=frozenset({Scope.ADMIN}), actor="test")
        async with serving(settings) as (url, app):
            headers = {"authorization": f"Bearer {key}"}
            async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30) as http:
                gateway = RunningGateway(url, key, http, fake_engine, own, app, adapter_folder)
                await gateway.until_ready()
                await gateway.push("support", 1.0)
                assert (await gateway.promote("support", 1)).is_success
                yield Served(gateway, postgres)
        await database.dispose()
    finally:
        await asyncio.to_thread(postgres.close)


ADMIN_CALLS: list[tuple[str, str, Any]] = [
    ("PATCH", "/admin/v1/adapters/support/deployment", {"fallback": "base"}),
    ("POST", "/admin/v1/adapters/support/rollback", {}),
    ("GET", "/admin/v1/adapters/support/history", None),
    ("POST", "/admin/v1/keys", {"name": "new"}),
    ("GET", "/admin/v1/keys", None),
    ("GET", "/admin/v1/audit", None),
]


async def test_chat_goes_on_without_the_database_and_changes_are_503(served: Served) -> None:
    """Admin calls that need it get 503 in the envelope and without its address; what is in memory is still shown."""
    await asyncio.to_thread(served.postgres.stop)
    answers = await asyncio.gather(*(served.gateway.chat("support") for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    for method, path, body in ADMIN_CALLS:
        response = await served.gateway.http.request(method, path, json=body)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "database_unavailable"), path
        assert int(response.headers["retry-after"]) >= 1
        assert str(served.postgres.socket.parent) not in response.text
    assert (await served.gateway.http.get("/admin/v1/replicas")).status_code == 200
    assert (await served.gateway.http.get("/readyz")).status_code == 200
    await until(lambda: "ostler_database_reachable 0.0" in served.gateway.app.state.metrics.exposition().decode())


async def test_records_wait_for_the_database_and_are_written_once(served: Served) -> None:
    """All that the buffer could hold, each once."""
    before = [await served.gateway.chat("support") for _ in range(10)]
    await asyncio.to_thread(served.postgres.stop)
    during = [await served.gateway.chat("support") for _ in range(100)]
    await asyncio.to_thread(served.postgres.start)
    ids = [answer.headers["x-request-id"] for answer in (*before, *during)]

    async def are_written() -> bool:
        return (await served.records()).keys() >= set(ids)

    await until(are_written, 30)
    assert {count for name, count in (await served.records()).items() if name in ids} == {1}
    assert served.gateway.app.state.metrics.registry.get_sample_value("ostler_records_dropped_total") in (None, 0.0)
    changed = await served.gateway.http.patch("/admin/v1/adapters/support/deployment", json={"fallback": "base"})
    assert changed.status_code == 200


async def test_what_the_buffer_cannot_hold_is_dropped_and_counted(served: Served) -> None:
    """Chat goes on all the same, and the sum of written and dropped is what was asked."""
    await asyncio.to_thread(served.postgres.stop)
    await served.gateway.chat("support")
    answers = [await served.gateway.chat("support") for _ in range(250)]
    assert {answer.status_code for answer in answers} == {200}
    metrics = served.gateway.app.state.metrics.registry
    dropped = metrics.get_sample_value("ostler_records_dropped_total", {"reason": "buffer_full"})
    assert dropped is not None
    assert dropped >= 50
    await asyncio.to_thread(served.postgres.start)

    async def are_written() -> bool:
        return bool((await served.records()).total() + dropped >= 251)

    await until(are_written, 30)


async def test_a_key_revoked_during_the_outage_is_known_afterwards(served: Served) -> None:
    """What others changed meanwhile is caught up with when the database is back."""
    _, secret = await served.gateway.registry.create_key("team", scopes=frozenset({Scope.INFERENCE}), actor="test")
    headers = {"authorization": f"Bearer {secret}"}
    body = {"model": "support", "messages": []}

    async def status() -> int:
        return (await served.gateway.http.post("/v1/chat/completions", json=body, headers=headers)).status_code

    async def is_known() -> bool:
        return await status() == 200

    await until(is_known)
    await asyncio.to_thread(served.postgres.stop)
    assert await status() == 200
    await asyncio.to_thread(served.postgres.start)
    (key,) = [key for key in await served.gateway.registry.list_keys() if key.name == "team"]
    await served.gateway.registry.revoke_key(key.id, actor="test")

    async def is_revoked() -> bool:
        return await status() == 401

    await until(is_revoked)
