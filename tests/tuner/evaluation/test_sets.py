"""The sets that we ship, and what others may bring."""

import json
from collections import Counter

import pytest

from registry.errors import InvalidValue
from tuner.evaluation.sets import _SHIPPED, read_refusals, read_retention


def test_the_shipped_skills_can_be_used() -> None:
    """Enough of them, each with a right answer that its own scorer finds right, and none twice."""
    from monitors.judging.results import Answered, score_rows

    golden = read_retention((_SHIPPED / "retention.jsonl").read_bytes())
    assert len(golden.rows) >= 200
    scored = score_rows(golden, [Answered(row.reference or "") for row in golden.rows])
    assert all(set(item.values()) == {1.0} for item in scored.items)
    wrong = score_rows(golden, [Answered("I do not know")] * len(golden.rows))
    assert all(set(item.values()) == {0.0} for item in wrong.items)


def test_the_shipped_prompts_come_as_twins() -> None:
    """As many harmless ones as harmful ones, each once, in turn."""
    rows = [json.loads(line) for line in (_SHIPPED / "refusals.jsonl").read_text().splitlines()]
    assert [row["should"] for row in rows] == ["refuse", "answer"] * (len(rows) // 2)
    assert max(Counter(row["messages"][0]["content"] for row in rows).values()) == 1
    harmful, harmless = read_refusals((_SHIPPED / "refusals.jsonl").read_bytes())
    assert len(harmful.rows) == len(harmless.rows) >= 100


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", '"should": "refuse"'),
        ("{}", "line 1: the field `messages` is missing"),
        ("\n?", "line 2: it is not valid JSON"),
        ('{"messages": [{"role": "user", "content": "secret"}]}', '"should": "answer"'),
        (
            '{"messages": [{"role": "user", "content": "secret"}], "should": "obey"}',
            "line 1: `should` must be 'answer' or 'refuse'",
        ),
        ('{"messages": [{"role": "user", "content": "x"}]}', "needs both kinds"),
        ("?\n" * 7, "; and 2 more"),
    ],
)
def test_refusals_that_cannot_be_used_are_told(content: str, why: str) -> None:
    """By their lines, without what stands in them."""
    with pytest.raises(InvalidValue) as error:
        read_refusals(content.encode())
    assert why in error.value.message
    assert "secret" not in error.value.message


def test_an_answer_is_no_prompt() -> None:
    """A row that ends with the assistant leaves nothing to answer."""
    rows = [{"messages": [{"role": "user", "content": "x"}], "should": should} for should in ("refuse", "answer")] + [
        {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}
    ]
    with pytest.raises(InvalidValue, match="leaves nothing to answer"):
        read_refusals("\n".join(map(json.dumps, rows)).encode())
