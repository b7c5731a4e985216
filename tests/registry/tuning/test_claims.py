"""Who is at work on a job: one tuner at a time, an adapter one job at a time, and nothing that a lost tuner writes."""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from registry.database import connect, writing
from registry.tuning.events import Events, NewCheckpoint
from registry.tuning.jobs import AT_WORK, ENDED, MOST_ATTEMPTS, Asker, JobLost, Jobs
from registry.tuning.orders import TuningOrder
from registry.tuning.tables import TuningJobRow
from tests.registry.tuning.checkpoints import add_checkpoint

LEASE_S = 60.0
OVER_S = -1.0
"""A lease that is over when it begins: its tuner was lost."""
_TABLE = TuningJobRow.__table__  # type: ignore[attr-defined]


@pytest.fixture
def jobs(database: AsyncEngine) -> Jobs:
    """No jobs yet, in a database of each kind."""
    return Jobs(database)


@pytest.fixture
async def tuners(database: AsyncEngine, database_url: str) -> AsyncIterator[list[Jobs]]:
    """Several processes' view of one database."""
    engines = [connect(database_url) for _ in range(5)]
    yield [Jobs(engine) for engine in engines]
    for engine in engines:
        await engine.dispose()


async def asked(jobs: Jobs, adapter: str = "support", base: str = "tiny") -> str:
    """A new job's id."""
    job, _ = await jobs.create(TuningOrder(adapter, base, "file-1"), base, Asker("key_1", "ann"))
    return job.id


async def claimed(jobs: Jobs, worker: str = "one", lease_s: float = LEASE_S) -> TuningJobRow:
    """The job that this worker gets."""
    job = await jobs.claim(worker, bases=["tiny"], lease_s=lease_s)
    assert job is not None
    return job


async def nothing_for(jobs: Jobs, worker: str = "two") -> bool:
    """Whether there is nothing to claim."""
    return await jobs.claim(worker, bases=["tiny"], lease_s=LEASE_S) is None


async def test_a_claim_takes_the_job_that_waits_longest(jobs: Jobs) -> None:
    """It is held from then on, and begun."""
    first, second = await asked(jobs, "a"), await asked(jobs, "b")
    before = datetime.now(UTC)
    job = await claimed(jobs)
    assert (job.id, job.state, job.worker, job.attempt) == (first, "validating_files", "one", 1)
    assert job == await jobs.find(first)
    assert job.started_at is not None
    assert job.lease_until is not None
    assert before <= job.started_at <= datetime.now(UTC)
    assert job.lease_until - job.started_at == timedelta(seconds=LEASE_S)
    assert (await claimed(jobs, "two")).id == second
    assert await nothing_for(jobs, "three")


async def test_a_tuner_takes_jobs_of_its_bases_alone(jobs: Jobs) -> None:
    """Whatever waits longer for others."""
    await asked(jobs, "a", "large")
    mine = await asked(jobs, "b")
    assert await jobs.claim("one", bases=[], lease_s=LEASE_S) is None
    assert (await claimed(jobs)).id == mine
    assert await nothing_for(jobs)


async def test_an_adapter_has_one_job_at_work(jobs: Jobs) -> None:
    """Its others wait for the end of it, in the order in which they came; other adapters do not."""
    ids = [await asked(jobs) for _ in range(3)]
    other = await asked(jobs, "billing")
    assert (await claimed(jobs)).id == ids[0]
    assert (await claimed(jobs, "two")).id == other
    for done, following in itertools.pairwise(ids):
        assert await nothing_for(jobs, "three")
        await jobs.end(done, "one", "succeeded", "done")
        assert (await claimed(jobs)).id == following


async def test_a_paused_job_holds_up_nobody(jobs: Jobs) -> None:
    """The adapter's next goes on before it."""
    first, second = await asked(jobs), await asked(jobs)
    await jobs.wish(first, "pause", actor="ann")
    assert (await claimed(jobs)).id == second
    await jobs.wish(first, "run", actor="ann")
    assert await nothing_for(jobs)
    await jobs.end(second, "one", "failed", "no")
    assert (await claimed(jobs)).id == first


async def test_the_database_lets_no_adapter_have_two_jobs_at_work(jobs: Jobs) -> None:
    """Whatever a tuner believes."""
    await asked(jobs)
    second = await asked(jobs)
    await claimed(jobs)
    with pytest.raises(IntegrityError):
        async with writing(jobs._engine) as connection:
            await connection.execute(update(_TABLE).where(_TABLE.c.id == second).values(state="running"))


