"""The dataset of an earlier version: what it was trained on, what of that is trained on again, and what stays held out.

A share of what the earlier version was trained on keeps the new one from forgetting it (rehearsal: Robins 1995,
"Catastrophic Forgetting, Rehearsal and Pseudorehearsal"). Prompts that were held out for it stay so, and none that it
was trained on is held out now.
"""

import hashlib
import heapq
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from monitors.teaching.fingerprints import fingerprint, learned_inside
from monitors.teaching.rows import Row
from registry.tuning.orders import Method
from tuner.data.dataset import file_of, read_about, read_split
from tuner.data.reading import decode


@dataclass(frozen=True, slots=True)
class Earlier:
    """A frozen dataset that an earlier version was made of."""

    folder: Path

    @property
    def method(self) -> Method:
        """What its rows are."""
        method: Method = read_about(self.folder)["method"]
        return method

    def held_out(self) -> Iterator[bytes]:
        """The hashes of the prompts that were held out for it."""
        return (fingerprint(row).prompt for row in read_split(self.folder, "holdout"))

    def learned(self) -> Iterator[bytes]:
        """The hashes of the prompts whose answers it was trained on, those inside of conversations among them."""
        for row in read_split(self.folder, "train"):
            yield fingerprint(row).prompt
            yield from learned_inside(row)

    def draw(self, count: int, seed: int, without: Collection[bytes]) -> list[Row]:
        """As many rows that it was trained on, drawn by their hashes; fewer if there are no more.

        Args:
            count: how many are wanted.
            seed: another one draws others.
            without: the hashes of prompts that are not wanted again.
        """
        method, salt = self.method, seed.to_bytes(8, "big")
        drawn = heapq.nsmallest(count, self._ranked(method, salt, without))
        rows = []
        with file_of(self.folder, "train").open("rb") as file:
            for _, position in sorted(drawn):
                file.seek(position)
                rows.append(msgspec.structs.replace(decode(file.readline(), method), source="replay"))
        return rows

    def _ranked(self, method: Method, salt: bytes, without: Collection[bytes]) -> Iterator[tuple[bytes, int]]:
        """Each row by a hash of its own, and where it stands in the file."""
        position = 0
        with file_of(self.folder, "train").open("rb") as file:
            for line in file:
                found = fingerprint(decode(line, method))
                if found.prompt not in without:
                    yield hashlib.blake2b(found.row, salt=salt, digest_size=16).digest(), position
                position += len(line)
