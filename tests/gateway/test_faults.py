"""Faults of parts, of clients and of timing, and that they harm nobody else."""

import asyncio
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from monitors.record import RequestRecord
from registry.catalog import KeyLimits, Scope
from registry.deployments import Patch
from tests.conftest import RunningGateway, serving, until
from tests.fakes.engine import FakeEngine

PATH = "/admin/v1/adapters/support"
BODY = {"model": "support", "messages": []}


@pytest.fixture
async def second_engine() -> Any:
    """Another fake engine."""
    engine = FakeEngine()
    await engine.start()
    yield engine
    await engine.stop()


async def key_of(gateway: RunningGateway, **limits: Any) -> dict[str, str]:
    """The headers of a new inference key, once the gateway knows it."""
    _, secret = await gateway.registry.create_key(
        "team", scopes=frozenset({Scope.INFERENCE}), limits=KeyLimits(**limits), actor="test"
    )
    headers = {"authorization": f"Bearer {secret}"}

    async def is_known() -> bool:
        return (await gateway.http.get("/v1/models", headers=headers)).status_code == 200

    await until(is_known)
    return headers


async def test_a_rollback_to_an_archived_version_serves_it_and_shows_it(two: RunningGateway) -> None:
    """It is out of the archive for this gateway at once: live, listed, answering, and not unloaded."""
    await two.promote("support", 2)
    assert (await two.http.patch(f"{PATH}/versions/1", json={"archived": True})).is_success
    assert (await two.http.post(f"{PATH}/rollback")).is_success
    shown = (await two.http.get(PATH)).json()["versions"][0]
    assert (shown["state"], shown["archived"]) == ("live", False)
    assert (await two.chat("support@1")).status_code == 200
    assert "support@1" in [model["id"] for model in (await two.http.get("/v1/models")).json()["data"]]
    two.engine.calls.clear()
    await until(lambda: two.engine.calls["/v1/models"] > 60)
    assert not [name for name in two.engine.calls if name.startswith("unload support@1")]


async def test_a_change_that_changes_nothing_hides_no_other_change(two: RunningGateway) -> None:
    """A gateway that has not yet heard of another's change learns of it in spite of its own empty one."""
    key, _ = await two.registry.create_key("team", scopes=frozenset({Scope.INFERENCE}), actor="test")
    directory = two.app.state.directory
    await until(lambda: any(held.key.id == key.id for held in directory.catalog.keys.values()))
    await two.registry.revoke_key(key.id, actor="other gateway")
    changed = await two.app.state.registry.change("support", Patch(stable=1), actor="test")
    await directory.apply(changed)
    assert all(held.key.id != key.id for held in directory.catalog.keys.values())


async def test_the_picture_in_memory_is_the_databases_after_any_changes(two: RunningGateway) -> None:
    """Promotes, canaries, fallbacks, archiving and rollbacks in random order, compared after each."""
    await two.push("support", 3.0)
    chance = random.Random(5)
    directory, registry = two.app.state.directory, two.app.state.registry
    done: Counter[str] = Counter()
    for _ in range(60):
        number = chance.randint(1, 3)
        orders: list[tuple[str, str, Any]] = [
            ("PATCH", f"{PATH}/deployment", {"stable": number}),
            ("PATCH", f"{PATH}/deployment", {"canary": {"version": number, "weight": chance.random()}}),
            ("PATCH", f"{PATH}/deployment", {"canary": None, "fallback": chance.choice([None, "previous", "base"])}),
            ("PATCH", f"{PATH}/versions/{number}", {"archived": chance.random() < 0.7}),
            ("POST", f"{PATH}/rollback", {}),
        ]
        method, path, body = chance.choice(orders)
        response = await two.http.request(method, path, json=body)
        done[f"{response.status_code}"] += 1
        truth = await registry.catalog()
        assert directory.catalog == truth
    assert done["200"] > 20
    assert done["409"] > 0


