"""`kill -9` of a tuner's whole process at each stage: nothing is lost, doubled, or left running."""

import asyncio
import contextlib
import itertools
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import psutil
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.conftest import until
from tests.tuner.fake_child import Script
from tests.tuner.shops import ask, end_lease, is_in, job_of, shop_of, stages, steps_told, tuner_settings, working
from tests.tuner.test_worker import dataset_digest
from tuner.shop import Shop
from tuner.worker import Worker

STEPS, CHECKPOINT_EVERY, KILLED_AT = 12, 3, 7
TO_KILL = Script(steps=STEPS, checkpoint_every=CHECKPOINT_EVERY)
OTHERWISE = Script(steps=STEPS, checkpoint_every=CHECKPOINT_EVERY, salt=1)
"""What the next tuner would train, did it train anew, is other weights: so a second version would be seen."""


@contextlib.asynccontextmanager
async def tuner_process(folder: Path, url: str, script: Script, place: str) -> AsyncIterator[psutil.Popen]:
    """A tuner in a process of its own, which stops at a place."""
    said = msgspec.json.encode(script).decode()
    command = (sys.executable, "-m", "tests.tuner.worker_process", str(folder), url, said, place)
    process = psutil.Popen(command, start_new_session=True)
    try:
        yield process
    finally:
        if process.is_running():
            process.kill()
        process.wait()


async def kill_when(process: psutil.Popen, reached: object) -> list[psutil.Process]:
    """Kill it once it is there; what it had started."""
    await until(reached, 60)  # type: ignore[arg-type]
    started: list[psutil.Process] = process.children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return started


async def finish(shop: Shop, job_id: str, *, passed: bool) -> None:
    """Have another tuner, whose gate says so, take the job to its end."""
    async with working(Worker(shop, stages(passed=passed))):
        await until(is_in(shop, job_id, "succeeded", "failed"), 60)


PLACES = {
    "data": ("", Script(prepare_s=600, steps=STEPS, checkpoint_every=CHECKPOINT_EVERY)),
    "fitness": ("fitness", TO_KILL),
    "training": ("", Script(steps=STEPS, checkpoint_every=CHECKPOINT_EVERY, hangs_at=KILLED_AT + 1)),
    "before it is registered": ("lineage", TO_KILL),
    "after it is registered": ("pushed", TO_KILL),
    "evaluating": ("gate", TO_KILL),
    "after its verdict": ("judged", TO_KILL),
}


CASES = [("sqlite", place) for place in PLACES]
CASES += [("postgresql", place) for place in ("training", "after it is registered")]


@pytest.mark.parametrize(("database_url", "killed_in"), CASES, indirect=["database_url"])
async def test_a_tuner_killed_at_any_stage_is_taken_over(
    tmp_path: Path, database: AsyncEngine, database_url: str, killed_in: str
) -> None:
    """The job ends as it would have: one version, the same dataset, no gap in its events, and no process is left."""
    place, script = PLACES[killed_in]
    shop = shop_of(tuner_settings(tmp_path, database_url), database, OTHERWISE)
    job_id = await ask(shop)

    async def reached() -> bool:
        if killed_in == "training":
            return KILLED_AT in await steps_told(shop, job_id)
        child = shop.settings.work / job_id / "child.pid"
        return (tmp_path / "there").exists() if place else child.exists()

    async with tuner_process(tmp_path, database_url, script, place) as process:
        started = await kill_when(process, reached)
    assert bool(started) == (not place)  # only these have a child at work
    await until(lambda: not any(each.is_running() for each in started), 60)
    await end_lease(shop, job_id)
    await finish(shop, job_id, passed=killed_in != "after its verdict")  # which is not asked for again

    job = await job_of(shop, job_id)
    attempt = 1 if killed_in in ("data", "fitness", "training") else 2  # counted anew from each checkpoint
    assert (job.state, job.attempt, job.error) == ("succeeded", attempt, None)
    assert job.dataset == dataset_digest(tmp_path)
    versions = (await shop.registry.catalog()).adapters["support"].versions
    assert [(each.number, each.verdict) for each in versions.values()] == [(1, "passed")]
    told = await steps_told(shop, job_id)
    assert sorted(set(told)) == list(range(1, STEPS + 1))
    for before, after in itertools.pairwise(told):
        assert before - CHECKPOINT_EVERY < after <= before + 1


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_job_whose_tuner_is_killed_is_cancelled_by_the_next(
    tmp_path: Path, database: AsyncEngine, database_url: str
) -> None:
    """What was wished while nobody was there is carried out all the same, and nothing stays of the job."""
    shop = shop_of(tuner_settings(tmp_path, database_url), database, TO_KILL)
    job_id = await ask(shop)
    async with tuner_process(tmp_path, database_url, TO_KILL, "gate") as process:
        await kill_when(process, (tmp_path / "there").exists)
    await shop.jobs.wish(job_id, "cancel", actor="ann")
    await end_lease(shop, job_id)
    async with working(Worker(shop, stages())):
        await until(is_in(shop, job_id, "cancelled"), 60)
    async with working(Worker(shop, stages())):
        await until(lambda: _is_rejected(shop), 60)


async def _is_rejected(shop: Shop) -> bool:
    return (await shop.registry.version_record("support", 1)).verdict == "rejected"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_sigterm_ends_a_tuner_in_order(tmp_path: Path, database: AsyncEngine, database_url: str) -> None:
    """Its training is saved after the step, its job given back, and its exit code is 0."""
    shop = shop_of(tuner_settings(tmp_path, database_url), database, TO_KILL)
    job_id = await ask(shop)
    slow = Script(steps=1000, step_s=0.05, checkpoint_every=1000)
    async with tuner_process(tmp_path, database_url, slow, "") as process:
        await until(lambda: _trains(shop, job_id), 60)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 30) == 0
    job = await job_of(shop, job_id)
    assert (job.state, job.attempt) == ("queued", 0)
    (kept,) = await shop.events.kept_checkpoints(job_id)
    assert kept.step == (await steps_told(shop, job_id))[-1]


async def _trains(shop: Shop, job_id: str) -> bool:
    return len(await steps_told(shop, job_id)) >= 3
