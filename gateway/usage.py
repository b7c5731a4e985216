"""The tokens that a request used, found at the end of the engine's answer without reading the rest."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.body import NOT_JSON

_MARK = b'"usage":'
_EMPTY_CHOICES = b'"choices":[]'
_EVENT_END = b"\n\n"
_MOST_TOKENS = 2**31
TAIL_BYTES = 8192
BYTES_A_TOKEN = 4
"""Of a request's body, roughly: for the prompts of streams that end before the engine has told its count."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens, as the engine counted them; None where it did not say."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None


def find_usage(tail: bytes) -> Usage:
    """Read the last `usage` object that stands in `tail`, the end of a JSON answer or of a stream of events.

    Inside a JSON string the mark would carry backslashes, so text that a model wrote is never taken for it.
    """
    end = len(tail)
    while (at := tail.rfind(_MARK, 0, end)) >= 0:
        found = _leading_object(tail[at + len(_MARK) :])
        if found:
            return Usage(
                _count(found, "prompt_tokens", "input_tokens"), _count(found, "completion_tokens", "output_tokens")
            )
        end = at
    return Usage()


def _leading_object(text: bytes) -> Mapping[str, Any]:
    """The JSON object that `text` begins with; empty if it does not begin with a whole one."""
    depth = 0
    for index, byte in enumerate(text):
        if byte == 0x7B:
            depth += 1
        elif byte == 0x7D:
            depth -= 1
        elif depth == 0 and byte not in b" ":
            return {}
        if depth == 0 and byte == 0x7D:
            try:
                decoded: Mapping[str, Any] = msgspec.json.decode(text[: index + 1])
                return decoded
            except NOT_JSON:
                return {}
    return {}


def _count(usage: Mapping[str, Any], *names: str) -> int | None:
    """The first of these that is a count; an engine's nonsense is none."""
    found = (usage.get(name) for name in names)
    return next((count for count in found if type(count) is int and 0 <= count < _MOST_TOKENS), None)


class UsageFilter:
    """Keeps the usage event, which the gateway asked for, back from a client that did not.

    Bytes go through as they came up to the last whole event; the rest of an unfinished one waits for its end, which
    no client could have read before.
    """

    def __init__(self) -> None:
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        """What of the stream so far may go to the client now."""
        data = self._held + chunk if self._held else chunk
        cut = data.rfind(_EVENT_END) + len(_EVENT_END)
        if cut < len(_EVENT_END):
            self._held = data
            return b""
        self._held = data[cut:]
        whole = data[:cut]
        if _EMPTY_CHOICES not in whole:
            return whole
        events = whole.split(_EVENT_END)[:-1]
        return b"".join(event + _EVENT_END for event in events if not _is_usage_event(event))

    def rest(self) -> bytes:
        """What is left when the stream ends."""
        held, self._held = self._held, b""
        return held


def _is_usage_event(event: bytes) -> bool:
    if _EMPTY_CHOICES not in event or _MARK not in event:
        return False
    try:
        data = msgspec.json.decode(event.partition(b"data:")[2])
    except NOT_JSON:
        return False
    return isinstance(data, dict) and data.get("choices") == [] and bool(data.get("usage"))
