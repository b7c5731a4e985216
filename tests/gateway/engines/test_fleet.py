"""Several replicas: who serves, what happens when one goes, comes back, fills up, or is told lies about."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator

import httpx
import pytest

from gateway.settings import GatewaySettings
from registry.artifacts import ArtifactStore
from registry.catalog import Scope
from registry.database import connect, migrate
from registry.registry import Registry
from tests.conftest import AdapterMaker, RunningGateway, serving, until
from tests.fakes.engine import FakeEngine
from tests.registry.lora_samples import BASE


@pytest.fixture
async def second_engine() -> AsyncIterator[FakeEngine]:
    """Another fake engine."""
    engine = FakeEngine()
    await engine.start()
    yield engine
    await engine.stop()


@pytest.fixture
async def pair(
    gateway_settings: GatewaySettings,
    fake_engine: FakeEngine,
    second_engine: FakeEngine,
    adapter_folder: AdapterMaker,
) -> AsyncIterator[RunningGateway]:
    """A gateway before two engines, `engine` and `second_engine`, with `support` in two versions, version 1 live."""
    urls = f"{fake_engine.url},{second_engine.url}"
    settings = gateway_settings.model_copy(update={"engine_url": urls})
    database = connect(settings.database)
    await migrate(database)
    own = Registry(database, ArtifactStore(settings.artifacts, settings.cache), (BASE,))
    _, key = await own.create_key("test", scopes=frozenset({Scope.ADMIN}), actor="test")
    async with serving(settings) as (url, app), client(url, key) as http:
        running = RunningGateway(url, key, http, fake_engine, own, app, adapter_folder)
        await until(lambda: all(report.state == "ready" for report in app.state.fleet.reports()))
        await running.push("support", 1.0)
        await running.push("support", 2.0)
        assert (await running.promote("support", 1)).is_success
        yield running
    await database.dispose()


def client(url: str, key: str) -> httpx.AsyncClient:
    """A client with that key."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx.AsyncClient(
        base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=30, limits=limits, trust_env=False
    )


def served(*engines: FakeEngine, model: str = "support@1") -> list[int]:
    """How many requests each engine got for a version since the last `calls.clear()`."""
    return [sum(count for name, count in engine.calls.items() if name.startswith(model)) for engine in engines]


async def test_promote_makes_a_version_resident_on_every_home(pair: RunningGateway, second_engine: FakeEngine) -> None:
    """With two replicas both are home, and both have proven it before the call returns."""
    assert (await pair.promote("support", 2)).is_success
    for engine in (pair.engine, second_engine):
        assert any(name.startswith("support@2-") for name in engine.loaded)
    for report in pair.app.state.fleet.reports():
        assert any(name.startswith("support@2-") for name in report.resident)


async def test_promote_is_refused_if_one_home_refuses(pair: RunningGateway, second_engine: FakeEngine) -> None:
    """And the deployment is as it was."""
    name = (await pair.http.get("/admin/v1/adapters/support")).json()["versions"][1]["engine_name"]
    second_engine.refuse_load[name] = "no room"
    response = await pair.promote("support", 2)
    assert response.status_code == 409
    assert "no room" in response.text
    assert (await pair.chat("support")).json()["model"].startswith("support@1-")


async def test_requests_are_shared_out(pair: RunningGateway, second_engine: FakeEngine) -> None:
    """Requests of many sessions go to both replicas, and none loads anything."""
    pair.engine.calls.clear()
    second_engine.calls.clear()
    for _ in range(10):
        answers = await asyncio.gather(*(pair.chat("support") for _ in range(8)))
        assert all(answer.status_code == 200 for answer in answers)
    first, second = served(pair.engine, second_engine)
    assert first + second == 80
    assert min(first, second) > 20


async def test_a_session_stays_on_its_replica(pair: RunningGateway, second_engine: FakeEngine) -> None:
    """So that the prefix of its conversation is in that engine's cache."""
    pair.engine.calls.clear()
    second_engine.calls.clear()
    for _ in range(20):
        await pair.http.post(
            "/v1/chat/completions", json={"model": "support", "messages": []}, headers={"x-session-id": "ann"}
        )
    assert sorted(served(pair.engine, second_engine)) == [0, 20]


async def test_a_killed_replica_fails_no_request_before_its_first_byte(
    pair: RunningGateway, second_engine: FakeEngine
) -> None:
    """What it had not answered is sent to the other; what had begun ends with an error event."""
    second_engine.gap_s = pair.engine.gap_s = 0.3
    second_engine.chunks = pair.engine.chunks = 4
    plain = [asyncio.create_task(pair.chat("support")) for _ in range(20)]
    streams = [asyncio.create_task(pair.chat("support", stream=True)) for _ in range(20)]
    await until(lambda: second_engine.in_flight.total() >= 10)
    await asyncio.sleep(0.45)  # the streams have begun
    late = [asyncio.create_task(pair.chat("support")) for _ in range(10)]
    await asyncio.sleep(0.05)
    await second_engine.stop()
    answers = await asyncio.gather(*plain, *late)
    assert [answer.status_code for answer in answers] == [200] * 30
    ends = Counter(
        "whole" if stream.text.endswith("data: [DONE]\n\n") else stream.text.rpartition("data: ")[2][:10]
        for stream in await asyncio.gather(*streams)
    )
    assert ends.keys() <= {"whole", '{"error":{'}
    assert ends["whole"] > 0
    assert ends['{"error":{'] > 0


