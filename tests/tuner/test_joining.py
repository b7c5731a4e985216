"""A machine that trains along: it waits for the first one's training, takes part, and ends with it."""

import asyncio
import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from registry.database import connect
from tests.conftest import until
from tests.registry.tuning.checkpoints import add_checkpoint
from tests.tuner.fake_child import Script, dataset_files
from tests.tuner.shops import CONTENT, GOOD, ask, command_of, job_of, messages, shop_of, stages, tuner_settings
from tuner.control import Control
from tuner.joining import Along
from tuner.nodes import Nodes
from tuner.settings import TunerSettings
from tuner.shop import Shop
from tuner.single import GIVEN_BACK, NOT_THERE
from tuner.sweeping import sweep
from tuner.worker import Worker
from tuner.workspace import Task, TrainTask, Workspace

NAME = "ostler-1-2"
HOLDER = f"{NAME}-0123456789ab"
SECOND = Nodes(2, 1, "localhost", 29500)
SLOW = Script(steps=400, step_s=0.05)


class Watched:
    """Starts fake children, and keeps what their task was and what lay in their workspace."""

    def __init__(self, script: Script) -> None:
        self.tasks: list[Task] = []
        self.files: set[str] = set()
        self._command = command_of(script)

    def __call__(self, settings: TunerSettings, workspace: Workspace, task: Task) -> Any:
        """The command."""
        self.tasks.append(task)
        found = (path.relative_to(workspace.folder) for path in workspace.folder.rglob("*") if path.is_file())
        self.files = {str(path) for path in found}
        return self._command(settings, workspace, task)


@pytest.fixture
def shop(tmp_path: Path, sqlite_template: Path) -> Shop:
    """What the machines share."""
    file = tmp_path / "ostler.db"
    file.write_bytes(sqlite_template.read_bytes())
    url = f"sqlite:///{file}"
    return shop_of(tuner_settings(tmp_path, url, tuner_name=NAME), connect(url))


def along(shop: Shop, job_id: str, script: Script = GOOD, **settings: Any) -> tuple[Along, Watched, Control]:
    """The second machine, with its own cache."""
    watched, control = Watched(script), Control()
    own = shop.settings.model_copy(update={"cache": shop.settings.cache.parent / "second", **settings})
    second = dataclasses.replace(shop, settings=own, child_command=watched)
    return Along(second, shop.jobs._engine, job_id, SECOND, control), watched, control


async def preparing(shop: Shop) -> str:
    """A job that the first machine has claimed."""
    job_id = await ask(shop)
    assert await shop.jobs.claim(HOLDER, bases=["tiny"], lease_s=60.0) is not None
    return job_id


async def training(shop: Shop, **values: Any) -> str:
    """A job that the first machine trains."""
    job_id = await preparing(shop)
    digest = shop.store.put_files(dataset_files(CONTENT)).digest
    await shop.jobs.note(job_id, HOLDER, stage="training", state="running", dataset=digest, **values)
    return job_id


async def test_it_trains_on_what_the_first_one_trains_on(shop: Shop) -> None:
    """The dataset and the checkpoints come from the store; it tells nothing and leaves nothing behind."""
    job_id = await preparing(shop)
    checkpoint = shop.store.put_files({"state.json": b'{"step": 4}'})
    await add_checkpoint(shop.events, job_id, 4, checkpoint.digest, {}, is_best=True)
    machine, watched, _ = along(shop, job_id)
    joining = asyncio.create_task(machine.run())
    digest = shop.store.put_files(dataset_files(CONTENT)).digest
    said = await messages(shop, job_id)
    assert not watched.tasks
    await shop.jobs.note(job_id, HOLDER, stage="training", state="running", dataset=digest)
    assert await asyncio.wait_for(joining, 30) == 0
    (task,) = watched.tasks
    assert isinstance(task, TrainTask)
    assert (task.resume_step, task.best_step) == (4, 4)
    assert watched.files >= {"dataset/train.jsonl", "dataset/about.json", "checkpoints/checkpoint-4/state.json"}
    assert await messages(shop, job_id) == said
    assert not list(machine._shop.settings.work.glob("*"))
    assert (await job_of(shop, job_id)).worker == HOLDER


async def test_both_take_a_job_to_its_success(shop: Shop) -> None:
    """The first one goes on alone after training."""
    job_id = await ask(shop)
    machine, watched, _ = along(shop, job_id, Script(step_s=0.02))
    joining = asyncio.create_task(machine.run())
    first = dataclasses.replace(shop, child_command=command_of(Script(steps=20, step_s=0.05)))
    assert await Worker(first, stages()).do(job_id) == "succeeded"
    assert await asyncio.wait_for(joining, 30) == 0
    assert len(watched.tasks) == 1


async def over(shop: Shop, job_id: str) -> None:
    """The first machine goes on to the next stage."""
    await shop.jobs.note(job_id, HOLDER, stage="registering")


async def given_back(shop: Shop, job_id: str) -> None:
    """The first machine has to stop."""
    await shop.jobs.end(job_id, HOLDER, "queued", "The tuner shuts down")


