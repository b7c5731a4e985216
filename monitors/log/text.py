"""What was said in a captured request: the prompt and the answer, out of the bytes of four APIs, streamed or not.

Prompts become a list of messages as the client wrote them, with a system prompt that stands elsewhere in front; a
prompt of `/v1/completions` stays a text. Of the answers the first choice is taken. Pictures, sounds and files are left
out, since nobody can say what they hold, and so are prompts that are numbers of tokens.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from monitors.record import Text

LONGEST_TEXT = 100_000
"""Of a prompt, without its pictures, and its answer, characters. What is longer takes too long to look through."""

_EVENT_DATA = b"data:"
_END = b"[DONE]"
_BINARY_PARTS = frozenset(
    (
        "image_url",
        "input_image",
        "image",
        "input_audio",
        "audio",
        "file",
        "input_file",
        "document",
        "video_url",
        "video",
    )
)
_TEXT_PARTS = ("text", "output_text", "refusal")
_Json = Mapping[str, Any]


class NotText(ValueError):
    """What was said cannot be told; `reason` is a word for it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Said:
    """A prompt and its answer.

    Attributes:
        prompt: a list of messages, or a text.
        answer: the text of the first choice; None if there was none, as with a call of a tool.
        mean_logprob: of the answer's tokens, nats; None if the client did not ask for it.
    """

    prompt: list[Any] | str
    answer: str | None
    mean_logprob: float | None = None


def said(path: str, text: Text) -> Said:
    """Take the bytes of a request and of its answer apart.

    Raises:
        NotText: they are none of an API that is known here, or too long.
    """
    reader = _READERS.get(path)
    if reader is None:
        raise NotText("unknown_path")
    try:
        prompt = _without_binaries(reader.prompt(_object(text.prompt)))
        answer = reader.answer(_answers(text.answer))
        if characters(prompt) + characters(answer.text) > LONGEST_TEXT:
            raise NotText("too_large")
        return Said(prompt, answer.text, answer.mean_logprob)
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise error if isinstance(error, NotText) else NotText("unreadable") from None


def characters(value: Any) -> int:
    """How much text is in a value of JSON; what is no text counts as one character."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list):
        return len(value) + sum(map(characters, value))
    if isinstance(value, dict):
        return sum(len(key) + characters(item) for key, item in value.items())
    return 1


class _Answer:
    """An answer as it grows, event by event."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._logprobs: list[float] = []

    def add(self, text: Any) -> None:
        if isinstance(text, str):
            self._parts.append(text)

    def add_logprobs(self, values: Iterable[Any]) -> None:
        self._logprobs += [float(value) for value in values if isinstance(value, int | float) and math.isfinite(value)]

    @property
    def text(self) -> str | None:
        return "".join(self._parts) or None

    @property
    def mean_logprob(self) -> float | None:
        return sum(self._logprobs) / len(self._logprobs) if self._logprobs else None


@dataclass(frozen=True, slots=True)
class _Reader:
    """How one API says its prompts and answers. An answer comes as one object, or as the events of a stream."""

    prompt: Callable[[_Json], list[Any] | str]
    answer: Callable[[Iterator[_Json]], _Answer]


def _object(content: bytes) -> _Json:
    found = msgspec.json.decode(content)
    if not isinstance(found, dict):
        raise NotText("unreadable")
    return found


def _answers(content: bytes) -> Iterator[_Json]:
    """The JSON objects of an answer: itself, or those of its events. A stream that was cut off ends where it was."""
    content = content.strip()
    if content.startswith(b"{"):
        yield _object(content)
        return
    for line in content.splitlines():
        data = line.removeprefix(_EVENT_DATA).strip() if line.startswith(_EVENT_DATA) else b""
        if not data or data == _END:
            continue
        try:
            yield _object(data)
        except (ValueError, RecursionError):
            return


def _first_choice(answers: Iterator[_Json]) -> Iterator[_Json]:
    """The first choice of `n`, piece by piece."""
    for answer in answers:
        for choice in answer.get("choices") or ():
            if choice.get("index", 0) == 0:
                yield choice


def _chat_prompt(body: _Json) -> list[Any]:
    return _messages(body["messages"])


def _chat_answer(answers: Iterator[_Json]) -> _Answer:
    answer = _Answer()
    for choice in _first_choice(answers):
        message = choice.get("message") or choice.get("delta") or {}
        answer.add(_text_of(message.get("content")) or message.get("refusal"))
        tokens = (choice.get("logprobs") or {}).get("content") or ()
        answer.add_logprobs(token.get("logprob") for token in tokens)
    return answer


def _completion_prompt(body: _Json) -> str:
    """The first of several; they have a choice each."""
    prompt = body["prompt"]
    first = prompt[0] if isinstance(prompt, list) and prompt else prompt
    if not isinstance(first, str):
        raise NotText("tokens")
    return first


def _completion_answer(answers: Iterator[_Json]) -> _Answer:
    answer = _Answer()
    for choice in _first_choice(answers):
        answer.add(choice.get("text"))
        answer.add_logprobs((choice.get("logprobs") or {}).get("token_logprobs") or ())
    return answer


def _responses_prompt(body: _Json) -> list[Any]:
    given = body["input"]
    messages = [{"role": "user", "content": given}] if isinstance(given, str) else _messages(given)
    return _after_system(body.get("instructions"), messages)


def _responses_answer(answers: Iterator[_Json]) -> _Answer:
    answer = _Answer()
    for event in answers:
        if event.get("type") == "response.output_text.delta":
            answer.add(event.get("delta"))
            answer.add_logprobs(token.get("logprob") for token in event.get("logprobs") or ())
        elif isinstance(event.get("output"), list):
            for item in event["output"]:
                if item.get("type") == "message":
                    answer.add(_text_of(item.get("content")))
    return answer


def _anthropic_prompt(body: _Json) -> list[Any]:
    return _after_system(body.get("system"), _messages(body["messages"]))


def _anthropic_answer(answers: Iterator[_Json]) -> _Answer:
    answer = _Answer()
    for event in answers:
        if event.get("type") == "content_block_delta":
            answer.add((event.get("delta") or {}).get("text"))
        elif event.get("type") == "message":
            answer.add(_text_of(event.get("content")))
    return answer


def _after_system(system: Any, messages: list[Any]) -> list[Any]:
    return [{"role": "system", "content": system}, *messages] if system else messages


def _messages(value: Any) -> list[Any]:
    if not isinstance(value, list) or not all(isinstance(message, dict) for message in value):
        raise NotText("unreadable")
    return value


def _text_of(content: Any) -> str | None:
    """The text of a message, which may come in parts."""
    if isinstance(content, list):
        texts = (part.get(kind) for part in content for kind in _TEXT_PARTS if part.get("type") in _TEXT_PARTS)
        return "".join(text for text in texts if isinstance(text, str)) or None
    return content if isinstance(content, str) else None


def _without_binaries(value: Any) -> Any:
    """The same without what is no text; of such a part its type stays."""
    if isinstance(value, list):
        return [_without_binaries(item) for item in value]
    if isinstance(value, dict):
        if value.get("type") in _BINARY_PARTS:
            return {"type": value["type"], "left_out": True}
        return {key: _without_binaries(item) for key, item in value.items()}
    return value


_READERS = {
    "/v1/chat/completions": _Reader(_chat_prompt, _chat_answer),
    "/v1/completions": _Reader(_completion_prompt, _completion_answer),
    "/v1/responses": _Reader(_responses_prompt, _responses_answer),
    "/v1/messages": _Reader(_anthropic_prompt, _anthropic_answer),
}
