"""Golden sets: what a row is, how a set is checked while it comes in, and how it is frozen.

A row is a line of JSON as in OpenAI's fine-tuning files, ``{"messages": [...]}``. A last message of the assistant's
is the reference, which a model is not shown; a row may do without one if none of its scorers needs it. Beside that a
row may have `scorers` of its own, in place of the set's, `max_tokens` for the answer, and `tools`.

A frozen set is two files in the artifact store, both spelt in the one canonical way: the rows, and the set's scorers.
Equal sets therefore have equal digests, whatever the spacing and the order of keys they came with.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal

import msgspec

from monitors.judging.scorers import SCORERS, check_choice
from registry.artifacts import Artifact, ArtifactStore, canonical_json
from registry.errors import InvalidValue, StoreFailure
from registry.monitoring import ScorerChoice
from registry.wording import plain

DEFAULT_SCORERS = ("exact_match", "token_f1")
LONGEST_SET_BYTES = 64 << 20
LONGEST_ROW_BYTES = 1 << 20
MOST_ROWS = 10_000
_SHOWN_PROBLEMS = 20
_LONGEST_PROBLEM = 200
_ROWS_FILE, _SET_FILE = "rows.jsonl", "set.json"
_NOT_A_ROW = (msgspec.DecodeError, UnicodeError, RecursionError)
_ONE_ROW_FORM = "each line must be a JSON object with a list `messages`"


class InvalidGoldenSet(InvalidValue):
    """Rows that cannot be used; the message names each by its line, up to 20 of them."""

    code = "invalid_golden_set"


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A message of a chat. `weight` is OpenAI's, for training; no model is sent it."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    weight: float | None = None


class GoldenRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One question, with its reference if it has one; `scorers` None leaves them to the set."""

    messages: Annotated[list[Message], msgspec.Meta(min_length=1)]
    scorers: list[ScorerChoice | str] | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)] | None = None
    tools: list[dict[str, Any]] | None = None

    @property
    def reference(self) -> str | None:
        """What the answer should have been."""
        last = self.messages[-1]
        return last.content if last.role == "assistant" and isinstance(last.content, str) else None

    @property
    def prompt(self) -> list[Mapping[str, Any]]:
        """What a model is asked: the messages without the reference."""
        asked = self.messages[:-1] if self.messages[-1].role == "assistant" else self.messages
        bodies: list[dict[str, Any]] = [msgspec.to_builtins(message) for message in asked]
        return [{name: value for name, value in body.items() if name != "weight"} for body in bodies]

    @property
    def reading(self) -> dict[str, Any]:
        """The other fields of a request that change how the prompt reads."""
        return {} if self.tools is None else {"tools": self.tools}

    @property
    def options(self) -> dict[str, Any]:
        """The other fields of a request for an answer."""
        return self.reading | ({} if self.max_tokens is None else {"max_tokens": self.max_tokens})

    def choices(self, of_set: tuple[ScorerChoice, ...]) -> tuple[ScorerChoice, ...]:
        """What scores its answers."""
        return of_set if self.scorers is None else tuple(map(_as_choice, self.scorers))


@dataclass(frozen=True, slots=True)
class GoldenSet:
    """A frozen set, as it is read back: its rows in order, and what scores those that do not say."""

    digest: str
    rows: tuple[GoldenRow, ...]
    scorers: tuple[ScorerChoice, ...]


@dataclass(frozen=True, slots=True)
class CheckedSet:
    """A set that may be frozen, spelt in the canonical way."""

    lines: tuple[bytes, ...]
    scorers: tuple[ScorerChoice, ...]

    def freeze(self, store: ArtifactStore) -> Artifact:
        """Put it into the store; the same set again is the same artifact.

        Raises:
            StoreFailure
        """
        about = {"format": 1, "scorers": msgspec.to_builtins(self.scorers)}
        return store.put_files({_ROWS_FILE: b"\n".join(self.lines) + b"\n", _SET_FILE: canonical_json(about)})


