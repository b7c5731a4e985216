"""Whether a row makes sense: who speaks after whom, and whether there is something to learn.

What is wrong is said without what stands in the row.
"""

import json
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from monitors.judging.golden import Message
from monitors.teaching.rows import PreferenceRow, Row, SupervisedRow, text_of

_MOST_LEVELS = 64
_DEEP = f"is nested in more than {_MOST_LEVELS} levels"
_INSTRUCTIONS = ("system", "developer")
_NAMES = {"user": "the user", "assistant": "the assistant", "tool": "a tool"}


def problem_of(row: Row) -> str | None:
    """What is wrong with a row; None if it can be used."""
    tools = row.tools if isinstance(row, SupervisedRow) else row.input.tools
    if problem := _wrong_tools(tools):
        return problem
    return _wrong_conversation(row) if isinstance(row, SupervisedRow) else _wrong_pair(row)


def is_deep(value: Any) -> bool:
    """Whether a value of JSON is nested more deeply than anybody means it."""
    level = [value]
    for _ in range(_MOST_LEVELS):
        level = [inner for each in level for inner in _inside(each)]
        if not level:
            return False
    return True


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _wrong_conversation(row: SupervisedRow) -> str | None:
    if row.messages[-1].role != "assistant":
        return "the last message must be the assistant's: it is what is learned"
    if problem := _wrong_messages(row.messages):
        return problem
    if all(message.weight == 0 for message in row.messages if message.role == "assistant"):
        return "each of the assistant's messages has the weight 0, so there is nothing to learn"
    return None


def _wrong_pair(row: PreferenceRow) -> str | None:
    if row.prompt[-1].role not in {"user", "tool"}:
        return "the last message of `input` must be the user's or a tool's: both outputs answer it"
    if problem := _wrong_messages(row.prompt):
        return problem
    for name in ("preferred_output", "non_preferred_output"):
        output: list[Message] = getattr(row, name)
        if len(output) != 1 or output[0].role != "assistant":
            return f"`{name}` must be one message of the assistant's"
        if problem := _wrong_message(output[0]):
            return f"`{name}`: {problem}"
    better, worse = row.preferred_output[0], row.non_preferred_output[0]
    if _said(better) == _said(worse):
        return "`preferred_output` and `non_preferred_output` are the same, so there is nothing to prefer"
    return None


def _wrong_messages(messages: Sequence[Message]) -> str | None:
    before: Message | None = None
    waiting: set[str | None] = set()
    for number, message in enumerate(messages, start=1):
        if problem := _wrong_message(message) or _out_of_order(message, before, waiting):
            return f"message {number}: {problem}"
        if message.role == "tool":
            waiting.discard(message.tool_call_id)
        else:
            waiting = {_id_of(call) for call in message.tool_calls or ()}
        before = message
    return None


def _wrong_message(message: Message) -> str | None:
    """What is wrong with a message by itself."""
    if isinstance(message.content, list) and not all(_is_text(part) for part in message.content):
        return 'of parts only text can be learned from: {"type": "text", "text": "..."}'
    if message.role == "assistant":
        return _wrong_answer(message)
    if message.tool_calls or message.weight is not None:
        return "only the assistant's messages may have `tool_calls` or `weight`"
    if message.role == "user" and not text_of(message).strip():
        return "the user says nothing"
    if message.content is None:
        return "it has no `content`"
    return None


def _wrong_answer(message: Message) -> str | None:
    if message.weight not in {None, 0, 1}:
        return "`weight` must be 0 or 1"
    if not message.tool_calls and not text_of(message).strip():
        return "the assistant's answer is empty"
    for call in message.tool_calls or ():
        if problem := _wrong_call(call):
            return problem
    return None


def _wrong_call(call: dict[str, Any]) -> str | None:
    function = call.get("function")
    if call.get("type", "function") != "function" or not isinstance(function, dict):
        return "each of `tool_calls` must be of the type function"
    if not isinstance(function.get("name"), str) or not function["name"]:
        return "a tool call must name its function"
    try:
        arguments = json.loads(function.get("arguments") or "{}")
    except (TypeError, ValueError, RecursionError):
        arguments = None
    if is_deep([call, arguments]):
        return f"a tool call {_DEEP}"
    return None if isinstance(arguments, dict) else "a tool call's `arguments` must be a JSON object, as a string"


def _wrong_tools(tools: list[dict[str, Any]] | None) -> str | None:
    for tool in tools or ():
        function = tool.get("function")
        if (
            tool.get("type") != "function"
            or not isinstance(function, dict)
            or not isinstance(function.get("name"), str)
        ):
            return "each of `tools` must be of the type function, with a name"
    return f"`tools` {_DEEP}" if is_deep(tools) else None


def _out_of_order(message: Message, before: Message | None, waiting: Collection[str | None]) -> str | None:
    """What is wrong with who speaks here, after who spoke before; `waiting` are the calls that have no result yet."""
    is_first = before is None or before.role in _INSTRUCTIONS
    if message.role in _INSTRUCTIONS:
        return None if is_first else f"a {message.role} message must come before all others"
    if message.role == "tool":
        return _wrong_result(message, before, waiting)
    if before is None or is_first:
        return None if message.role == "user" else "the user must speak first"
    if before.role == "assistant" and before.tool_calls:
        return "the results of the tool calls must come first, as messages of the role tool"
    if message.role == "assistant" and before.role == "tool" and waiting:
        return f"{len(waiting)} of the tool calls before it have no result"
    expected = {"user": ("assistant",), "assistant": ("user", "tool")}[message.role]
    if before.role not in expected:
        return f"{_NAMES[message.role]} speaks right after {_NAMES[before.role]}"
    return None


def _wrong_result(message: Message, before: Message | None, waiting: Collection[str | None]) -> str | None:
    is_called = before is not None and (before.role == "tool" or (before.role == "assistant" and before.tool_calls))
    if not is_called:
        return "a tool speaks that the assistant has not called right before"
    if message.tool_call_id is None or message.tool_call_id not in waiting:
        return "`tool_call_id` must be the id of a tool call right before that has no result yet"
    return None


def _id_of(call: dict[str, Any]) -> str | None:
    """The id of a tool call, by which its result is known; None where it has none that a result could name."""
    found = call.get("id")
    return found if isinstance(found, str) else None


def _is_text(part: dict[str, Any]) -> bool:
    return part.get("type") == "text" and isinstance(part.get("text"), str)


def _said(message: Message) -> tuple[str, Any]:
    return text_of(message).strip(), message.tool_calls or None