async def test_tuners_that_claim_at_once_hold_each_job_once(tuners: list[Jobs]) -> None:
    """Many rounds of many claims: never two holders of a job, nor two jobs of an adapter, until all are done."""
    wanted = [await asked(tuners[0], f"adapter-{number // 4}") for number in range(16)]
    done: list[str] = []
    while len(done) < len(wanted):
        names = [f"tuner-{number}" for number in range(len(tuners))]
        claims = [jobs.claim(name, bases=["tiny"], lease_s=LEASE_S) for jobs, name in zip(tuners, names, strict=True)]
        held = [job for job in await asyncio.gather(*claims) if job is not None]
        assert len({job.id for job in held}) == len(held)
        assert max(Counter(job.adapter for job in held).values()) == 1
        assert len(held) == 4, "each adapter's next was there to take"
        for job in held:
            assert job.worker is not None
            await tuners[0].end(job.id, job.worker, "succeeded", "done")
            done.append(job.id)
    assert sorted(done) == sorted(wanted)
    assert [job.attempt for job in await tuners[0].listed(limit=20)] == [1] * 16
    for number in range(4):
        mine = wanted[4 * number : 4 * number + 4]
        assert [job_id for job_id in done if job_id in mine] == mine, "in the order in which they came"


async def test_tuners_that_take_over_at_once_hold_a_lost_job_once(tuners: list[Jobs]) -> None:
    """One of them gets it."""
    for attempt in range(2, MOST_ATTEMPTS + 1):
        if attempt == 2:
            await asked(tuners[0])
            await claimed(tuners[0], lease_s=OVER_S)
        lease_s = OVER_S if attempt < MOST_ATTEMPTS else LEASE_S
        claims = (jobs.claim(f"tuner-{number}", bases=["tiny"], lease_s=LEASE_S) for number, jobs in enumerate(tuners))
        held = [job for job in await asyncio.gather(*claims) if job is not None]
        assert [job.attempt for job in held] == [attempt]
        assert held[0].worker is not None
        await tuners[0].renew(held[0].id, held[0].worker, lease_s=lease_s)


async def test_a_lost_job_goes_to_another(jobs: Jobs) -> None:
    """It goes on where its rows say, keeps when it began, and comes before what waits."""
    job_id = await asked(jobs)
    first = await claimed(jobs, lease_s=OVER_S)
    await jobs.note(job_id, "one", dataset="d" * 64, stage="training")
    await asked(jobs, "billing")
    second = await claimed(jobs, "two")
    assert (second.id, second.worker, second.attempt, second.state) == (job_id, "two", 2, "running")
    assert second.started_at == first.started_at
    assert (second.dataset, second.stage) == ("d" * 64, "training")


async def test_a_lost_tuner_is_told_of(jobs: Jobs) -> None:
    """Once somebody goes on: since when it is lost, and who goes on, without the names of their machines."""
    job_id = await asked(jobs)
    lost = await claimed(jobs, "host.example-a1b2", lease_s=OVER_S)
    await claimed(jobs, "host.example-c3d4")
    told = (await Events(jobs._engine).listed(job_id, limit=1))[0]
    assert lost.lease_until is not None
    assert told.level == "warn"
    assert told.message == (
        f"The tuner a1b2 was not heard of, and its hold on the job ended at {lost.lease_until:%Y-%m-%dT%H:%M:%SZ}; the "
        "tuner c3d4 goes on with the job"
    )
    await jobs.end(job_id, "host.example-c3d4", "queued", "given back")
    await claimed(jobs, "host.example-e5f6")
    assert (await Events(jobs._engine).listed(job_id, limit=1))[0].message == "given back"


async def test_whoever_takes_over_estimates_anew(jobs: Jobs) -> None:
    """When the lost tuner would have been done says nothing any more."""
    job_id = await asked(jobs)
    await claimed(jobs)
    await jobs.note(job_id, "one", estimated_finish=datetime.now(UTC))
    await jobs.renew(job_id, "one", lease_s=OVER_S)
    assert (await claimed(jobs, "two")).estimated_finish is None


Deed = Callable[[Jobs, str, str], Coroutine[Any, Any, object]]
DEEDS: dict[str, Deed] = {
    "renew": lambda jobs, job_id, worker: jobs.renew(job_id, worker, lease_s=LEASE_S),
    "wanted": lambda jobs, job_id, worker: jobs.wanted(job_id, worker),
    "note": lambda jobs, job_id, worker: jobs.note(job_id, worker, stage="training", version=9),
    "succeed": lambda jobs, job_id, worker: jobs.end(job_id, worker, "succeeded", "done", fine_tuned_model="support@9"),
    "pause": lambda jobs, job_id, worker: jobs.end(job_id, worker, "paused", "done"),
    "give back": lambda jobs, job_id, worker: jobs.end(job_id, worker, "queued", "done"),
}