class GoldenChecker:
    """Checks a set piece by piece as it comes in.

    Args:
        scorers: what scores rows that do not say.

    Raises:
        InvalidValue: there is no such scorer, or one is named twice.
    """

    def __init__(self, scorers: Iterable[ScorerChoice]) -> None:
        self._scorers = tuple(scorers)
        self._rest = b""
        self._taken = 0
        self._line = 0
        self._rows: dict[bytes, int] = {}
        self._problems: list[str] = []
        self._wrong = 0
        if problem := _wrong_choice(self._scorers):
            raise InvalidValue(problem, param="scorers")

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes.

        Raises:
            InvalidGoldenSet: it is too long already.
        """
        self._taken += len(chunk)
        if self._taken > LONGEST_SET_BYTES:
            raise InvalidGoldenSet(f"a golden set may have {LONGEST_SET_BYTES} bytes at most")
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            self._take(line)
        self._hold_to_length(self._rest, self._line + 1)

    def finish(self) -> CheckedSet:
        """The whole set.

        Raises:
            InvalidGoldenSet: it has no row, or wrong ones.
        """
        if self._rest:  # what follows the last line break is a line only if there is something
            self._take(self._rest)
        if self._wrong:
            more = f"; and {self._wrong - len(self._problems)} more" if self._wrong > len(self._problems) else ""
            told = "; ".join(self._problems)
            raise InvalidGoldenSet(f"{self._wrong} of {self._line} lines cannot be used: {told}{more}")
        if not self._rows:
            raise InvalidGoldenSet(f"the golden set has no rows; {_ONE_ROW_FORM}")
        return CheckedSet(tuple(self._rows), self._scorers)

    def _take(self, line: bytes) -> None:
        """Check the next line; empty ones count, so that the numbers are those of an editor."""
        self._line += 1
        self._hold_to_length(line, self._line)
        if not line.strip():
            return
        try:
            row = msgspec.json.decode(line, type=GoldenRow)
            spelt = canonical_json(msgspec.to_builtins(row))
        except _NOT_A_ROW as error:
            self._note(_words(error))
            return
        if problem := self._problem(row, spelt):
            self._note(problem)
        elif len(self._rows) == MOST_ROWS:
            raise InvalidGoldenSet(f"line {self._line}: a golden set may have {MOST_ROWS} rows at most")
        else:
            self._rows[spelt] = self._line

    def _hold_to_length(self, line: bytes, number: int) -> None:
        if len(line) > LONGEST_ROW_BYTES:
            raise InvalidGoldenSet(f"line {number}: a row may have {LONGEST_ROW_BYTES} bytes at most")

    def _note(self, problem: str) -> None:
        self._wrong += 1
        if len(self._problems) < _SHOWN_PROBLEMS:
            self._problems.append(f"line {self._line}: {problem[:_LONGEST_PROBLEM]}")

    def _problem(self, row: GoldenRow, spelt: bytes) -> str | None:
        if row.messages[-1].role == "assistant" and not row.reference:
            return "the last message is the assistant's, so it is the reference and must have text as its content"
        if not row.prompt:
            return "there is no message to answer before the reference"
        if spelt in self._rows:
            return f"it is the same as line {self._rows[spelt]}, and would count twice"
        choices = row.choices(self._scorers)
        if row.reference is None and (needy := [each.scorer for each in choices if needs_reference(each)]):
            return f"the scorer {needy[0]!r} needs a reference: a last message of the assistant's"
        return _wrong_choice(choices) if row.scorers is not None else None


def needs_reference(choice: ScorerChoice) -> bool:
    """Whether a scorer has nothing to say of a row without a reference."""
    scorer = SCORERS.get(choice.scorer)
    return scorer is not None and not {"reference", "mean_logprob"}.isdisjoint(scorer.needs)


def read_golden_set(store: ArtifactStore, digest: str) -> GoldenSet:
    """Read a frozen set; it is held against its digest each time.

    Raises:
        StoreFailure: it is not there, cannot be read, or is no golden set.
    """
    folder = store.fetch(digest)
    try:
        lines = (folder / _ROWS_FILE).read_bytes().splitlines()
        about = msgspec.json.decode((folder / _SET_FILE).read_bytes(), type=_About)
        rows = tuple(msgspec.json.decode(line, type=GoldenRow) for line in lines)
    except (OSError, *_NOT_A_ROW) as error:
        raise StoreFailure(f"the content stored as {digest[:12]} is no golden set") from error
    return GoldenSet(digest, rows, about.scorers)


class _About(msgspec.Struct, frozen=True):
    """What stands beside the rows."""

    scorers: tuple[ScorerChoice, ...]


def _as_choice(said: ScorerChoice | str) -> ScorerChoice:
    return _named(said) if isinstance(said, str) else said


@lru_cache(maxsize=256)
def _named(scorer: str) -> ScorerChoice:
    return ScorerChoice(scorer)


def _wrong_choice(choices: Sequence[ScorerChoice]) -> str | None:
    """What is wrong with a row's or a set's scorers."""
    names = [choice.scorer for choice in choices]
    if not names:
        return "it has no scorers"
    if len(set(names)) < len(names):
        return "a scorer may be named once, for its scores go by its name"
    try:
        for choice in choices:
            check_choice(choice)
    except InvalidValue as error:
        return error.message
    return None


def _words(error: Exception) -> str:
    """What is wrong with a line, without what stands in it."""
    if isinstance(error, msgspec.ValidationError):
        return plain(error, GoldenRow)
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return f"it is not valid JSON; {_ONE_ROW_FORM}"
