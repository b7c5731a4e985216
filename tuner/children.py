"""Starts the child process of a task, alone or on several GPUs."""

import os
import sys
from collections.abc import Sequence

from tuner.messages import Done, Message, Told
from tuner.process import Listener, run_child
from tuner.shop import AtWork
from tuner.training.launch import several
from tuner.workspace import Task, TrainTask

_GRACE_S = 600.0
"""A step of a large model and its checkpoint take minutes; whoever cannot wait that long kills the tuner."""
_ENVIRONMENT = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads take the core from those that they wait for
    "PYTHONHASHSEED": "0",  # sets keep their order, so the same job gives the same bytes
    "TOKENIZERS_PARALLELISM": "false",
}


async def run_task(work: AtWork, task: Task, listen: Listener | None = None) -> Done:
    """Have a child do a task; what it tells goes to the job's events, or else to `listen`.

    Raises:
        JobFailed, Interrupted, ChildCrashed
    """
    work.workspace.write_task(task)

    async def hear(message: Message) -> None:
        if isinstance(message, Told):
            await work.tell(message.message, message.level)
        elif listen is not None:
            await listen(message)

    environment = os.environ | _ENVIRONMENT
    return await run_child(_command(work, task), environment, hear, work.control, grace_s=_GRACE_S)


def _command(work: AtWork, task: Task) -> Sequence[str]:
    module = ("-m", "tuner.child", str(work.workspace.folder))
    if isinstance(task, TrainTask) and work.shop.settings.tuner_processes > 1:
        return several(work.shop.settings.tuner_processes, module)
    return (sys.executable, *module)
