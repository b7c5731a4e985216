"""What clients do with jobs: asked for once, seen by whom they belong to, paused, resumed and cancelled, audited."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from registry.database import connect, writing
from registry.errors import Conflict, InvalidValue, NotFound
from registry.registry import Registry
from registry.transactions import Transactions
from registry.tuning import jobs as jobs_module
from registry.tuning.claims import as_job
from registry.tuning.events import Events
from registry.tuning.jobs import STATES, Asker, JobLost, Jobs, order_of
from registry.tuning.needs import users
from registry.tuning.orders import DataOrder, GateOrder, Hyperparameters, TuningOrder
from registry.tuning.states import can_be_judged_again
from registry.tuning.tables import TuningJobRow

_TABLE = TuningJobRow.__table__  # type: ignore[attr-defined]
ANN = Asker("key_1", "ann (key_1)")
ORDER = TuningOrder("support", "tiny", "file-1", seed=7, metadata={"team": "a"})


@pytest.fixture
def jobs(database: AsyncEngine) -> Jobs:
    """No jobs yet, in a database of each kind."""
    return Jobs(database)


@pytest.fixture
async def gateways(database: AsyncEngine, database_url: str) -> AsyncIterator[list[Jobs]]:
    """Several processes' view of one database."""
    engines = [connect(database_url) for _ in range(4)]
    yield [Jobs(engine) for engine in engines]
    for engine in engines:
        await engine.dispose()


async def asked(jobs: Jobs, adapter: str = "support", key_id: str = "key_1", **fields: Any) -> TuningJobRow:
    """A new job."""
    order = TuningOrder(adapter, "tiny", "file-1", **fields)
    job, is_new = await jobs.create(order, "tiny", Asker(key_id, "ann"))
    assert is_new
    return job


async def held(jobs: Jobs, lease_s: float = 60.0) -> TuningJobRow:
    """A job that the worker `one` is at work on; a lease below 0 is over already."""
    await asked(jobs)
    job = await jobs.claim("one", bases=["tiny"], lease_s=lease_s)
    assert job is not None
    return job


async def messages(jobs: Jobs, job: TuningJobRow) -> list[str]:
    """What the job said, oldest first."""
    return [event.message for event in await Events(jobs._engine).listed(job.id, limit=100)][::-1]


async def actions(jobs: Jobs) -> list[str]:
    """What was audited, oldest first."""
    return [entry.action for entry in await Transactions(jobs._engine).audit()][::-1]


async def test_a_job_waits_as_it_was_asked_for(jobs: Jobs) -> None:
    """With its order unchanged, a first event, and an entry in the audit log of who asked."""
    order = TuningOrder(
        "support",
        "tiny",
        "file-1",
        method="dpo",
        hyperparameters=Hyperparameters(n_epochs=2, beta=0.2),
        data=DataOrder(near_duplicates=None),
        gate=GateOrder(rows=50),
        metadata={"a": "\u00e9"},
    )
    job, is_new = await jobs.create(order, "tiny", ANN)
    assert is_new
    found = await jobs.find(job.id)
    assert found == job
    assert order_of(found) == order
    assert (found.state, found.stage, found.wanted, found.attempt) == ("queued", "waiting", "run", 0)
    assert (found.key_id, found.created_by, found.model) == ("key_1", "ann (key_1)", "tiny")
    assert await messages(jobs, job) == [f"Created fine-tuning job: {job.id}"]
    (entry,) = await Transactions(jobs._engine).audit()
    assert (entry.action, entry.subject, entry.actor) == ("create_job", f"job:{job.id}", "ann (key_1)")
    assert entry.after == {"adapter": "support", "model": "tiny", "training_file": "file-1"}


async def test_an_order_that_makes_no_sense_makes_no_job(jobs: Jobs) -> None:
    """And no audit entry."""
    with pytest.raises(InvalidValue):
        await asked(jobs, hyperparameters=Hyperparameters(beta=0.5))
    assert await jobs.listed(limit=10) == []
    assert await actions(jobs) == []


async def test_an_idempotency_key_makes_one_job(jobs: Jobs) -> None:
    """The same request again is the same job, another one is refused; each API key has keys of its own."""
    once = Asker("key_1", "ann", "once")
    job, is_new = await jobs.create(ORDER, "tiny", once)
    assert is_new
    assert await jobs.create(ORDER, "tiny", once) == (job, False)
    with pytest.raises(InvalidValue, match=job.id) as raised:
        await jobs.create(ORDER, "support", once)
    assert raised.value.param == "idempotency-key"
    other, is_new = await jobs.create(ORDER, "tiny", Asker("key_2", "bob", "once"))
    assert is_new
    assert other.id != job.id
    assert len(await jobs.listed(limit=10)) == 2
    assert await actions(jobs) == ["create_job", "create_job"]