async def cancelled(shop: Shop, job_id: str) -> None:
    """A person has had enough."""
    await shop.jobs.end(job_id, HOLDER, "cancelled", "The job was cancelled")


@pytest.mark.parametrize("event", [over, given_back, cancelled])
async def test_it_ends_when_the_first_one_has_left_the_training(shop: Shop, event: Callable[..., Any]) -> None:
    """However it did; nothing is left running."""
    job_id = await training(shop)
    machine, watched, _ = along(shop, job_id, SLOW)
    joining = asyncio.create_task(machine.run())
    await until(lambda: watched.tasks)
    await event(shop, job_id)
    assert await asyncio.wait_for(joining, 30) == 0


async def test_a_failure_of_looking_gives_its_part_back(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would train on for ever, as it sees no end any more."""
    job_id = await training(shop)
    machine, watched, _ = along(shop, job_id, SLOW)
    joining = asyncio.create_task(machine.run())
    await until(lambda: watched.tasks)
    monkeypatch.setattr(Along, "_phase", lambda _machine, _job: 1 // 0)
    assert await asyncio.wait_for(joining, 30) == GIVEN_BACK


async def test_sigterm_ends_it_after_its_step(shop: Shop) -> None:
    """Its part is given back; the first one hears of it by the training itself."""
    job_id = await training(shop)
    machine, watched, control = along(shop, job_id, SLOW)
    joining = asyncio.create_task(machine.run())
    await until(lambda: watched.tasks)
    control.stop("shutdown")
    assert await asyncio.wait_for(joining, 30) == GIVEN_BACK


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (Script(fails_at=1, fails_with="out_of_memory"), "it fails at step 1"),
        (Script(dies_at=1), "the process that did it ended unexpectedly (SIGKILL, as when memory runs out)"),
    ],
)
async def test_what_fails_here_is_told_with_the_machines_number(shop: Shop, script: Script, says: str) -> None:
    """The first one sees no more than that this one is gone; the code has the cluster end the others."""
    job_id = await training(shop)
    machine, _, _ = along(shop, job_id, script)
    assert await asyncio.wait_for(machine.run(), 30) == 1
    said = (await messages(shop, job_id))[-1]
    assert said == f"Training failed on the machine 1 of 2, counted from 0: {says}"


async def test_a_job_that_the_first_one_never_takes_is_not_waited_for_for_ever(shop: Shop) -> None:
    """Nor one that another tuner has taken, nor one that is over or unknown."""
    job_id = await ask(shop)
    assert await along(shop, job_id, tuner_claim_s=0.1)[0].run() == NOT_THERE
    await shop.jobs.claim("another-0123456789ab", bases=["tiny"], lease_s=60.0)
    assert await along(shop, job_id, tuner_claim_s=0.1)[0].run() == NOT_THERE
    assert await along(shop, "ftjob-none")[0].run() == 0


async def test_a_job_that_is_given_back_before_it_trained_is_not_waited_for(shop: Shop) -> None:
    """Its next turn has machines of its own."""
    job_id = await preparing(shop)
    machine, watched, _ = along(shop, job_id)
    joining = asyncio.create_task(machine.run())
    await until(lambda: machine._last == "preparing")
    await given_back(shop, job_id)
    assert await asyncio.wait_for(joining, 30) == GIVEN_BACK
    assert not watched.tasks


async def test_what_a_killed_machine_left_is_swept_when_its_job_has_ended(shop: Shop) -> None:
    """Not before: it may be another machine's, in a cache that they share."""
    job_id = await ask(shop)
    left = shop.settings.work / f"{job_id}.1"
    left.mkdir(parents=True)
    await sweep(shop)
    assert left.exists()
    await shop.jobs.wish(job_id, "cancel", actor="ann")
    await sweep(shop)
    assert not left.exists()


async def test_a_machine_that_had_to_stop_counts(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a second machine that cannot do its part would have the job tried again for ever."""
    for name, value in {"NNODES": "2", "NODE_RANK": "0", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(f"PET_{name}", value)
    job_id = await ask(shop)
    worker = Worker(dataclasses.replace(shop, child_command=command_of(Script(prepare_s=60.0))), stages())
    doing = asyncio.create_task(worker.do(job_id))
    await until(lambda: list(shop.settings.work.glob("ftjob-*/child.pid")), 30)
    worker.stop()
    assert await asyncio.wait_for(doing, 30) == "tried_again"
    assert (await job_of(shop, job_id)).attempt == 1
    assert "one of the machines that train together had to stop" in (await messages(shop, job_id))[-1]


def test_a_failure_nobody_foresaw_is_tried_again_where_machines_train_together(tmp_path: Path) -> None:
    """The other machine may be why: the child ends without a last word."""
    workspace = Workspace(tmp_path)
    workspace.make()
    workspace.task_file.write_bytes(b"{}")
    for count, is_silent in (("1", False), ("2", True)):
        with subprocess.Popen(
            [sys.executable, "-m", "tuner.child", str(tmp_path)],
            env={"GROUP_WORLD_SIZE": count, "PYTHONPATH": ":".join(sys.path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            process_group=0,
        ) as child:
            assert child.wait(60) == 1
            assert child.stdout is not None
            assert (child.stdout.read() == b"") is is_silent
