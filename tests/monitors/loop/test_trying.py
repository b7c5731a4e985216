"""What comes between a decision and its carrying out: a mode, an hour, a policy, a gateway that hangs, a failure."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.loop import acting, material
from monitors.loop.controller import LoopJob
from monitors.loop.seen import Labels
from monitors.loop.store import Kept
from monitors.loop.turns import Turns
from monitors.watch.client import GatewayRefused
from monitors.watch.work import Workshop
from registry.catalog import Adapter, Catalog, Shadow
from registry.deployments import Patch
from registry.policies import Mode, Policy
from registry.registry import Registry
from tests.monitors.judging.rows import NOW as DAY
from tests.monitors.judging.rows import catalog, workshop
from tests.monitors.loop.conftest import Begin, Tuner
from tests.monitors.loop.stories import ACTS, RETRAIN, WORSE, CountedClient, Points, Told, World

BY_DAY = msgspec.structs.replace(ACTS, retrain=msgspec.structs.replace(RETRAIN, hours=(11, 13)))


async def to_canary(world: World, name: str, tuner: Tuner) -> None:
    """Take the loop to its first canary."""
    job = world.job()
    while (await world.kept(name)).state.phase != "rolling_out":
        await world.turn(name, job)
        await tuner(name)


class Refusing(CountedClient):
    """Whose gateway is away for some calls."""

    def __init__(self, world: World, what: str) -> None:
        super().__init__(world.url, world.key, Points())
        self._what = what

    async def _answer(self, method: str, path: str, **arguments: Any) -> Any:
        if self._what in path:
            raise GatewayRefused("it did not answer")
        return await super()._answer(method, path, **arguments)


class Turning(Points):
    """Has a person change the mode at a place, the first time."""

    def __init__(self, world: World, name: str, place: str, mode: Mode) -> None:
        super().__init__()
        self._world, self._name, self._place, self._mode = world, name, place, mode

    async def __call__(self, place: str) -> None:
        """The monitor is there now."""
        if place.startswith(self._place) and not self.passed:
            self.passed.append(place)
            changed = msgspec.structs.replace(ACTS, mode=self._mode)
            await self._world.registry.change_policy(self._name, lambda _: changed, actor="ann")


@pytest.mark.parametrize(
    ("place", "mode"), [("after POST /v1/files", "off"), ("before POST /v1/fine_tuning/jobs", "advise")]
)
async def test_no_training_begins_once_the_mode_is_another(world: World, begin: Begin, place: str, mode: Mode) -> None:
    """Whether the data is still being uploaded, or the job is asked for already."""
    name = await begin("support")
    points = Turning(world, name, place, mode)
    await world.turn(name, world.job(points))
    assert points.passed
    assert await world.jobs(name) == []
    assert (await world.kept(name)).pending is None
    assert ("wait", "dropped") in await world.decisions(name)


async def test_no_step_follows_once_the_mode_is_another(world: World, begin: Begin, tuner: Tuner) -> None:
    """Also where it was decided before, and the gateway is asked at that moment."""
    name = await begin("support")
    await to_canary(world, name, tuner)
    before = await world.revisions(name)
    await world.turn(name, world.job(Turning(world, name, "before PATCH", "off")))
    assert await world.revisions(name) == before
    assert (await world.kept(name)).pending is None


async def test_a_canary_is_watched_while_the_gateway_hangs(
    world: World, begin: Begin, tuner: Tuner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that is not answered is let go of, and before each next try errors are looked for."""
    name = await begin("support")
    await to_canary(world, name, tuner)

    class Hanging(CountedClient):
        async def _answer(self, method: str, path: str, **arguments: Any) -> Any:
            if method == "PATCH":
                world.told.errors[name] = replace(WORSE, mean=0.9)
                await asyncio.sleep(600)
            return await super()._answer(method, path, **arguments)

    monkeypatch.setattr(acting, "_PATIENCE_S", 0.2)
    job = world.job(client=Hanging(world.url, world.key, Points()))
    async with asyncio.timeout(30):
        await world.turn(name, job)
        assert "within 0.2 s" in ((await world.kept(name)).pending or pytest.fail("nothing is pending")).trouble
        await world.turn(name, job)
    assert (await world.revisions(name))[-1] == ("rollback", 1, None, None, True)


