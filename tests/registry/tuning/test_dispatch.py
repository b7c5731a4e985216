"""Jobs for which tuners are started elsewhere: what waits, told once, and counted once, whoever looks."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from registry.database import connect
from registry.tuning.dispatch import Dispatch
from registry.tuning.events import Events
from registry.tuning.jobs import MOST_ATTEMPTS, Jobs
from tests.registry.tuning.test_claims import LEASE_S, OVER_S, asked, claimed, nothing_for


@pytest.fixture
def jobs(database: AsyncEngine) -> Jobs:
    """No jobs yet, in a database of each kind."""
    return Jobs(database)


@pytest.fixture
def dispatch(database: AsyncEngine) -> Dispatch:
    """The same, as a dispatcher sees them."""
    return Dispatch(database)


async def said(database: AsyncEngine, job_id: str) -> list[str]:
    """What a job has said, the newest first."""
    return [event.message for event in await Events(database).listed(job_id, limit=100)]


async def test_what_could_be_claimed_waits(jobs: Jobs, dispatch: Dispatch) -> None:
    """Of these bases, the oldest first; of an adapter only its next, and nothing that is at work."""
    first, _ = await asked(jobs, "one"), await asked(jobs, "one")
    second, _ = await asked(jobs, "two"), await asked(jobs, "three", "other")
    assert [job.id for job in await dispatch.waiting(["tiny"])] == [first, second]
    await claimed(jobs)
    assert [job.id for job in await dispatch.waiting(["tiny"])] == [second]
    assert (await dispatch.named([first, "ftjob-none"])).keys() == {first}


async def test_a_job_whose_tuner_was_lost_waits_again(jobs: Jobs, dispatch: Dispatch) -> None:
    """Unless that was one too many, or it was to be cancelled: then it has ended."""
    job_id = await asked(jobs)
    for _ in range(MOST_ATTEMPTS):
        assert [job.id for job in await dispatch.waiting(["tiny"])] == [job_id]
        await claimed(jobs, lease_s=OVER_S)
    assert await dispatch.waiting(["tiny"]) == []
    assert (await jobs.find(job_id)).state == "failed"
    other = await asked(jobs, "other")
    await claimed(jobs)
    await jobs.wish(other, "cancel", actor="ann")
    await jobs.renew(other, "one", lease_s=OVER_S)
    assert await dispatch.waiting(["tiny"]) == []
    assert (await jobs.find(other)).state == "cancelled"


async def test_one_job_alone_can_be_claimed(jobs: Jobs) -> None:
    """By its id, whatever else waits; not while it is not there to take."""
    first, second = await asked(jobs, "one"), await asked(jobs, "two")
    job = await jobs.claim("pod", bases=["tiny"], lease_s=LEASE_S, job_id=second)
    assert job is not None
    assert job.id == second
    for taken in (second, "ftjob-none"):
        assert await jobs.claim("pod", bases=["tiny"], lease_s=LEASE_S, job_id=taken) is None
    assert await jobs.claim("pod", bases=["other"], lease_s=LEASE_S, job_id=first) is None


async def test_the_same_words_are_told_once(
    jobs: Jobs, dispatch: Dispatch, database: AsyncEngine, database_url: str
) -> None:
    """However many dispatchers tell them at once; a job that has ended says nothing more."""
    job_id = await asked(jobs)
    other = connect(database_url)
    await asyncio.gather(*(each.tell_once(job_id, ["a", "b"], "warn") for each in (dispatch, Dispatch(other)) * 3))
    await other.dispose()
    assert sorted((await said(database, job_id))[:-1]) == ["a", "b"]
    await jobs.wish(job_id, "cancel", actor="ann")
    await dispatch.tell_once(job_id, ["c"])
    assert "c" not in await said(database, job_id)


async def test_a_tuner_that_never_began_is_counted_once(jobs: Jobs, dispatch: Dispatch, database: AsyncEngine) -> None:
    """The job waits again after a pause; of two dispatchers that saw it, the second changes nothing."""
    job_id = await asked(jobs)
    (job,) = await dispatch.waiting(["tiny"])
    before = datetime.now(UTC)
    assert await dispatch.miss(job, "its pod ended", pause_s=60.0) == "queued"
    assert await dispatch.miss(job, "its pod ended", pause_s=60.0) is None
    row = await jobs.find(job_id)
    assert (row.state, row.attempt) == ("queued", 1)
    assert row.claimable_from is not None
    assert row.claimable_from >= before + timedelta(seconds=60)
    assert await nothing_for(jobs)
    assert (await said(database, job_id))[0] == "The job is tried again: its pod ended"


async def test_tuners_that_never_begin_fail_the_job_in_the_end(jobs: Jobs, dispatch: Dispatch) -> None:
    """They count with those that were lost at work, also where the last tuner was lost."""
    job_id = await asked(jobs)
    await claimed(jobs, lease_s=OVER_S)
    for state in ("queued", "failed"):
        (job,) = await dispatch.waiting(["tiny"])
        assert await dispatch.miss(job, "its pod ended", pause_s=0.0) == state
    error = (await jobs.find(job_id)).error
    assert error is not None
    assert error["code"] == "worker_lost"
    assert "the last one so: its pod ended" in error["message"]


async def test_a_job_that_was_claimed_meanwhile_is_not_missed(jobs: Jobs, dispatch: Dispatch) -> None:
    """Nor is one that a person wants otherwise."""
    job_id = await asked(jobs)
    (job,) = await dispatch.waiting(["tiny"])
    await claimed(jobs)
    assert await dispatch.miss(job, "its pod ended", pause_s=0.0) is None
    assert await dispatch.fail(job, "training_failed", "too long") is None
    (held,) = (await dispatch.named([job_id])).values()
    await jobs.wish(job_id, "cancel", actor="ann")
    assert await dispatch.fail(held, "training_failed", "too long") is None


async def test_a_job_at_work_can_be_given_up(jobs: Jobs, dispatch: Dispatch, database: AsyncEngine) -> None:
    """Its tuner has lost it then."""
    job_id = await asked(jobs)
    await claimed(jobs)
    (held,) = (await dispatch.named([job_id])).values()
    assert await dispatch.fail(held, "training_failed", "too long") == "failed"
    job = await jobs.find(job_id)
    assert job.error == {"code": "training_failed", "message": "too long", "param": None}
    assert (await said(database, job_id))[0] == "The job failed: too long"


async def test_a_tuner_that_is_given_up_may_cost_no_attempt(jobs: Jobs, dispatch: Dispatch) -> None:
    """The job waits as another turn of the same attempt, also where that is its last."""
    job_id = await asked(jobs)
    for attempt in range(MOST_ATTEMPTS):
        (job,) = await dispatch.waiting(["tiny"])
        assert await dispatch.miss(job, "it is stuck", pause_s=0, counts=False) == "queued"
        assert not await dispatch.is_as_read(job)
        (again,) = await dispatch.waiting(["tiny"])
        assert again.attempt == attempt
        assert again.claimable_from != job.claimable_from
        assert await dispatch.is_as_read(again)
        await dispatch.miss(again, "it ended", pause_s=0)
    assert (await jobs.find(job_id)).state == "failed"


async def test_what_was_told_is_known_to_every_dispatcher(jobs: Jobs, dispatch: Dispatch) -> None:
    """In these words, of this job."""
    first, second = await asked(jobs, "one"), await asked(jobs, "two")
    await dispatch.tell_once(first, ["one thing"])
    assert await dispatch.has_told(first, ["another thing", "one thing"])
    assert not await dispatch.has_told(first, ["another thing"])
    assert not await dispatch.has_told(second, ["one thing"])
