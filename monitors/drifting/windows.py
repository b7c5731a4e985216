"""What a look at drift compares: the columns of a version's reference and of its newest window, from the database.

The reference is the version's oldest requests still kept, the window its newest; what both would claim belongs to
neither, for a version that has not had enough of them is not judged. Numbers and the finish reason are known of every
request, the other columns only of captured ones, whose oldest and newest are taken in the same way.
"""

import functools
import hashlib
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Table, and_, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from monitors.drifting.task import Kind, Values
from monitors.judging.refusals import refused
from monitors.privacy.redaction import KINDS, redact
from monitors.tables import CaptureRow, RequestRow
from registry.monitoring import DriftRule

SERVED = ("stable", "canary", "pinned")
MOST_ROWS = 5000
"""Of a reference or a window, whatever the settings say: more would hardly show more, and must fit into memory."""
LEAST_ROWS = 20
LEAST_REFERENCE = 50
"""What a column must have of values to be judged, in the window and in the reference."""
LONGEST_PROMPT = 4000
"""Characters of a prompt that are looked at."""

_SHORT = 20  # letters; below that a language is a guess
_SURE = 0.5
_PLACEHOLDER = re.compile(rf"\[(?:{'|'.join(KINDS).upper()})\]|<[A-Z]+(?:_[A-Z]+)*>")
_TAKEN_OUT = "[REDACTED]"
_STEPS = 20  # a window's columns come in so many sizes, so that the thresholds of one serve the next
_REQUESTS: Table = RequestRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model
_CAPTURES: Table = CaptureRow.__table__  # type: ignore[attr-defined]

_OF_CAPTURES = frozenset({"mean_logprob", "refusal", "language", "prompt", "embedding"})

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Sample:
    """Rows of one table: the first as reference, the newest as window; and how many there are, up to those needed."""

    reference: Sequence[Row] = ()
    current: Sequence[Row] = ()
    found: int = 0

    def both(self, name: str) -> tuple[list[Any], list[Any]]:
        """One field of the rows, in the reference and in the window."""
        return [row[name] for row in self.reference], [row[name] for row in self.current]


@dataclass(frozen=True, slots=True)
class Window:
    """The newest requests of a version beside its reference; `start` and `end` are the first's and last's arrival."""

    requests: Sample
    captures: Sample
    start: datetime | None = None
    end: datetime | None = None
    logprobs: Sample = field(default_factory=Sample)
    """Of those captured requests whose log probability is known, which are few: the newest ones have none yet."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns that can be judged, and what those lack that cannot, in words, by column."""

    judged: tuple[Values, ...] = ()
    missing: Mapping[str, str] = field(default_factory=dict)


def bounded(rule: DriftRule) -> DriftRule:
    """The rule with no more rows than are looked at."""
    return msgspec.structs.replace(
        rule, window_rows=min(rule.window_rows, MOST_ROWS), reference_rows=min(rule.reference_rows, MOST_ROWS)
    )


async def newest_arrival(connection: AsyncConnection, adapter: str, version: int) -> datetime | None:
    """When the newest request of the version came; None if none did."""
    moment = _REQUESTS.c.started_at
    query = select(moment).where(_served(adapter, version)).order_by(moment.desc()).limit(1)
    newest: datetime | None = (await connection.execute(query)).scalar_one_or_none()
    return newest


async def read_window(connection: AsyncConnection, adapter: str, version: int, rule: DriftRule) -> Window:
    """The version's first and newest requests, as many as the rule says; none of a table that has not enough."""
    requests = await _sample(connection, _numbers_of(adapter, version), rule)
    captures = await _sample(connection, _texts_of(adapter, version), rule)
    if not requests.current:
        return Window(requests, captures, end=await newest_arrival(connection, adapter, version))
    logprobs = await _sample(connection, _logprobs_of(adapter, version), rule)
    return Window(requests, captures, requests.current[0]["moment"], requests.current[-1]["moment"], logprobs)


def missing_rows(window: Window, rule: DriftRule) -> str | None:
    """What is missing of requests, in words; None if there are enough to look at."""
    return _missing_rows("requests", window.requests.found, rule)


