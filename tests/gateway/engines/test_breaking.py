"""A version whose load breaks engines: it costs few of them, and no other version."""

import asyncio
import functools
from collections.abc import AsyncIterator

import pytest

from gateway.engines import fleet as fleets
from gateway.engines import setbacks
from gateway.engines.breaker import Breaker
from gateway.engines.replica import Replica
from tests.conftest import RunningGateway, until
from tests.fakes.engine import FakeEngine
from tests.gateway.engines.test_fleet import pair, second_engine

__all__ = ["pair", "second_engine"]


@pytest.fixture
async def _restarted(fake_engine: FakeEngine, second_engine: FakeEngine) -> AsyncIterator[None]:
    """Whatever breaks is started again, once the gateway has seen that it is broken and has not just said no."""

    async def restart() -> None:
        while True:
            await asyncio.sleep(0.02)
            for engine in (fake_engine, second_engine):
                if engine.calls["failed " + engine.base]:
                    engine.calls["failed " + engine.base] = 0
                    await start_again(engine)

    task = asyncio.create_task(restart())
    yield
    task.cancel()


class Clock:
    """A clock that stands still."""

    now = 1000.0

    def __call__(self) -> float:
        """Seconds."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time by which versions are left alone."""
    found = Clock()
    for module in (setbacks, fleets):
        monkeypatch.setattr(module, "Breaker", functools.partial(Breaker, clock=found))
    return found


async def start_again(*engines: FakeEngine) -> None:
    """As what watches over them does."""
    for engine in engines:
        await engine.stop()
        engine.status = None
        await engine.start()


async def name_of(gateway: RunningGateway, number: int) -> str:
    """The engine name of a version of `support`."""
    shown = (await gateway.http.get("/admin/v1/adapters/support")).json()
    name: str = shown["versions"][number - 1]["engine_name"]
    return name


