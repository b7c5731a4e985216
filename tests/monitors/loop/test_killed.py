"""A monitor that is killed anywhere in the loop: after its restart the loop ends as it would have; nothing is twice.

The places are all transactions of the loop and all its calls of the gateway, before and after each.
"""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass

import msgspec
import pytest

from monitors.loop.controller import LoopJob
from monitors.watch.loop import MonitorLoop
from monitors.watch.metrics import MonitorMetrics
from tests.conftest import until
from tests.monitors.loop.conftest import Begin, Tuner
from tests.monitors.loop.stories import ACTS as POLICY
from tests.monitors.loop.stories import ROLLOUT, Killed, Points, Told, World, counted_transactions

STORY = [
    ("promote", 1, None, None, False),
    ("canary", 1, 2, 0.1, True),
    ("canary", 1, 2, 0.5, True),
    ("promote", 2, 1, 0.1, True),
    ("canary", 2, None, None, True),
]
ACTS = [
    ("retrain", "begun"),
    ("begin_rollout", "begun"),
    ("next_step", "step"),
    ("promote", "promoted"),
    ("end_holdback", "held"),
]
LEAST_PLACES, MOST_PLACES = 32, 100
LEASE_S, RENEW_S = 2.0, 0.05
SHORT = msgspec.structs.replace(ROLLOUT, holdback_h=0.0002)
"""Under a second of the real time by which monitors under a lease work."""


@dataclass
class Everywhere(Points):
    """Kills the monitor at each place when it comes there for the first time; a place is told by what is under way."""

    world: World | None = None
    name: str = ""

    async def __call__(self, place: str) -> None:
        """The monitor is there now."""
        assert self.world is not None
        kept = await self.world.kept(self.name)
        pending = kept.pending
        under_way = "" if pending is None else f"{pending.verdict.act}{' with its data' if pending.file else ''}"
        shown = " ".join((kept.state.phase, under_way, place)).replace(self.name, "NAME")
        if shown not in self.passed:
            self.passed.append(shown)
            raise Killed


async def is_over(world: World, name: str) -> bool:
    """Whether the new version serves everyone, and is watched."""
    kept = await world.kept(name)
    return kept.pending is None and kept.state.phase == "watching" and kept.state.cycle == 1


async def check(world: World, name: str) -> None:
    """Everything is there, and once."""
    assert await world.revisions(name) == STORY
    assert [each for each in await world.decisions(name) if each[0] != "wait"] == ACTS
    (job,) = await world.jobs(name)
    assert job.idempotency_key == f"loop-{name}-1"
    assert await world.files(name) == 1
    assert sorted((await world.registry.catalog()).adapters[name].versions) == [1, 2]
    followed = [row.decision for row in await world.registry.history(name) if row.decision is not None]
    assert len(set(followed)) == len(STORY) - 1
    kept = await world.kept(name)
    assert (kept.state.job, kept.state.revision) == (job.id, len(STORY))


async def test_killed_at_every_step(
    world: World, begin: Begin, tuner: Tuner, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At each place once, so that each monitor comes one step further than the one before."""
    name = await begin("support")
    points = Everywhere(world=world, name=name)
    counted_transactions(monkeypatch, points)
    while not await is_over(world, name):
        with contextlib.suppress(Killed):
            await world.turn(name, world.job(points))
        await tuner(name)
        assert len(points.passed) < MOST_PLACES
    await check(world, name)
    assert len(points.passed) > LEAST_PLACES
    with capsys.disabled():
        print(f"\nkilled at {len(points.passed)} places:\n  " + "\n  ".join(points.passed))


PLACES = {
    "the data is uploaded": ("after POST /v1/files", 1),
    "the job is asked for": ("after POST /v1/fine_tuning/jobs", 1),
    "a promotion is decided": ("before PATCH", 3),
    "it is promoted": ("after PATCH", 3),
}


@contextlib.asynccontextmanager
async def started(world: World, place: str, nth: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """A monitor in a process of its own, which stops at the n-th time that it comes to the place."""
    command = ("-m", "tests.monitors.loop.loop_process", str(world.folder), world.url, world.key, place, str(nth))
    url, store = str(world.database.url), str(world.folder.parent / "home" / "artifacts")
    where = (url.replace("+aiosqlite", ""), store)
    process = await asyncio.create_subprocess_exec(sys.executable, *command, *where)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@contextlib.asynccontextmanager
async def standing_by(world: World) -> AsyncIterator[MonitorLoop]:
    """A second monitor, beside the block."""
    job = LoopJob(world.workshop(), Told())
    catalog = world.registry.catalog
    loop = MonitorLoop(world.registry, catalog, MonitorMetrics(), lambda: [job], lease_s=LEASE_S, renew_s=RENEW_S)
    task = asyncio.create_task(loop.run())
    try:
        yield loop
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("place", PLACES)
async def test_kill_9_of_the_active_monitor(world: World, begin: Begin, tuner: Tuner, place: str) -> None:
    """The monitor that stands by takes over when the lease is over, and takes the loop to its end."""
    name = await begin("support", msgspec.structs.replace(POLICY, rollout=SHORT))
    async with started(world, *PLACES[place]) as process:

        async def there() -> bool:
            await tuner(name)
            return (world.folder / "there").exists() or process.returncode is not None

        await until(there, 60)
        assert process.returncode is None, "the monitor's process ended by itself"
        async with standing_by(world) as second:
            await until(lambda: second.database_problem is None)
            assert not second.is_active
            process.kill()
            await process.wait()
            await until(lambda: second.is_active, 10 * LEASE_S)

            async def told() -> bool:
                await tuner(name)
                return await is_over(world, name)

            await until(told, 30)
    await check(world, name)
