"""A worker: jobs go through their stages and end as they should, whatever happens on the way."""

import asyncio
import errno
import itertools
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine

from registry.artifacts import ArtifactStore
from registry.database import connect
from registry.errors import Conflict, StoreFailure
from registry.registry import Registry
from registry.tuning.events import Events
from registry.tuning.files import Files, NewFile
from registry.tuning.jobs import Asker, JobLost, Jobs
from registry.tuning.orders import TuningOrder
from tests.conftest import until
from tests.registry.lora_samples import BASE
from tests.tuner.fake_child import TOKENS_A_STEP, Script, dataset_files
from tests.tuner.shops import (
    CONTENT,
    GOOD,
    ask,
    end_lease,
    is_in,
    job_of,
    messages,
    shop_of,
    stages,
    state_of,
    steps_told,
    tuner_settings,
    working,
    write,
)
from tuner.errors import EngineAway, JobFailed
from tuner.shop import AtWork, Shop
from tuner.worker import Worker

SLOW = Script(steps=400, step_s=0.05, checkpoint_every=5)


class Place:
    """Where a job waits until it is let go on."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.reached = asyncio.Event()
        self.go_on = asyncio.Event()

    async def __call__(self, here: str) -> None:
        """Wait, if this is the place."""
        if here == self._name:
            self.reached.set()
            await self.go_on.wait()


@pytest.fixture
def shop(tmp_path: Path, database: AsyncEngine, database_url: str) -> Shop:
    """What a worker works with, on a database of each kind."""
    return shop_of(tuner_settings(tmp_path, database_url), database)


@pytest.fixture
def lite(tmp_path: Path, sqlite_template: Path) -> Any:
    """Makes shops on SQLite alone, for what has nothing to do with the database."""

    def make(script: Script = GOOD, **parts: Any) -> Shop:
        file = tmp_path / "ostler.db"
        if not file.exists():
            file.write_bytes(sqlite_template.read_bytes())
        url = f"sqlite:///{file}"
        return shop_of(tuner_settings(tmp_path, url, **parts.pop("settings", {})), connect(url), script, **parts)

    return make


def dataset_digest(folder: Path, content: bytes = CONTENT) -> str:
    """The digest of the dataset that an upload becomes."""
    return ArtifactStore(str(folder / "other"), folder / "other-cache").put_files(dataset_files(content)).digest


async def test_a_job_goes_through_its_stages_to_its_success(tmp_path: Path, shop: Shop) -> None:
    """It has a dataset, a version that passed, a file of results, its events, and leaves nothing behind."""
    job_id = await ask(shop)
    async with working(Worker(shop, stages())):
        await until(is_in(shop, job_id, "succeeded", "failed"), 60)
        await until(lambda: not list(shop.settings.work.glob("ftjob-*")))
    job = await job_of(shop, job_id)
    assert (job.state, job.stage, job.error, job.attempt) == ("succeeded", "done", None, 1)
    assert (job.fine_tuned_model, job.version, job.trained_tokens) == ("support@1", 1, 8 * TOKENS_A_STEP)
    assert job.dataset == dataset_digest(tmp_path)
    record = await shop.registry.version_record("support", 1)
    assert (record.verdict, record.created_by) == ("passed", f"tuner ({job_id})")
    assert await steps_told(shop, job_id) == list(range(1, 9))
    assert job.result_file is not None
    results = shop.files.content(await shop.files.find(job.result_file)).read_text().splitlines()
    assert len(results) == 9
    assert (await messages(shop, job_id))[-1] == "The job succeeded; the model is support@1"
    kept = await shop.events.checkpoints(job_id, limit=10)
    assert [(each.step, each.digest) for each in kept] == [(8, None), (6, None), (4, None), (2, None)]


async def test_metrics_count_every_step_and_token_once(lite: Any) -> None:
    """The first step's tokens too, and nothing that a checkpoint had already."""
    shop = lite(Script(dies_at=6))
    job_id = await ask(shop)
    async with working(Worker(shop, stages())):
        await until(is_in(shop, job_id, "succeeded", "failed"), 60)
    registry = shop.metrics.registry
    assert await state_of(shop, job_id) == "succeeded"
    assert registry.get_sample_value("ostler_tuning_steps_total") == 5 + 4  # it died before step 6, after 4 was saved
    assert registry.get_sample_value("ostler_tuning_tokens_total") == 9 * TOKENS_A_STEP
    assert registry.get_sample_value("ostler_tuning_at_work", {"adapter": "support"}) is None
    assert registry.get_sample_value("ostler_tuning_ended_total", {"outcome": "succeeded"}) == 1
    assert registry.get_sample_value("ostler_tuning_ended_total", {"outcome": "tried_again"}) == 1


