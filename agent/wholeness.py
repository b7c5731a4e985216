"""Whether a version's files are still what its digest says: every byte is hashed, unless that was just done."""

import time
from dataclasses import dataclass
from pathlib import Path

from registry.artifacts import artifact_of
from registry.errors import StoreFailure

_HOLDS_S = 60.0
"""A gateway asks for the files, has them loaded, and may do both again at once; a disk is damaged more slowly."""

_Marks = frozenset[tuple[str, int, int, int, int]]


@dataclass(frozen=True, slots=True)
class _Seen:
    marks: _Marks
    at: float


class Wholeness:
    """What was found whole within the last minute, and has not been written to since. Its methods run in threads."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}

    def note(self, folder: Path, digest: str) -> None:
        """Remember that the files in a folder are what the digest says."""
        self._remember(digest, _marks(folder))

    def holds(self, folder: Path, digest: str) -> bool:
        """Whether they are."""
        try:
            marks = _marks(folder)
            seen = self._seen.get(digest)
            if seen is not None and seen.marks == marks and seen.at > time.monotonic() - _HOLDS_S:
                return True
            is_whole = artifact_of({file.name: file for file in folder.iterdir()}).digest == digest
        except (OSError, StoreFailure):
            return False
        if is_whole:
            self._remember(digest, marks)
        return is_whole

    def _remember(self, digest: str, marks: _Marks) -> None:
        now = time.monotonic()
        recent = {each: seen for each, seen in [*self._seen.items()] if seen.at > now - _HOLDS_S}
        self._seen = recent | {digest: _Seen(marks, now)}


def _marks(folder: Path) -> _Marks:
    """What changes when anybody writes to one of the files, or puts another one there."""
    found = [(file.name, file.stat()) for file in folder.iterdir()]
    return frozenset((name, each.st_ino, each.st_size, each.st_mtime_ns, each.st_ctime_ns) for name, each in found)
