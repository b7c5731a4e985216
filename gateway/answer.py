"""What the gateway learns of an engine's answer from its bytes: its id, its tokens and why it ended.

In a stream they are looked for where vLLM puts them, at the head and at the end; what lies between is not read. In
JSON that came from a model's words, quotes have backslashes and there are no line breaks, so such words are never taken
for these.
"""

import re
from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.body import NOT_JSON
from gateway.usage import BYTES_A_TOKEN, TAIL_BYTES, Usage, find_usage, usage_of

MESSAGES, RESPONSES = "/v1/messages", "/v1/responses"
_HEAD_BYTES = 512
_MOST_TAIL_BYTES = TAIL_BYTES + TAIL_BYTES // 4
"""A tail is cut down to what may be looked at once it is so long: not with each chunk, and not much longer."""
_UNKNOWN = Usage()
_EVENT = b"data:"
_FINISH_REASON = b'"finish_reason":'
_STOP_REASON = b'"stop_reason":'
_INCOMPLETE = b'"incomplete_details":'
_LAST_EVENT = b"event: response.completed\n"
_WORD = re.compile(rb' ?"(\w{1,40})"')
_REASON = re.compile(rb' ?(?:(null)|\{"reason": ?"(\w{1,40})")')
_LONGEST_ID, _LONGEST_REASON = 160, 40
_ID = rb'"id": ?"([^"\\]{1,160})"'
_STREAMED_ID = re.compile(rb'^data: ?\{(?:"type": ?"[\w.]+", ?)?(?:"(?:message|response)": ?\{)?' + _ID, re.MULTILINE)
_AS_OPENAI_SAYS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "max_output_tokens": "length",
    "tool_use": "tool_calls",
}


@dataclass(slots=True)
class Answer:
    """What is known of an answer.

    Attributes:
        completion_id: its own id.
        finish_reason: why it ended, in the words of chat completions, whatever the endpoint calls it.
        counted: its tokens, as far as the engine has told them.
    """

    completion_id: str | None = None
    finish_reason: str | None = None
    counted: Usage = _UNKNOWN

    @property
    def usage(self) -> Usage:
        """Its tokens."""
        return self.counted


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class _Incomplete(msgspec.Struct):
    reason: str | None = None


class _Whole(msgspec.Struct):
    """An answer in one piece, of any endpoint; what is not named here is skipped, not decoded."""

    id: str = ""
    choices: list[_Choice] = []
    stop_reason: str | None = None
    incomplete_details: _Incomplete | msgspec.UnsetType | None = msgspec.UNSET
    usage: dict[str, Any] | None = None


_whole = msgspec.json.Decoder(_Whole)


def read_whole(path: str, content: bytes) -> Answer:
    """What an answer in one piece says, on the endpoint of that path; nothing, if it is none."""
    try:
        found = _whole.decode(content)
    except NOT_JSON:
        return Answer()
    reason = _finish(path, found)
    return Answer(
        found.id if 0 < len(found.id) <= _LONGEST_ID else None,
        _as_openai(reason) if reason is not None and len(reason) <= _LONGEST_REASON else None,
        usage_of(found.usage or {}),
    )


def _finish(path: str, found: _Whole) -> str | None:
    if path == RESPONSES:
        if not found.incomplete_details:
            return "stop" if found.incomplete_details is None else None
        return found.incomplete_details.reason
    if path == MESSAGES:
        return found.stop_reason
    return found.choices[-1].finish_reason if found.choices else None


class StreamedAnswer(Answer):
    """Follows a stream as its bytes come.

    Until the engine has said its count, the tokens are as many as there were events, and the prompt's a guess.

    Args:
        path: the endpoint.
        body_bytes: the length of the request's body.
    """

    __slots__ = ("_completed", "_edge", "_events", "_path", "_prompt_tokens", "_tail")

    def __init__(self, path: str, body_bytes: int) -> None:
        super().__init__()
        self._path = path
        self._prompt_tokens = body_bytes // BYTES_A_TOKEN
        self._events = 0
        self._tail = bytearray()  # all of the stream, until that is too much
        self._edge = b""
        self._completed = b""

    @property
    def usage(self) -> Usage:
        """Its tokens, as of now."""
        return self.counted if self.counted != _UNKNOWN else Usage(self._prompt_tokens, self._events)

    def feed(self, chunk: bytes) -> None:
        """Take note of the next bytes."""
        tail = self._tail
        is_head = len(tail) < _HEAD_BYTES
        tail += chunk
        if is_head and self.completion_id is None:
            found = _STREAMED_ID.search(tail[:_HEAD_BYTES])
            self.completion_id = _text(found[1]) if found else None
        if len(tail) > _MOST_TAIL_BYTES:
            del tail[:-TAIL_BYTES]
        if self._path == RESPONSES:
            self._follow_response(chunk)
        self._events += chunk.count(_EVENT)

    def end(self) -> None:
        """The stream ended as it should: read what stands at its end."""
        tail = bytes(self._tail[-TAIL_BYTES:])
        self.counted = find_usage(tail)
        if self._path == RESPONSES:
            self.finish_reason = _responses_finish(self._completed)
        else:
            self.finish_reason = _last_word(tail, _STOP_REASON if self._path == MESSAGES else _FINISH_REASON)

    def _follow_response(self, chunk: bytes) -> None:
        """Keep the head of the last event, whose end is far from there: it repeats the whole answer."""
        window = self._edge + chunk
        if (at := window.rfind(_LAST_EVENT)) >= 0:
            self._completed = window[at : at + _HEAD_BYTES]
        elif self._completed:
            self._completed += chunk[: _HEAD_BYTES - len(self._completed)]
        self._edge = window[1 - len(_LAST_EVENT) :]


def _last_word(content: bytes, mark: bytes) -> str | None:
    """The word that stands where `mark` does last; None if that is no word."""
    at = content.rfind(mark)
    found = _WORD.match(content, at + len(mark)) if at >= 0 else None
    return _as_openai(_text(found[1])) if found else None


def _responses_finish(head: bytes) -> str | None:
    """The first `incomplete_details`: it stands before all text, and has a reason if the answer was cut short."""
    at = head.find(_INCOMPLETE)
    found = _REASON.match(head, at + len(_INCOMPLETE)) if at >= 0 else None
    if found is None:
        return None
    return "stop" if found[1] else _as_openai(_text(found[2]))


def _as_openai(said: str) -> str:
    return _AS_OPENAI_SAYS.get(said, said)


def _text(found: bytes | bytearray) -> str:
    return found.decode("utf-8", "replace")
