"""Rows on disk, found again by their position, so that only what is known of a row is held in memory."""

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from monitors.teaching.fingerprints import Fingerprint
from monitors.teaching.rows import Row
from registry.tuning.orders import Method
from tuner.data.reading import decode, encode
from tuner.data.report import NO_LABEL


@dataclass(frozen=True, slots=True)
class Shelved:
    """What is known of a row on disk.

    Attributes:
        position, length: where its line stands in the file, in bytes.
        fingerprint: what it is.
        label: empty where it has none.
        source: where its answer came from.
        tokens, learned: how many tokens it has, and how many of them are learned; 0 where it was not measured.
        is_validation: whether it came in the validation file.
    """

    position: int
    length: int
    fingerprint: Fingerprint
    label: str
    source: str
    tokens: int
    learned: int
    is_validation: bool


class Shelf:
    """A file of rows, in the order in which they were put down."""

    def __init__(self, path: Path, method: Method) -> None:
        self._path = path
        self.method = method

    def __enter__(self) -> Self:
        """Begin an empty one."""
        self._file = self._path.open("w+b")
        self._end = 0
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Throw it away."""
        self._file.close()
        self._path.unlink(missing_ok=True)

    def put(
        self, row: Row, fingerprint: Fingerprint, size: tuple[int, int] = (0, 0), *, is_validation: bool = False
    ) -> Shelved:
        """Put down a row, of so many tokens."""
        line = encode(row)
        self._file.seek(self._end)
        self._file.write(line)
        shelved = Shelved(self._end, len(line), fingerprint, row.label or NO_LABEL, row.source, *size, is_validation)
        self._end += len(line)
        return shelved

    def line(self, shelved: Shelved) -> bytes:
        """A row as it is spelt."""
        self._file.seek(shelved.position)
        return self._file.read(shelved.length)

    def row(self, shelved: Shelved) -> Row:
        """A row."""
        return decode(self.line(shelved), self.method)