async def test_requests_that_fail_by_their_own_fault_stop_no_version(two: RunningGateway) -> None:
    """However many one tenant sends, the version answers others."""
    bad, good = await key_of(two), await key_of(two)
    (name,) = [name for name in two.engine.loaded if name.startswith("support@1")]
    for _ in range(20):
        two.engine.fail_next.append(name)
        assert (await two.http.post("/v1/chat/completions", json=BODY, headers=bad)).status_code == 502
        assert (await two.http.post("/v1/chat/completions", json=BODY, headers=good)).status_code == 200


async def test_what_outlasts_the_drain_is_told_and_recorded_as_such(two: RunningGateway) -> None:
    """A stream ends with an error event, a plain request with 503; neither counts as a success."""
    seen: list[RequestRecord] = []
    async with serving(two.app.state.settings) as (url, app):
        app.state.inference._hooks.append(seen.append)
        two.http.base_url = url
        await two.until_ready()
        two.engine.gap_s, two.engine.chunks = 0.5, 100
        stream = asyncio.create_task(two.chat("support", stream=True))
        await until(lambda: two.engine.in_flight.total() == 1)
        await asyncio.sleep(0.8)
        two.engine.gap_s = 30.0
        plain = asyncio.create_task(two.chat("support"))
        await until(lambda: two.engine.in_flight.total() == 2)
    streamed, answered = await stream, await plain
    assert '"code":"gateway_stopping"' in streamed.text.rpartition("data: ")[2]
    assert (answered.status_code, answered.json()["error"]["code"]) == (503, "gateway_stopping")
    assert "retry-after" in answered.headers
    assert sorted((record.status, record.error) for record in seen) == [
        (200, "gateway_stopping"),
        (503, "gateway_stopping"),
    ]


async def test_a_replica_that_dies_while_it_loads_fails_no_request(
    two: RunningGateway, second_engine: FakeEngine
) -> None:
    """Nothing was sent yet, so another replica serves."""
    settings = two.app.state.settings.model_copy(update={"engine_url": f"{two.engine.url},{second_engine.url}"})
    async with serving(settings) as (url, app):
        two.http.base_url = url
        await until(lambda: all(report.state == "ready" for report in app.state.fleet.reports()))
        second_engine.load_s = 30.0
        asked = [asyncio.create_task(two.chat("support@2")) for _ in range(8)]
        await until(lambda: any(name.startswith("load support@2") for name in second_engine.calls))
        await second_engine.stop()
        assert {answer.status_code for answer in await asyncio.gather(*asked)} == {200}


async def test_more_than_a_hundred_unanswered_requests_survive_their_replica(
    two: RunningGateway, second_engine: FakeEngine
) -> None:
    """All are sent to the other one."""
    settings = two.app.state.settings.model_copy(
        update={"engine_url": f"{two.engine.url},{second_engine.url}", "home_bound": 1000}
    )
    async with serving(settings) as (url, app):
        await until(lambda: all(report.state == "ready" for report in app.state.fleet.reports()))
        second_engine.gap_s = 30.0
        two.engine.gap_s = 0.2
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=url, headers=two.http.headers, timeout=60, limits=limits) as http:
            asked = [asyncio.create_task(http.post("/v1/chat/completions", json=BODY)) for _ in range(300)]
            await until(lambda: second_engine.in_flight.total() > 110, 50)
            await second_engine.stop()
            assert Counter(answer.status_code for answer in await asyncio.gather(*asked)) == {200: 300}