async def test_a_child_that_was_killed_is_tried_again_from_its_checkpoint(lite: Any) -> None:
    """As when memory ran out for a moment; its steps follow on the checkpoint's."""
    shop = lite(Script(dies_at=6))
    job_id = await ask(shop)
    async with working(Worker(shop, stages())):
        await until(is_in(shop, job_id, "succeeded", "failed"), 60)
    assert (await job_of(shop, job_id)).attempt == 1  # counted anew from each checkpoint
    assert await steps_told(shop, job_id) == [1, 2, 3, 4, 5, 5, 6, 7, 8]
    said = await messages(shop, job_id)
    assert "The stage training is tried again: the process that did it ended unexpectedly" in " ".join(said)
    assert "Training goes on from the checkpoint of step 4" in said


async def test_a_failure_names_the_field_as_the_request_had_it(lite: Any) -> None:
    """As it would have been named when the job was asked for."""
    shop = lite()

    async def refuse(_work: AtWork) -> None:
        raise JobFailed("invalid_hyperparameters", "too high", "rank")

    job_id = await ask(shop)
    async with working(Worker(shop, {**stages(), "fitness": refuse})):
        await until(is_in(shop, job_id, "failed"), 60)
    error = (await job_of(shop, job_id)).error
    assert error == {"code": "invalid_hyperparameters", "message": "too high", "param": "ostler.rank"}


async def test_a_child_that_is_killed_each_time_fails_the_job(lite: Any) -> None:
    """After three times, and what it said is for people."""
    shop = lite(Script(hangs_at=3))
    job_id = await ask(shop)
    async with working(Worker(shop, stages())):
        await until(lambda: _has_told(shop, job_id, 2), 60)
        file, killed = shop.settings.work / job_id / "child.pid", set[int]()
        for _ in range(3):
            await until(lambda: _is_child(file, killed), 60)
            killed.add(int(file.read_text()))
            psutil.Process(int(file.read_text())).kill()
        await until(is_in(shop, job_id, "failed"), 60)
    job = await job_of(shop, job_id)
    assert job.error is not None
    assert job.error["code"] == "training_failed"
    assert "SIGKILL" in job.error["message"]
    assert "3 times" in job.error["message"]


async def _has_told(shop: Shop, job_id: str, steps: int) -> bool:
    return len(await steps_told(shop, job_id)) >= steps


def _is_child(file: Path, killed: set[int]) -> bool:
    """Whether a child has begun that was not killed yet."""
    return file.exists() and file.read_text() != "" and int(file.read_text()) not in killed


async def test_a_job_that_cannot_be_done_fails_with_the_childs_words(shop: Shop) -> None:
    """And the next one of its adapter has its turn."""
    failing = shop_of(shop.settings, _engine(shop), Script(fails_at=3, fails_with="out_of_memory"))
    first, second = await ask(shop), await ask(shop)
    async with working(Worker(failing, stages())):
        await until(is_in(shop, second, "failed"), 60)
    for job_id in (first, second):
        job = await job_of(shop, job_id)
        assert job.error == {"code": "out_of_memory", "message": "it fails at step 3", "param": None}
        assert job.fine_tuned_model is None


def _engine(shop: Shop) -> AsyncEngine:
    return shop.events._engine


