"""What is printed: lines, tables and errors, without a way for others' words to act on the terminal."""

import json
import os
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

_PIPED_WIDTH = 200


def _width() -> int | None:
    """How wide tables may be: what COLUMNS says, or the terminal, or enough where there is none."""
    said = os.environ.get("COLUMNS", "")
    if said.isdecimal() and int(said) > 0:
        return int(said)
    return None if sys.stdout.isatty() else _PIPED_WIDTH


out = Console(highlight=False, emoji=False, width=_width())
err = Console(stderr=True, highlight=False, markup=False, emoji=False)


def as_json(answer: Any) -> None:
    """For programs."""
    print(json.dumps(answer, indent=2))


def plain(words: str) -> None:
    """Lines that are to be pasted, and so must not be broken."""
    print(words, flush=True)


def words(others: object) -> Text:
    """Names, notes and messages as they are: in one line, without markup, and without a terminal's control codes."""
    line = " ".join(str(others).split())
    return Text("".join(letter if letter.isprintable() else "\ufffd" for letter in line))


def error(message: str) -> None:
    """A failure, in one line."""
    err.print(Text.assemble(("error:", "red"), " ", words(message)), soft_wrap=True)


def table(headings: Sequence[str], rows: Iterable[Sequence[object]], nothing: str, *, folds: bool = True) -> None:
    """Rows under headings, or `nothing` in words.

    The last column is the one that folds, and may have several lines, as a tuple: what is cut off elsewhere could
    not be copied. Where it does not fold, each row is one line, whose end may be left out.
    """
    drawn = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, expand=not folds)
    for heading in headings[:-1]:
        drawn.add_column(heading, no_wrap=True)
    drawn.add_column(headings[-1], overflow="fold" if folds else "ellipsis", no_wrap=not folds, ratio=1)
    for *cells, last in rows:
        drawn.add_row(*map(_cell, cells), Text("\n").join(map(_cell, last if isinstance(last, tuple) else (last,))))
    if drawn.row_count:
        out.print(drawn)
    else:
        out.print(nothing)


def _cell(value: object) -> Text:
    return words("-" if value is None else value)


def when(moment: str | None) -> str:
    """A moment in local time, to the second."""
    return "-" if moment is None else datetime.fromisoformat(moment).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def moment(seconds: int | None) -> str:
    """The same of Unix seconds, as OpenAI's objects have them."""
    return when(None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat())


def size(count: int) -> str:
    """Bytes as people say them."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"
