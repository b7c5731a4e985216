"""Reading files of rows: what can be used, and what is said of what cannot."""

import json
from pathlib import Path
from typing import Any

import pytest

from monitors.teaching.rows import SupervisedRow
from registry.tuning.orders import Method
from tests.tuner.data.files import Body, pair, row, write
from tuner.data import reading
from tuner.data.reading import decode, encode, read_rows

CALL = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"order": 7}'}}
TOOLS = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}]


def said(role: str, content: Any = "words", **fields: Any) -> Body:
    """A message."""
    return {"role": role, "content": content, **fields}


def problem(path: Path, line: Body | str | bytes, method: Method = "supervised") -> str | None:
    """What is wrong with a line."""
    (found,) = read_rows(write(path, [line]), method)
    assert (found.row is None) == (found.problem is not None)
    return found.problem


def conversation(*messages: Body, **fields: Any) -> Body:
    """A row."""
    return {"messages": list(messages), **fields}


def nested(levels: int) -> Any:
    """A list in a list, and so on."""
    return [nested(levels - 1)] if levels else []


GOOD = [
    row("Hello?", "Hi"),
    conversation(said("system"), said("user"), said("assistant")),
    conversation(said("developer"), said("system"), said("user"), said("assistant", weight=1)),
    conversation(said("user"), said("assistant", weight=0), said("user"), said("assistant")),
    conversation(said("user", [{"type": "text", "text": "Hello"}]), said("assistant")),
    conversation(
        said("user"),
        said("assistant", None, tool_calls=[CALL]),
        said("tool", "{}", tool_call_id="c1"),
        said("assistant"),
        tools=TOOLS,
    ),
    conversation(said("user"), said("assistant", None, tool_calls=[CALL]), tools=TOOLS),
]
BAD = {
    "not valid JSON": '{"messages": [',
    "it must be an object; each line must be a JSON object with a list": "[]",
    "the field `messages` is missing; each line": "{}",
    "there is no field `prompt`": {**row("a?"), "prompt": "x"},
    "not UTF-8": b'{"messages": [{"role": "user", "content": "\xff"}]}',
    "nested too deeply": '{"tools": [' + '{"a":' * 200_000,
    "`messages[0].role` must be 'assistant', 'developer', 'system', 'tool' or 'user'": conversation(
        said("SECRET"), said("assistant")
    ),
    "it is a pair of preferences: ask for the `method` dpo (`--method dpo`)": pair("Hello?"),
    "the last message must be the assistant's": conversation(said("user")),
    "message 2: a system message must come before": conversation(said("user"), said("system"), said("assistant")),
    "the user must speak first": conversation(said("assistant")),
    "the assistant speaks right after the assistant": conversation(said("user"), said("assistant"), said("assistant")),
    "the user speaks right after the user": conversation(said("user"), said("user"), said("assistant")),
    "the assistant's answer is empty": row("Hello?", " \n"),
    "the user says nothing": row(" ", "Hi"),
    "`weight` must be 0 or 1": conversation(said("user"), said("assistant", weight=0.5)),
    "nothing to learn": conversation(said("user"), said("assistant", weight=0)),
    "only the assistant's messages may have": conversation(said("user", weight=1), said("assistant")),
    "only text can be learned": conversation(said("user", [{"type": "image_url"}]), said("assistant")),
    "a tool speaks that the assistant has not called": conversation(
        said("user"), said("tool", "1", tool_call_id="c1"), said("assistant")
    ),
    "must be the id of a tool call": conversation(
        said("user"), said("assistant", None, tool_calls=[CALL]), said("tool", tool_call_id="c2"), said("assistant")
    ),
    "1 of the tool calls before it have no result": conversation(
        said("user"),
        said("assistant", None, tool_calls=[CALL, {**CALL, "id": "c2"}]),
        said("tool", tool_call_id="c1"),
        said("assistant"),
    ),
    "the results of the tool calls must come first": conversation(
        said("user"), said("assistant", None, tool_calls=[CALL]), said("user"), said("assistant")
    ),
    "must be a JSON object, as a string": conversation(
        said("user"), said("assistant", None, tool_calls=[{**CALL, "function": {"name": "find", "arguments": "[1"}}])
    ),
    "must name its function": conversation(said("user"), said("assistant", None, tool_calls=[{"function": {}}])),
    "each of `tools` must be of the type function": {**row("a?"), "tools": [{"name": "find"}]},
    "`tools` is nested in more than 64 levels": {**row("a?"), "tools": [{**TOOLS[0], "more": nested(70)}]},
    "a tool call is nested in more than 64 levels": conversation(
        said("user"), said("assistant", None, tool_calls=[{**CALL, "more": nested(70)}])
    ),
    "`tool_call_id` must be the id of": conversation(
        said("user"),
        said("assistant", None, tool_calls=[{**CALL, "id": ["c1"]}]),
        said("tool", "1", tool_call_id="c1"),
        said("assistant"),
    ),
    "2 of the tool calls before it have no result": conversation(
        said("user"),
        said("assistant", None, tool_calls=[CALL, {**CALL, "id": "c2"}, {**CALL, "id": None}]),
        said("tool", "1", tool_call_id="c1"),
        said("assistant"),
    ),
}
BAD_PAIRS = {
    "are the same": pair("Hello?", "Hi", "Hi "),
    "`preferred_output` must be one message": {**pair("a?"), "preferred_output": [said("assistant"), said("user")]},
    "`non_preferred_output` must be one message": {**pair("a?"), "non_preferred_output": [said("user")]},
    "`preferred_output`: the assistant's answer is empty": pair("Hello?", ""),
    "the last message of `input` must be the user's": {**pair("a?"), "input": {"messages": [said("assistant")]}},
    "there is no field `prompt`; each line must be a JSON object with `input`": {**pair("a?"), "prompt": "x"},
    "it is a conversation: ask for the `method` supervised (`--method supervised`)": row("Hello?"),
}