async def test_a_replica_that_comes_back_has_its_versions_before_it_gets_requests_for_them(
    pair: RunningGateway, second_engine: FakeEngine
) -> None:
    """It is left alone meanwhile, with growing pauses, and told as such."""
    await second_engine.stop()
    await pair.chat("support")
    fleet = pair.app.state.fleet
    # A request may find it gone first; the breaker follows from the gateway's own look.
    await until(lambda: fleet.reports()[1].state == "down" and fleet.reports()[1].breaker in ("open", "half_open"))
    assert (await pair.http.get("/readyz")).status_code == 200
    second_engine.calls.clear()
    second_engine.load_s = 0.3
    await second_engine.start()
    stop = asyncio.Event()

    async def ask() -> None:
        while not stop.is_set():
            assert (await pair.chat("support")).status_code == 200

    asking = [asyncio.create_task(ask()) for _ in range(4)]
    await until(lambda: fleet.reports()[1].state == "ready")
    await until(lambda: served(second_engine)[0] > 3)
    stop.set()
    await asyncio.gather(*asking)
    assert fleet.reports()[1].breaker == "closed"
    order = [body["model"] for body in second_engine.bodies if body["model"].startswith("support@1")]
    assert order, "it serves again"
    assert second_engine.asked_while_absent == []


async def test_a_version_that_one_replica_refuses_is_served_by_the_other(
    pair: RunningGateway, second_engine: FakeEngine
) -> None:
    """A client does not notice."""
    name = (await pair.http.get("/admin/v1/adapters/support")).json()["versions"][1]["engine_name"]
    second_engine.refuse_load[name] = "no room"
    answers = await asyncio.gather(*(pair.chat("support@2") for _ in range(12)))
    assert {answer.status_code for answer in answers} == {200}


async def test_requests_spill_over_when_the_home_is_busy(
    gateway_settings: GatewaySettings, pair: RunningGateway, second_engine: FakeEngine
) -> None:
    """With one home and a bound of two, the third request at once goes to the other replica."""
    settings = pair.app.state.settings.model_copy(update={"homes": 1, "home_bound": 2})
    async with serving(settings) as (url, app), client(url, pair.key) as http:
        await until(lambda: all(report.state == "ready" for report in app.state.fleet.reports()))
        pair.engine.calls.clear()
        second_engine.calls.clear()
        pair.engine.gap_s = second_engine.gap_s = 0.3
        body = {"model": "support", "messages": []}
        answers = await asyncio.gather(*(http.post("/v1/chat/completions", json=body) for _ in range(6)))
        assert {answer.status_code for answer in answers} == {200}
        assert sorted(served(pair.engine, second_engine)) in ([1, 5], [2, 4], [3, 3])
        assert min(served(pair.engine, second_engine)) > 0
        pair.engine.gap_s = second_engine.gap_s = 0.0
        pair.engine.calls.clear()
        second_engine.calls.clear()
        for _ in range(10):
            await http.post("/v1/chat/completions", json=body)
        assert sorted(served(pair.engine, second_engine)) == [0, 10]


async def test_a_name_that_the_registry_does_not_know_is_unloaded(pair: RunningGateway) -> None:
    """By the one gateway that tidies up."""
    pair.engine.loaded["stranger@1-00000000"] = "/models/stranger"
    await until(lambda: "stranger@1-00000000" not in pair.engine.loaded)


async def test_a_name_with_other_content_is_unloaded_and_loaded_right(pair: RunningGateway) -> None:
    """Truth is the content: the folder's name is its digest."""
    (name,) = [name for name in pair.engine.loaded if name.startswith("support@1")]
    right = pair.engine.loaded[name]
    pair.engine.loaded[name] = right[:-8] + "deadbeef"
    await until(lambda: pair.engine.loaded.get(name) == right)
    assert (await pair.chat("support")).status_code == 200


async def test_a_drained_version_is_unloaded(pair: RunningGateway) -> None:
    """What is in no deployment and was not used for a while goes; what is deployed or a rollback's stays."""
    settings = pair.app.state.settings.model_copy(update={"idle_unload_s": 0.2})
    await pair.push("support", 3.0)
    for number in (2, 3):
        assert (await pair.promote("support", number)).is_success
    pair.app.state.fleet.heat._counts.clear()
    for report in pair.app.state.fleet.reports():
        pair.app.state.fleet.replica(report.id)._idle_s = settings.idle_unload_s
    await until(lambda: {name.partition("-")[0] for name in pair.engine.loaded} == {"support@2", "support@3"})


