"""The holdout's file as questions."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from registry.monitoring import ScorerChoice
from registry.tuning.orders import Method
from tests.tuner.evaluation.test_run import preference_rows, supervised_rows
from tuner.evaluation.holdout import Holdout, read_holdout


def read(folder: Path, rows: list[dict[str, Any]], method: Method = "supervised", **fields: Any) -> Holdout:
    """A holdout of these rows."""
    (folder / "holdout.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {"most": 400, "context": 0, "digest": "d", **fields}
    return read_holdout(folder, method, [ScorerChoice("exact_match")], **given)


def test_of_many_rows_those_of_the_smallest_hash_are_drawn(tmp_path: Path) -> None:
    """In the file's order, known by their lines; other rows beside them change nothing of who is drawn first."""
    rows = supervised_rows(50)
    found = read(tmp_path, rows, most=10)
    assert list(found.lines) == sorted(found.lines)
    assert [row.reference for row in found.golden.rows] == [
        rows[line - 1]["messages"][-1]["content"] for line in found.lines
    ]
    assert found.labels == tuple(rows[line - 1]["label"] for line in found.lines)
    half = read(tmp_path, rows[:25], most=50)
    assert {line for line in found.lines if line <= 25} <= set(half.lines)
    assert not 10 < max(found.lines) < 20  # of 50 rows drawn at random, not the first ones


def test_an_answer_may_be_longer_than_the_reference(tmp_path: Path) -> None:
    """By some tokens, but not as long as the engine lets it; beyond the context the engine decides."""
    (row,) = read(tmp_path, supervised_rows(1)).golden.rows
    assert row.max_tokens == 1 + 64
    assert read(tmp_path, supervised_rows(1), context=65).golden.rows[0].max_tokens is None
    assert read(tmp_path, supervised_rows(1), context=66).golden.rows[0].max_tokens == 65


def test_what_comes_before_the_answer_is_asked(tmp_path: Path) -> None:
    """Earlier turns and tools, too, and no weights."""
    tools = [{"type": "function", "function": {"name": "f"}}]
    turns = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a", "weight": 0},
        {"role": "user", "content": "r"},
        {"role": "assistant", "content": "b", "weight": 1},
    ]
    (row,) = read(tmp_path, [{"messages": turns, "tools": tools}]).golden.rows
    assert row.reference == "b"
    assert [message["content"] for message in row.prompt] == ["s", "q", "a", "r"]
    assert all("weight" not in message for message in row.prompt)
    assert row.options["tools"] == tools


def test_preferences_have_both_answers(tmp_path: Path) -> None:
    """The better ones and the worse ones, row by row."""
    found = read(tmp_path, preference_rows(3), "dpo")
    assert found.worse is not None
    assert [row.reference for row in found.golden.rows] == [f"{number}, of course" for number in (1, 2, 3)]
    assert [row.reference for row in found.worse.rows] == [f"who cares about {number}" for number in (1, 2, 3)]
    assert [row.prompt for row in found.golden.rows] == [row.prompt for row in found.worse.rows]


def test_answers_of_text_parts_are_text(tmp_path: Path) -> None:
    """They can be scored as any other."""
    rows = supervised_rows(3)
    rows[1]["messages"][-1]["content"] = [{"type": "text", "text": "2"}]
    found = read(tmp_path, rows)
    assert [row.reference for row in found.golden.rows] == ["1", "2", "3"]
    assert found.left_out == 0


def test_only_rows_that_can_be_scored_are_drawn(tmp_path: Path) -> None:
    """However many others there are; all of those are told as left out."""
    rows = supervised_rows(50)
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    for body in rows[:45]:
        body["messages"][-1] = {"role": "assistant", "tool_calls": [call]}
    found = read(tmp_path, rows, most=10)
    assert found.lines == (46, 47, 48, 49, 50)
    assert found.left_out == 45


def test_a_file_of_another_method_is_none(tmp_path: Path) -> None:
    """It was frozen for this job, so that cannot be the client's fault."""
    with pytest.raises(msgspec.ValidationError):
        read(tmp_path, preference_rows(1), "supervised")
