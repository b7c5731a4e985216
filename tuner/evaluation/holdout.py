"""The holdout as questions: rows of the dataset that no version was trained on, each with the answer that is right."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from monitors.judging.golden import GoldenRow, GoldenSet, Message
from registry.monitoring import ScorerChoice
from registry.tuning.orders import Method
from tuner.data.rows import PreferenceRow, Row, SupervisedRow

_FILE = "holdout.jsonl"
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
    """

    golden: GoldenSet
    worse: GoldenSet | None
    labels: tuple[str | None, ...]
    lines: tuple[int, ...]
    left_out: int


@dataclass(frozen=True, slots=True)
class _Asked:
    line: int
    label: str | None
    better: GoldenRow
    worse: GoldenRow | None


def read_holdout(
    folder: Path, method: Method, scorers: Sequence[ScorerChoice], *, most: int, context: int, digest: str
) -> Holdout:
    """Read the holdout of a frozen dataset; of more than `most` rows those whose hash is smallest.

    `context` is how many tokens the engine takes, 0 where nobody knows; `digest` is the dataset's.
    """
    lines = (folder / _FILE).read_bytes().splitlines()
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    rows = [(number, msgspec.json.decode(line, type=_KINDS[method])) for number, line in _drawn(numbered, most)]
    asked = [found for number, row in rows if (found := _as_question(number, row, context)) is not None]
    worse = [each.worse for each in asked if each.worse is not None]
    return Holdout(
        golden=GoldenSet(digest, tuple(each.better for each in asked), tuple(scorers)),
        worse=GoldenSet(digest, tuple(worse), ()) if method == "dpo" else None,
        labels=tuple(each.label for each in asked),
        lines=tuple(each.line for each in asked),
        left_out=len(rows) - len(asked),
    )


def _drawn(lines: Iterable[tuple[int, bytes]], most: int) -> list[tuple[int, bytes]]:
    """The lines whose hash is smallest, in the file's order: the same ones for every candidate."""
    by_hash = sorted(lines, key=lambda each: hashlib.sha256(each[1]).digest())
    return sorted(by_hash[:most])


def _as_question(line: int, row: Row, context: int) -> _Asked | None:
    if isinstance(row, SupervisedRow):
        better = _question(row.prompt, row.messages[-1], row.tools, context)
        return None if better is None else _Asked(line, row.label, better, None)
    options = row.input.tools
    better = _question(row.prompt, row.preferred_output[-1], options, context)
    worse = _question(row.prompt, row.non_preferred_output[-1], options, context)
    return None if better is None or worse is None else _Asked(line, row.label, better, worse)


def _question(
    prompt: list[Message], answer: Message, tools: list[dict[str, object]] | None, context: int
) -> GoldenRow | None:
    """A golden row; None if its answer is no text."""
    if not isinstance(answer.content, str) or not answer.content or answer.tool_calls:
        return None
    reference = Message("assistant", answer.content)
    return GoldenRow([*prompt, reference], max_tokens=_limit(answer.content, context), tools=tools)


def _limit(reference: str, context: int) -> int | None:
    """How long an answer may be, so that one which has gone astray ends: a token is a byte at least.

    None leaves it to the engine, which refuses a limit beyond its context.
    """
    limit = len(reference.encode()) + _SPARE_TOKENS
    return None if context and limit >= context else limit