@pytest.mark.usefixtures("_restarted")
async def test_one_request_costs_two_engines_at_most(
    pair: RunningGateway, second_engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though more are there at once; then it is told so, the version is left alone, and the others are served."""
    monkeypatch.setattr(setbacks, "_FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(setbacks, "_LONGEST_PAUSE_S", 0.001)
    poison, fleet = await name_of(pair, 2), pair.app.state.fleet
    engines = (pair.engine, second_engine)
    for engine in engines:
        engine.break_load.add(poison)
    refused = await pair.chat("support@2")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "version_not_servable")
    assert "went away while it loaded" in refused.json()["error"]["message"]
    assert int(refused.headers["retry-after"]) > 0
    assert sum(engine.calls["load " + poison] for engine in engines) == 2
    assert not fleet.breakers.is_closed(poison)
    assert fleet._breaks[poison] == 2
    await until(lambda: all(report.state == "ready" for report in fleet.reports()))
    assert (await pair.chat("support")).status_code == 200


@pytest.mark.usefixtures("_restarted")
async def test_an_only_engine_is_not_broken_again_at_once(two: RunningGateway) -> None:
    """However many ask, and though it is back."""
    poison = await name_of(two, 2)
    two.engine.break_load.add(poison)
    answers = await asyncio.gather(*(two.chat("support@2") for _ in range(5)))
    answers += [await two.chat("support@2") for _ in range(3)]
    assert {answer.status_code for answer in answers} == {503}
    assert {answer.json()["error"]["code"] for answer in answers} == {"version_not_servable"}
    assert two.engine.calls["load " + poison] == 2
    assert (await two.chat("support")).status_code == 200


async def test_an_engine_that_goes_away_once_costs_no_request(two: RunningGateway) -> None:
    """A connection that is cut while a version loads speaks neither against the version nor against the engine."""
    name = await name_of(two, 2)
    two.engine.break_load.add(name)
    asked = asyncio.create_task(two.chat("support@2"))
    await until(lambda: two.engine.calls["failed " + two.engine.base])
    two.engine.break_load.clear()
    two.engine.status = None
    assert (await asked).status_code == 200
    assert two.app.state.fleet.breakers.is_closed(name)


def breaks_noted(replica: Replica, name: str) -> int:
    """How often the gateway knows by now that a version broke its engine."""
    found = replica.residency._setbacks._found.get(name)
    return found.breaks if found else 0


async def test_a_live_version_that_breaks_its_engine_is_set_back(clock: Clock, two: RunningGateway) -> None:
    """By the engine that follows, however long that took to start; it serves the others, and tries it far later."""
    poison, engine, replica = await name_of(two, 1), two.engine, two.replica
    load = "load " + poison
    await two.push("billing", 3.0)
    assert (await two.promote("billing", 1)).is_success
    engine.break_load.add(poison)
    engine.calls.clear()
    await start_again(engine)
    for breaks in (1, 2):
        await until(lambda breaks=breaks: breaks_noted(replica, poison) == breaks and not replica.seen().answering)  # type: ignore[misc]
        assert engine.calls[load] == breaks
        clock.now += 7200
        await start_again(engine)
    for _ in range(2):
        await until(lambda: replica.state == "ready" and "went away" in (replica.problem or ""))
        replica.refused_connection()
    await until(lambda: replica.state == "ready")
    assert engine.calls[load] == 2
    assert (await two.chat("billing")).status_code == 200
    assert (await two.chat("support")).status_code == 503
    clock.now += 301
    await until(lambda: breaks_noted(replica, poison) == 3 and not replica.seen().answering)
    clock.now += 7200
    await start_again(engine)
    await until(lambda: replica.state == "ready")
    assert engine.calls[load] == 3
    engine.break_load.clear()
    clock.now += 601
    await until(lambda: poison in replica.residency.resident)
    assert poison not in replica.residency._setbacks
    assert (await two.chat("support")).status_code == 200


async def test_what_fails_on_the_pool_is_brought_in_nowhere(
    clock: Clock, pair: RunningGateway, second_engine: FakeEngine
) -> None:
    """Until its breaker has one engine try, after which the others follow."""
    name, fleet = await name_of(pair, 1), pair.app.state.fleet
    engines, replicas = (pair.engine, second_engine), [fleet.replica(f"engine-{n}") for n in range(2)]
    loads = "load " + name
    for engine in engines:
        engine.calls.clear()
    for replica in replicas:
        replica.residency.clear()
    for _ in range(2):
        fleet._broke(name)
    await start_again(*engines)
    clock.now += 299
    await until(lambda: all("left alone" in (replica.problem or "") for replica in replicas))
    assert not any(engine.calls[loads] for engine in engines)
    assert (await pair.chat("support")).status_code == 503
    pair.engine.load_s = second_engine.load_s = 0.1
    clock.now += 2
    await until(lambda: any(engine.calls[loads] for engine in engines))
    assert sum(engine.calls[loads] for engine in engines) == 1
    await until(lambda: all(name in replica.residency.resident for replica in replicas))
    assert fleet.breakers.is_closed(name)


@pytest.mark.parametrize("falls_back_on", ["base", "previous"])
async def test_the_fallback_of_what_breaks_engines_waits_for_one(
    pair: RunningGateway, second_engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, falls_back_on: str
) -> None:
    """It is not sent into the one that broke, and has its own tries."""
    fleet, engines = pair.app.state.fleet, (pair.engine, second_engine)
    change = {"stable": 2, "fallback": [falls_back_on]}
    assert (await pair.http.patch("/admin/v1/adapters/support/deployment", json=change)).is_success
    replicas = [fleet.replica(f"engine-{n}") for n in range(2)]
    for replica in replicas:
        monkeypatch.setattr(replica, "_missing", list)
        monkeypatch.setattr(replica, "_warm", list)
        await until(lambda replica=replica: not replica.residency.is_loading)  # type: ignore[misc]
    previous, poison = await name_of(pair, 1), await name_of(pair, 2)
    for engine in engines:
        engine.break_load.add(poison)
    await start_again(*engines)
    await until(lambda: all(replica.state == "ready" and not replica.residency.resident for replica in replicas))
    asked = asyncio.create_task(pair.chat("support"))
    await until(lambda: fleet._breaks[poison] == 2)
    assert not any(replica.seen().answering for replica in replicas)
    if falls_back_on == "previous":
        second_engine.break_load.add(previous)
        await start_again(second_engine)
        await until(lambda: fleet._breaks[previous] == 1)
    await start_again(pair.engine)
    answer = await asked
    assert (answer.status_code, answer.headers["x-ostler-variant"]) == (200, "fallback")
    assert [engine.calls["load " + poison] for engine in engines] == [2, 2]


async def test_a_refusal_ends_what_breaks_have_begun(two: RunningGateway) -> None:
    """An engine that can say no has survived it."""
    name, residency = await name_of(two, 2), two.replica.residency
    residency._setbacks.broke(name, "the engine went away")
    two.engine.refuse_load[name] = "no room"
    assert (await two.promote("support", 2)).status_code == 409
    residency._setbacks.broke(name, "the engine went away")
    assert not residency._setbacks.forbids(name)


@pytest.mark.usefixtures("_restarted")
async def test_a_version_that_serves_elsewhere_is_not_left_alone(
    pair: RunningGateway, second_engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it breaks one engine alone, clients of that version notice nothing."""
    for pause in ("_FIRST_PAUSE_S", "_FIRST_PAUSE_AFTER_BREAKS_S", "_LONGEST_PAUSE_AFTER_BREAKS_S"):
        monkeypatch.setattr(setbacks, pause, 0.05)
    name, fleet = await name_of(pair, 1), pair.app.state.fleet
    blamed: list[str] = []
    monkeypatch.setattr(fleet.breakers, "failed", lambda name, **_: blamed.append(name))
    second_engine.break_load.add(name)
    second_engine.calls.clear()
    await second_engine.stop()
    await second_engine.start()
    answers = []
    async with asyncio.timeout(30):
        while fleet._breaks[name] < 2:
            answers.append((await pair.chat("support")).status_code)
    assert (set(answers), blamed) == ({200}, [])
