"""The command line of a task's child process, alone or on several GPUs, of this machine or of several."""

import sys
from collections.abc import Sequence

from tuner.nodes import Nodes
from tuner.settings import TunerSettings
from tuner.training.launch import several
from tuner.workspace import Task, TrainTask, Workspace


def child_command(settings: TunerSettings, workspace: Workspace, task: Task) -> Sequence[str]:
    """How to start the child that does the task which lies in the workspace."""
    module = ("-m", "tuner.child", str(workspace.folder))
    is_shared = settings.tuner_processes > 1 or Nodes.of_this_process().count > 1
    if isinstance(task, TrainTask) and is_shared:
        return several(settings.tuner_processes, module)
    return (sys.executable, *module)
