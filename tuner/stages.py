"""What a job goes through. Each stage can be begun again by anyone, at any time: what it needs is in the store.

1. data          uploaded files become a frozen dataset
2. fitness       whether the engine could serve what would be made, before hours go into it
3. training      a dataset becomes an adapter's files, checkpoint by checkpoint
4. registering   the files become a version: a candidate, which nothing serves by itself
5. evaluating    the candidate is held against the incumbent and the base, and its gate says what comes of it
"""

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from registry.artifact_files import MANIFEST
from registry.errors import NotFound, RegistryError
from registry.tuning.tables import DatasetRow
from tuner.ancestry import ancestry_of
from tuner.candidates import actor_of, adapter_folder, made_by
from tuner.children import run_task
from tuner.context import context_of
from tuner.disk import require_space_for_data, require_space_for_training
from tuner.errors import JobFailed
from tuner.evaluation.run import evaluate
from tuner.fitness import require_servable
from tuner.lineage import lineage_of
from tuner.progress import Progress
from tuner.results import add_result_file, keep_bad_rows, with_bad_rows
from tuner.sharing import engine_makes_room
from tuner.shop import AtWork
from tuner.workspace import PrepareTask, TrainTask

Stage = Callable[[AtWork], Awaitable[None]]
Lineage = Callable[[AtWork], Awaitable[dict[str, Any]]]
Gate = Callable[[AtWork, int], Awaitable[dict[str, Any]]]
_FILES = ("train.jsonl", "validation.jsonl", "holdout.jsonl", "about.json")


async def make_data(work: AtWork) -> None:
    """Have the dataset in the workspace; freeze it if the job has none yet."""
    if work.job.dataset is None:
        await _freeze(work)  # which leaves it there
        return
    await asyncio.to_thread(_copy, await work.fetch(work.job.dataset), work.workspace.dataset)


async def check_fitness(work: AtWork, require: Stage = require_servable) -> None:
    """Refuse what the engine could not serve. Once there is a checkpoint, it was found fit before."""
    if work.job.checkpoint is None and work.job.version is None:
        await work.control.unless_stopped(require(work))


async def train(work: AtWork) -> None:
    """Have the adapter's files in the workspace, going on from the newest checkpoint."""
    if await _registered(work):
        return
    await require_space_for_training(work)
    task = await training_task(work)
    tokens = 0
    if task.resume_step is not None:
        await work.tell(f"Training goes on from the checkpoint of step {task.resume_step}")
        tokens = await work.shop.events.tokens_at(work.job.id, task.resume_step)
    async with engine_makes_room(work), Progress(work, tokens, task.best_step) as progress:
        done = await run_task(work, task, progress.take)
    await work.note(trained_tokens=int(done.result["tokens"]), estimated_finish=None)


async def training_task(work: AtWork) -> TrainTask:
    """What a training child is to do, with what it goes on from in the workspace. Nothing of the job is written."""
    settings, order = work.shop.settings, work.order
    start_from = None if order.start_from is None else await adapter_folder(work, order.start_from)
    resume_step, best_step = await place_checkpoints(work)
    return TrainTask(
        order=order,
        base_model=settings.base_model,
        start_from=None if start_from is None else str(start_from),
        resume_step=resume_step,
        best_step=best_step,
        device=settings.tuner_device,
        memory_share=settings.tuner_memory_share,
        threads=settings.tuner_threads,
        context=context_of(settings),
    )


async def register(work: AtWork, lineage: Lineage = lineage_of) -> None:
    """Have the files be a version of the adapter."""
    if await _registered(work):
        return
    order = work.order
    pushed = await work.shop.registry.push(
        order.adapter,
        work.workspace.adapter,
        actor=actor_of(work.job.id),
        base=order.base,
        note=order.note,
        lineage=await lineage(work),
        guard=work.guard,
    )
    await work.note(version=pushed.version.number)
    await work.tell(f"Registered {order.adapter}@{pushed.version.number} as a candidate")


async def judge(work: AtWork, gate: Gate = evaluate) -> None:
    """Have the gate's verdict on the candidate."""
    number = work.job.version
    assert number is not None
    report = await _verdict_before(work, number)
    if report is None:
        report = await work.control.unless_stopped(gate(work, number))
        await _keep_verdict(work, number, report)
    if not report["passed"]:
        raise JobFailed("rejected_by_gate", report["reason"])


STAGES: Mapping[str, Stage] = {
    "data": make_data,
    "fitness": check_fitness,
    "training": train,
    "registering": register,
    "evaluating": judge,
}


