"""Several processes train together: who speaks, how they stop, and that nothing of them stays behind."""

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.conftest import until
from tests.ports import free_port
from tests.tuner.training.samples import Ear, order, task, workspace_of
from tuner.control import Control
from tuner.errors import ChildCrashed, Interrupted, JobFailed
from tuner.messages import Done, Evaluated, Message, Step
from tuner.nodes import Nodes
from tuner.process import run_child
from tuner.training.launch import several

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


class _Several:
    """Processes of `tests.tuner.training.rank`, two or of one machine of two, started as the worker starts them."""

    def __init__(self, folder: Path, *arguments: str, nodes: Nodes | None = None) -> None:
        self.heard: list[Message] = []
        self.control = Control()
        self._folder = folder
        command = several(2 if nodes is None else 1, ("-m", "tests.tuner.training.rank", str(folder), *arguments))
        environment = ENVIRONMENT if nodes is None else ENVIRONMENT | _told(nodes)
        self.run = asyncio.create_task(
            run_child(command, environment, self._hear, self.control, grace_s={"pause": 30.0}), name="several"
        )

    async def _hear(self, message: Message) -> None:
        self.heard.append(message)

    async def until_they_step(self) -> list[psutil.Process]:
        """The two processes, once they have done some steps."""
        await until(lambda: sum(isinstance(each, Step) for each in self.heard) > 3 or self.run.done(), 60)
        assert not self.run.done(), self.run.result()
        return [psutil.Process(int((self._folder / f"{rank}.pid").read_text())) for rank in range(2)]


def _told(nodes: Nodes) -> dict[str, str]:
    """What a machine among several is told."""
    told = {"NNODES": nodes.count, "NODE_RANK": nodes.rank, "MASTER_ADDR": nodes.address, "MASTER_PORT": nodes.port}
    return {f"PET_{name}": str(value) for name, value in told.items()}


def _all_gone(processes: list[psutil.Process]) -> Callable[[], bool]:
    return lambda: not any(map(_is_alive, processes))


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_all_stop_after_the_same_step(tmp_path: Path) -> None:
    """SIGTERM stops both after one step, only the first has spoken, and nothing that libraries print is heard."""
    several_ = _Several(tmp_path)
    processes = await several_.until_they_step()
    several_.control.stop("pause")
    with pytest.raises(Interrupted):
        await several_.run
    assert (tmp_path / "0.stopped").read_text() == (tmp_path / "1.stopped").read_text()
    assert all(each.extra == {"rank": 0.0} for each in several_.heard if isinstance(each, Step))
    await until(_all_gone(processes))


async def test_a_cancelled_job_leaves_no_process(tmp_path: Path) -> None:
    """Killing what the worker started closes a pipe, which ends the processes in sessions of their own, too."""
    several_ = _Several(tmp_path)
    processes = await several_.until_they_step()
    several_.control.stop("cancel")
    with pytest.raises(Interrupted):
        await several_.run
    await until(_all_gone(processes))
    assert not (tmp_path / "0.stopped").exists()


async def test_what_fails_in_one_process_fails_the_job(tmp_path: Path) -> None:
    """The second process says why it failed, and the first does not wait for it for ever."""
    several_ = _Several(tmp_path, "1")
    with pytest.raises(JobFailed, match="memory ran out in process 1"):
        await several_.run


async def test_a_machine_that_is_gone_ends_the_others_without_a_last_word(tmp_path: Path) -> None:
    """So the job is tried again, rather than that it fails for what is no fault of its own."""
    port = free_port()
    machines = [_Several(tmp_path, nodes=Nodes(2, rank, "localhost", port)) for rank in range(2)]
    _, second = await machines[0].until_they_step()
    second.kill()
    for machine in machines:
        with pytest.raises(ChildCrashed):
            await machine.run


async def _heard(folder: Path, processes: int) -> Ear:
    """What a short training in so many processes tells."""
    workspace, ear = workspace_of(folder, rows=64, validation=7), Ear()
    workspace.write_task(task(order(epochs=1, batch=8), threads=1))

    async def hear(message: Message) -> None:
        ear(message)

    module = ("-m", "tuner.child", str(folder))
    command = several(processes, module) if processes > 1 else (sys.executable, *module)
    await run_child(command, ENVIRONMENT, hear, Control(), grace_s={})
    assert len(ear.of(Done)) == 1
    assert (workspace.adapter / "probes.json").is_file()
    return ear


async def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    """Shared out, a batch gives the same steps and the same validation loss, also of rows that cannot be shared out."""
    alone, together = await _heard(tmp_path / "one", 1), await _heard(tmp_path / "two", 2)
    one, two = alone.of(Step), together.of(Step)
    assert [each.step for each in two] == [each.step for each in one] == list(range(1, 9))
    assert [each.tokens for each in two] == [each.tokens for each in one]
    assert [each.loss for each in two] == pytest.approx([each.loss for each in one], rel=1e-4)
    assert [each.gradient_norm for each in two] == pytest.approx([each.gradient_norm for each in one], rel=1e-3)
    losses = [each.loss for each in alone.of(Evaluated)]
    assert len(losses) == 2
    assert [each.loss for each in together.of(Evaluated)] == pytest.approx(losses, rel=1e-4)