async def test_what_was_sent_tells_requests_apart(jobs: Jobs) -> None:
    """Not what was drawn for them: the same request with another seed is the same job."""
    first = Asker("key_1", "ann", "once", asked="a")
    assert await jobs.made_before(first) is None
    job, _ = await jobs.create(ORDER, "tiny", first)
    again = TuningOrder("support", "tiny", "file-1", seed=8)
    assert await jobs.create(again, "tiny", first) == (job, False)
    assert await jobs.made_before(first) == job
    with pytest.raises(InvalidValue):
        await jobs.made_before(Asker("key_1", "ann", "once", asked="b"))


async def test_an_idempotency_key_has_a_length(jobs: Jobs) -> None:
    """One that no database could keep is refused."""
    for key in ("", "k" * 256):
        with pytest.raises(InvalidValue, match="1 to 255"):
            await jobs.create(ORDER, "tiny", Asker("key_1", "ann", key))


async def test_gateways_that_are_asked_at_once_make_one_job(gateways: list[Jobs]) -> None:
    """The same idempotency key at all of them, again and again: one is new, and all answer with it."""
    once = Asker("key_1", "ann", "once")
    made = await asyncio.gather(*(each.create(ORDER, "tiny", once) for each in gateways * 5))
    assert len({job.id for job, _ in made}) == 1
    assert sum(is_new for _, is_new in made) == 1
    assert len(await gateways[0].listed(limit=10)) == 1


async def test_a_key_has_so_many_jobs_open(gateways: list[Jobs]) -> None:
    """Not one more, however many ask at once; jobs that have ended, and those of other keys, take no place."""
    order, asker = TuningOrder("support", "tiny", "file-1"), Asker("key_1", "ann")
    await gateways[0].create(order, "tiny", Asker("key_2", "bob"), most_open=1)
    asking = (each.create(order, "tiny", asker, most_open=3) for each in gateways * 2)
    made = await asyncio.gather(*asking, return_exceptions=True)
    new = [each[0] for each in made if isinstance(each, tuple)]
    refused = [each for each in made if not isinstance(each, tuple)]
    assert len(new) == 3
    assert all(isinstance(each, Conflict) for each in refused), refused
    await gateways[0].wish(new[0].id, "cancel", actor="ann")
    _, is_new = await gateways[0].create(order, "tiny", asker, most_open=3)
    assert is_new


async def test_a_job_that_is_full_answers_again(jobs: Jobs) -> None:
    """What was made is given back also when no new job could be."""
    once = Asker("key_1", "ann", "once")
    job, _ = await jobs.create(ORDER, "tiny", once, most_open=1)
    assert await jobs.create(ORDER, "tiny", once, most_open=1) == (job, False)


async def test_what_never_was_is_not_found(jobs: Jobs) -> None:
    """Whatever it is called."""
    for job_id in ("ftjob-0", "", "a\0b", "x" * 500):
        for call in (jobs.find(job_id), jobs.wish(job_id, "cancel", actor="ann"), jobs.listed(after=job_id, limit=1)):
            with pytest.raises(NotFound):
                await call


async def test_jobs_of_other_adapters_are_as_if_they_never_were(jobs: Jobs) -> None:
    """Found, listed, changed or gone on from: the same words as for what never was."""
    mine, other = await asked(jobs, "support"), await asked(jobs, "billing")
    bound: Any = {"adapters": {"support", "unknown"}}
    assert (await jobs.find(mine.id, **bound)).id == mine.id
    assert [job.id for job in await jobs.listed(**bound, limit=10)] == [mine.id]
    assert await jobs.listed(adapters=set(), limit=10) == []

    async def told(id: str) -> list[str]:
        words = []
        for call in (
            jobs.find(id, **bound),
            jobs.wish(id, "pause", actor="eve", **bound),
            jobs.listed(after=id, limit=10, **bound),
        ):
            with pytest.raises(NotFound) as raised:
                await call
            words.append(raised.value.message.replace(id, "ID"))
        return words

    assert await told(other.id) == await told("ftjob-000000000000000000000000")
    assert (await jobs.find(other.id)).wanted == "run"


async def test_jobs_are_listed_newest_first(jobs: Jobs) -> None:
    """Page after page, each job once."""
    ids = [(await asked(jobs, f"a{number}")).id for number in range(5)][::-1]
    assert [job.id for job in await jobs.listed(limit=10)] == ids
    assert [job.id for job in await jobs.listed(limit=2)] == ids[:2]
    assert [job.id for job in await jobs.listed(after=ids[1], limit=2)] == ids[2:4]
    assert [job.id for job in await jobs.listed(after=ids[3], limit=2)] == ids[4:]
    assert await jobs.listed(after=ids[4], limit=2) == []


