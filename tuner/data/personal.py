"""Takes personal data and secrets out of rows: each find becomes a placeholder such as ``<EMAIL_ADDRESS>``.

What is looked for has a form that can be checked. Microsoft's Presidio knows most such forms; it is the extra `pii`.
What the gateway takes out of stored prompts (`monitors.privacy.redaction`), secrets among it, is looked for in any
case. Names and street addresses have no form; they take a language model, which neither has here.

What is found anywhere in a row is replaced everywhere in it, or an answer would tell what its prompt hides.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from monitors.judging.golden import Message
from tuner.data.finders import Finder, Found
from tuner.data.rows import PreferenceRow, Row

_FEWEST_LETTERS = 4
_REMEMBERED_TEXTS = 256


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
            for value, kind in self._find(text):
                if len(value) >= _FEWEST_LETTERS:  # what is shorter stands in other words, too
                    known.setdefault(value, kind)
        if not known:
            return row
        replacing = _Replacing(known)
        clean = _rewritten(row, replacing.text)
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
        return json.dumps(self._value(value), ensure_ascii=False)

    def _value(self, value: Any) -> Any:
        match value:
            case str():
                return self._pattern.sub(self._placeholder, value)
            case list():
                return [self._value(each) for each in value]
            case dict():
                return {self._value(name): self._value(each) for name, each in value.items()}
            case int() | float() if not isinstance(value, bool):
                clean = self._value(str(value))
                return value if clean == str(value) else clean
        return value

    def _placeholder(self, match: re.Match[str]) -> str:
        kind = self._known[match[0]]
        self.found[kind] += 1
        return f"<{kind}>"


def _texts(row: Row) -> Iterator[str]:
    """What is said in a row: contents, and the arguments of tool calls."""
    for message in _messages(row):
        if isinstance(message.content, list):
            yield from (part["text"] for part in message.content)
        elif message.content:
            yield message.content
        yield from (call["function"].get("arguments") or "" for call in message.tool_calls or ())


def _messages(row: Row) -> list[Message]:
    if isinstance(row, PreferenceRow):
        return [*row.prompt, *row.preferred_output, *row.non_preferred_output]
    return row.messages


def _rewritten(row: Row, change: Callable[[str], str]) -> Row:
    """The row with each of these texts changed."""

    def changed(messages: list[Message]) -> list[Message]:
        return [_changed(message, change) for message in messages]

    if isinstance(row, PreferenceRow):
        return msgspec.structs.replace(
            row,
            input=msgspec.structs.replace(row.input, messages=changed(row.input.messages)),
            preferred_output=changed(row.preferred_output),
            non_preferred_output=changed(row.non_preferred_output),
        )
    return msgspec.structs.replace(row, messages=changed(row.messages))


def _changed(message: Message, change: Callable[[str], str]) -> Message:
    content = message.content
    if isinstance(content, list):
        content = [{**part, "text": change(part["text"])} for part in content]
    elif content:
        content = change(content)
    calls = message.tool_calls and [_changed_call(call, change) for call in message.tool_calls]
    return msgspec.structs.replace(message, content=content, tool_calls=calls)


def _changed_call(call: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    function = call["function"]
    arguments = function.get("arguments")
    return {**call, "function": {**function, "arguments": change(arguments)}} if arguments else call


def _json_of(text: str) -> Any:
    """The object or list that a text is in JSON; None if it is none."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
