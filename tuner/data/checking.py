"""Whether a row makes sense: who speaks after whom, and whether there is something to learn.

What is wrong is said without what stands in the row.
"""

import json
from collections.abc import Sequence
from typing import Any

from monitors.judging.golden import Message
from tuner.data.rows import PreferenceRow, Row, SupervisedRow

_INSTRUCTIONS = ("system", "developer")
_NAMES = {"user": "the user", "assistant": "the assistant", "tool": "a tool"}


def problem_of(row: Row) -> str | None:
    """What is wrong with a row; None if it can be used."""
    tools = row.tools if isinstance(row, SupervisedRow) else row.input.tools
    if problem := _wrong_tools(tools):
        return problem
    return _wrong_conversation(row) if isinstance(row, SupervisedRow) else _wrong_pair(row)


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
    for place, message in enumerate(messages):
        if problem := _wrong_message(message) or _out_of_order(messages, place):
            return f"message {place + 1}: {problem}"
    return None


def _wrong_message(message: Message) -> str | None:
    """What is wrong with a message by itself."""
    if isinstance(message.content, list) and not all(_is_text(part) for part in message.content):
        return 'of parts only text can be learned from: {"type": "text", "text": "..."}'
    if message.role == "assistant":
        return _wrong_answer(message)
    if message.tool_calls or message.weight is not None:
        return "only the assistant's messages may have `tool_calls` or `weight`"
    if message.role == "user" and not _words(message).strip():
        return "the user says nothing"
    if message.content is None:
        return "it has no `content`"
    return None


def _wrong_answer(message: Message) -> str | None:
    if message.weight not in {None, 0, 1}:
        return "`weight` must be 0 or 1"
    if not message.tool_calls and not _words(message).strip():
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
    return None


def _out_of_order(messages: Sequence[Message], place: int) -> str | None:
    """What is wrong with who speaks here, after who spoke before."""
    message, before = messages[place], messages[place - 1] if place else None
    if message.role in _INSTRUCTIONS:
        is_first = all(each.role in _INSTRUCTIONS for each in messages[:place])
        return None if is_first else f"a {message.role} message must come before all others"
    if message.role == "tool":
        return _wrong_result(messages, place)
    if before is None or before.role in _INSTRUCTIONS:
        return None if message.role == "user" else "the user must speak first"
    if before.role == "assistant" and before.tool_calls:
        return "the results of the tool calls must come first, as messages of the role tool"
    if message.role == "assistant" and before.role == "tool" and (missing := _unanswered(messages, place)):
        return f"{missing} of the tool calls before it have no result"
    expected = {"user": ("assistant",), "assistant": ("user", "tool")}[message.role]
    if before.role not in expected:
        return f"{_NAMES[message.role]} speaks right after {_NAMES[before.role]}"
    return None


def _wrong_result(messages: Sequence[Message], place: int) -> str | None:
    calls, answered = _open_calls(messages, place)
    if not calls:
        return "a tool speaks that the assistant has not called right before"
    said = messages[place].tool_call_id
    if said is None or said in answered or said not in calls:
        return "`tool_call_id` must be the id of a tool call right before that has no result yet"
    return None


def _unanswered(messages: Sequence[Message], place: int) -> int:
    calls, answered = _open_calls(messages, place)
    return len(set(calls) - set(answered))


def _open_calls(messages: Sequence[Message], place: int) -> tuple[list[Any], list[str | None]]:
    """The ids of the tool calls that the results right before `place` belong to, and those results' ids."""
    first = place
    while first and messages[first - 1].role == "tool":
        first -= 1
    caller = messages[first - 1] if first else None
    calls = caller.tool_calls if caller is not None and caller.role == "assistant" else None
    return [call.get("id") for call in calls or ()], [each.tool_call_id for each in messages[first:place]]


def _is_text(part: dict[str, Any]) -> bool:
    return part.get("type") == "text" and isinstance(part.get("text"), str)


def _words(message: Message) -> str:
    if isinstance(message.content, list):
        return "\n".join(part["text"] for part in message.content)
    return message.content or ""


def _said(message: Message) -> tuple[str, Any]:
    return _words(message).strip(), message.tool_calls or None
