"""Prompts that are to be answered: as a file has them, or as they were captured."""

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from monitors.judging.golden import Message
from monitors.teaching.rows import Label, Source, SupervisedRow
from registry.artifacts import canonical_json

if TYPE_CHECKING:
    from monitors.teaching.teacher import Answer

_TEXT_PARTS = ("text", "input_text", "output_text")
_NAMED = ("role", "name", "tool_calls", "tool_call_id")


class PromptRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A prompt; a last message of the assistant's is an answer that is to be replaced, and its `source` with it."""

    messages: Annotated[list[Message], msgspec.Meta(min_length=1)]
    tools: list[dict[str, Any]] | None = None
    parallel_tool_calls: bool | None = None
    label: Label | None = None
    source: Source | None = None

    @property
    def prompt(self) -> list[Message]:
        """What is to be answered."""
        return self.messages[:-1] if self.messages[-1].role == "assistant" else self.messages

    @property
    def asked(self) -> list[dict[str, Any]]:
        """The same as a request has it."""
        bodies: list[dict[str, Any]] = [msgspec.to_builtins(message) for message in self.prompt]
        return [{name: value for name, value in body.items() if name != "weight"} for body in bodies]

    @property
    def fields(self) -> dict[str, Any]:
        """What else a request has of it."""
        given = {"tools": self.tools, "parallel_tool_calls": self.parallel_tool_calls}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def key(self) -> bytes:
        """The same for equal prompts, however they are spelt."""
        return hashlib.sha256(canonical_json([self.asked, self.fields])).digest()

    def answered(self, answer: "Answer") -> SupervisedRow:
        """The row to train on: of its answers, only the teacher's is learned."""
        return SupervisedRow(
            messages=[*map(_not_learned, self.prompt), msgspec.convert(answer.message, Message)],
            tools=self.tools,
            parallel_tool_calls=self.parallel_tool_calls,
            label=self.label,
            source="teacher",
        )

    def problem(self) -> str | None:
        """Why it cannot be asked."""
        if not self.prompt or self.prompt[-1].role not in ("user", "tool"):
            return "its last message before the answer must be the user's or a tool's"
        if any(not _is_text(message.content) for message in self.prompt):
            return "it has more than text, whose cost is not known beforehand"
        return None


def captured_messages(prompt: Any) -> list[Message] | None:
    """The messages of a captured prompt; None where it is more than text, or is none of a chat."""
    if not isinstance(prompt, list):
        return None
    try:
        return [_message(said) for said in prompt]
    except (msgspec.ValidationError, AttributeError, KeyError, TypeError):
        return None


def answered(prompt: list[Message], answer: Message, source: Source) -> SupervisedRow:
    """The row of a prompt with its answer; earlier turns of the assistant's are its own, and not learned."""
    return SupervisedRow(messages=[*map(_not_learned, prompt), answer], source=source)


def _message(said: Mapping[str, Any]) -> Message:
    """A message as rows have it. Raises ValidationError, TypeError or KeyError where it is something else."""
    named = {name: said[name] for name in _NAMED if said.get(name) is not None}
    return msgspec.convert({**named, "content": _text(said.get("content"))}, Message)


def _text(content: Any) -> str | None:
    """What is said, of several parts with a line break between them, as the engine reads it."""
    if content is None or isinstance(content, str):
        return content
    if any(part["type"] not in _TEXT_PARTS for part in content):
        raise TypeError("a part that is no text")
    return "\n".join(part["text"] for part in content)


def _not_learned(message: Message) -> Message:
    return msgspec.structs.replace(message, weight=0) if message.role == "assistant" else message


def _is_text(content: Any) -> bool:
    parts = content if isinstance(content, list) else ()
    return all(part.get("type") == "text" for part in parts)
