"""A frozen dataset: three files of rows and one about them, the same bytes for the same rows on each machine.

train.jsonl, validation.jsonl, holdout.jsonl    one row a line, in the one spelling of `tuner.data.reading.encode`,
                                                ordered by hash
about.json                                      counts, sources, parents, how it was split, and the report
"""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from monitors.teaching.fingerprints import earlier_prompts
from monitors.teaching.rows import PreferenceRow, Row
from registry.artifacts import canonical_json
from registry.errors import StoreFailure
from tuner.data.reading import decode, encode
from tuner.data.shelf import Shelf, Shelved
from tuner.data.splits import SPLITS, Split

FORMAT = 1
ABOUT = "about.json"


def file_of(folder: Path, split: Split) -> Path:
    """The file of a split's rows."""
    return folder / f"{split}.jsonl"


def freeze(folder: Path, shelf: Shelf, splits: Mapping[Split, Iterable[Shelved]], kept_out: Collection[bytes]) -> None:
    """Write the files of the splits.

    Args:
        folder: where they go; it begins empty.
        shelf: where the rows are now.
        splits: what is known of the rows of each split.
        kept_out: the hashes of prompts whose answers must not be learned: those of the other splits, and of what was
            held out for an earlier version. A longer conversation may hold one of them; its answer gets the weight 0.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        with file_of(folder, split).open("wb") as file:
            for shelved in sorted(splits[split], key=lambda each: each.fingerprint.row):
                line = shelf.line(shelved)
                if split == "train":
                    line = _learnable(line, shelf, kept_out)
                file.write(line + b"\n")


def write_about(folder: Path, about: Mapping[str, Any]) -> None:
    """Write what there is to say about the rows."""
    (folder / ABOUT).write_bytes(canonical_json(about))


def read_about(folder: Path) -> dict[str, Any]:
    """What is said about the rows of a frozen dataset.

    Raises:
        StoreFailure: it is none.
    """
    try:
        about: dict[str, Any] = json.loads((folder / ABOUT).read_bytes())
    except (OSError, ValueError) as error:
        raise StoreFailure("what is stored there is no dataset") from error
    if about.get("format") != FORMAT:
        raise StoreFailure("the dataset was made by another version of the tuner, which this one cannot read")
    return about


def read_split(folder: Path, split: Split) -> Iterator[Row]:
    """The rows of one split of a frozen dataset, in their order.

    Raises:
        StoreFailure: it is none.
    """
    method = read_about(folder)["method"]
    try:
        with file_of(folder, split).open("rb") as file:
            for line in file:
                yield decode(line, method)
    except (OSError, msgspec.DecodeError) as error:
        raise StoreFailure("what is stored there is no dataset") from error


def count_sources(rows: Iterable[Shelved]) -> dict[str, int]:
    """How many rows came from where."""
    return dict(sorted(Counter(row.source for row in rows).items()))


def _learnable(line: bytes, shelf: Shelf, kept_out: Collection[bytes]) -> bytes:
    """A row's line without learning what is kept out; its last answer is the split's own."""
    row = decode(line, shelf.method)
    places = [place for place, prompt in earlier_prompts(row).items() if prompt in kept_out]
    if isinstance(row, PreferenceRow) or not places:
        return line
    messages = list(row.messages)
    for place in places:
        messages[place] = msgspec.structs.replace(messages[place], weight=0)
    return encode(msgspec.structs.replace(row, messages=messages))