def columns_of(
    window: Window,
    rule: DriftRule,
    texts: tuple[Sequence[str], Sequence[str]],
    embeddings: "Embeddings | None" = None,
) -> Columns:
    """Every column of a window.

    Args:
        window: what was read.
        rule: by which it was read.
        texts: the reference's prompts and its own, of `prompts_of`.
        embeddings: of these; None has no such column.
    """
    requests, captures = window.requests, window.captures
    columns: list[tuple[str, Kind, tuple[Sequence[Any], Sequence[Any]]]] = [
        ("prompt_tokens", "number", requests.both("prompt_tokens")),
        ("completion_tokens", "number", requests.both("completion_tokens")),
        ("finish_reason", "category", requests.both("finish_reason")),
        ("mean_logprob", "number", window.logprobs.both("mean_logprob")),
        ("refusal", "category", captures.both("refusal")),
        ("language", "category", ([language(text) for text in texts[0]], [language(text) for text in texts[1]])),
        ("prompt", "text", texts),
    ]
    if embeddings is not None:
        columns.append(("embedding", "vector", (embeddings.reference, embeddings.current)))
    too_few = _missing_rows("captured requests", captures.found, rule)
    few: dict[str, str | None] = dict.fromkeys(_OF_CAPTURES, too_few)
    few["mean_logprob"] = _missing_rows("captured requests with a known mean_logprob", window.logprobs.found, rule)
    judged, missing = [], {}
    for name, kind, (reference, current) in columns:
        values = Values(name, kind, _known(reference), _in_steps(_known(current), rule.window_rows))
        lacks = few.get(name) or _lacking(values)
        if lacks is None:
            judged.append(values)
        else:
            missing[name] = lacks
    return Columns(tuple(judged), missing)


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Vectors of the texts of `prompts_of`, in their order."""

    reference: Sequence[Sequence[float]]
    current: Sequence[Sequence[float]]


def prompts_of(window: Window, training_prompts: Sequence[str] = ()) -> tuple[Sequence[str], Sequence[str]]:
    """The texts of the reference's prompts and of the window's.

    Args:
        window: what was read.
        training_prompts: what the version was trained on, each made `comparable`: the reference if there are any.
    """
    reference, current = window.captures.both("prompt")
    if not training_prompts:
        return reference, current
    return training_prompts, [comparable(text) for text in current]


def comparable(text: str) -> str:
    """A prompt as far as it is looked at, with one word in place of all that is personal.

    The gateway leaves `[EMAIL]` where the tuner leaves `<EMAIL_ADDRESS>`, each finds what the other calls by another
    name, and either may be told to take nothing out.
    """
    return _PLACEHOLDER.sub(_TAKEN_OUT, redact(text[:LONGEST_PROMPT]).text)


def prompt_text(prompt: Any) -> str:
    """What is new in a prompt: a text itself, or the last message that the user wrote; empty if there is none."""
    if isinstance(prompt, str):
        return prompt
    messages = [message for message in prompt or () if isinstance(message, dict) and message.get("role") == "user"]
    content = messages[-1].get("content") if messages else ""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return "\n".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def language(text: str) -> str:
    """The language of a text, as ISO 639-1 has it; of one that is too short to tell, its script, such as `LATIN`."""
    letters = [letter for letter in text if letter.isalpha()]
    if len(letters) >= _SHORT:
        code, probability = _identifier()(text)
        if probability >= _SURE:
            return code
    return _script(letters)


@functools.cache
def _identifier() -> Callable[[str], tuple[str, float]]:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    classify: Callable[[str], tuple[str, float]] = LanguageIdentifier.from_model_file(
        MODEL_FILE, norm_probs=True
    ).classify
    return classify


def _script(letters: Sequence[str]) -> str:
    """The script of most letters: the first word of their names in Unicode."""
    scripts = Counter(unicodedata.name(letter, "UNKNOWN").split()[0] for letter in letters)
    return scripts.most_common(1)[0][0] if scripts else "NONE"


def fingerprint(columns: Columns) -> str:
    """The SHA-256 of the reference's values, in hex: other values have other thresholds."""
    values = [(values.name, values.kind, values.reference) for values in columns.judged]
    return hashlib.sha256(msgspec.json.encode(values)).hexdigest()


