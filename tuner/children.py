"""Has a child process do a task of a job, and hands on what it tells."""

import os
import re
from collections.abc import Mapping

from tuner.errors import Cause
from tuner.messages import Done, Message, Told
from tuner.process import Listener, run_child
from tuner.settings import TunerSettings
from tuner.shop import AtWork
from tuner.workspace import Task, TrainTask

_LONGEST_STEP_S = 600.0
"""A step of a large model and its checkpoint take minutes, and whoever pauses a job is not in a hurry."""
_ENGINE_NEEDS_S = 20.0
"""The engine is woken in a minute at most, and must find its memory free by then."""
_ENVIRONMENT = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads take the core from those that they wait for
    "PYTHONHASHSEED": "0",  # sets keep their order, so the same job gives the same bytes
    "TOKENIZERS_PARALLELISM": "false",
}
_SECRET = re.compile(r"^(OSTLER|AWS|AZURE|GOOGLE)_|(KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS)$", re.IGNORECASE)
_KEPT = frozenset(
    {
        "HF_TOKEN",  # for a base model of the hub
        "HUGGING_FACE_HUB_TOKEN",
        "OSTLER_LEASH",  # the mark by which `ostler up` finds what outlives it
    }
)


async def run_task(work: AtWork, task: Task, listen: Listener | None = None) -> Done:
    """Have a child do a task; what it tells goes to `listen`, or else what is worth reading to the job's events.

    Raises:
        JobFailed, Interrupted, ChildCrashed
    """
    work.workspace.write_task(task)

    async def tell(message: Message) -> None:
        if isinstance(message, Told):
            await work.tell(message.message, message.level)

    shop = work.shop
    command = shop.child_command(shop.settings, work.workspace, task)
    grace_s = _grace_s(shop.settings, task)
    return await run_child(command, _environment(), listen or tell, work.control, grace_s=grace_s)


def _environment() -> dict[str, str]:
    """This process' environment without settings and secrets: all that a child must know of them is in its task."""
    own = {name: value for name, value in os.environ.items() if name in _KEPT or not _SECRET.search(name)}
    return own | _ENVIRONMENT


def _grace_s(settings: TunerSettings, task: Task) -> Mapping[Cause, float]:
    """How long a child may go on when its job is to stop; only training has something to save."""
    if not isinstance(task, TrainTask):
        return {}
    return {"pause": _LONGEST_STEP_S, "shutdown": settings.tuner_stop_s, "engine": _ENGINE_NEEDS_S}
