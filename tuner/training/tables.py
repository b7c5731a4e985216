"""Tokenized rows, in files that are mapped into memory: a large dataset need not fit in it."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from datasets import Dataset, Features
from datasets.arrow_writer import ArrowWriter

LENGTH = "length"
"""A column that every table has: tokens of the row, by which batches are put together."""

Row = TypeVar("Row", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Splits:
    """What is trained on; `validation` is None where that split is empty."""

    train: Dataset
    validation: Dataset | None


def read_rows(file: Path, kind: type[Row]) -> Iterator[Row]:
    """The rows of a dataset's file."""
    decoder = msgspec.json.Decoder(kind)
    with file.open("rb") as lines:
        yield from map(decoder.decode, lines)


def write_splits(
    dataset: Path, tables: Path, features: Features, tokenized: Callable[[Path], Iterable[Mapping[str, Any]]]
) -> Splits:
    """The splits of a frozen dataset as tokens, kept in files in `tables`."""
    train, validation = (
        write_table(tables / f"{name}.arrow", features, tokenized(dataset / f"{name}.jsonl"))
        for name in ("train", "validation")
    )
    if train is None:
        raise ValueError("the training split is empty")
    return Splits(train, validation)


def write_table(file: Path, features: Features, rows: Iterable[Mapping[str, Any]]) -> Dataset | None:
    """Write rows to a file and map it; None without rows."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with ArrowWriter(path=str(file), features=features) as writer:
        for row in rows:
            writer.write(dict(row))
        count, _ = writer.finalize()
    return Dataset.from_file(str(file)) if count else None
