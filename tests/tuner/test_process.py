"""A child process, as the worker runs it: heard, stopped when asked, and gone afterwards with all that it started."""

import asyncio
import os
import sys
from pathlib import Path

import psutil
import pytest
import uvloop

from tests.conftest import until
from tests.tuner.fake_child import Script
from tests.tuner.shops import command_of, tuner_settings
from tests.tuner.works import ORDER
from tuner.control import Control
from tuner.errors import Cause, ChildCrashed, Interrupted, JobFailed
from tuner.messages import Done, Message, Saved, Step
from tuner.process import Listener, run_child
from tuner.workspace import TrainTask, Workspace

GRACE_S: dict[Cause, float] = {"pause": 60.0, "shutdown": 60.0}


class Run:
    """A training of the fake child, with what it told."""

    def __init__(self, folder: Path, script: Script) -> None:
        self.workspace = Workspace(folder / "ftjob-1")
        self.workspace.dataset.mkdir(parents=True)
        (self.workspace.dataset / "train.jsonl").write_bytes(b"train")
        task = TrainTask(order=ORDER, base_model="base", start_from=None)
        self.workspace.write_task(task)
        self.control = Control()
        self.told: list[Message] = []
        self.hear: Listener = self._remember
        self._command = command_of(script)(tuner_settings(folder, ""), self.workspace, task)

    async def __call__(self) -> Done:
        """Run it to its end."""
        return await run_child(self._command, os.environ, self.hear, self.control, grace_s=GRACE_S)

    async def _remember(self, message: Message) -> None:
        self.told.append(message)

    @property
    def steps(self) -> list[int]:
        """The steps that it told of."""
        return [each.step for each in self.told if isinstance(each, Step)]

    @property
    def saved(self) -> list[int]:
        """The checkpoints that it told of."""
        return [each.step for each in self.told if isinstance(each, Saved)]

    def pid(self, name: str = "child") -> int:
        """A process that was started."""
        return int((self.workspace.folder / f"{name}.pid").read_text())


async def test_what_a_child_tells_is_heard_in_order(tmp_path: Path) -> None:
    """To its last word, whatever else it prints."""
    run = Run(tmp_path, Script(steps=3, prints="a progress bar\r\n{}\n", longest=3_000_000))
    assert (await run()).result == {"tokens": 300}
    assert run.steps == [1, 2, 3]
    assert not psutil.pid_exists(run.pid())


def test_a_child_is_heard_on_uvloop_too(tmp_path: Path) -> None:
    """On which `ostler tuner` runs, and whose own subprocesses know no process groups."""
    run = Run(tmp_path, Script(steps=3))
    assert uvloop.run(run()).result == {"tokens": 300}
    assert run.steps == [1, 2, 3]


async def test_a_child_that_fails_says_why(tmp_path: Path) -> None:
    """In words for the client."""
    with pytest.raises(JobFailed) as failed:
        await Run(tmp_path, Script(fails_at=2, fails_with="out_of_memory"))()
    assert (failed.value.code, failed.value.message) == ("out_of_memory", "it fails at step 2")