async def test_a_gate_that_rejects_fails_the_job_and_closes_the_version(lite: Any) -> None:
    """The reason is the gate's, and the version stays to be looked at."""
    shop = lite()
    job_id = await ask(shop)
    async with working(Worker(shop, stages(passed=False))):
        await until(is_in(shop, job_id, "failed", "succeeded"), 60)
    job = await job_of(shop, job_id)
    assert job.error == {"code": "rejected_by_gate", "message": "quality is not better", "param": None}
    assert (job.version, job.fine_tuned_model) == (1, None)
    assert (await shop.registry.version_record("support", 1)).verdict == "rejected"


@pytest.mark.parametrize("place", ["fitness", "training", "lineage", "gate"])
@pytest.mark.parametrize("wanted", ["pause", "cancel"])
async def test_a_wish_is_carried_out_at_each_stage(lite: Any, place: str, wanted: str) -> None:
    """Within a second and a step; what is paused goes on to its success, what is cancelled leaves no candidate."""
    here = Place(place)
    shop = lite(SLOW if place == "training" else Script())
    job_id = await ask(shop)
    worker = Worker(shop, stages(here))
    async with working(worker):
        await until(_at(shop, job_id, here if place != "training" else None), 60)
        await shop.jobs.wish(job_id, wanted, actor="ann")
        ended = "paused" if wanted == "pause" else "cancelled"
        if place == "lineage":  # which is quick, so that nobody breaks it off
            await until(lambda: worker._control is None or worker._control.cause is not None, 60)
            here.go_on.set()
        await until(is_in(shop, job_id, ended), 60)
        if wanted == "pause" and place != "training":
            here.go_on.set()
            await shop.jobs.wish(job_id, "run", actor="ann")
            await until(is_in(shop, job_id, "succeeded"), 60)
            assert (await job_of(shop, job_id)).attempt == 1  # nobody was lost
    catalog = await shop.registry.catalog()
    versions = catalog.adapters["support"].versions.values() if "support" in catalog.adapters else ()
    assert all(version.verdict in ("passed", "rejected") for version in versions)
    assert len(versions) <= 1


def _at(shop: Shop, job_id: str, place: Place | None) -> Any:
    """Whether a job is there; None is in the middle of training."""

    async def holds() -> bool:
        return place.reached.is_set() if place is not None else len(await steps_told(shop, job_id)) > 6

    return holds


async def test_a_paused_training_goes_on_where_it_was(lite: Any) -> None:
    """Step by step: none is missing, and none is done again."""
    shop = lite(Script(steps=60, step_s=0.03, checkpoint_every=1000))
    job_id = await ask(shop)
    async with working(Worker(shop, stages())):
        await until(_at(shop, job_id, None), 60)
        await shop.jobs.wish(job_id, "pause", actor="ann")
        await until(is_in(shop, job_id, "paused"), 60)
        paused_at = (await steps_told(shop, job_id))[-1]
        assert paused_at < 60
        await shop.jobs.wish(job_id, "run", actor="ann")
        await until(is_in(shop, job_id, "succeeded"), 60)
    assert await steps_told(shop, job_id) == list(range(1, 61))
    assert f"Training goes on from the checkpoint of step {paused_at}" in await messages(shop, job_id)


async def test_a_tuner_that_stops_gives_its_job_back_uncounted(shop: Shop) -> None:
    """With what was trained saved, so that another one goes on from there."""
    slow = shop_of(shop.settings, _engine(shop), SLOW)
    job_id = await ask(shop)
    async with working(Worker(slow, stages())):
        await until(_at(shop, job_id, None), 60)
    job = await job_of(shop, job_id)
    assert (job.state, job.attempt, job.lease_until) == ("queued", 0, None)
    last = (await steps_told(shop, job_id))[-1]
    assert [each.step for each in await shop.events.kept_checkpoints(job_id)] == [last]
    async with working(Worker(shop_of(shop.settings, _engine(shop), Script(steps=last + 2)), stages())):
        await until(is_in(shop, job_id, "succeeded"), 60)
    assert await steps_told(shop, job_id) == list(range(1, last + 3))