async def test_engines_by_dns(gateway_settings: GatewaySettings, pair: RunningGateway) -> None:
    """Every address of the name is a replica."""
    port = pair.engine.port
    settings = pair.app.state.settings.model_copy(update={"engine_dns": f"127.0.0.1:{port}"})
    async with serving(settings) as (url, app), client(url, pair.key) as http:
        await until(lambda: [report.state for report in app.state.fleet.reports()] == ["ready"])
        assert app.state.fleet.reports()[0].id == f"127.0.0.1:{port}"
        response = await http.post("/v1/chat/completions", json={"model": "support", "messages": []})
        assert response.status_code == 200


async def test_a_replica_that_leaves_is_forgotten(pair: RunningGateway, second_engine: FakeEngine) -> None:
    """Its requests end on it, new ones go elsewhere, and its metrics are gone."""
    fleet = pair.app.state.fleet
    second_engine.gap_s = pair.engine.gap_s = 0.3
    running = [asyncio.create_task(pair.chat("support")) for _ in range(10)]
    await until(lambda: second_engine.in_flight.total() > 0)
    fleet._arrange(pair.app.state.settings.all_pools[0], {"engine-0": pair.engine.url})
    assert {answer.status_code for answer in await asyncio.gather(*running)} == {200}
    second_engine.calls.clear()
    await asyncio.gather(*(pair.chat("support") for _ in range(10)))
    assert served(second_engine) == [0]
    assert "engine-1" not in (await pair.http.get("/metrics")).text


async def test_a_failing_version_falls_back_and_comes_back(pair: RunningGateway, second_engine: FakeEngine) -> None:
    """After some failures in a row its breaker opens: the previous version serves, told by the variant."""
    assert (await pair.promote("support", 2)).is_success
    path = "/admin/v1/adapters/support/deployment"
    assert (await pair.http.patch(path, json={"fallback": ["previous", "base"]})).is_success
    (name,) = [name for name in pair.engine.loaded if name.startswith("support@2")]
    for engine in (pair.engine, second_engine):
        engine.refuse_requests.add(name)
    seen = []
    for _ in range(30):
        response = await pair.chat("support")
        if response.status_code == 200:
            seen.append((response.headers["x-ostler-variant"], response.json()["model"].partition("-")[0]))
        if ("fallback", "support@1") in seen:
            break
    assert ("fallback", "support@1") in seen
    for engine in (pair.engine, second_engine):
        engine.refuse_requests.clear()

    async def is_stable() -> bool:
        return bool((await pair.chat("support")).headers.get("x-ostler-variant") == "stable")

    await until(is_stable)


async def test_without_a_fallback_a_failing_version_is_503(pair: RunningGateway, second_engine: FakeEngine) -> None:
    """At once and with retry-after, and the base is served as before."""
    (name,) = [name for name in pair.engine.loaded if name.startswith("support@1")]
    for engine in (pair.engine, second_engine):
        engine.refuse_requests.add(name)
    statuses = Counter([(await pair.chat("support")).status_code for _ in range(20)])
    assert statuses.keys() <= {502, 503}
    assert statuses[503] > 5
    assert (await pair.chat("tiny")).status_code == 200


async def test_two_gateways_see_each_others_changes(pair: RunningGateway) -> None:
    """A promote on one is served by the other soon after, whatever the database."""
    async with serving(pair.app.state.settings) as (url, app), client(url, pair.key) as http:
        await until(lambda: app.state.fleet.readiness().ready)
        for number in (2, 1, 2):
            assert (await pair.promote("support", number)).is_success
            stable = f"support@{number}-"

            async def follows(stable: str = stable) -> bool:
                answer = await http.post("/v1/chat/completions", json={"model": "support", "messages": []})
                return bool(answer.json()["model"].startswith(stable))

            await until(follows, 2.0)


async def test_more_deployed_versions_than_slots_are_all_served(pair: RunningGateway) -> None:
    """What is used most stays loaded; the rest is loaded when it is asked for."""
    for index in range(8):
        await pair.push(f"many-{index}", float(10 + index))
        assert (await pair.promote(f"many-{index}", 1)).is_success
    for _ in range(6):
        assert (await pair.chat("many-0")).status_code == 200
    for index in range(8):
        assert (await pair.chat(f"many-{index}")).status_code == 200
    with contextlib.suppress(AssertionError):
        await until(lambda: len(pair.engine.loaded) <= 4, 3)
    assert len(pair.engine.loaded) <= 4
    assert (await pair.chat("many-0")).json()["model"].startswith("many-0@1")


async def test_a_version_that_others_take_away_and_bring_back_is_not_blamed(
    pair: RunningGateway, second_engine: FakeEngine
) -> None:
    """Crowded gateways do so between a load and its proof: it is had again, however often, and the request waits."""
    version = (await pair.http.get("/admin/v1/adapters/support")).json()["versions"][1]["engine_name"]
    for engine in (pair.engine, second_engine):
        engine.absent_next = [version] * 6
    assert (await pair.chat("support@2")).status_code == 200
    assert [] in (pair.engine.absent_next, second_engine.absent_next)
