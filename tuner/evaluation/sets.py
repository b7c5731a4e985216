"""What a candidate must not lose: a set of general skills, and a set of what should and should not be refused.

Ours are shipped beside this module; the tuner's settings, and a job's order, may name others. Which were asked stands
in the job and in its report, by name and digest.

retention  a golden set: {"messages": [...], "scorers": [...], "max_tokens": 32}; without scorers, `exact_match`
refusals   {"messages": [{"role": "user", "content": "..."}], "should": "refuse"}, or "answer" for harmless prompts
"""

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Generic, Literal, TypeVar

import msgspec

from monitors.judging.golden import LONGEST_SET_BYTES, MOST_ROWS, GoldenChecker, GoldenRow, GoldenSet, Message
from registry.errors import InvalidValue, NotFound
from registry.monitoring import ScorerChoice
from registry.tuning.rules import AskedSet
from registry.wording import plain
from tuner.errors import JobFailed
from tuner.shop import AtWork

_SHIPPED = Path(__file__).parent / "sets"
_SKILL = ScorerChoice("exact_match")
_NOT_REFUSED = ScorerChoice("not_refused")
_SHOWN_PROBLEMS = 5
OURS = "Ostler's own"
T = TypeVar("T")


class RefusalRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A prompt, and what a model should do with it."""

    messages: Annotated[list[Message], msgspec.Meta(min_length=1)]
    should: Literal["refuse", "answer"] = "refuse"
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 40


@dataclass(frozen=True, slots=True)
class _Read(Generic[T]):
    """What was read of a set: its name, the SHA-256 of its content, and its rows."""

    name: str
    digest: str
    rows: T


@dataclass(frozen=True, slots=True)
class Sets:
    """What all models are asked beside the holdout.

    Attributes:
        retention: general skills.
        harmful, harmless: what should be refused, and what should not.
        asked: which sets these are, by ``retention`` and ``refusals``.
    """

    retention: GoldenSet
    harmful: GoldenSet
    harmless: GoldenSet
    asked: Mapping[str, AskedSet]


async def read_sets(work: AtWork) -> Sets:
    """The sets of the job's order, else of the tuner's settings, else our own.

    Raises:
        JobFailed: one cannot be used; the message says which, and its lines.
    """
    gate, settings = work.order.gate, work.shop.settings
    retention = await _read(work, gate.retention_file, settings.retention_set, "retention", read_retention)
    refusals = await _read(work, gate.refusal_file, settings.refusal_set, "refusal", read_refusals)
    harmful, harmless = refusals.rows
    asked = {
        "retention": AskedSet(retention.name, retention.digest, len(retention.rows.rows)),
        "refusals": AskedSet(refusals.name, refusals.digest, len(harmful.rows) + len(harmless.rows)),
    }
    return Sets(retention.rows, harmful, harmless, asked)


def read_retention(content: bytes) -> GoldenSet:
    """General skills of JSON lines.

    Raises:
        InvalidValue
    """
    checker = GoldenChecker([_SKILL])
    checker.feed(content)
    checked = checker.finish()
    rows = tuple(msgspec.json.decode(line, type=GoldenRow) for line in checked.lines)
    return GoldenSet("", rows, checked.scorers)


def read_refusals(content: bytes) -> tuple[GoldenSet, GoldenSet]:
    """What should be refused and what should not, of JSON lines.

    Raises:
        InvalidValue
    """
    if len(content) > LONGEST_SET_BYTES:
        raise InvalidValue(f"it may have {LONGEST_SET_BYTES} bytes at most")
    found: dict[str, list[GoldenRow]] = {"refuse": [], "answer": []}
    problems = []
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = msgspec.json.decode(line, type=RefusalRow)
        except msgspec.ValidationError as error:
            problems.append(f"line {number}: {plain(error, RefusalRow)}")
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            problems.append(f"line {number}: it is not valid JSON")
        else:
            found[row.should].append(GoldenRow(row.messages, max_tokens=row.max_tokens))
    _check_refusals(found, problems)
    harmful, harmless = (GoldenSet("", tuple(found[should]), (_NOT_REFUSED,)) for should in ("refuse", "answer"))
    return harmful, harmless


def _check_refusals(found: dict[str, list[GoldenRow]], problems: list[str]) -> None:
    if problems:
        more = f"; and {len(problems) - _SHOWN_PROBLEMS} more" if len(problems) > _SHOWN_PROBLEMS else ""
        raise InvalidValue("; ".join(problems[:_SHOWN_PROBLEMS]) + more)
    for should, rows in found.items():
        if not rows:
            raise InvalidValue(f'it has no row with "should": "{should}", and needs both kinds')
        if len(rows) > MOST_ROWS:
            raise InvalidValue(f"it may have {MOST_ROWS} rows of a kind at most")
        if any(row.messages[-1].role == "assistant" for row in rows):
            raise InvalidValue("a row ends with the assistant's message, and leaves nothing to answer")


async def _read(
    work: AtWork, file_id: str | None, setting: str, kind: Literal["retention", "refusal"], read: Callable[[bytes], T]
) -> _Read[T]:
    if file_id is None:
        return await _of_settings(setting, kind, read)
    param = f"gate.{kind}_file"
    try:
        file = await work.shop.files.find(file_id, also_expired=True)
    except NotFound:
        message = f"the {kind} set {file_id} is not there any more; upload it again"
        raise JobFailed("invalid_hyperparameters", message, param) from None
    path = await work.upload(file)
    try:
        return await asyncio.to_thread(_read_from, path, file_id, read)
    except InvalidValue as error:
        message = f"the {kind} set {file_id} cannot be used: {error.message}"
        raise JobFailed("invalid_hyperparameters", message, param) from None


async def _of_settings(setting: str, kind: Literal["retention", "refusal"], read: Callable[[bytes], T]) -> _Read[T]:
    path = Path(setting) if setting else _SHIPPED / ("retention.jsonl" if kind == "retention" else "refusals.jsonl")
    try:
        return await asyncio.to_thread(_read_from, path, path.name if setting else OURS, read)
    except InvalidValue as error:
        why = error.message
    except OSError as error:
        why = error.strerror or type(error).__name__
    raise JobFailed("evaluation_failed", f"the {kind} set of the tuner's settings cannot be used: {why}")


def _read_from(path: Path, name: str, read: Callable[[bytes], T]) -> _Read[T]:
    content = path.read_bytes()
    return _Read(name, hashlib.sha256(content).hexdigest(), read(content))
