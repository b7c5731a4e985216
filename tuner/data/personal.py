"""Takes personal data and secrets out of rows: each find becomes a placeholder such as ``<EMAIL_ADDRESS>``.

What is looked for has a form that can be checked. Microsoft's Presidio knows most such forms; it is the extra `pii`.
What the gateway takes out of stored prompts (`monitors.privacy.redaction`), secrets among it, is looked for in any
case. Names and street addresses have no form; they take a language model, which neither has here.

What is found anywhere in a row is replaced everywhere in it, or an answer would tell what its prompt hides: in what is
said, in names of speakers, in calls of tools, in what tools say of themselves, and in the label. Only the ids of calls
stay, by which their results find them.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from monitors.judging.golden import Message
from monitors.teaching.checking import is_deep
from monitors.teaching.rows import LONGEST_LABEL, PreferenceRow, Row
from tuner.data.finders import Finder, Found

_FEWEST_LETTERS = 4
_REMEMBERED_TEXTS = 256
_BETWEEN = "\n|\n"
"""Between texts that are searched as one: nothing that is looked for has it inside."""


class Cleaner:
    """Takes personal data out of rows.

    Args:
        finders: in the order in which they are asked; where two find the same text, the first one names it.

    Attributes:
        found: how much was taken out, by kind.
        rows: from how many rows.
    """

    def __init__(self, finders: Sequence[Finder]) -> None:
        self.names = [finder.name for finder in finders]
        self.found: Counter[str] = Counter()
        self.rows = 0
        self._finders = finders
        self._find = lru_cache(maxsize=_REMEMBERED_TEXTS)(self._ask)  # many rows have the same instructions

    def clean(self, row: Row) -> Row:
        """The row without it."""
        known: dict[str, str] = {}
        for text in _texts(row):
            for value, kind in self._find(text) if len(text) >= _FEWEST_LETTERS else ():
                if len(value) >= _FEWEST_LETTERS:  # what is shorter stands in other words, too
                    known.setdefault(value, kind)
        if not known:
            return row
        replacing = _Replacing(known)
        clean = _rewritten(row, replacing.value)
        self.found += replacing.found
        self.rows += 1
        return clean

    def _ask(self, text: str) -> list[Found]:
        return [found for finder in self._finders for found in finder.find(text)]


class _Replacing:
    """Puts placeholders in place of known texts, and counts them."""

    def __init__(self, known: Mapping[str, str]) -> None:
        self._known = known
        self._pattern = re.compile("|".join(map(re.escape, sorted(known, key=lambda value: (-len(value), value)))))
        self.found: Counter[str] = Counter()

    def text(self, text: str) -> str:
        """A text with placeholders; one that is JSON stays JSON."""
        before = self.found.copy()
        clean = self._pattern.sub(self._placeholder, text)
        value = _json_of(text)
        if value is None or clean == text or _json_of(clean) is not None:
            return clean
        self.found = before  # a number has become a placeholder, which needs quotes around it
        return json.dumps(self.value(value), ensure_ascii=False)

    def value(self, value: Any) -> Any:
        """A value of JSON with placeholders."""
        match value:
            case str():
                return self.text(value)
            case list():
                return [self.value(each) for each in value]
            case dict():
                return {self.value(name): self.value(each) for name, each in value.items()}
            case int() | float() if not isinstance(value, bool):
                clean = self.text(str(value))
                return value if clean == str(value) else clean
        return value

    def _placeholder(self, match: re.Match[str]) -> str:
        kind = self._known[match[0]]
        self.found[kind] += 1
        return f"<{kind}>"


def _texts(row: Row) -> Iterator[str]:
    """All texts of a row that may hold personal data."""
    for message in _messages(row):
        yield from _strings([message.content, message.name, *map(_without_id, message.tool_calls or ())])
    yield from (_BETWEEN.join(_strings(tool)) for tool in _tools(row) or ())  # one each, as many rows have the same
    yield from _strings(row.label)


def _strings(value: Any) -> Iterator[str]:
    """The texts in a value of JSON, its names and numbers among them."""
    match value:
        case str():
            yield value
        case list():
            for each in value:
                yield from _strings(each)
        case dict():
            for name, each in value.items():
                yield from _strings([name, each])
        case int() | float() if not isinstance(value, bool):
            yield str(value)


def _messages(row: Row) -> list[Message]:
    return [*row.prompt, *row.answers]


def _tools(row: Row) -> list[dict[str, Any]] | None:
    return row.input.tools if isinstance(row, PreferenceRow) else row.tools


def _without_id(call: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in call.items() if name != "id"}


def _rewritten(row: Row, change: Callable[[Any], Any]) -> Row:
    """The row with each of these texts changed; `change` takes any value of JSON."""

    def changed(messages: list[Message]) -> list[Message]:
        return [_changed(message, change) for message in messages]

    label = row.label and change(row.label)[:LONGEST_LABEL]
    if isinstance(row, PreferenceRow):
        asked = row.input
        return msgspec.structs.replace(
            row,
            input=msgspec.structs.replace(asked, messages=changed(asked.messages), tools=change(asked.tools)),
            preferred_output=changed(row.preferred_output),
            non_preferred_output=changed(row.non_preferred_output),
            label=label,
        )
    return msgspec.structs.replace(row, messages=changed(row.messages), tools=change(row.tools), label=label)


def _changed(message: Message, change: Callable[[Any], Any]) -> Message:
    calls = message.tool_calls and [call | change(_without_id(call)) for call in message.tool_calls]
    return msgspec.structs.replace(
        message, content=change(message.content), name=change(message.name), tool_calls=calls
    )


def _json_of(text: str) -> Any:
    """The object or list that a text is in JSON; None if it is none."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return None if is_deep(value) else value
