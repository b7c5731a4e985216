"""Training on several GPUs, of one machine or of several: `accelerate launch`, with the weights shared out by FSDP.

A launcher starts its processes in sessions of their own, where signals to a process group do not reach them, and gives
them half a minute at most to end. So this module stands between, as the process that the worker starts and stops:

    worker --(stdin, SIGTERM)--> python -m tuner.training.launch N -m MODULE ... --(stdin)--> accelerate, N processes

SIGTERM becomes a line on their standard input, which asks them to stop after this step. When this process ends, however
it does, that pipe closes, and they end themselves; `tuner.telling` is their side of it.

Several machines each run this, for their own processes; the launchers meet at the first one's address (`tuner.nodes`).
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from types import FrameType

from tuner.nodes import PREFIX, Nodes

_STOP = b"stop\n"
_MEETING_S = 1800
"""How long the launchers of several machines wait for each other: each fetches the data and checkpoints first."""


def several(processes: int, module: Sequence[str]) -> Sequence[str]:
    """The command that runs a module (as ``-m name arguments``) in that many processes."""
    return (sys.executable, "-m", "tuner.training.launch", str(processes), *module)


def main() -> int:
    """Run the module of the command line in several processes; their exit code."""
    theirs, ours = os.pipe()

    def ask_to_stop(_number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(BrokenPipeError):
            os.write(ours, _STOP)

    signal.signal(signal.SIGTERM, ask_to_stop)
    # A group of its own keeps SIGTERM from the launcher, which would kill its processes half a minute later.
    command = _accelerate(int(sys.argv[1]), sys.argv[2:], Nodes.of_this_process())
    # The launcher would take torchrun's variables for its own, which are told it in its arguments.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    launcher = subprocess.Popen(command, stdin=theirs, process_group=0, env=environment)
    os.close(theirs)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    return launcher.wait()


def _accelerate(processes: int, module: Sequence[str], nodes: Nodes) -> Sequence[str]:
    return (
        *(sys.executable, "-m", "accelerate.commands.launch"),
        *("--num_processes", str(processes * nodes.count)),
        *_meeting(nodes),
        *("--mixed_precision", "no"),  # the trainer's own arguments say it
        *("--dynamo_backend", "no"),
        *("--log_dir", os.devnull),
        "--use_fsdp",
        *("--fsdp_version", "2"),
        *("--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP"),
        *("--fsdp_state_dict_type", "FULL_STATE_DICT"),  # checkpoints as one process writes them
        *("--fsdp_cpu_ram_efficient_loading", "false"),
        *module,
    )


def _meeting(nodes: Nodes) -> Sequence[str]:
    """Where the launchers of several machines meet. The first one's processes come first, as they write the files."""
    if nodes.count == 1:
        return ("--num_machines", "1", "--main_process_port", "0")  # a free one, as another job may train here
    return (
        *("--num_machines", str(nodes.count), "--machine_rank", str(nodes.rank)),
        *("--main_process_ip", nodes.address, "--main_process_port", str(nodes.port)),
        *("--same_network", "--rdzv_backend", "static", "--rdzv_conf", f"timeout={_MEETING_S}"),
    )


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1 << 12):
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