async def test_two_tuners_share_nine_jobs_of_three_adapters(tmp_path: Path, shop: Shop, database_url: str) -> None:
    """Each adapter has one job at a time, in the order in which they were asked for, and each job is done once."""
    asked = [(name, await ask(shop, name, seed=seed)) for seed, name in itertools.product((1, 2, 3), "abc")]
    quick = Script(steps=2)
    engines = [connect(database_url) for _ in range(2)]
    one, two = (shop_of(tuner_settings(tmp_path, database_url), engine, quick) for engine in engines)
    async with working(Worker(one, stages())), working(Worker(two, stages())):
        for _, job_id in asked:
            await until(is_in(shop, job_id, "succeeded", "failed"), 60)
    jobs = {name: [await job_of(shop, each) for other, each in asked if other == name] for name in "abc"}
    for each in jobs.values():
        assert [job.state for job in each] == ["succeeded"] * 3
        assert [job.version for job in each] == [1, 2, 3]
        assert all(job.attempt == 1 for job in each)
        for before, after in itertools.pairwise(each):
            assert before.finished_at is not None
            assert after.started_at is not None
            assert before.finished_at <= after.started_at
    for engine in engines:
        await engine.dispose()


class Outage:
    """A database that is away for a while, for what tuners write."""

    def __init__(self, shop: Shop) -> None:
        self.is_on = False
        self.refused = 0
        self.events = _Failing(Events(_engine(shop)), self)
        self.jobs = _Failing(Jobs(_engine(shop)), self)


class _Failing:
    def __init__(self, inner: Any, outage: Outage) -> None:
        self._inner, self._outage = inner, outage

    def __getattr__(self, name: str) -> Any:
        if self._outage.is_on:
            self._outage.refused += 1
            raise OperationalError("", {}, Exception("away"))
        return getattr(self._inner, name)


async def test_training_goes_on_while_the_database_is_away(lite: Any) -> None:
    """What it tells meanwhile is told afterwards, in order, and the job does not even notice."""
    shop = lite(Script(steps=50, step_s=0.03, checkpoint_every=10))
    job_id, outage = await ask(shop), Outage(shop)
    cut = lite(
        Script(steps=50, step_s=0.03, checkpoint_every=10),
        events=outage.events,
        jobs=outage.jobs,
    )
    async with working(Worker(cut, stages())):
        await until(_at(shop, job_id, None), 60)
        outage.is_on = True
        told = len(await steps_told(shop, job_id))
        await until(lambda: outage.refused > 3)
        await until(lambda: _steps(cut) == 50, 60)
        assert len(await steps_told(shop, job_id)) <= told + 5  # what was on its way
        outage.is_on = False
        await until(is_in(shop, job_id, "succeeded"), 60)
    assert await steps_told(shop, job_id) == list(range(1, 51))
    assert (await job_of(shop, job_id)).attempt == 1


def _steps(shop: Shop) -> float:
    """How many steps its workers have seen, by its metrics."""
    return shop.metrics.registry.get_sample_value("ostler_tuning_steps_total") or 0.0


async def test_a_worker_that_loses_its_lease_stops_its_child(lite: Any) -> None:
    """It has the database no more, so another one may be at work on the job; and it writes nothing after that."""
    shop = lite(SLOW, settings={"tuner_lease_s": 1.5})
    job_id, outage = await ask(shop), Outage(shop)
    cut = lite(SLOW, settings={"tuner_lease_s": 1.5}, events=outage.events, jobs=outage.jobs)
    worker = Worker(cut, stages())
    async with working(worker):
        await until(_at(shop, job_id, None), 60)
        pid = int((shop.settings.work / job_id / "child.pid").read_text())
        outage.is_on = True
        await until(lambda: not psutil.pid_exists(pid), 60)
        worker.stop()
    outage.is_on = False
    assert cut.metrics.registry.get_sample_value("ostler_tuning_ended_total", {"outcome": "lost"}) == 1
    assert await state_of(shop, job_id) == "running"  # until somebody claims it, its lease being over
    async with working(Worker(lite(Script(steps=8)), stages())):
        await until(is_in(shop, job_id, "succeeded"), 60)