async def test_a_tuner_that_lost_its_job_changes_nothing(jobs: Jobs) -> None:
    """Whether another holds it, it was given back, or it has ended, and whatever the tuner does."""
    job_id = await asked(jobs)

    async def assert_lost(worker: str) -> None:
        before = await jobs.find(job_id), await Events(jobs._engine).listed(job_id, limit=100)
        for name, deed in DEEDS.items():
            with pytest.raises(JobLost):
                await deed(jobs, job_id, worker)
            now = await jobs.find(job_id), await Events(jobs._engine).listed(job_id, limit=100)
            assert now == before, name

    await assert_lost("one")
    await claimed(jobs, lease_s=OVER_S)
    await claimed(jobs, "two")
    await assert_lost("one")
    await jobs.end(job_id, "two", "queued", "given back")
    await assert_lost("two")
    await claimed(jobs, "three")
    await jobs.end(job_id, "three", "succeeded", "done")
    await assert_lost("three")


async def test_a_lease_that_is_over_holds_until_somebody_takes_it(jobs: Jobs) -> None:
    """A tuner that was only slow goes on."""
    job_id = await asked(jobs)
    await claimed(jobs, lease_s=OVER_S)
    assert await jobs.renew(job_id, "one", lease_s=LEASE_S) == "run"
    assert await nothing_for(jobs)
    await jobs.note(job_id, "one", stage="data")


async def test_a_job_that_loses_tuner_after_tuner_has_failed(jobs: Jobs) -> None:
    """Else one that kills its tuner would do so for ever; the adapter's next is free to go."""
    job_id, following = await asked(jobs), await asked(jobs)
    for number in range(MOST_ATTEMPTS):
        job = await claimed(jobs, f"tuner-{number}", lease_s=OVER_S)
        assert (job.id, job.attempt) == (job_id, number + 1)
    assert (await claimed(jobs, "last")).id == following
    job = await jobs.find(job_id)
    assert (job.state, job.stage, job.worker) == ("failed", "done", None)
    assert job.finished_at is not None
    assert job.error == {
        "code": "worker_lost",
        "message": "3 tuners were lost while they worked on it",
        "param": None,
    }
    newest = (await Events(jobs._engine).listed(job_id, limit=1))[0]
    assert (newest.level, newest.message) == ("error", "The job failed: 3 tuners were lost while they worked on it")


async def test_a_job_that_gets_on_may_lose_many_tuners(jobs: Jobs) -> None:
    """Attempts count from its newest checkpoint on; a job that makes none any more is given up."""
    job_id = await asked(jobs)
    for number in range(2 * MOST_ATTEMPTS):
        job = await claimed(jobs, f"tuner-{number}", lease_s=OVER_S)
        assert job.attempt <= 2
        await jobs.keep_checkpoint(job_id, f"tuner-{number}", NewCheckpoint(number + 1, f"{number:064d}", {}))
    for number in range(MOST_ATTEMPTS - 1):
        await claimed(jobs, f"other-{number}", lease_s=OVER_S)
    assert await nothing_for(jobs)
    assert (await jobs.find(job_id)).state == "failed"


async def test_a_job_that_is_tried_again_waits_first(jobs: Jobs) -> None:
    """Nobody claims it before its time, nor the adapter's next in its place; a wish of its own ends the wait."""
    job_id, now = await asked(jobs), datetime.now(UTC)
    await asked(jobs)
    other = await asked(jobs, "billing")
    await claimed(jobs)
    await jobs.end(job_id, "one", "queued", "away", claimable_from=now + timedelta(hours=1))
    assert (await claimed(jobs, "two")).id == other
    assert await nothing_for(jobs)
    async with writing(jobs._engine) as connection:
        await connection.execute(update(_TABLE).where(_TABLE.c.id == job_id).values(claimable_from=now))
    assert (await claimed(jobs, "two")).id == job_id
    await jobs.end(job_id, "two", "queued", "away", claimable_from=now + timedelta(hours=1))
    await jobs.wish(job_id, "pause", actor="ann")
    await jobs.wish(job_id, "run", actor="ann")
    assert (await claimed(jobs, "two")).id == job_id


