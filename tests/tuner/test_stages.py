"""Stages, one by one: each has what it needs from the store, whatever lies in the workspace."""

import contextlib
import dataclasses
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from registry.artifacts import ArtifactStore
from registry.base_model import BaseSpec
from registry.database import connect
from registry.tuning.jobs import JobLost, order_of
from registry.tuning.orders import DataOrder, LoraOrder
from tests.conftest import AdapterMaker
from tests.registry.lora_samples import BASE, UNKNOWN_BASE
from tests.registry.tuning.checkpoints import add_checkpoint
from tests.tuner.fake_child import Script, dataset_files
from tests.tuner.shops import CONTENT, ask, command_of, end_lease, messages, report_of, shop_of, tuner_settings
from tuner.candidates import actor_of
from tuner.control import Control
from tuner.disk import adapter_weights, require_space_for_training
from tuner.errors import Interrupted, JobFailed
from tuner.shop import AtWork, Shop
from tuner.stages import carry_out, judge, make_data, place_checkpoints, register
from tuner.workspace import Workspace


@pytest.fixture
def shop(tmp_path: Path, sqlite_template: Path) -> Shop:
    """What stages work with; the kind of database has no part in it."""
    file = shutil.copyfile(sqlite_template, tmp_path / "ostler.db")
    return shop_of(tuner_settings(tmp_path, f"sqlite:///{file}"), connect(f"sqlite:///{file}"))


async def held(shop: Shop, **order: Any) -> AtWork:
    """A job that is held."""
    await ask(shop, **order)
    job = await shop.jobs.claim("worker", bases=["tiny"], lease_s=60)
    assert job is not None
    workspace = Workspace(shop.settings.work / job.id)
    return AtWork(job, order_of(job), "worker", workspace, Control(), shop)


def acting(shop: Shop, script: Script) -> Shop:
    """With children that do something else."""
    return dataclasses.replace(shop, child_command=command_of(script))


def files_of(folder: Path) -> dict[str, bytes]:
    """A folder's files."""
    return {file.name: file.read_bytes() for file in folder.iterdir()}


async def test_a_dataset_is_as_it_was_frozen(shop: Shop) -> None:
    """Once a job has one, no child makes it again, and whatever somebody did to the copy is undone."""
    work = await held(shop)
    await make_data(work)
    assert files_of(work.workspace.dataset) == dataset_files(CONTENT)
    (work.workspace.dataset / "train.jsonl").write_bytes(b"cut off")
    (work.workspace.dataset / "more.jsonl").write_bytes(b"of another attempt")
    work.workspace.task_file.unlink()
    await make_data(work)
    assert files_of(work.workspace.dataset) == dataset_files(CONTENT)
    assert not work.workspace.task_file.exists()
    (known,) = await shop.datasets.listed("support", limit=10)
    assert (known.digest, known.counts, known.job) == (work.job.dataset, {"train": 8}, work.job.id)


