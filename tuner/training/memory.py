"""A batch that does not fit in memory goes through in parts, and its gradients are added up."""

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from tuner.errors import JobFailed

T = TypeVar("T")

_WORDS = ("out of memory", "not enough memory", "can't allocate memory")


def is_memory_short(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice: the GPU's, or this machine's."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _WORDS)


def within_memory(
    attempt: Callable[[int], T], rows_at_once: int, share: int, warn: Callable[[int], None], *, alone: bool = True
) -> T:
    """What an attempt gives with as many rows at once as fit.

    Args:
        attempt: does the work with so many rows at once, going on from what earlier attempts have saved.
        rows_at_once: for the first attempt.
        share: rows of a batch that are this process' own; what is tried divides it.
        warn: is told of fewer rows before they are tried.
        alone: whether this process trains alone. Others would wait for it in the middle of a step, so with them it
            fails at once.

    Raises:
        JobFailed: not even one row fits, or others train along.
    """
    while True:
        try:
            return attempt(rows_at_once)
        except (RuntimeError, MemoryError) as error:
            if not is_memory_short(error):
                raise
        # Only here, where the error and the tensors in its frames are gone, can memory be free again.
        release()
        if not alone:
            raise JobFailed("out_of_memory", _NOT_ALONE, "batch_size")
        if rows_at_once == 1:
            raise JobFailed("out_of_memory", _HOPELESS)
        rows_at_once = largest_divisor(share, rows_at_once // 2)
        warn(rows_at_once)


def largest_divisor(number: int, most: int) -> int:
    """The largest divisor of a number that is not above `most`."""
    return next(divisor for divisor in range(most, 0, -1) if number % divisor == 0)


_NOT_ALONE = (
    "a batch does not fit into the memory of the GPUs that train together, where it is not split by itself; lower "
    "`batch_size`, or shorten the longest rows (`longest`)"
)
_HOPELESS = (
    "not even one row at a time fits in memory; shorten the longest rows (`longest`), quantize the base "
    '(`quantization`: "nf4"), or take a smaller rank'
)


def release() -> None:
    """Give back what no tensor holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