async def test_a_job_that_loses_its_tuner_again_and_again_is_given_up(shop: Shop) -> None:
    """Or it would take tuners down for ever."""
    job_id = await ask(shop)
    for attempt in (1, 2, 3):
        job = await shop.jobs.claim(f"lost-{attempt}", bases=["tiny"], lease_s=-1.0)
        assert job is not None
    async with working(Worker(shop, stages())):
        await until(is_in(shop, job_id, "failed"), 60)
    job = await job_of(shop, job_id)
    assert job.error is not None
    assert job.error["code"] == "worker_lost"


class FullStore(ArtifactStore):
    """A store whose disk is full once a file of some name comes."""

    refused: str = ""

    def put_files(self, files: Any) -> Any:
        """Fail as a full disk does."""
        if self.refused in files:
            cause = OSError(errno.ENOSPC, "No space left on device")
            raise StoreFailure("the artifact store could not be written: No space left on device") from cause
        return super().put_files(files)


@pytest.mark.parametrize("refused", ["about.json", "state.json"], ids=["data", "checkpoint"])
async def test_a_full_store_is_told_and_leaves_nothing_half_made(lite: Any, refused: str) -> None:
    """The job says what to do; neither a version nor a workspace is there."""
    shop = lite(SLOW)
    store = FullStore(shop.settings.artifacts, shop.settings.cache)
    store.refused = refused
    job_id = await ask(shop)
    async with working(Worker(lite(SLOW, store=store), stages())):
        await until(is_in(shop, job_id, "failed"), 60)
        await until(lambda: not list(shop.settings.work.glob("ftjob-*")))
    job = await job_of(shop, job_id)
    assert job.error is not None
    assert job.error["code"] == "disk_full"
    assert "No space left on device; free some, and ask again" in job.error["message"]
    assert "/" not in job.error["message"]
    assert "support" not in (await shop.registry.catalog()).adapters


async def test_a_job_needs_some_free_disk(lite: Any) -> None:
    """That is said before anything is made, with what is there and what it needs."""
    shop = lite(settings={"tuner_min_free_gib": 1e9})
    job_id = await ask(shop)
    async with working(Worker(shop, stages())):
        await until(is_in(shop, job_id, "failed"), 60)
    job = await job_of(shop, job_id)
    assert job.error is not None
    assert job.error["code"] == "disk_full"
    assert "the job needs 1000000000.0 GiB" in job.error["message"]
    assert job.dataset is None


async def test_what_jobs_left_that_ended_with_nobody_at_work_is_swept(lite: Any) -> None:
    """A job that was paused at its gate and then cancelled leaves neither checkpoints nor a candidate."""
    here, shop = Place("gate"), lite()
    job_id = await ask(shop)
    async with working(Worker(shop, stages(here))):
        await until(here.reached.is_set, 60)
        await shop.jobs.wish(job_id, "pause", actor="ann")
        await until(is_in(shop, job_id, "paused"), 60)
    (newest,) = await shop.events.kept_checkpoints(job_id)
    assert newest.digest is not None
    await shop.jobs.wish(job_id, "cancel", actor="ann")
    assert await state_of(shop, job_id) == "cancelled"
    assert (await shop.registry.version_record("support", 1)).verdict == "candidate"
    async with working(Worker(shop, stages())):
        await until(lambda: _verdict_is(shop, "rejected"))
        await until(lambda: not list(shop.settings.work.glob("ftjob-*")))
    assert await shop.events.kept_checkpoints(job_id) == []
    assert not shop.store.holds(newest.digest)
    report = (await shop.registry.version_record("support", 1)).report
    assert report is not None
    assert report["reason"] == "the job ended before its gate had said anything"