async def test_a_job_is_given_up_once(tuners: list[Jobs]) -> None:
    """However many see at once that it lost too many."""
    job_id = await asked(tuners[0])
    for number in range(MOST_ATTEMPTS):
        await claimed(tuners[0], f"tuner-{number}", lease_s=OVER_S)
    claims = (jobs.claim("late", bases=["tiny"], lease_s=LEASE_S) for jobs in tuners)
    assert await asyncio.gather(*claims) == [None] * len(tuners)
    events = await Events(tuners[0]._engine).listed(job_id, limit=10)
    assert [event.level for event in events].count("error") == 1


async def test_a_wish_outlives_the_tuner(jobs: Jobs) -> None:
    """What was wanted of a job when its tuner was lost is so at the next look, and nobody goes on with it."""
    for wanted, state in (("pause", "paused"), ("cancel", "cancelled")):
        job_id = await asked(jobs)
        await claimed(jobs)
        await jobs.wish(job_id, wanted, actor="ann")
        await jobs.renew(job_id, "one", lease_s=OVER_S)
        assert await nothing_for(jobs)
        job = await jobs.find(job_id)
        assert (job.state, job.worker) == (state, None)
        assert (job.finished_at is None) == (state == "paused")
        newest = (await Events(jobs._engine).listed(job_id, limit=1))[0]
        assert newest.message == {"paused": "The job is paused", "cancelled": "The job was cancelled"}[state]


async def test_a_paused_job_goes_on(jobs: Jobs) -> None:
    """From what it had; a pause is no lost attempt."""
    job_id = await asked(jobs)
    await claimed(jobs)
    await jobs.note(job_id, "one", dataset="d" * 64, checkpoint="c" * 64)
    await jobs.wish(job_id, "pause", actor="ann")
    assert await jobs.end(job_id, "one", "paused", "The job is paused", attempt=0) == "paused"
    assert await nothing_for(jobs)
    assert (await jobs.wish(job_id, "run", actor="ann")).state == "queued"
    job = await claimed(jobs, "two")
    assert (job.id, job.state, job.attempt) == (job_id, "running", 1)
    assert (job.dataset, job.checkpoint) == ("d" * 64, "c" * 64)


async def test_who_gave_a_job_back_is_known_until_it_changes_again(jobs: Jobs) -> None:
    """Nobody takes it over from there, as from one that was lost."""
    job_id = await asked(jobs)
    await claimed(jobs)
    assert await jobs.end(job_id, "one", "queued", "The tuner shuts down", attempt=0) == "queued"
    assert (await jobs.find(job_id)).worker == "one"
    with pytest.raises(JobLost):
        await jobs.wanted(job_id, "one")
    assert (await claimed(jobs, "two")).worker == "two"
    assert "goes on with the job" not in "".join(
        event.message for event in await Events(jobs._engine).listed(job_id, limit=10)
    )
    await jobs.end(job_id, "two", "queued", "The tuner shuts down", attempt=0)
    for wanted in ("pause", "run"):
        assert (await jobs.wish(job_id, wanted, actor="ann")).worker is None


LAST_WISHES = [
    ("cancel", "queued", "cancelled"),
    ("cancel", "paused", "cancelled"),
    ("pause", "queued", "paused"),
    ("pause", "paused", "paused"),
    ("cancel", "succeeded", "succeeded"),
    ("pause", "failed", "failed"),
    ("run", "queued", "queued"),
    ("run", "paused", "queued"),
]


async def test_a_wish_in_the_last_moment_counts(jobs: Jobs) -> None:
    """A job that is let go of while something else is wanted becomes that; one that has ended stays as it ended."""
    for number, (wanted, ends, state) in enumerate(LAST_WISHES):
        job_id = await asked(jobs, f"adapter-{number}")
        assert (await claimed(jobs)).id == job_id
        if wanted == "run":
            await jobs.wish(job_id, "pause", actor="ann")
        await jobs.wish(job_id, wanted, actor="ann")
        assert await jobs.end(job_id, "one", ends, "let go") == state
        job = await jobs.find(job_id)
        gave_back = (wanted, ends) == ("run", "queued")
        assert (job.state, job.worker, job.lease_until) == (state, "one" if gave_back else None, None)
        assert (job.finished_at is not None) == (state in ENDED)
        if state == "queued":
            assert (await claimed(jobs, "two")).id == job_id
        else:
            assert await nothing_for(jobs)


