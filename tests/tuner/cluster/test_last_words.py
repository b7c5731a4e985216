"""What clients are told of a pod's last lines: known sayings of the tuner, and nothing that it said them of."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import ostler
import registry
import tuner
from tuner.cluster.last_words import SAYINGS, last_words

AT = "2026-11-22 06:00:00,123"
HELD = "hunter2"
"""Stands for all that a message is about."""
LOUD = ("warning", "error", "exception", "critical")
TOLD = {
    f"{AT} WARNING tuner.worker: no job can be claimed: the database does not answer (OperationalError)": (
        "no job can be claimed (…)"
    ),
    f"{AT} CRITICAL tuner.page: the tuner's worker has ended; it must be restarted: KeyError in run (x.py:1)": (
        "the tuner's worker has ended (…)"
    ),
    f"{AT} WARNING ostler.tuners: the database cannot be reached: no user ostler on db.internal; it is tried again": (
        "the database cannot be reached (…)"
    ),
    f"{AT} WARNING [17] tuner.worker: no job can be claimed": "no job can be claimed",
    "error: there is no folder /models/secret of the base model tiny": "there is no folder (…)",
    "error: the tuner needs an admin key for the gateway: set OSTLER_API_KEY": (
        "the tuner needs an admin key for the gateway (…)"
    ),
    "error: the tuner needs torch, trl: pip install 'ostler[tuner]'": "the tuner needs (…)",
    "Traceback (most recent call last):\n  ...\ntorch.OutOfMemoryError: tried to keep Ann's row": "OutOfMemoryError",
    "ModuleNotFoundError": "ModuleNotFoundError",
}


@pytest.mark.parametrize("tail", TOLD)
def test_what_the_tuner_says_is_told(tail: str) -> None:
    """How its warnings begin, and the line with which its command gives up; and the class of what it died of."""
    assert last_words(f"downloading 3%\n{tail}\n\n") == [TOLD[tail]]


@pytest.mark.parametrize(
    "tail",
    [
        "",
        "Ann's row",
        "no job can be claimed",
        f"{AT} INFO    tuner.worker: no job can be claimed",
        f"{AT} WARNING torch.nn: no job can be claimed",
        f"{AT} ERROR   root: Ann's row",
        f"> {AT} ERROR   tuner.worker: no job can be claimed",
        f"{AT} ERROR   tuner.worker: cannot use row 3: my card number is 4111 1111 1111 1111",
        f"{AT} ERROR   registry.registry: host db.internal refused user ostler password abc123",
        "error: cannot connect to db.internal.example.com: Name or service not known",
        "error: sk-ostler-short",
        "error: a setting is wrong: tuner_lease_s\nnot the last line",
        "KeyError: Ann's row\nnot the last line",
        "AnnsRowError: 3",
        "Ann's row: KeyError",
    ],
)
def test_nothing_else_is(tail: str) -> None:
    """Lines of libraries and of the dataset, what only quotes the tuner, and what it says of other things."""
    assert last_words(tail) == []


def test_no_message_of_the_tuner_tells_what_it_is_about() -> None:
    """Each warning and error in the code of its pod is told by a known saying or not at all; and all sayings are."""
    messages = list(_messages())
    assert len(messages) > 50
    told = [last_words(f"{AT} ERROR   tuner.worker: {said}") + last_words(f"error: {said}") for said in messages]
    assert {words.removesuffix(" (…)") for each in told for words in each} == set(SAYINGS)
    assert {words for each in told for words in each} <= {
        f"{saying}{more}" for saying in SAYINGS for more in ("", " (…)")
    }


def test_only_the_last_few_are_told() -> None:
    """Each once."""
    said = [SAYINGS[0], SAYINGS[1], SAYINGS[1], SAYINGS[2], SAYINGS[3]]
    assert last_words("\n".join(f"{AT} ERROR   tuner.worker: {words}" for words in said)) == list(SAYINGS[1:4])


def _messages() -> Iterator[str]:
    """What the code of the tuner's process logs from warning on or raises, with something in each place left open."""
    for room in (ostler, registry, tuner):
        for file in Path(str(room.__file__)).parent.rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Call) and node.args and _is_loud(node.func):
                    yield _text(node.args[0])


def _is_loud(called: ast.expr) -> bool:
    if isinstance(called, ast.Attribute):
        return called.attr in LOUD and isinstance(called.value, ast.Name) and called.value.id in ("log", "logger")
    return isinstance(called, ast.Name) and called.id in ("CommandFailed", "ValueError", "SchemaMismatch")


def _text(message: ast.expr) -> str:
    if isinstance(message, ast.Constant):
        return re.sub(r"%(\.\d+)?[a-z]", HELD, str(message.value))
    parts = message.values if isinstance(message, ast.JoinedStr) else [message]
    return "".join(str(part.value) if isinstance(part, ast.Constant) else HELD for part in parts)
