"""A conversation as a model reads it: its chat template, applied as the engine applies it.

What vLLM does to a request's messages before the template sees them is done here, too: text parts become one text, the
arguments of tool calls an object, `developer` is `system` where the template does not know it.

Whoever types a special token, such as ``<|im_end|>``, must not end a turn with it. A template that breaks them up by
itself is left to do so; else each is marked before the template sees it, so that it can be read as ordinary text later.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from monitors.judging.golden import Message
from monitors.teaching.rows import text_of

Span = tuple[int, int]
"""Where a text begins and ends within another, in characters."""
_Body = dict[str, Any]
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
# Code points that Unicode keeps for a program's own use: no text has them, and no template changes them.
_MARK = "\ufdd0{}\ufdd1"
_MARKED = re.compile("\ufdd0(\\d+)\ufdd1")
_LONGEST_REASON = 160


class NotReadable(Exception):
    """A conversation cannot be learned as the template writes it; the message says why, without what stands in it."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a rendered text.

    Attributes:
        span: where it stands in the rendered text, the marks of typed special tokens included.
        text: what it says.
        is_typed: whether it is a special token that somebody typed, which is to be read as ordinary text.
    """

    span: Span
    text: str
    is_typed: bool


class ChatTemplate:
    """A tokenizer's chat template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._source: str = tokenizer.get_chat_template()

    @property
    def tells_what_is_generated(self) -> bool:
        """Whether the template marks the assistant's turns with ``{% generation %}``."""
        return _GENERATION.search(self._source) is not None

    def render(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None, *, ask: bool = False
    ) -> str:
        """The text of a conversation; `ask` ends it with what prompts the assistant to answer.

        Raises:
            NotReadable
        """
        return self._render(self._bodies(messages), self._tools(tools), ask=ask)

    def generated(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None
    ) -> tuple[str, list[Span]]:
        """The text of a conversation, and what of it the template says is the assistant's, in order.

        Raises:
            NotReadable
        """
        try:
            texts, spans = render_jinja_template(
                [self._bodies(messages)],
                self._tools(tools),
                chat_template=self._source,
                return_assistant_tokens_mask=True,
                **self._tokenizer.special_tokens_map,
            )
        except Exception as error:
            raise NotReadable(_words(error)) from error
        return texts[0], spans[0]

    def pieces(self, text: str) -> Iterator[Piece]:
        """A rendered text, taken apart at the special tokens that somebody typed."""
        end = 0
        for match in _MARKED.finditer(text):
            if int(match[1]) < len(self._typed):
                yield Piece((end, match.start()), text[end : match.start()], is_typed=False)
                yield Piece(match.span(), self._typed[int(match[1])], is_typed=True)
                end = match.end()
        yield Piece((end, len(text)), text[end:], is_typed=False)

    def _render(self, bodies: list[_Body], tools: list[_Body] | None, *, ask: bool) -> str:
        try:
            text: str = self._tokenizer.apply_chat_template(
                bodies, tools=tools, add_generation_prompt=ask, tokenize=False
            )
        except Exception as error:  # a template may fail in any way that an expression can
            raise NotReadable(_words(error)) from error
        return text

    def _bodies(self, messages: Sequence[Message]) -> list[_Body]:
        bodies = [self._body(message) for message in messages]
        knows_developer = '"developer"' in self._source or "'developer'" in self._source
        return bodies if knows_developer else _as_system(bodies)

    def _body(self, message: Message) -> _Body:
        text = self._mark(text_of(message))
        # vLLM hands on a tool's content as text in any case
        body: _Body = {"role": message.role, "content": text if message.role == "tool" else self._content(text)}
        if message.tool_calls:
            body["tool_calls"] = [self._mark(_with_arguments(call)) for call in message.tool_calls]
        if message.tool_call_id is not None:
            body["tool_call_id"] = message.tool_call_id
        if message.name is not None:
            body["name"] = self._mark(message.name)
        return body

    def _tools(self, tools: Sequence[Mapping[str, Any]] | None) -> list[_Body] | None:
        return None if not tools else [self._mark(_tool(tool)) for tool in tools]

    def _mark(self, value: Any) -> Any:
        """A value of JSON with each special token that would get through to the tokenizer marked."""
        if self._typed_pattern is None:
            return value
        match value:
            case str():
                return self._typed_pattern.sub(lambda found: _MARK.format(self._typed.index(found[0])), value)
            case list():
                return [self._mark(each) for each in value]
            case dict():
                return {self._mark(name): self._mark(each) for name, each in value.items()}
        return value

    @cached_property
    def _typed(self) -> tuple[str, ...]:
        """The special tokens that the template hands on as they were typed; longest first."""
        special = {token.content for token in self._tokenizer.added_tokens_decoder.values() if token.special}
        plain = self._probe(self._content("word"))
        through = {token for token in special if self._probe(self._content(token)).count(token) > plain.count(token)}
        return tuple(sorted(through, key=lambda token: (-len(token), token)))

    @cached_property
    def _typed_pattern(self) -> re.Pattern[str] | None:
        return re.compile("|".join(map(re.escape, self._typed))) if self._typed else None

    @cached_property
    def _reads_parts(self) -> bool:
        """Whether the template reads a list of parts alone, as some for images and texts do."""
        return "word" not in self._probe("word")

    def _content(self, text: str) -> str | list[dict[str, str]]:
        return [{"type": "text", "text": text}] if self._reads_parts else text

    def _probe(self, content: str | list[dict[str, str]]) -> str:
        """How the template writes a message; empty where it does not take it."""
        try:
            return self._render([{"role": "user", "content": content}], None, ask=False)
        except NotReadable:
            return ""


def _with_arguments(call: Mapping[str, Any]) -> _Body:
    """A tool call whose arguments are an object, as templates want them."""
    function = call["function"]
    return {**call, "function": {**function, "arguments": json.loads(function.get("arguments") or "{}")}}


def _tool(tool: Mapping[str, Any]) -> _Body:
    """A tool with the fields that the engine hands on, in its order: a template may write them out."""
    function = tool["function"]
    fields = {name: function.get(name) for name in ("name", "description", "parameters")}
    if function.get("strict") is not None:
        fields["strict"] = function["strict"]
    return {"type": "function", "function": fields}


def _as_system(bodies: list[_Body]) -> list[_Body]:
    """The developer's messages as the system's; all of these as one, which comes first."""
    if not any(body["role"] == "developer" for body in bodies):
        return bodies
    said = [body for body in bodies if body["role"] in {"developer", "system"}]
    others = [body for body in bodies if body["role"] not in {"developer", "system"}]
    if len(said) == 1:
        return [{**said[0], "role": "system"}, *others]
    texts = ["\n".join(part["text"] for part in _parts(body)) for body in said]
    return [{"role": "system", "content": "\n\n".join(text for text in texts if text)}, *others]


def _parts(body: _Body) -> list[dict[str, str]]:
    content = body["content"]
    return content if isinstance(content, list) else [{"text": content}]


def _words(error: Exception) -> str:
    """Why a template failed; what it says itself is told, what Python says could repeat a message."""
    if type(error) is TemplateError:  # not its subclasses, which are about the template's own code
        return f"the base model's chat template refuses it: {str(error)[:_LONGEST_REASON]}"
    return "the base model's chat template cannot read it"