async def test_an_artifact_that_does_not_come_takes_no_engine_down(
    two: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The version is told as not servable; the rest is served as before."""
    settings = two.app.state.settings.model_copy(update={"probe_timeout_s": 0.3})
    await two.push("slow", 7.0)
    slow = (await two.http.get("/admin/v1/adapters/slow")).json()["versions"][0]["digest"]
    async with serving(settings) as (url, app):
        two.http.base_url = url
        await two.until_ready()
        store = app.state.registry.store
        fetch = store.fetch

        def hang(digest: str) -> Path:
            if digest == slow:
                time.sleep(1.0)
            found: Path = fetch(digest)
            return found

        monkeypatch.setattr(store, "fetch", hang)
        refused = await two.chat("slow@1")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "version_not_servable")
        assert "did not come in time" in refused.json()["error"]["message"]
        assert app.state.fleet.reports()[0].state == "ready"
        assert (await two.chat("support")).status_code == 200


async def test_a_client_that_leaves_before_the_end_pays_for_what_it_got(two: RunningGateway) -> None:
    """Hanging up before the last event is no way around the limit of tokens."""
    headers = await key_of(two, tokens_per_minute=40)
    two.engine.chunks, two.engine.gap_s = 60, 0.005
    statuses = []
    for _ in range(6):
        async with two.http.stream(
            "POST", "/v1/chat/completions", json={**BODY, "stream": True}, headers=headers
        ) as response:
            statuses.append(response.status_code)
            if response.status_code == 200:
                events = 0
                async for line in response.aiter_lines():
                    events += line.startswith("data:")
                    if events > 45:
                        break
        await until(lambda: two.replica.in_flight == 0)
        await asyncio.sleep(0.05)
    assert statuses[0] == 200
    assert statuses[-1] == 429


async def test_a_load_holds_no_place(two: RunningGateway) -> None:
    """While all places' worth of requests wait for a cold version, what is resident is served at once."""
    settings = two.app.state.settings.model_copy(update={"max_in_flight": 2, "max_queued": 2})
    async with serving(settings) as (url, _):
        two.http.base_url = url
        await two.until_ready()
        two.engine.load_s = 1.0
        cold = [asyncio.create_task(two.chat("support@2")) for _ in range(6)]
        await until(lambda: any(name.startswith("load support@2") for name in two.engine.calls))
        warm = [await two.chat("support") for _ in range(5)]
        assert {answer.status_code for answer in warm} == {200}
        assert not any(task.done() for task in cold)
        await asyncio.gather(*cold)


async def test_two_gateways_with_more_versions_than_slots_fail_nothing(two: RunningGateway) -> None:
    """The one that makes room knows what the other uses; a version that goes in that moment is loaded again."""
    for index in range(8):
        await two.push(f"many-{index}", 10.0 + index)
        assert (await two.promote(f"many-{index}", 1)).is_success
    statuses: Counter[int] = Counter()
    async with serving(two.app.state.settings) as (url, app):
        await until(lambda: app.state.fleet.readiness().ready)
        chance = random.Random(7)
        async with httpx.AsyncClient(base_url=url, headers=two.http.headers, timeout=30) as other:

            async def ask(http: httpx.AsyncClient) -> None:
                for _ in range(40):
                    rank = min(7, int(chance.expovariate(0.5)))
                    body = {**BODY, "model": f"many-{rank}"}
                    answer = await http.post("/v1/chat/completions", json=body)
                    statuses[answer.status_code] += 1

            await asyncio.gather(*(ask(http) for http in (two.http, other) for _ in range(3)))
    assert statuses == {200: 240}


async def test_a_request_counts_once_as_finding_its_version_or_not(two: RunningGateway) -> None:
    """The one that waits for the load is a miss and no hit; the next one is a hit."""

    def lookups(outcome: str) -> float:
        labels = {"adapter": "support", "outcome": outcome}
        found = two.app.state.metrics.registry.get_sample_value("ostler_residency_lookups_total", labels)
        return found or 0.0

    before = lookups("hit"), lookups("miss")
    assert (await two.chat("support@2")).status_code == 200
    assert (lookups("hit") - before[0], lookups("miss") - before[1]) == (0.0, 1.0)
    assert (await two.chat("support@2")).status_code == 200
    assert (lookups("hit") - before[0], lookups("miss") - before[1]) == (1.0, 1.0)