async def test_a_job_whose_engine_stays_away_can_be_evaluated_another_time(lite: Any) -> None:
    """It is tried again, and fails at last; its version stays a candidate, which nothing was found against."""
    tries, is_away = [], [True]

    async def gate(_place: str) -> None:
        if _place == "gate":
            tries.append(_place)
            if is_away:
                raise EngineAway("support@1 could not be evaluated: row 1: nobody answered")

    shop = lite()
    job_id = await ask(shop)
    async with working(Worker(shop, stages(gate))):
        await until(is_in(shop, job_id, "failed", "succeeded"), 60)
        await until(lambda: not list(shop.settings.work.glob("ftjob-*")))  # it was swept
        job = await job_of(shop, job_id)
        assert job.error == {
            "code": "evaluation_failed",
            "message": "support@1 could not be evaluated: row 1: nobody answered, 3 times; support@1 is registered: "
            "resume the job to go on from there",
            "param": None,
        }
        assert len(tries) == 3
        assert await _verdict_is(shop, "candidate")
        is_away.clear()
        await shop.jobs.wish(job_id, "run", actor="ann")
        await until(is_in(shop, job_id, "failed", "succeeded"), 60)
    job = await job_of(shop, job_id)
    assert (job.state, job.error, job.fine_tuned_model) == ("succeeded", None, "support@1")
    assert await _verdict_is(shop, "passed")
    assert await steps_told(shop, job_id) == list(range(1, 9))  # it was not trained again


@pytest.mark.parametrize("code", ["evaluation_failed", "disk_full"])
async def test_a_job_that_fails_at_its_gate_rejects_nothing(lite: Any, code: str) -> None:
    """A wrong key or a full disk is not the version's fault."""

    async def gate(place: str) -> None:
        if place == "gate":
            raise JobFailed(code, "row 3: it answered 401")

    shop = lite()
    job_id = await ask(shop)
    async with working(Worker(shop, stages(gate))):
        await until(is_in(shop, job_id, "failed"), 60)
        await until(lambda: not list(shop.settings.work.glob("ftjob-*")))
    assert await _verdict_is(shop, "candidate")
    error = (await job_of(shop, job_id)).error
    assert error is not None
    assert (error["code"], error["message"]) == (
        code,
        "row 3: it answered 401; support@1 is registered: resume the job to go on from there",
    )


async def test_a_job_that_its_gate_rejected_is_not_resumed(lite: Any) -> None:
    """Its verdict stands."""
    shop = lite()
    job_id = await ask(shop)
    async with working(Worker(shop, stages(passed=False))):
        await until(is_in(shop, job_id, "failed"), 60)
    with pytest.raises(Conflict, match="cannot be changed any more"):
        await shop.jobs.wish(job_id, "run", actor="ann")


async def test_what_a_job_fetches_of_a_remote_store_goes_with_it(tmp_path: Path, lite: Any) -> None:
    """Uploads and datasets, that of the version before too, would fill the cache; what was made stays in the store."""
    store = ArtifactStore(f"memory://{tmp_path.name}", tmp_path / "cache")
    shop = lite(store=store)
    file = await Files(_engine(shop), store).keep(NewFile("rows.jsonl", "fine-tune"), CONTENT, key_id="key_1")
    shop = lite(store=store, files=Files(_engine(shop), store), registry=Registry(_engine(shop), store, (BASE,)))
    ids = []
    for seed in (1, 2):
        order = TuningOrder("support", "tiny", file.id, seed=seed)
        ids.append((await shop.jobs.create(order, "tiny", Asker("key_1", "ann")))[0].id)
    async with working(Worker(shop, stages())):
        for job_id in ids:
            await until(is_in(shop, job_id, "succeeded", "failed"), 60)
            await shop.registry.promote("support", 1, actor="ann")
        await until(lambda: not list(shop.settings.work.glob("ftjob-*")))
    assert [await state_of(shop, job_id) for job_id in ids] == ["succeeded"] * 2
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []
    assert (store.fetch(file.digest) / "content").read_bytes() == CONTENT


