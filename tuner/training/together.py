"""What the processes that train one adapter together must agree on. With one process alone, each is what it says."""

import os

import torch
import torch.distributed


def number() -> int:
    """Which of the processes this is, from 0."""
    return int(os.environ.get("RANK", "0"))


def is_first() -> bool:
    """Whether this is the process that speaks and writes files."""
    return number() == 0


def any_of_us(here: bool) -> bool:
    """Whether it holds in any process. All must ask at the same point, as each waits for the others."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return here
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    found = torch.tensor(int(here), device=device)
    torch.distributed.all_reduce(found, op=torch.distributed.ReduceOp.MAX)
    return bool(found.item())


def wait_for_all() -> None:
    """Go on when every process has come here."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