@dataclass(frozen=True, slots=True)
class _Source:
    """Rows of a table: which columns, which rows, by which moment they are ordered, and what is kept of each."""

    table: Table
    names: tuple[str, ...]
    wanted: ColumnElement[bool]
    moment: str
    keep: Callable[[Mapping[Any, Any]], Row]


def _numbers_of(adapter: str, version: int) -> _Source:
    names = ("prompt_tokens", "completion_tokens", "finish_reason")
    return _Source(_REQUESTS, names, _served(adapter, version), "started_at", dict)


def _texts_of(adapter: str, version: int) -> _Source:
    columns = _CAPTURES.c
    wanted = and_(columns.adapter == adapter, columns.version == version, columns.variant.in_(SERVED))
    return _Source(_CAPTURES, ("prompt", "answer"), wanted, "created_at", _of_capture)


def _logprobs_of(adapter: str, version: int) -> _Source:
    texts = _texts_of(adapter, version)
    known = and_(texts.wanted, _CAPTURES.c.mean_logprob.is_not(None))
    return replace(texts, names=("mean_logprob",), wanted=known, keep=dict)


def _of_capture(row: Mapping[Any, Any]) -> Row:
    answer = row["answer"]
    return {
        "prompt": prompt_text(row["prompt"])[:LONGEST_PROMPT],
        "refusal": None if answer is None else "yes" if refused(answer) else "no",
    }


async def _sample(connection: AsyncConnection, source: _Source, rule: DriftRule) -> Sample:
    """The first and the newest rows, which do not meet; none if there are too few."""
    table, needed = source.table, rule.reference_rows + rule.window_rows
    some = select(table.c.id).where(source.wanted).limit(needed).subquery()
    found = (await connection.execute(select(func.count()).select_from(some))).scalar_one()
    if found < needed:
        return Sample(found=found)
    moment = table.c[source.moment]
    query = select(*(table.c[name] for name in source.names), moment.label("moment")).where(source.wanted)
    first = query.order_by(moment, table.c.id).limit(rule.reference_rows)
    newest = query.order_by(moment.desc(), table.c.id.desc()).limit(rule.window_rows)
    # One by one, because a prompt may be long, and little of it is kept.
    reference = [source.keep(row) async for row in (await connection.stream(first)).mappings()]
    current = [source.keep(row) async for row in (await connection.stream(newest)).mappings()]
    return Sample(reference, current[::-1], found)


def _served(adapter: str, version: int) -> ColumnElement[bool]:
    """What the version answered for clients, and whole."""
    columns = _REQUESTS.c
    return and_(
        columns.adapter == adapter,
        columns.version == version,
        columns.variant.in_(SERVED),
        columns.status == 200,
        columns.error.is_(None),
    )


def _missing_rows(what: str, found: int, rule: DriftRule) -> str | None:
    needed = rule.reference_rows + rule.window_rows
    if found >= needed:
        return None
    return (
        f"{found:,} of {needed:,} {what}: {rule.reference_rows:,} for the reference and {rule.window_rows:,} for a "
        "window after it"
    )


def _known(values: Sequence[Any]) -> list[Any]:
    """Without what is not known; a text without a word says nothing either."""
    return [value for value in values if not _unknown(value)]


def _unknown(value: Any) -> bool:
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def _in_steps(values: list[Any], window_rows: int) -> list[Any]:
    """The newest of them, as many as the next lower step."""
    step = max(1, window_rows // _STEPS)
    return values[len(values) % step :]


def _lacking(values: Values) -> str | None:
    """What keeps a column from being judged, in words; None if nothing does."""
    sides = (("the window", values.current, LEAST_ROWS), ("the reference", values.reference, LEAST_REFERENCE))
    for side, found, least in sides:
        if len(found) < least:
            return f"{len(found):,} values in {side}, where at least {least} are needed"
    if values.kind in ("text", "vector") and all(each == values.reference[0] for each in values.reference):
        return "all rows of the reference are the same, so there is nothing that a window could resemble"
    return None