async def test_a_child_that_is_killed_has_crashed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By whom is told as far as it is known, and its last lines are in the log alone."""
    with pytest.raises(ChildCrashed, match="SIGKILL, as when memory runs out"):
        await Run(tmp_path, Script(dies_at=2, prints="the last line\n"))()
    assert "the last line" in caplog.text


async def test_a_command_that_does_not_start_has_crashed(tmp_path: Path) -> None:
    """It has an exit code and no last word."""

    async def hear(_message: Message) -> None:
        raise AssertionError("it says nothing")

    command = (sys.executable, "-c", "raise SystemExit(3)")
    with pytest.raises(ChildCrashed, match="exit code 3"):
        await run_child(command, os.environ, hear, Control(), grace_s={})


@pytest.mark.parametrize("cause", ["pause", "shutdown"])
async def test_a_child_that_is_stopped_saves_what_it_has(tmp_path: Path, cause: str) -> None:
    """After its step, and so the last step that it told of is the one that it saved."""
    run = Run(tmp_path, Script(steps=10_000, step_s=0.01, checkpoint_every=10_000))
    running = asyncio.create_task(run())
    await until(lambda: run.steps)
    run.control.stop(cause)  # type: ignore[arg-type]
    with pytest.raises(Interrupted) as interrupted:
        await running
    assert interrupted.value.cause == cause
    assert run.saved == [run.steps[-1]]


@pytest.mark.parametrize("cause", ["cancel", "lost"])
async def test_a_child_whose_work_nobody_wants_is_killed(tmp_path: Path, cause: str) -> None:
    """At once: it has nothing to save."""
    run = Run(tmp_path, Script(hangs_at=3))
    running = asyncio.create_task(run())
    await until(lambda: run.steps)
    run.control.stop(cause)  # type: ignore[arg-type]
    with pytest.raises(Interrupted):
        await asyncio.wait_for(running, 10)
    assert not psutil.pid_exists(run.pid())


async def test_a_deaf_child_is_killed_after_its_grace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever pauses a job need not wait for ever."""
    monkeypatch.setitem(GRACE_S, "pause", 0.2)
    run = Run(tmp_path, Script(steps=100_000, step_s=0.01, is_deaf=True))
    running = asyncio.create_task(run())
    await until(lambda: run.steps)
    run.control.stop("pause")
    with pytest.raises(Interrupted):
        await asyncio.wait_for(running, 10)
    assert not psutil.pid_exists(run.pid())


@pytest.mark.parametrize("cause", ["pause", "shutdown"])
async def test_a_child_that_has_done_no_step_is_killed(tmp_path: Path, cause: str) -> None:
    """It has nothing to save, and a large model takes minutes to load."""
    run = Run(tmp_path, Script(load_s=600))
    running = asyncio.create_task(run())
    await until(lambda: run.told)
    run.control.stop(cause)  # type: ignore[arg-type]
    with pytest.raises(Interrupted) as interrupted:
        await asyncio.wait_for(running, 5)
    assert interrupted.value.cause == cause
    assert not psutil.pid_exists(run.pid())


async def test_a_cancel_ends_the_grace_of_a_pause(tmp_path: Path) -> None:
    """What is paused may still be cancelled, and is so at once."""
    run = Run(tmp_path, Script(hangs_at=2))
    running = asyncio.create_task(run())
    await until(lambda: run.steps)
    run.control.stop("pause")
    await asyncio.sleep(0)
    run.control.stop("cancel")
    with pytest.raises(Interrupted) as interrupted:
        await asyncio.wait_for(running, 10)
    assert interrupted.value.cause == "cancel"


@pytest.mark.parametrize("script", [Script(leaves=True), Script(leaves=True, dies_at=2)], ids=["done", "killed"])
async def test_nothing_that_a_child_started_is_left(tmp_path: Path, script: Script) -> None:
    """Nor does it hold up the end by holding the child's output."""
    run = Run(tmp_path, script)
    outcome = await asyncio.wait_for(asyncio.gather(run(), return_exceptions=True), 20)
    assert isinstance(outcome[0], Done | ChildCrashed)
    await until(lambda: is_gone(run.pid("left")))


async def test_a_child_that_somebody_else_stops_gives_the_job_back(tmp_path: Path) -> None:
    """As when a service manager sends SIGTERM to each process of the tuner."""
    run = Run(tmp_path, Script(steps=10_000, step_s=0.01))
    running = asyncio.create_task(run())
    await until(lambda: run.steps)
    psutil.Process(run.pid()).terminate()
    with pytest.raises(Interrupted) as interrupted:
        await running
    assert interrupted.value.cause == "shutdown"
    assert run.saved[-1] == run.steps[-1]


async def test_a_listener_that_fails_ends_the_child(tmp_path: Path) -> None:
    """What it raises comes through."""
    run = Run(tmp_path, Script(hangs_at=2))

    async def refuse(_message: Message) -> None:
        raise OSError("no")

    run.hear = refuse
    with pytest.raises(OSError, match="no"):
        await asyncio.wait_for(run(), 10)
    assert is_gone(run.pid())


def is_gone(pid: int) -> bool:
    """Whether a process has ended, though nobody may have taken its exit code yet."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
