"""The entry point of child processes: `python -m tuner.child FOLDER` does the task that lies in a workspace.

They alone import torch and its kind, so that the worker stays small and whatever ends them ends nothing else.
"""

import os
import sys
import traceback
from pathlib import Path
from typing import Any

from tuner.errors import JobFailed, StoppedAt
from tuner.fullness import is_full
from tuner.messages import Done, Failed, Message, Stopped
from tuner.telling import Teller
from tuner.workspace import CheckTask, PrepareTask, Task, Workspace


def main() -> int:
    """Do the task and say how it went; the exit code."""
    workspace, teller = Workspace(Path(sys.argv[1])), Teller()
    outcome = _outcome(workspace, teller)
    teller(outcome)
    return int(isinstance(outcome, Failed))  # of several processes, the others are ended by their launcher then


def _outcome(workspace: Workspace, teller: Teller) -> Message:
    """What became of the task, as the last word."""
    try:
        return Done(_do(workspace.read_task(), workspace, teller))
    except StoppedAt as stopped:
        return Stopped(stopped.step)
    except JobFailed as failed:
        return Failed(failed.code, failed.message, failed.param)
    except MemoryError:
        return Failed("out_of_memory", "the tuner's memory did not suffice; take a smaller base, rank or context")
    except Exception as error:
        traceback.print_exc()
        if is_full(error, workspace.folder):
            return Failed("disk_full", "the tuner's disk is full; free some space and ask again")
        if int(os.environ.get("GROUP_WORLD_SIZE", "1")) > 1:
            raise  # another machine that is gone may be the reason, and trying again may help
        why = f"it failed inside the tuner ({type(error).__name__}); the tuner's log says more"
        return Failed("training_failed", why)


def _do(task: Task, workspace: Workspace, teller: Teller) -> dict[str, Any]:
    # Imported here, because each task needs other heavy libraries.
    if isinstance(task, PrepareTask):
        from tuner.data.prepare import prepare

        return prepare(task, workspace, teller)
    if isinstance(task, CheckTask):
        from tuner.training.check import check

        return check(task)
    from tuner.training.train import train

    return train(task, workspace, teller)


if __name__ == "__main__":
    sys.exit(main())