async def test_the_history_tells_what_became_of_a_late_wish(jobs: Jobs) -> None:
    """A job is not told to be paused after it was asked to go on, nor to go on where it is cancelled."""
    for number, (wishes, ends, last) in enumerate(
        (
            (("pause", "run"), "paused", "The job had stopped already when it was asked to resume; it goes on"),
            (("cancel",), "queued", "The job was cancelled"),
            (("pause", "cancel"), "paused", "The job was cancelled"),
            (("pause",), "paused", "let go"),
        )
    ):
        job_id = await asked(jobs, f"adapter-{number}")
        assert (await claimed(jobs)).id == job_id
        for wanted in wishes:
            await jobs.wish(job_id, wanted, actor="ann")
        await jobs.end(job_id, "one", ends, "let go")
        told = [each.message for each in reversed(await Events(jobs._engine).listed(job_id, limit=10))]
        asked_to = [f"The job was asked to {'resume' if wanted == 'run' else wanted}" for wanted in wishes]
        assert told[1:] == [*asked_to, last]
        await jobs.wish(job_id, "cancel", actor="ann")


async def test_a_wish_and_an_end_at_once_leave_nothing_between(tuners: list[Jobs]) -> None:
    """Whichever comes first: what was to be cancelled is cancelled, and waits for nobody."""
    for number in range(6):
        job_id = await asked(tuners[0])
        await claimed(tuners[0])
        wishing, ending = tuners[1].wish(job_id, "cancel", actor="ann"), tuners[2].end(job_id, "one", "paused", "rests")
        await asyncio.gather(*((wishing, ending) if number % 2 else (ending, wishing)))
        assert (await tuners[0].find(job_id)).state == "cancelled"


async def test_a_wish_and_a_claim_at_once_leave_nothing_between(tuners: list[Jobs]) -> None:
    """Whichever comes first: nobody works on a job that rests, and who works on it knows that it shall rest."""
    for number in range(6):
        job_id = await asked(tuners[0], f"adapter-{number}")
        wishing = tuners[1].wish(job_id, "pause", actor="ann")
        claiming = tuners[2].claim("one", bases=["tiny"], lease_s=LEASE_S)
        _, job = await asyncio.gather(wishing, claiming)
        if job is None:
            assert (await tuners[0].find(job_id)).state == "paused"
        else:
            assert await tuners[0].wanted(job_id, "one") == "pause"


async def test_the_last_event_says_how_it_ended(jobs: Jobs) -> None:
    """A failure is an error, all else is not; what is told beside it is kept."""
    for state, level in (("succeeded", "info"), ("failed", "error")):
        job_id = await asked(jobs)
        await claimed(jobs)
        await jobs.note(job_id, "one", estimated_finish=datetime.now(UTC), state="running")
        await jobs.end(job_id, "one", state, "that was it", trained_tokens=2**40)
        job = await jobs.find(job_id)
        assert (job.state, job.stage, job.trained_tokens, job.estimated_finish) == (state, "done", 2**40, None)
        newest = (await Events(jobs._engine).listed(job_id, limit=1))[0]
        assert (newest.level, newest.type, newest.message) == (level, "message", "that was it")


async def test_what_ended_without_a_tuner_is_found_to_be_swept(jobs: Jobs) -> None:
    """Whatever keeps a checkpoint's content after its end, and nothing else."""
    events = Events(jobs._engine)
    paused, cancelled, tidy, busy = [await asked(jobs, name) for name in ("a", "b", "c", "d")]
    for job_id in (paused, cancelled, tidy, busy):
        assert (await claimed(jobs)).id == job_id
        await add_checkpoint(events, job_id, 1, job_id[-12:] * 5, {"step": 1.0}, is_best=True)
    for job_id in (paused, cancelled):
        await jobs.wish(job_id, "pause", actor="ann")
        await jobs.end(job_id, "one", "paused", "rests")
    await jobs.wish(cancelled, "cancel", actor="ann")
    await jobs.end(tidy, "one", "succeeded", "done")
    await events.drop_checkpoints(tidy)
    assert [job.id for job in await jobs.unswept()] == [cancelled]
    await events.drop_checkpoints(cancelled)
    assert await jobs.unswept() == []


async def test_states_are_those_that_the_index_knows(jobs: Jobs) -> None:
    """The index that holds an adapter to one job names the states of work."""
    (index,) = [each for each in _TABLE.indexes if each.unique]
    for dialect in ("sqlite", "postgresql"):
        where = str(index.dialect_options[dialect]["where"])
        assert where == f"state IN {AT_WORK!r}"