async def test_a_dataset_that_was_just_frozen_is_not_fetched(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """It lies there already; another attempt takes it from the store."""
    work = await held(shop)
    fetched: list[str] = []
    fetch = shop.store.fetch

    def remembering(digest: str, *more: Any) -> Path:
        fetched.append(digest)
        return fetch(digest, *more)

    monkeypatch.setattr(shop.store, "fetch", remembering)
    await make_data(work)
    assert work.job.dataset not in fetched
    assert files_of(work.workspace.dataset) == dataset_files(CONTENT)
    await make_data(work)
    assert fetched[-1] == work.job.dataset


async def test_bad_rows_are_kept_as_a_file(shop: Shop) -> None:
    """The dataset's report names it, and an event; whoever asked for the job may read it."""
    work = await held(acting(shop, Script(bad_rows=3)))
    await make_data(work)
    (known,) = await shop.datasets.listed("support", limit=10)
    (file,) = [each for each in await shop.files.listed(limit=10) if each.purpose == "fine-tune-results"]
    assert known.report["bad_rows_file"] == file.id
    assert (file.filename, file.key_id) == (f"{work.job.id}-bad-rows.jsonl", work.job.key_id)
    lines = shop.files.content(file).read_bytes().splitlines()
    assert msgspec.json.decode(lines[2]) == {"file": "training", "line": 3, "reason": "it is not valid JSON"}
    assert file.id in (await shop.events.listed(work.job.id, limit=1))[0].message
    assert work.job.result_file is None
    assert work.workspace.folder.stat().st_mode & 0o777 == 0o700


async def test_bad_rows_are_kept_once(shop: Shop) -> None:
    """However often the dataset is made, as when a tuner was lost before it was noted."""
    work = await held(acting(shop, Script(bad_rows=3)))
    for _ in range(2):
        await make_data(work)
        work.job.dataset = None
    assert [each.purpose for each in await shop.files.listed(limit=10)] == ["fine-tune-results", "fine-tune"]


async def test_a_job_that_fails_for_its_rows_names_the_file_of_them(shop: Shop) -> None:
    """It is the job's result, too."""
    work = await held(acting(shop, Script(bad_rows=3, fails_at=0, fails_with="invalid_training_file")))
    with pytest.raises(JobFailed) as failed:
        await make_data(work)
    (file,) = [each for each in await shop.files.listed(limit=10) if each.purpose == "fine-tune-results"]
    assert failed.value.message == f"it fails at step 0; the file {file.id} names every bad row"
    assert failed.value.code == "invalid_training_file"
    assert (await shop.jobs.find(work.job.id)).result_file == file.id


async def test_the_newest_and_the_best_checkpoint_are_placed(shop: Shop) -> None:
    """And nothing else: what lies there may have been cut off half-way."""
    work = await held(shop)
    for step, is_best in ((2, True), (4, False), (6, False)):
        stored = shop.store.put_files({"state.json": str(step).encode()})
        await add_checkpoint(shop.events, work.job.id, step, stored.digest, {}, is_best=is_best)
    work.workspace.checkpoint(8).mkdir(parents=True)
    assert await place_checkpoints(work) == (6, 2)
    found = {folder.name: files_of(folder) for folder in work.workspace.checkpoints.iterdir()}
    assert found == {"checkpoint-2": {"state.json": b"2"}, "checkpoint-6": {"state.json": b"6"}}


async def test_what_was_pushed_by_hand_cannot_be_replayed_by_number(shop: Shop, adapter_folder: AdapterMaker) -> None:
    """Nobody knows its data. Left to itself a job replays nothing then."""
    await shop.registry.push("support", adapter_folder(1.0), actor="ann")
    await shop.registry.promote("support", 1, actor="ann")
    work = await held(shop, data=DataOrder(replay_from=1))
    with pytest.raises(JobFailed, match="support@1 was pushed by hand") as failed:
        await make_data(work)
    assert (failed.value.code, failed.value.param) == ("invalid_hyperparameters", "replay_from")
    await shop.jobs.end(work.job.id, "worker", "failed", "")
    other = await held(shop)
    await make_data(other)
    assert other.workspace.dataset.exists()


@pytest.mark.parametrize("passed", [True, False])
async def test_a_verdict_stands(shop: Shop, adapter_folder: AdapterMaker, passed: bool) -> None:
    """A gate that has spoken is not asked again, also by another tuner."""
    work = await held(shop)
    actor = actor_of(work.job.id)
    await shop.registry.push("support", adapter_folder(1.0), actor=actor, lineage={})
    await shop.registry.judge("support", 1, passed=passed, report=report_of(passed=passed), actor=actor)
    work.job.version = 1

    async def asked(_work: AtWork, _number: int) -> dict[str, Any]:
        raise AssertionError("it was asked again")

    if passed:
        await judge(work, asked)
        return
    with pytest.raises(JobFailed, match="quality is not better") as failed:
        await judge(work, asked)
    assert failed.value.code == "rejected_by_gate"


async def test_the_verdict_on_the_same_weights_of_another_job_is_not_this_jobs(
    shop: Shop, adapter_folder: AdapterMaker
) -> None:
    """Its gate may be another one, so it is asked."""
    work = await held(shop)
    await shop.registry.push("support", adapter_folder(1.0), actor="tuner (ftjob-other)", lineage={})
    await shop.registry.judge("support", 1, passed=False, report=report_of(passed=False), actor="tuner (ftjob-other)")
    work.job.version = 1

    async def asked(_work: AtWork, _number: int) -> dict[str, Any]:
        return report_of(passed=True)

    await judge(work, asked)
    assert (await shop.registry.version_record("support", 1)).verdict == "passed"


async def test_a_tuner_that_lost_its_job_writes_nothing_of_it(shop: Shop, adapter_folder: AdapterMaker) -> None:
    """Neither an event nor a version nor a verdict, whatever it had begun before."""
    work = await held(shop)
    shutil.copytree(adapter_folder(1.0), work.workspace.adapter)
    await end_lease(shop, work.job.id)
    assert await shop.jobs.claim("other", bases=["tiny"], lease_s=60) is not None
    said = await messages(shop, work.job.id)

    async def lineage(_work: AtWork) -> dict[str, Any]:
        return {}

    async def rejects(_work: AtWork, _number: int) -> dict[str, Any]:
        return report_of(passed=False)

    with pytest.raises(JobLost):
        await work.tell("I am at work")
    with pytest.raises(JobLost):
        await register(work, lineage)
    assert (await shop.registry.catalog()).adapters == {}
    await shop.registry.push("support", adapter_folder(1.0), actor=actor_of(work.job.id), lineage={})
    work.job.version = 1
    with pytest.raises(JobLost):
        await judge(work, rejects)
    assert (await shop.registry.version_record("support", 1)).verdict == "candidate"
    assert await messages(shop, work.job.id) == said


async def test_no_stage_begins_once_the_job_is_to_stop(shop: Shop) -> None:
    """What is asked for between two stages is heard before the next."""
    work, begun = await held(shop), []

    async def one(at_work: AtWork) -> None:
        begun.append(at_work.job.stage)
        at_work.control.stop("pause")

    with pytest.raises(Interrupted):
        await carry_out(work, {"data": one, "training": one})
    assert begun == ["data"]


@pytest.mark.parametrize(
    ("base", "lora", "weights"),
    [
        (BASE, LoraOrder(rank=4, targets=["q_proj"]), 2 * 4 * (32 + 32)),
        (BASE, LoraOrder(rank=4, targets=["q_proj", "v_proj"]), 2 * 4 * (32 + 32 + 32 + 16)),
        (BASE, LoraOrder(targets=["down_proj"]), 2 * 16 * (48 + 32)),
        (UNKNOWN_BASE, LoraOrder(), 0),
    ],
)
def test_an_adapters_size_follows_from_its_modules(base: BaseSpec, lora: LoraOrder, weights: int) -> None:
    """R (in + out) for each, in both layers."""
    assert adapter_weights(base, lora) == weights


async def test_a_training_that_goes_on_from_a_version_needs_disk_for_its_rank(
    shop: Shop, adapter_folder: AdapterMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever rank a new adapter would have had."""
    await shop.registry.push("support", adapter_folder(1.0), actor="ann")
    weights = (await shop.registry.version_record("support", 1)).parameters
    work = await held(shop, start_from=1)
    for free, suffices in ((6 * 12 * weights, True), (6 * 12 * weights - 1, False)):
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: type("Usage", (), {"free": free})())
        with contextlib.nullcontext() if suffices else pytest.raises(JobFailed):
            await require_space_for_training(work)


def free_disks(monkeypatch: pytest.MonkeyPatch, store: Path, *, here: int, there: int) -> None:
    """A disk for the store, and one for all else, with so many bytes free."""
    monkeypatch.setattr("tuner.disk._disk_of", lambda folder: int(folder == store))

    def usage(folder: Path) -> Any:
        return type("Usage", (), {"free": there if folder == store else here})()

    monkeypatch.setattr("shutil.disk_usage", usage)


@pytest.mark.parametrize(
    ("here", "there", "lacks"),
    [(3, 3, None), (2, 9, "the tuner's disk has"), (9, 2, "the artifact store's disk has")],
)
async def test_each_disk_is_asked_for_its_own_part(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, here: int, there: int, lacks: str | None
) -> None:
    """Of the six copies of a checkpoint half are in the store."""
    work, copy = await held(shop), 12 * adapter_weights(BASE, LoraOrder(rank=16))
    assert shop.store.folder is not None
    free_disks(monkeypatch, shop.store.folder, here=here * copy, there=there * copy)
    with contextlib.nullcontext() if lacks is None else pytest.raises(JobFailed, match=lacks):
        await require_space_for_training(work)


async def test_what_goes_to_a_remote_store_needs_room_in_the_cache(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lies there on its way."""
    remote = dataclasses.replace(shop, store=ArtifactStore("memory://bucket/disk", tmp_path / "cache"))
    work, copy = await held(shop), 12 * adapter_weights(BASE, LoraOrder(rank=16))
    work.shop = remote
    for copies, suffices in ((6, True), (5, False)):
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=copies * copy: type("Usage", (), {"free": free})())
        with contextlib.nullcontext() if suffices else pytest.raises(JobFailed, match="the tuner's disk"):
            await require_space_for_training(work)


async def test_a_training_needs_disk_for_its_checkpoints(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six of them, with the optimizer's state; a large rank may be too much where a small one is not."""
    small, large = await held(shop, lora=LoraOrder(rank=1)), await held(shop, adapter="other", lora=LoraOrder(rank=512))
    free = 6 * 12 * adapter_weights(BASE, LoraOrder(rank=16))
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": free})())
    await require_space_for_training(small)
    with pytest.raises(JobFailed, match="GiB free, and the job needs") as failed:
        await require_space_for_training(large)
    assert failed.value.code == "disk_full"
