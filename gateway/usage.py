"""The tokens that a request used, found at the end of the engine's answer without reading the rest."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.body import NOT_JSON
from gateway.events import ENDS, WholeEvents, event_around

_MARK = b'"usage":'
_EMPTY_CHOICES = b'"choices":[]'
_OPENING = re.compile(rb" *\{")
_MOST_TOKENS = 2**31
_object = msgspec.json.Decoder(dict[str, Any])
TAIL_BYTES = 8192
BYTES_A_TOKEN = 4
"""Of a request's body, roughly: for the prompts of streams that end before the engine has told its count."""


class Usage(msgspec.Struct, frozen=True):
    """Tokens, as the engine counted them; None where it did not say."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None


def find_usage(tail: bytes) -> Usage:
    """Read the last `usage` object that stands in `tail`, the end of a JSON answer or of a stream of events.

    Inside a JSON string the mark would carry backslashes, so text that a model wrote is never taken for it.
    """
    end = len(tail)
    while (at := tail.rfind(_MARK, 0, end)) >= 0:
        found = _object_at(tail, at + len(_MARK))
        if found:
            return usage_of(found)
        end = at
    return Usage()


def usage_of(fields: Mapping[str, Any]) -> Usage:
    """The tokens that a `usage` object tells, in the words of any endpoint."""
    return Usage(_count(fields, "prompt_tokens", "input_tokens"), _count(fields, "completion_tokens", "output_tokens"))


def _object_at(text: bytes, start: int) -> Mapping[str, Any]:
    """The JSON object that stands in `text` at `start`; empty if no whole one does, or a brace is in its strings."""
    if not _OPENING.match(text, start):
        return {}
    depth, place = 0, start
    while (closing := text.find(b"}", place)) >= 0:
        depth += text.count(b"{", place, closing) - 1
        if depth == 0:
            return _decoded(text[start : closing + 1])
        place = closing + 1
    return {}


def _decoded(text: bytes) -> Mapping[str, Any]:
    try:
        return _object.decode(text)
    except NOT_JSON:
        return {}


def _count(usage: Mapping[str, Any], *names: str) -> int | None:
    """The first of these that is a count; an engine's nonsense is none."""
    for name in names:
        found = usage.get(name)
        if type(found) is int and 0 <= found < _MOST_TOKENS:
            return found
    return None


class UsageFilter(WholeEvents):
    """Keeps the usage event, which the gateway asked for, back from a client that did not."""

    __slots__ = ()

    def feed(self, chunk: bytes) -> bytes:
        """What of the stream so far may go to the client now."""
        # Nearly every chunk is whole events, which the filter then knows without another call.
        whole = chunk if not self._held and chunk.endswith(ENDS) else super().feed(chunk)
        at = whole.find(_EMPTY_CHOICES)
        while at >= 0:
            start, end = event_around(whole, at)
            if _is_usage_event(whole[start:end]):
                whole, end = whole[:start] + whole[end:], start
            at = whole.find(_EMPTY_CHOICES, end)
        return whole


def _is_usage_event(event: bytes) -> bool:
    if _MARK not in event:
        return False
    try:
        data = msgspec.json.decode(event.partition(b"data:")[2])
    except NOT_JSON:
        return False
    return isinstance(data, dict) and data.get("choices") == [] and bool(data.get("usage"))
