"""A batch that does not fit goes through in parts."""

import pytest
import torch

from tuner.errors import JobFailed
from tuner.training.memory import is_memory_short, largest_divisor, within_memory


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_an_error_of_memory_is_told_from_others(error: Exception, short: bool) -> None:
    """By its kind, and by torch's words."""
    assert is_memory_short(error) is short


def test_torch_really_says_so() -> None:
    """What this torch raises when an allocation fails is recognised."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_memory_short(caught.value)


@pytest.mark.parametrize(("share", "tried"), [(16, [16, 8, 4]), (12, [12, 6, 3]), (15, [15, 5, 1]), (7, [7, 1])])
def test_it_is_halved_until_it_fits_and_divides_the_batch(share: int, tried: list[int]) -> None:
    """Each attempt has at most half of the rows of the one before, and parts of equal size."""
    attempts: list[int] = []
    warned: list[int] = []

    def attempt(rows: int) -> int:
        attempts.append(rows)
        if rows > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return rows

    assert within_memory(attempt, share, share, warned.append) == tried[-1]
    assert attempts == tried
    assert warned == tried[1:]


def test_a_single_row_that_does_not_fit_fails_the_job() -> None:
    """The message says what to lower."""

    def attempt(_rows: int) -> int:
        raise MemoryError

    with pytest.raises(JobFailed, match="longest rows") as caught:
        within_memory(attempt, 4, 4, lambda _rows: None)
    assert caught.value.code == "out_of_memory"


def test_other_errors_are_not_tried_again() -> None:
    """They come through as they are."""

    def attempt(_rows: int) -> int:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        within_memory(attempt, 4, 4, lambda _rows: None)


def test_largest_divisor() -> None:
    """At most as large as asked for."""
    assert [largest_divisor(12, most) for most in (12, 7, 5, 1)] == [12, 6, 4, 1]


def test_where_others_train_along_a_batch_is_not_split() -> None:
    """They would wait in the middle of a step, so it fails at once and says what to lower."""
    attempts = []

    def attempt(rows: int) -> int:
        attempts.append(rows)
        raise MemoryError

    with pytest.raises(JobFailed, match="lower `batch_size`") as caught:
        within_memory(attempt, 4, 4, lambda _rows: None, alone=False)
    assert caught.value.code == "out_of_memory"
    assert attempts == [4]
