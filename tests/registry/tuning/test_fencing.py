"""What the holder of a job alone may write, and which ended job may run again."""

import asyncio
from typing import Any

import pytest

from registry.errors import Conflict
from registry.registry import Registry
from registry.tuning.events import Events, NewCheckpoint, NewEvent
from registry.tuning.jobs import MOST_ATTEMPTS, JobLost, Jobs
from tests.conftest import AdapterMaker
from tests.registry.tuning.test_claims import OVER_S, asked, claimed, jobs, tuners

__all__ = ["jobs", "tuners"]


async def test_a_tuner_that_lost_its_job_neither_adds_checkpoints_nor_events(jobs: Jobs) -> None:
    """Those of the holder stay as they are: the newest may be older than one that comes too late."""
    events, job_id = Events(jobs._engine), await asked(jobs)
    await claimed(jobs, "lost", lease_s=OVER_S)
    assert await jobs.keep_checkpoint(job_id, "lost", NewCheckpoint(2, "a" * 64, {})) == []
    await claimed(jobs, "holder")
    assert await jobs.keep_checkpoint(job_id, "holder", NewCheckpoint(3, "b" * 64, {})) == ["a" * 64]
    for new in (NewCheckpoint(4, "c" * 64, {}, is_best=True), NewCheckpoint(3, None, {})):
        with pytest.raises(JobLost):
            await jobs.keep_checkpoint(job_id, "lost", new)
    with pytest.raises(JobLost):
        await jobs.tell_all(job_id, "lost", [NewEvent("Step 4")])
    assert [(each.step, each.digest) for each in await events.kept_checkpoints(job_id)] == [(3, "b" * 64)]
    assert (await jobs.find(job_id)).checkpoint == "b" * 64
    assert "Step 4" not in [event.message for event in await events.listed(job_id, limit=10)]


async def test_a_tuner_that_lost_its_job_neither_adds_a_version_nor_a_verdict(
    jobs: Jobs, registry: Registry, adapter_folder: AdapterMaker
) -> None:
    """It is looked for in the transaction that would write it; the holder's go through."""
    job_id = await asked(jobs)
    await claimed(jobs, "lost", lease_s=OVER_S)
    await claimed(jobs, "holder")
    lost, holder = (jobs.guard(job_id, worker) for worker in ("lost", "holder"))
    version: dict[str, Any] = {"actor": "tuner", "base": "tiny", "lineage": {}}
    verdict: dict[str, Any] = {"report": {"reason": "no better"}, "actor": "tuner"}
    before = await registry.change_number()
    with pytest.raises(JobLost):
        await registry.push("support", adapter_folder(1.0), **version, guard=lost)
    assert (await registry.change_number(), (await registry.catalog()).adapters) == (before, {})
    await registry.push("support", adapter_folder(1.0), **version, guard=holder)
    with pytest.raises(JobLost):
        await registry.judge("support", 1, passed=True, **verdict, guard=lost)
    assert (await registry.version_record("support", 1)).verdict == "candidate"
    await registry.judge("support", 1, passed=False, **verdict, guard=holder)
    assert (await registry.version_record("support", 1)).verdict == "rejected"


async def test_a_claim_waits_for_a_version_that_is_just_registered(
    tuners: list[Jobs], registry: Registry, adapter_folder: AdapterMaker
) -> None:
    """So whoever goes on with the job finds it, or nobody ever does."""
    one, other = tuners[:2]
    job_id = await asked(one)
    await claimed(one, "lost", lease_s=OVER_S)
    folder, guard = adapter_folder(1.0), one.guard(job_id, "lost")
    found: list[int] = []

    async def take_over() -> None:
        while await other.claim("holder", bases=["tiny"], lease_s=60) is None:
            await asyncio.sleep(0)
        found.append(len((await registry.catalog()).adapters))

    pushing = registry.push("support", folder, actor="tuner", base="tiny", lineage={}, guard=guard)
    outcome, _ = await asyncio.gather(pushing, take_over(), return_exceptions=True)
    there = len((await registry.catalog()).adapters)
    assert (isinstance(outcome, JobLost), found) == (there == 0, [there])


async def test_a_claim_waits_for_a_checkpoint_that_is_just_kept(tuners: list[Jobs]) -> None:
    """Or it would go on from the one before, while its tuner lets go of that."""
    one, other = tuners[:2]
    job_id = await asked(one)
    await claimed(one, "lost", lease_s=OVER_S)
    keeping = one.keep_checkpoint(job_id, "lost", NewCheckpoint(2, "a" * 64, {}))
    outcomes = await asyncio.gather(keeping, claimed(other, "holder"), return_exceptions=True)
    kept = [each.digest for each in await Events(one._engine).kept_checkpoints(job_id)]
    assert (isinstance(outcomes[0], JobLost), kept) in ((True, []), (False, ["a" * 64]))
    assert (await one.find(job_id)).checkpoint == (kept[0] if kept else None)


async def test_attempts_are_counted_from_the_newest_checkpoint(jobs: Jobs) -> None:
    """A long job may lose many tuners and get somewhere all the same."""
    job_id = await asked(jobs)
    for number in range(2 * MOST_ATTEMPTS):
        job = await claimed(jobs, "one", lease_s=OVER_S)
        assert job.attempt == min(number + 1, 2)
        await jobs.keep_checkpoint(job_id, "one", NewCheckpoint(number, f"{number}" * 64, {}))


async def test_a_job_that_failed_at_its_gate_may_come_to_it_again(jobs: Jobs) -> None:
    """From its beginning in all else; one without a version, or with a verdict, may not."""
    error = {"code": "evaluation_failed", "message": "away", "param": None}
    for version, code, may in (
        (1, "evaluation_failed", True),
        (1, "rejected_by_gate", False),
        (None, "disk_full", False),
    ):
        job_id = await asked(jobs, f"a{version}-{code[:4]}".replace("_", ""))
        await claimed(jobs)
        await jobs.end(job_id, "one", "failed", "no", version=version, error=error | {"code": code})
        if not may:
            with pytest.raises(Conflict):
                await jobs.wish(job_id, "run", actor="ann")
            continue
        with pytest.raises(Conflict):
            await jobs.wish(job_id, "pause", actor="ann")
        job = await jobs.wish(job_id, "run", actor="ann")
        assert (job.state, job.stage, job.attempt, job.error, job.finished_at) == ("queued", "waiting", 0, None, None)
        assert (await claimed(jobs)).id == job_id
        await jobs.end(job_id, "one", "succeeded", "done")
