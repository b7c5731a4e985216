"""What the processes that train one adapter together must agree on. With one process alone, each is what it says."""

import os
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed

T = TypeVar("T")


def number() -> int:
    """Which of the processes this is, from 0."""
    return int(os.environ.get("RANK", "0"))


def is_first() -> bool:
    """Whether this is the process that speaks and writes files."""
    return number() == 0


def any_of_us(here: bool) -> bool:
    """Whether it holds in any process. All must ask at the same point, as each waits for the others."""
    if not _are_several():
        return here
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    found = torch.tensor(int(here), device=device)
    torch.distributed.all_reduce(found, op=torch.distributed.ReduceOp.MAX)
    return bool(found.item())


def wait_for_all() -> None:
    """Go on when every process has come here."""
    if _are_several():
        torch.distributed.barrier()


def as_the_first_has_it(read: Callable[[], T]) -> T:
    """What the first process reads, which alone has the files where they are of several machines."""
    if not _are_several():
        return read()
    values = [read() if is_first() else None]
    torch.distributed.broadcast_object_list(values, src=0)
    return values[0]  # type: ignore[return-value]  # the first one's is there by now


def _are_several() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