async def carry_out(work: AtWork, stages: Mapping[str, Stage] = STAGES) -> None:
    """Take a job through its stages, to its success.

    Raises:
        JobFailed, Interrupted, ChildCrashed, JobLost, RegistryError
    """
    await asyncio.to_thread(work.workspace.make)
    for name, stage in stages.items():
        work.control.check()
        await work.note(stage=name)
        with work.shop.metrics.stage_seconds.labels(name).time():
            await stage(work)
    await add_result_file(work)
    model = f"{work.order.adapter}@{work.job.version}"
    said = f"The job succeeded; the model is {model}"
    end = work.shop.jobs.end
    await work.insist(lambda: end(work.job.id, work.worker, "succeeded", said, fine_tuned_model=model))


async def _freeze(work: AtWork) -> None:
    """Make the dataset in the workspace, and keep it."""
    order, settings = work.order, work.shop.settings
    training = await _content(work, order.training_file, "training_file")
    validation = None
    if order.validation_file is not None:
        validation = str(await _content(work, order.validation_file, "validation_file"))
    ancestry = await ancestry_of(work)
    await asyncio.to_thread(require_space_for_data, work, training)
    task = PrepareTask(
        order=order,
        training=str(training),
        validation=validation,
        replayed=ancestry.replayed,
        parents=ancestry.parents,
        ancestors={digest: str(await work.fetch(digest)) for digest in ancestry.datasets},
        tokenizer=settings.base_model,
        context=context_of(settings),
    )
    try:
        about = (await run_task(work, task)).result
    except JobFailed as failed:
        raise await with_bad_rows(work, failed) from None
    bad_rows_file = await keep_bad_rows(work)
    files = {name: work.workspace.dataset / name for name in _FILES}
    stored = await asyncio.to_thread(work.shop.store.put_files, files)
    dataset = DatasetRow(
        adapter=order.adapter,
        digest=stored.digest,
        method=order.method,
        size_bytes=stored.size_bytes,
        counts=about["counts"],
        sources=about["sources"],
        parents=about["parents"],
        report=about["report"] | {"bad_rows_file": bad_rows_file},
        job=work.job.id,
    )
    await work.shop.datasets.register(dataset)
    await work.note(dataset=stored.digest, state="running")


async def _content(work: AtWork, file_id: str, param: str) -> Path:
    """An uploaded file's content, on this machine."""
    try:
        file = await work.shop.files.find(file_id, also_expired=True)
    except NotFound:
        code = f"invalid_{param}"
        raise JobFailed(code, f"the file {file_id} is not there any more; upload it again", param) from None
    return await work.upload(file)


async def _registered(work: AtWork) -> bool:
    """Whether the job has made its version, also if its tuner was lost before the job's row said so."""
    if work.job.version is None and (version := await made_by(work)) is not None:
        await work.note(version=version.number)
    return work.job.version is not None


async def _keep_verdict(work: AtWork, number: int, report: dict[str, Any]) -> None:
    """Have the version carry its gate's report; the report's page is no use to anybody else."""
    said: dict[str, Any] = {"passed": report["passed"], "report": report, "actor": actor_of(work.job.id)}
    judge, adapter = work.shop.registry.judge, work.order.adapter
    try:
        await work.insist(lambda: judge(adapter, number, **said, guard=work.guard))
    except RegistryError:
        await asyncio.to_thread(work.shop.store.remove, report["page"])
        raise


async def _verdict_before(work: AtWork, number: int) -> dict[str, Any] | None:
    """The report of this job's gate, if its tuner was lost after it was written."""
    record = await work.shop.registry.version_record(work.order.adapter, number)
    is_ours = record.created_by == actor_of(work.job.id) and record.verdict != "candidate"
    return record.report if is_ours else None


async def place_checkpoints(work: AtWork) -> tuple[int | None, int | None]:
    """Have the newest and the best checkpoint in the workspace, as the store has them; their steps.

    What else lies there may have been cut off half-way.
    """
    kept = await work.shop.events.kept_checkpoints(work.job.id)
    await asyncio.to_thread(shutil.rmtree, work.workspace.checkpoints, ignore_errors=True)
    for checkpoint in kept:
        assert checkpoint.digest is not None
        folder = await work.fetch(checkpoint.digest)
        await asyncio.to_thread(_copy, folder, work.workspace.checkpoint(checkpoint.step))
    if not kept:
        return None, None
    return kept[-1].step, next((each.step for each in kept if each.is_best), None)


def _copy(artifact: Path, folder: Path) -> None:
    """Have an artifact's files in a folder, and nothing else."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for file in artifact.iterdir():
        if file.name != MANIFEST:
            shutil.copyfile(file, folder / file.name)