async def test_jobs_are_listed_by_their_metadata(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of the pairs must be there; also far down, where they are read in several pieces."""
    monkeypatch.setattr(jobs_module, "_CHUNK", 2)
    held = [{"team": "a"}, None, {"team": "b", "run": ""}, {}, {"team": "a", "run": ""}, None, {"team": "b"}]
    ids = [(await asked(jobs, metadata=metadata)).id for metadata in held]

    async def found(metadata: dict[str, str] | None, **more: Any) -> list[int]:
        return [ids.index(job.id) for job in await jobs.listed(metadata=metadata, **{"limit": 10} | more)]

    assert await found({"team": "a"}) == [4, 0]
    assert await found({"run": ""}) == [4, 2]
    assert await found({"team": "b", "run": ""}) == [2]
    assert await found({"team": "c"}) == []
    assert await found({'"; \0': ""}) == []
    assert await found(None) == [5, 1]
    assert await found({}) == [6, 5, 4, 3, 2, 1, 0]
    assert await found({"team": "b"}, limit=1) == [6]
    assert await found({"team": "b"}, limit=1, after=ids[6]) == [2]


async def test_what_nobody_is_at_work_on_changes_at_once(jobs: Jobs) -> None:
    """Paused, resumed, paused again and cancelled, each with an event and an audit entry."""
    job = await asked(jobs)
    assert (await jobs.wish(job.id, "pause", actor="ann")).state == "paused"
    assert await jobs.claim("one", bases=["tiny"], lease_s=60) is None
    assert (await jobs.wish(job.id, "run", actor="ann")).state == "queued"
    assert (await jobs.wish(job.id, "pause", actor="ann")).state == "paused"
    ended = await jobs.wish(job.id, "cancel", actor="ann")
    assert (ended.state, ended.stage, ended.finished_at is None) == ("cancelled", "done", False)
    words = [message.removeprefix("The job was asked to ") for message in await messages(jobs, job)]
    assert words[1:] == ["pause", "resume", "pause", "cancel"]
    assert await actions(jobs) == ["create_job", "pause_job", "resume_job", "pause_job", "cancel_job"]


async def test_a_wish_that_is_granted_changes_nothing(jobs: Jobs) -> None:
    """It answers with the job as it is, and leaves neither event nor entry."""
    job = await asked(jobs)
    for wanted in ("run", "pause", "cancel"):
        first = await jobs.wish(job.id, wanted, actor="ann")
        before = await messages(jobs, job), await actions(jobs)
        assert await jobs.wish(job.id, wanted, actor="ann") == first
        assert (await messages(jobs, job), await actions(jobs)) == before


async def test_what_has_ended_stays_so(jobs: Jobs) -> None:
    """Only cancelling what is cancelled is no mistake."""
    for state in ("succeeded", "failed", "cancelled"):
        job = await held(jobs)
        await jobs.end(job.id, "one", state, "over")
        for wanted in ("run", "pause", "cancel"):
            if (state, wanted) != ("cancelled", "cancel"):
                with pytest.raises(Conflict, match=state):
                    await jobs.wish(job.id, wanted, actor="ann")
            else:
                await jobs.wish(job.id, wanted, actor="ann")
            assert (await jobs.find(job.id)).state == state


async def test_what_somebody_is_at_work_on_is_only_wished(jobs: Jobs) -> None:
    """Its tuner sees what is wanted, and a wish can be taken back, but for the last."""
    job = await held(jobs)
    for wanted in ("pause", "run", "pause", "cancel"):
        assert (await jobs.wish(job.id, wanted, actor="ann")).state == "validating_files"
        assert await jobs.wanted(job.id, "one") == wanted
        assert await jobs.renew(job.id, "one", lease_s=60) == wanted
    for wanted in ("run", "pause"):
        with pytest.raises(Conflict, match="being cancelled"):
            await jobs.wish(job.id, wanted, actor="ann")
    assert (await jobs.wish(job.id, "cancel", actor="ann")).wanted == "cancel"


async def test_what_was_lost_changes_at_once(jobs: Jobs) -> None:
    """A tuner that is gone cannot carry out a wish, and if it comes back it has lost the job."""
    for wanted, state in (("pause", "paused"), ("cancel", "cancelled")):
        job = await held(jobs, lease_s=-1)
        assert (await jobs.wish(job.id, wanted, actor="ann")).state == state
        with pytest.raises(JobLost):
            await jobs.wanted(job.id, "one")
        assert (await jobs.find(job.id)).worker is None


async def test_a_cancelled_job_stays_so_whatever_is_wished_at_once(gateways: list[Jobs]) -> None:
    """Of a cancel and other wishes at several gateways, in whatever order, nothing brings the job back."""
    for _ in range(2):
        job = await asked(gateways[0])
        await gateways[0].wish(job.id, "pause", actor="ann")
        wishes = itertools.chain(*zip(["run"] * 4, ["cancel"] * 4, ["pause"] * 4, strict=True))
        wishing = (each.wish(job.id, wanted, actor="ann") for each, wanted in zip(gateways * 3, wishes, strict=True))
        outcomes = await asyncio.gather(*wishing, return_exceptions=True)
        assert all(isinstance(each, TuningJobRow | Conflict) for each in outcomes), outcomes
        assert (await gateways[0].find(job.id)).state == "cancelled"


async def test_files_have_users_until_their_jobs_end(jobs: Jobs) -> None:
    """Each of the files that an order names, whatever state the job is in but for its end."""
    first = await asked(jobs, gate=GateOrder(retention_file="file-2", refusal_file="file-3"))
    second = await asked(jobs, "billing", validation_file="file-4")
    await jobs.wish(second.id, "pause", actor="ann")

    async def users_of(number: int) -> list[str]:
        async with jobs._engine.connect() as connection:
            return await users(connection, f"file-{number}")

    found = [await users_of(number) for number in (1, 2, 3, 4, 5)]
    assert found == [[first.id, second.id], [first.id], [first.id], [second.id], []]
    await jobs.wish(first.id, "cancel", actor="ann")
    assert [await users_of(number) for number in (1, 2)] == [[second.id], []]


@pytest.mark.parametrize("code", ["evaluation_failed", "rejected_by_gate", None])
@pytest.mark.parametrize("version", [None, 1])
async def test_a_job_that_may_be_judged_again_needs_the_sets_of_its_gate(
    jobs: Jobs, version: int | None, code: str | None
) -> None:
    """Until it is cancelled, or judged; its rows are in its dataset, so it needs no other files."""
    gate = GateOrder(retention_file="file-2", refusal_file="file-3")
    await asked(jobs, gate=gate, validation_file="file-4")
    job = await jobs.claim("one", bases=["tiny"], lease_s=60)
    assert job is not None
    error = None if code is None else {"code": code, "message": "no", "param": None}
    await jobs.end(job.id, "one", "failed", "no", version=version, error=error)
    may = can_be_judged_again(await jobs.find(job.id))
    assert may == (version is not None and code != "rejected_by_gate")

    async def used() -> list[int]:
        async with jobs._engine.connect() as connection:
            return [number for number in (1, 2, 3, 4) if await users(connection, f"file-{number}")]

    assert await used() == ([2, 3] if may else [])
    if may:
        await jobs.wish(job.id, "run", actor="ann")
        assert await used() == [1, 2, 3, 4]
        await jobs.wish(job.id, "cancel", actor="ann")
        assert await used() == []


async def test_jobs_are_counted_by_state(jobs: Jobs) -> None:
    """States without any are there, too."""
    assert await jobs.counts() == dict.fromkeys(STATES, 0)
    await held(jobs)
    await asked(jobs, "a")
    cancelled = await asked(jobs, "b")
    await jobs.wish(cancelled.id, "cancel", actor="ann")
    expected = {"queued": 1, "validating_files": 1, "cancelled": 1}
    assert await jobs.counts() == dict.fromkeys(STATES, 0) | expected


async def test_asking_tells_the_gateways_of_a_change(registry: Registry, jobs: Jobs) -> None:
    """Jobs take their numbers from the one counter of changes; a wish that is granted takes none."""
    before = await registry.change_number()
    job = await asked(jobs)
    await jobs.wish(job.id, "run", actor="ann")
    assert await registry.change_number() == before + 1


async def test_others_run_while_jobs_are_looked_through(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter reads little of the jobs that it leaves out, a chunk at a time, and makes rows of none of them."""
    monkeypatch.setattr("registry.tuning.jobs._CHUNK", 10)
    first = await asked(jobs, metadata={"team": "a"})
    async with writing(jobs._engine) as connection:
        rows = [first.model_dump() | {"id": f"ftjob-{n:03d}", "order": {"metadata": {"team": "b"}}} for n in range(95)]
        await connection.execute(insert(_TABLE), [row | {"idempotency_key": None} for row in rows])
    made: list[str] = []

    def noted(row: Any) -> TuningJobRow:
        made.append(row.id)
        return as_job(row)

    monkeypatch.setattr("registry.tuning.jobs.as_job", noted)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    running = asyncio.create_task(others())
    assert [job.id for job in await jobs.listed(metadata={"team": "a"}, limit=5)] == [first.id]
    running.cancel()
    assert made == [first.id]
    assert turns >= 10
