"""Files of rows for tests."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from demo.tickets import Ticket, training
from registry.tuning.orders import DataOrder, Method, TuningOrder
from tuner.messages import Message, Told
from tuner.workspace import PrepareTask

Body = dict[str, Any]


def row(question: str, answer: str = "yes", **fields: Any) -> Body:
    """A row of one question and its answer."""
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages, **fields}


def pair(question: str, better: str = "yes", worse: str = "no", **fields: Any) -> Body:
    """A pair of a better and a worse answer."""
    return {
        "input": {"messages": [{"role": "user", "content": question}]},
        "preferred_output": [{"role": "assistant", "content": better}],
        "non_preferred_output": [{"role": "assistant", "content": worse}],
        **fields,
    }


def rows(count: int, start: int = 0, **fields: Any) -> list[Body]:
    """Rows that have little in common."""
    return [
        row(f"{number * 7919} {_word(number)} {_word(number + 1)}?", _word(number + 2), **fields)
        for number in range(start, start + count)
    ]


def tickets(count: int, seed: int = 1) -> list[Body]:
    """The demo's rows, labelled with their intents."""
    return [of_ticket(ticket) for ticket in training(count, seed)]


def of_ticket(ticket: Ticket) -> Body:
    """A ticket as a row."""
    return row(ticket.message, ticket.answer, label=ticket.intent)


def write(path: Path, lines: Iterable[Body | str | bytes]) -> Path:
    """Write a file of rows; a text or bytes are a line as they are."""
    path.write_bytes(b"".join(_line(line) + b"\n" for line in lines))
    return path


def order(method: Method = "supervised", **data: Any) -> TuningOrder:
    """An order of a job."""
    return TuningOrder("support", "demo-base", "file-1", method=method, data=DataOrder(**data))


def task(training: Path, wanted: TuningOrder | None = None, **fields: Any) -> PrepareTask:
    """A task to prepare a file."""
    nothing: Body = {"validation": None, "tokenizer": "", "context": 0}
    return PrepareTask(order=wanted or order(), training=str(training), **{**nothing, **fields})


class Heard:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.stop_asked = False
        self.told: list[Told] = []

    def __call__(self, message: Message, /) -> None:
        """Keep it."""
        assert isinstance(message, Told)
        self.told.append(message)

    def warnings(self) -> str:
        """The warnings, one a line."""
        return "\n".join(each.message for each in self.told if each.level == "warn")


def read(path: Path) -> list[Body]:
    """The rows of a file."""
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def _line(line: Body | str | bytes) -> bytes:
    if isinstance(line, bytes):
        return line
    return (line if isinstance(line, str) else json.dumps(line)).encode()


def _word(number: int) -> str:
    letters = "abcdefghijklmnopqrstuvwxyz"
    number = number * 2654435761 % 2**32
    return "".join(letters[number >> shift & 15] + letters[10 + (number >> shift & 7)] for shift in range(0, 32, 4))
