"""Training on several GPUs of one machine: `accelerate launch`, with the model's weights shared out by FSDP."""

import sys
from collections.abc import Sequence


def several(processes: int, module: Sequence[str]) -> Sequence[str]:
    """The command that runs a module (as ``-m name arguments``) in that many processes."""
    return (
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--num_processes",
        str(processes),
        "--num_machines",
        "1",
        "--use_fsdp",
        "--fsdp_version",
        "2",
        "--dynamo_backend",
        "no",
        *module,
    )
