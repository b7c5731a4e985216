"""Reads an uploaded file line by line, and says of each line that cannot be used why not."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from monitors.judging.golden import Message
from monitors.teaching.checking import problem_of
from monitors.teaching.rows import PreferenceRow, Row, SupervisedRow, text_of
from registry.tuning.orders import Method
from registry.wording import field_of, plain

LONGEST_LINE_BYTES = 4 << 20
_BOM = b"\xef\xbb\xbf"
_ONE_LINE = {
    "supervised": "each line must be a JSON object with a list `messages`",
    "dpo": "each line must be a JSON object with `input`, `preferred_output` and `non_preferred_output`",
}
_TYPES: dict[str, type[Row]] = {"supervised": SupervisedRow, "dpo": PreferenceRow}
_OTHERS: dict[str, type[msgspec.Struct]] = {
    "supervised": msgspec.defstruct("Pair", [("input", Any), ("preferred_output", Any)]),
    "dpo": msgspec.defstruct("Conversation", [("messages", Any)]),
}
"""What a row of the other method can be known by."""
_OTHER_METHOD = {
    "supervised": "it is a pair of preferences: ask for the `method` dpo (`--method dpo`), which learns from these",
    "dpo": "it is a conversation: ask for the `method` supervised (`--method supervised`), which learns from these",
}
_LONGEST_PROBLEM = 200


@dataclass(frozen=True, slots=True)
class Line:
    """A line that is not empty: its number, from 1, and either its row or what is wrong with it."""

    number: int
    row: Row | None
    problem: str | None


def read_rows(path: Path, method: Method) -> Iterator[Line]:
    """The lines of a file; never more than one of them is in memory."""
    with path.open("rb") as file:
        for number, line in enumerate(_lines(file), start=1):
            if line is None:
                yield Line(number, None, f"it has more than {LONGEST_LINE_BYTES >> 20} MiB")
            elif text := line.removeprefix(_BOM if number == 1 else b"").strip():
                yield _read(number, text, method)


def decode(line: bytes, method: Method) -> Row:
    """The row of a line that was checked before, as those of a frozen dataset."""
    row: Row = msgspec.json.decode(line, type=_TYPES[method])
    return row


def encode(row: Row) -> bytes:
    """The one spelling of a row: its own fields in their order.

    The keys inside `tools` stay in the order in which they came, for templates write them out as they stand.
    """
    return msgspec.json.encode(row)


def _read(number: int, text: bytes, method: Method) -> Line:
    try:
        row = decode(text, method)
    except UnicodeError:
        return Line(number, None, "it is not UTF-8 text")
    except msgspec.ValidationError as error:
        return Line(number, None, _not_a_row(text, error, method))
    except msgspec.DecodeError:
        return Line(number, None, _not_json(text, method))
    except RecursionError:
        return Line(number, None, "it is nested too deeply")
    problem = problem_of(row)
    return Line(number, None if problem else _tidied(row), problem)


def _not_a_row(text: bytes, error: msgspec.ValidationError, method: Method) -> str:
    """What is wrong, without the value that is; for the row as a whole with what it should be."""
    with contextlib.suppress(msgspec.DecodeError, UnicodeError, RecursionError):
        msgspec.json.decode(text, type=_OTHERS[method])
        return _OTHER_METHOD[method]
    words = plain(error, _TYPES[method])[:_LONGEST_PROBLEM]
    return words if "." in (field_of(error) or "") else f"{words}; {_ONE_LINE[method]}"


def _not_json(text: bytes, method: Method) -> str:
    try:
        text.decode()
    except UnicodeError:
        return "it is not UTF-8 text"
    return f"it is not valid JSON; {_ONE_LINE[method]}"


def _tidied(row: Row) -> Row:
    """The row without what changes nothing: a weight of 1, and what comes after the last answer that is learned.

    A content of parts becomes the one text that a model reads, and that answers can be held against. The row was
    uploaded, also if it was replayed once.
    """
    source = "uploaded" if row.source == "replay" else row.source
    if isinstance(row, PreferenceRow):
        return msgspec.structs.replace(
            row,
            input=msgspec.structs.replace(row.input, messages=list(map(_plain, row.input.messages))),
            preferred_output=list(map(_plain, row.preferred_output)),
            non_preferred_output=list(map(_plain, row.non_preferred_output)),
            source=source,
        )
    messages = list(map(_plain, row.messages))
    while messages[-1].role != "assistant" or messages[-1].weight == 0:
        messages.pop()
    return msgspec.structs.replace(row, messages=messages, source=source)


def _plain(message: Message) -> Message:
    """A message with one text and without a weight of 1."""
    weight = None if message.weight == 1 else message.weight
    content = text_of(message) if isinstance(message.content, list) else message.content
    return msgspec.structs.replace(message, content=content, weight=weight)


def _lines(file: BinaryIO) -> Iterator[bytes | None]:
    """The lines of a file; None in place of one that is too long."""
    while line := file.readline(LONGEST_LINE_BYTES + 1):
        if len(line) <= LONGEST_LINE_BYTES or line.endswith(b"\n"):
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(LONGEST_LINE_BYTES)
        yield None
