"""Every row that cannot be used, as a file of JSON lines: however many there are, none of them is held in memory."""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import msgspec

from tuner.errors import StoppedAt

MOST = 1_000_000
"""A line of two bytes has a reason of a hundred, and nobody reads more of them than this."""
FileName = Literal["training", "validation"]


class BadRow(msgspec.Struct, frozen=True):
    """Which line of which file it is, counted from 1, and why it cannot be used; nothing of it is repeated."""

    file: FileName
    line: int
    reason: str


class BadRows:
    """Writes them down as they come, the first `MOST` of them."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Self:
        """Begin an empty file."""
        self._file = self._path.open("wb")
        self._written = 0
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Have it on disk, also where the rows are of no use; of what was stopped nothing is kept."""
        self._file.close()
        if isinstance(error, StoppedAt):
            self._path.unlink()

    def add(self, file: FileName, line: int, reason: str) -> None:
        """Write one down."""
        if self._written < MOST:
            self._file.write(msgspec.json.encode(BadRow(file, line, reason)) + b"\n")
            self._written += 1


def read_bad_rows(path: Path) -> Iterator[BadRow]:
    """What was written down, in its order."""
    with path.open("rb") as file:
        for line in file:
            yield msgspec.json.decode(line, type=BadRow)