@pytest.mark.parametrize("line", GOOD)
def test_a_good_row_is_read(line: Body, tmp_path: Path) -> None:
    """Rows of each allowed kind can be used."""
    assert problem(tmp_path / "rows", line) is None


@pytest.mark.parametrize(("words", "line"), BAD.items())
def test_what_is_wrong_with_a_row_is_said(words: str, line: Body | str | bytes, tmp_path: Path) -> None:
    """Each kind of bad row is told by its own reason, and nothing that stands in it is repeated."""
    told = problem(tmp_path / "rows", line) or ""
    assert words in told
    assert "SECRET" not in told


@pytest.mark.parametrize(("words", "line"), BAD_PAIRS.items())
def test_what_is_wrong_with_a_pair_is_said(words: str, line: Body, tmp_path: Path) -> None:
    """Each kind of bad pair is told by its own reason."""
    assert words in (problem(tmp_path / "rows", line, "dpo") or "")


def test_a_good_pair_is_read(tmp_path: Path) -> None:
    """A pair of two different answers can be used."""
    assert problem(tmp_path / "rows", pair("Hello?"), "dpo") is None


def test_lines_keep_the_numbers_that_an_editor_shows(tmp_path: Path) -> None:
    """Empty lines are passed over but counted; a byte order mark and carriage returns are no content."""
    path = tmp_path / "rows"
    line = json.dumps(row("Hello?")).encode()
    path.write_bytes(b"\xef\xbb\xbf" + line + b"\r\n\r\n" + b"nonsense\r\n" + line)
    assert [(each.number, each.problem is None) for each in read_rows(path, "supervised")] == [
        (1, True),
        (3, False),
        (4, True),
    ]


def test_a_line_that_is_too_long_is_told_and_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only so much of a line is read, and what follows it is read as ever."""
    monkeypatch.setattr(reading, "LONGEST_LINE_BYTES", 200)
    lines = [row("a" * 1000), row("b?")]
    first, second = read_rows(write(tmp_path / "rows", lines), "supervised")
    assert first.problem is not None
    assert "it has more than" in first.problem
    assert (second.number, second.problem) == (2, None)


def test_an_uploaded_row_is_no_replayed_one(tmp_path: Path) -> None:
    """What says that it was replayed was uploaded, and a weight of 1 says nothing."""
    line = conversation(said("user"), said("assistant", weight=1), source="replay")
    (found,) = read_rows(write(tmp_path / "rows", [line]), "supervised")
    assert isinstance(found.row, SupervisedRow)
    assert (found.row.source, found.row.messages[-1].weight) == ("uploaded", None)


def test_a_row_ends_with_an_answer_that_is_learned(tmp_path: Path) -> None:
    """What comes after it teaches nothing, and the gate asks for the last answer."""
    turns = [said("user"), said("assistant", "good"), said("user"), said("assistant", "bad", weight=0)]
    (found,) = read_rows(write(tmp_path / "rows", [conversation(*turns)]), "supervised")
    assert isinstance(found.row, SupervisedRow)
    assert [message.content for message in found.row.messages] == ["words", "good"]


def test_tools_keep_the_order_of_their_keys(tmp_path: Path) -> None:
    """Templates write tools out as they stand, so their keys stay in order while a row's own are put in theirs."""
    tool = {"type": "function", "function": {"name": "find", "parameters": {"z": 1, "a": 2}}}
    (found,) = read_rows(write(tmp_path / "rows", [{"tools": [tool], **row("Hello?")}]), "supervised")
    assert found.row is not None
    spelt = encode(found.row)
    assert b'"parameters":{"z":1,"a":2}' in spelt
    assert spelt.startswith(b'{"messages"')
    assert decode(spelt, "supervised") == found.row
