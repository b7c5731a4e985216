"""The holdout as questions: rows that the version was not trained on, each with the answer that is right.

Nor was any version before it, as far as it is known what those were trained on (`tuner.ancestry`).
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from monitors.judging.golden import GoldenRow, GoldenSet, Message
from monitors.teaching.rows import PreferenceRow, Row, SupervisedRow, can_be_scored, text_of
from registry.monitoring import ScorerChoice
from registry.tuning.orders import Method
from registry.tuning.rules import AskedSet

FILE = "holdout.jsonl"
_SPARE_TOKENS = 64
_KINDS: dict[Method, type[Row]] = {"supervised": SupervisedRow, "dpo": PreferenceRow}


@dataclass(frozen=True, slots=True)
class Holdout:
    """What the models are asked, row by row.

    Attributes:
        golden: the questions, each with its reference: for preferences, the preferred answer.
        worse: for preferences, the same questions with the other answer as the reference; else None.
        labels: each row's label, where it has one.
        lines: where each row stands in the file, from 1.
        left_out: how many rows could not be asked, because their answer is no text, but a call of a tool.
        digest: SHA-256 of the file.
    """

    golden: GoldenSet
    worse: GoldenSet | None
    labels: tuple[str | None, ...]
    lines: tuple[int, ...]
    left_out: int
    digest: str

    @property
    def asked(self) -> AskedSet:
        """Which rows these are, as the job and its report name them."""
        return AskedSet(FILE, self.digest, len(self.golden.rows))


@dataclass(frozen=True, slots=True)
class _Asked:
    line: int
    label: str | None
    better: GoldenRow
    worse: GoldenRow | None


def read_holdout(
    folder: Path, method: Method, scorers: Sequence[ScorerChoice], *, most: int, context: int, digest: str
) -> Holdout:
    """Read the holdout of a frozen dataset; of more than `most` that can be scored those whose hash is smallest.

    `context` is how many tokens the engine takes, 0 where nobody knows; `digest` is the dataset's.
    """
    kind = _KINDS[method]
    content = (folder / FILE).read_bytes()
    lines = [line for line in enumerate(content.splitlines(), 1) if line[1].strip()]
    rows = {number: msgspec.json.decode(line, type=kind) for number, line in lines}
    scorable = [(number, line) for number, line in lines if can_be_scored(rows[number])]
    asked = [_as_question(number, rows[number], context) for number, _ in _drawn(scorable, most)]
    worse = [each.worse for each in asked if each.worse is not None]
    return Holdout(
        golden=GoldenSet(digest, tuple(each.better for each in asked), tuple(scorers)),
        worse=GoldenSet(digest, tuple(worse), ()) if method == "dpo" else None,
        labels=tuple(each.label for each in asked),
        lines=tuple(each.line for each in asked),
        left_out=len(lines) - len(scorable),
        digest=hashlib.sha256(content).hexdigest(),
    )


def _drawn(lines: Iterable[tuple[int, bytes]], most: int) -> list[tuple[int, bytes]]:
    """The lines whose hash is smallest, in the file's order: the same ones for every candidate."""
    by_hash = sorted(lines, key=lambda each: hashlib.sha256(each[1]).digest())
    return sorted(by_hash[:most])


def _as_question(line: int, row: Row, context: int) -> _Asked:
    tools = row.tools if isinstance(row, SupervisedRow) else row.input.tools
    better, *worse = (_question(row.prompt, text_of(answer), tools, context) for answer in row.answers)
    return _Asked(line, row.label, better, worse[0] if worse else None)


def _question(prompt: list[Message], answer: str, tools: list[dict[str, Any]] | None, context: int) -> GoldenRow:
    reference = Message("assistant", answer)
    return GoldenRow([*prompt, reference], max_tokens=_limit(answer, context), tools=tools)


def _limit(reference: str, context: int) -> int | None:
    """How long an answer may be, so that one which has gone astray ends: a token is a byte at least.

    None leaves it to the engine, which refuses a limit beyond its context.
    """
    limit = len(reference.encode()) + _SPARE_TOKENS
    return None if context and limit >= context else limit
