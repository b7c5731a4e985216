"""Golden sets: every wrong row is told with its line, and equal sets are one, however they are spelt."""

import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitors.judging import golden
from monitors.judging.golden import CheckedSet, GoldenChecker, InvalidGoldenSet, read_golden_set
from registry.artifacts import ArtifactStore
from registry.errors import InvalidValue, StoreFailure
from registry.monitoring import ScorerChoice

USER = {"role": "user", "content": "2 and 2?"}
FOUR = {"role": "assistant", "content": "4"}


def row(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A row with a question and its reference, unless other messages are given."""
    return {"messages": list(messages) or [USER, FOUR], **fields}


def check(rows: Iterable[Any], *scorers: str) -> CheckedSet:
    """Check rows, each an object or a line as it stands."""
    checker = GoldenChecker([ScorerChoice(name) for name in scorers or golden.DEFAULT_SCORERS])
    lines = [each if isinstance(each, bytes) else json.dumps(each).encode() for each in rows]
    checker.feed(b"\n".join(lines))
    return checker.finish()


WRONG: list[tuple[Any, str]] = [
    (b"{", "not valid JSON"),
    (b"\xff\xfe", "not valid JSON"),
    (b"[]", "it must be an object"),
    ({"message": []}, "message"),
    (row(scorer="x"), "there is no field `scorer`"),
    ({"messages": []}, "`messages` must be a list of at least 1 item"),
    (row({"role": "boss", "content": "x"}), "`messages[0].role` must be 'assistant'"),
    (row({"role": "user", "content": 4}), "`messages[0].content` must be"),
    (row(FOUR), "no message to answer"),
    (row(USER), "'exact_match' needs a reference"),
    (row(USER, {"role": "assistant", "content": ""}), "must have text"),
    (row(USER, {"role": "assistant", "tool_calls": [{}]}), "must have text"),
    (row(scorers=[]), "no scorers"),
    (row(scorers=["nice"]), "no scorer 'nice'"),
    (row(scorers=["token_f1", "token_f1"]), "named once"),
    (row(scorers=[{"scorer": "exact_match", "options": {"x": 1}}]), "options of the scorer exact_match"),
    (row(USER, scorers=["likelihood"]), "'likelihood' needs a reference"),
    (row(max_tokens=0), "max_tokens"),
    (b'{"scorers": [{"scorer": "regex", "options": {"x": ' + b"[" * 100_000, "nested too deeply"),
]


@pytest.mark.parametrize(("wrong", "why"), WRONG, ids=range(len(WRONG)))
def test_a_wrong_row_is_told_with_its_line_and_reason(wrong: Any, why: str) -> None:
    """Empty lines count, so that the number is the editor's."""
    with pytest.raises(InvalidGoldenSet) as caught:
        check([row(), b"", wrong, row({"role": "user", "content": "3 and 3?"}, FOUR)])
    assert "1 of 4 lines cannot be used: line 3: " in caught.value.message
    assert why in caught.value.message


def test_wrong_rows_are_told_up_to_a_number() -> None:
    """Twenty with their lines, the others counted; none of the rows' text is repeated."""
    with pytest.raises(InvalidGoldenSet) as caught:
        check([row(USER, {"role": "user", "content": f"secret {number}"}) for number in range(30)])
    message = caught.value.message
    assert message.startswith("30 of 30 lines")
    assert (message.count("line "), "line 20: " in message, "line 21: " in message) == (20, True, False)
    assert message.endswith("and 10 more")
    assert "secret" not in message


def test_the_same_row_twice_is_refused() -> None:
    """Also in another spelling: it would count twice, and rows would not be independent."""
    again = b'{ "messages":[{"content":"2 and 2?","role":"user"}, {"content":"4","role":"assistant"}] }'
    with pytest.raises(InvalidGoldenSet, match="line 2: it is the same as line 1"):
        check([row(), again])


def test_a_row_needs_no_reference_if_its_scorers_need_none() -> None:
    """Its own scorers stand in place of the set's."""
    assert len(check([row(USER, scorers=["valid_json"])]).lines) == 1
    assert len(check([row(USER)], "valid_json", "not_refused").lines) == 1


@pytest.mark.parametrize(
    ("name", "limit", "says"),
    [
        ("MOST_ROWS", 2, "line 3: a golden set may have 2 rows"),
        ("LONGEST_SET_BYTES", 200, "may have 200 bytes"),
        ("LONGEST_ROW_BYTES", 60, "line 1: a row may have 60 bytes"),
    ],
)
def test_a_set_has_limits(monkeypatch: pytest.MonkeyPatch, name: str, limit: int, says: str) -> None:
    """Of rows, of bytes, and of a row's bytes."""
    monkeypatch.setattr(golden, name, limit)
    rows = [row({"role": "user", "content": str(number)}, FOUR) for number in range(3)]
    with pytest.raises(InvalidGoldenSet, match=says):
        check(rows)


def test_an_unknown_scorer_of_the_set_is_refused() -> None:
    """Before any row is read."""
    with pytest.raises(InvalidValue, match="no scorer 'nice'") as caught:
        GoldenChecker([ScorerChoice("nice")])
    assert caught.value.param == "scorers"


def test_no_rows_are_no_set() -> None:
    """Nor are empty lines."""
    for lines in ([], [b""], [b" ", b"\r"]):
        with pytest.raises(InvalidGoldenSet, match="no rows"):
            check(lines)


def test_equal_sets_have_one_digest(store: ArtifactStore) -> None:
    """Whatever the spacing, the order of keys and the way the bytes came; other scorers or rows make another set."""
    other = b'{"messages":[ {"content":"2 and 2?","role":"user"},{"content":"4","role":"assistant"} ]}\r\n'
    first = check([row()]).freeze(store).digest
    checker = GoldenChecker([ScorerChoice(name) for name in golden.DEFAULT_SCORERS])
    for byte in other:
        checker.feed(bytes([byte]))
    assert checker.finish().freeze(store).digest == first
    digests = {first, check([row()], "rouge_l").freeze(store).digest, check([row(max_tokens=5)]).freeze(store).digest}
    assert len(digests) == 3


def test_a_frozen_set_reads_back_as_it_was(store: ArtifactStore) -> None:
    """In its order; a model is shown neither the reference nor what is for training alone."""
    rows = [
        row(
            {"role": "user", "content": "ä \0 \U0001f600"},
            {"role": "assistant", "content": "5", "weight": 0},
            USER,
            FOUR,
        ),
        row(USER, scorers=["valid_json", {"scorer": "regex", "options": {"pattern": "4+"}}], max_tokens=5, tools=[{}]),
    ]
    frozen = read_golden_set(store, check(rows).freeze(store).digest)
    first, second = frozen.rows
    assert first.prompt == [
        {"role": "user", "content": "ä \0 \U0001f600"},
        {"role": "assistant", "content": "5"},
        USER,
    ]
    assert (first.reference, first.options) == ("4", {})
    assert (second.prompt, second.reference) == ([USER], None)
    assert second.options == {"max_tokens": 5, "tools": [{}]}
    assert [choice.scorer for choice in first.choices(frozen.scorers)] == ["exact_match", "token_f1"]
    assert second.choices(frozen.scorers)[1] == ScorerChoice("regex", {"pattern": "4+"})


def test_what_is_damaged_or_something_else_is_not_read(store: ArtifactStore) -> None:
    """A changed byte is seen by the digest."""
    digest = check([row()]).freeze(store).digest
    file = store.fetch(digest) / "rows.jsonl"
    file.write_bytes(file.read_bytes().replace(b"4", b"5"))
    for wrong in (digest, "0" * 64, store.put_files({"rows.jsonl": b"{}"}).digest):
        with pytest.raises(StoreFailure):
            read_golden_set(store, wrong)


@given(st.binary(max_size=300), st.integers(1, 50))
def test_no_bytes_break_the_checker(content: bytes, step: int) -> None:
    """They are a set, or are refused in words."""
    checker = GoldenChecker([ScorerChoice("valid_json")])
    try:
        for start in range(0, len(content), step):
            checker.feed(content[start : start + step])
        checker.finish()
    except InvalidGoldenSet as refused:
        assert refused.message  # noqa: PT017
