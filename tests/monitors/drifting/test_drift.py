"""The child's work, on Evidently itself: what drifts is told, what does not is not, and no prompt is in the report."""

import random
import warnings
from pathlib import Path

import pytest

from monitors.drifting.calibration import holm
from monitors.drifting.task import Kind, Result, Task, Values
from tests.monitors.drifting.traffic import NEW_WORDS, sentence

ALPHA = 0.0036
warnings.filterwarnings("ignore", module="evidently")


def judge(task: Task) -> Result:
    """As the child does; imported late, because it takes seconds."""
    from monitors import drift

    return drift.judge(task)


def draw(kind: Kind, rows: int, rng: random.Random, *, shifted: bool) -> list[object]:
    """A column's values, of which a half is of a new sort if they are shifted."""
    new = [shifted and rng.random() < 0.5 for _ in range(rows)]
    match kind:
        case "number":
            return [rng.gauss(2.0 if each else 0.0, 1.0) for each in new]
        case "category":
            return ["tool_calls" if each else rng.choice(["stop", "stop", "length"]) for each in new]
        case "text":
            return [sentence(rng, NEW_WORDS) if each else sentence(rng) for each in new]
        case "vector":
            return [[rng.gauss(1.0 if each else 0.0, 1.0) for _ in range(8)] for each in new]


def columns(shifted: str = "", *, rows: int = 100) -> list[Values]:
    """A column of each kind, of the name of the kind."""
    rng = random.Random(5)
    kinds: tuple[Kind, ...] = ("number", "category", "text", "vector")
    return [
        Values(kind, kind, draw(kind, 300, rng, shifted=False), draw(kind, rows, rng, shifted=kind == shifted))
        for kind in kinds
    ]


@pytest.mark.parametrize("shifted", ["", "number", "category", "text", "vector"])
def test_the_column_that_drifts_is_told(shifted: str) -> None:
    """That one and no other, by Evidently's verdict, which is what follows from the p-values by Holm's procedure."""
    result = judge(Task(columns(shifted), ALPHA, 1, draws=1000))
    drifted = {verdict.name for verdict in result.columns if verdict.drifted}
    assert drifted == ({shifted} if shifted else set())
    assert drifted == holm({verdict.name: verdict.p_value for verdict in result.columns}, ALPHA)[0]
    for verdict in result.columns:
        assert (verdict.rows, verdict.reference_rows) == (100, 300)
        assert verdict.drifted == (verdict.statistic >= verdict.threshold)


def test_distributions_serve_again_for_the_same_sizes_alone() -> None:
    """What was drawn once is not drawn again; for a window of another size it is."""
    first = judge(Task(columns(), ALPHA, 1, draws=500))
    again = judge(Task(columns("text"), ALPHA, 2, first.nulls, draws=500))
    assert again.nulls == first.nulls
    shorter = judge(Task(columns(rows=90), ALPHA, 2, first.nulls, draws=500))
    assert {null["rows"] for null in shorter.nulls.values()} == {90}


def test_the_report_shows_every_column_and_no_word_of_a_prompt(tmp_path: Path) -> None:
    """Prompts are kept for as long as captures are, reports for longer."""
    report = tmp_path / "report.html"
    given = columns("text")
    judge(Task(given, ALPHA, 1, report=str(report), draws=500))
    html = report.read_text()
    for values in given:
        assert f"Drift in column '{values.name}'" in html or f"Drift in column &#x27;{values.name}" in html
    prompts = [*given[2].reference, *given[2].current]
    assert not [prompt for prompt in prompts if prompt in html]
    assert not [word for word in ("accountant", "parcel", "refund") if word in html]


def test_columns_without_variety_do_no_harm() -> None:
    """One value, one word, one letter, texts without letters: what Evidently's own methods raise at."""
    same = [
        Values("constant", "number", [16] * 100, [16] * 50),
        Values("one_category", "category", ["stop"] * 100, ["stop"] * 50),
        Values("one_word", "text", ["yes", "no"] * 50, ["yes"] * 50),
        Values("no_letters", "text", ["?!", "1"] * 50, ["1"] * 50),
        Values("still", "vector", [[1.0, 0.0], [1.0, 0.1]] * 50, [[1.0, 0.0]] * 50),
    ]
    found = {verdict.name: verdict for verdict in judge(Task(same, ALPHA, 1, draws=500)).columns}
    assert found.keys() == {values.name for values in same}
    assert not found["constant"].drifted
    assert not found["one_category"].drifted
    assert found["one_word"].drifted, "the half of no is gone"


def test_numbers_in_prompts_are_no_news() -> None:
    """Two order numbers are the same word, and a letter of Chinese is one."""
    from monitors import drift

    ours, other = drift._hashed(["order 12345 is late", "order 54321 is late"])
    assert ours == pytest.approx(other)
    assert (drift._hashed(["退款"]) @ drift._hashed(["退货"]).T).item() > 0