async def test_what_fails_in_the_monitor_is_told_and_tried_again(
    world: World, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its kind alone, which quotes nothing; with growing pauses, and until it goes."""
    name, rows = await begin("support"), material.rows

    async def full(*_arguments: Any, **_window: Any) -> AsyncIterator[bytes]:
        raise OSError("no space left in /var/lib/secret")
        yield b""

    monkeypatch.setattr(material, "rows", full)
    job = world.job()
    for _ in range(2):
        await world.turn(name, job)
    pending = (await world.kept(name)).pending
    assert pending is not None
    assert (pending.tries, "OSError" in pending.trouble, "secret" in pending.trouble) == (2, True, False)
    told = await world.decisions(name)
    assert told == [("retrain", "begun"), ("wait", "refused_by_gateway")]
    monkeypatch.setattr(material, "rows", rows)
    await world.turn(name, job)
    assert len(await world.jobs(name)) == 1


async def test_a_training_begins_in_its_hours_alone(world: World, begin: Begin) -> None:
    """Decided within them, and tried again when they are over, it is dropped."""
    name = await begin("support", BY_DAY)
    await world.turn(name, world.job(client=Refusing(world, "fine_tuning")))
    assert (await world.kept(name)).pending is not None
    world.now += timedelta(hours=3)
    await world.turn(name, world.job())
    assert await world.jobs(name) == []
    assert (await world.decisions(name))[-1] == ("wait", "dropped")
    await world.turn(name, world.job())
    assert (await world.decisions(name))[-1] == ("wait", "no_hours")
    world.now += timedelta(hours=20)
    await world.turn(name, world.job())
    assert len(await world.jobs(name)) == 1


async def test_a_training_that_another_policy_decided_is_decided_anew(world: World, begin: Begin) -> None:
    """What was asked for by the old one is not done; the new one decides at the next look."""
    name = await begin("support")
    await world.turn(name, world.job(client=Refusing(world, "fine_tuning")))
    asking = msgspec.structs.replace(ACTS, retrain=msgspec.structs.replace(RETRAIN, approval=True))
    await world.registry.change_policy(name, lambda _: asking, actor="ann")
    for _ in range(2):
        await world.turn(name, world.job())
    assert await world.jobs(name) == []
    assert (await world.decisions(name))[-2:] == [("wait", "dropped"), ("ask", "asked")]


async def test_a_training_is_decided_anew_after_a_persons_change(world: World, begin: Begin) -> None:
    """It would go on from what does not serve any more, and end with the loop paused for a change from before it."""
    name = await begin("support")
    await world.turn(name, world.job(client=Refusing(world, "fine_tuning")))
    assert (await world.kept(name)).pending is not None
    await world.registry.change(name, Patch(shadow=Shadow(None, 0.1)), actor="ann")
    await world.turn(name, world.job())
    assert await world.jobs(name) == []
    assert (await world.decisions(name))[-1] == ("wait", "dropped")
    for _ in range(2):
        await world.turn(name, world.job())
    assert len(await world.jobs(name)) == 1
    kept = await world.kept(name)
    assert (kept.state.phase, kept.state.revision) == ("tuning", len(await world.revisions(name)))


class Woken(Told):
    """Says that something about the adapter is new at the first two calls, the second time during its turn."""

    calls = 0

    def __init__(self, again: asyncio.Event) -> None:
        super().__init__()
        self._again = again

    async def changed(self, catalog: Catalog, _now: datetime) -> set[str]:
        """What is new."""
        self.calls += 1
        if self.calls == 2:
            self._again.set()
        return set(catalog.adapters) if self.calls <= 2 else set()


async def test_what_is_new_during_a_turn_is_looked_at_after_it(database: AsyncEngine, tmp_path: Path) -> None:
    """Though that turn, which saw nothing of it, found that nothing was."""
    again, taken = asyncio.Event(), []
    job = LoopJob(at_work(database, tmp_path), Woken(again))

    class Held(Turns):
        async def take(self, adapter: Adapter, now: datetime) -> bool:
            taken.append(adapter.name)
            await again.wait()
            return True

    job._turns = Held(at_work(database, tmp_path), Registry(database, workshop(database, tmp_path).store, ()), Told())
    job._catalogs = Same()  # type: ignore[assignment]
    for _ in range(3):
        await job.run(catalog(), DAY)
    assert taken == ["support", "support"]


class Same:
    """The catalog that there is, each time."""

    async def read(self) -> Catalog:
        """It."""
        return catalog()


def at_work(database: AsyncEngine, folder: Path) -> Workshop:
    """A monitor whose loop waits for nothing."""
    shop = workshop(database, folder)
    return replace(shop, settings=shop.settings.model_copy(update={"loop_every_s": 0.01}))


class Counting(Told):
    """Counts labels of all adapters but one for ever."""

    def __init__(self, quick: str) -> None:
        super().__init__()
        self._quick = quick
        self.counting = 0

    async def survey(self, adapter: Adapter, _kept: Kept, _now: datetime) -> Labels:
        """They are many."""
        if adapter.name != self._quick:
            self.counting += 1
            await asyncio.sleep(600)
        return Labels()


async def test_counting_labels_keeps_no_canary_from_its_turn(database: AsyncEngine, tmp_path: Path) -> None:
    """However many adapters count theirs at once."""
    looks, some = Counting("canary"), catalog().adapters["support"]
    adapter = replace(some, policy=Policy(mode="act"))
    shop = workshop(database, tmp_path)
    turns = Turns(shop, Registry(database, shop.store, ()), looks)
    others = [asyncio.create_task(turns.take(replace(adapter, name=f"a{n}"), DAY)) for n in range(12)]
    try:
        async with asyncio.timeout(30):
            while looks.counting < len(others):
                await asyncio.sleep(0.01)
            await turns.take(replace(adapter, name="canary"), DAY)
    finally:
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