@pytest.mark.parametrize("place", ["before it is noted", "before the end"])
async def test_a_job_has_one_file_of_results(lite: Any, place: str) -> None:
    """Also one whose tuner was lost between the file and the job's end."""
    shop = lite()
    job_id = await ask(shop)
    lost = _Loses(_engine(shop), place)
    async with working(Worker(lite(jobs=lost), stages())):
        await until(lambda: lost.has_lost, 60)
    (file,) = await shop.files.listed(purpose="fine-tune-results", limit=10)
    assert (await job_of(shop, job_id)).result_file == (file.id if place == "before the end" else None)
    await end_lease(shop, job_id)
    async with working(Worker(shop, stages())):
        await until(is_in(shop, job_id, "succeeded"), 60)
    assert (await job_of(shop, job_id)).result_file == file.id
    assert [each.id for each in await shop.files.listed(purpose="fine-tune-results", limit=10)] == [file.id]


class _Loses(Jobs):
    """Loses a tuner right before its first job notes the file of results, or ends."""

    def __init__(self, engine: AsyncEngine, place: str) -> None:
        super().__init__(engine)
        self._place = place
        self.has_lost = False

    async def note(self, job_id: str, worker: str, **values: Any) -> None:
        """Note, but for the file the first time."""
        if "result_file" in values:
            self._lose("before it is noted")
        await super().note(job_id, worker, **values)

    async def end(self, *arguments: Any, **named: Any) -> str:
        """End a job, but for the first time."""
        self._lose("before the end")
        return await super().end(*arguments, **named)

    def _lose(self, place: str) -> None:
        if place == self._place and not self.has_lost:
            self.has_lost = True
            raise JobLost


async def _verdict_is(shop: Shop, verdict: str) -> bool:
    return (await shop.registry.version_record("support", 1)).verdict == verdict


async def test_an_uploaded_file_that_is_gone_fails_the_job(lite: Any) -> None:
    """With the parameter that named it."""
    shop = lite()
    job_id = await ask(shop)
    job = await job_of(shop, job_id)
    await write(shop, job_id, state="succeeded")  # a file that an open job needs is not deleted
    await shop.files.delete(job.order["training_file"], actor="ann")
    await write(shop, job_id, state="queued")
    async with working(Worker(shop, stages())):
        await until(is_in(shop, job_id, "failed"), 60)
    error = (await job_of(shop, job_id)).error
    assert error is not None
    assert (error["code"], error["param"]) == ("invalid_training_file", "training_file")


async def test_an_error_of_our_own_fails_the_job_without_a_word_of_it(
    lite: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The client is told that it failed inside; the place is in the log, and what was said in neither."""
    shop = lite()

    async def broken(_place: str) -> None:
        raise ValueError("what somebody said")

    job_id = await ask(shop)
    async with working(Worker(shop, stages(broken))):
        await until(is_in(shop, job_id, "failed"), 60)
        assert await state_of(shop, await ask(shop)) == "queued"
    error = (await job_of(shop, job_id)).error
    assert error is not None
    assert error["message"] == "something failed inside the tuner (ValueError); its log says more"
    assert "what somebody said" not in caplog.text
    assert "broken (test_worker.py" in caplog.text


async def test_an_order_of_another_version_fails_and_takes_no_tuner_down(lite: Any) -> None:
    """The next job is done all the same."""
    shop = lite()
    strange, job_id = await ask(shop), await ask(shop)
    order = (await job_of(shop, strange)).order | {"from_the_future": True}
    await write(shop, strange, order=order)
    async with working(Worker(shop, stages())):
        await until(is_in(shop, job_id, "succeeded"), 60)
    error = (await job_of(shop, strange)).error
    assert error is not None
    assert "another version than the gateway" in error["message"]


async def test_what_was_asked_wrongly_is_told_with_its_parameter(lite: Any) -> None:
    """As when the version to replay is not there."""
    shop = lite()
    job_id = await ask(shop, start_from=7)
    async with working(Worker(shop, stages())):
        await until(is_in(shop, job_id, "failed"), 60)
    error = (await job_of(shop, job_id)).error
    assert error is not None
    assert error["code"] == "invalid_hyperparameters"
    assert "there is no adapter 'support'" in error["message"]
