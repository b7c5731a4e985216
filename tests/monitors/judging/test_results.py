"""What a run comes to: scores by row, means, paired differences, and metrics over all rows."""

import json

import pytest

from monitors.judging.golden import GoldenRow, GoldenSet, Message
from monitors.judging.likelihood import Likelihood
from monitors.judging.results import Answered, Item, score_rows, summarize
from registry.monitoring import ScorerChoice

EXACT = ScorerChoice("exact_match")


def golden(*references: str | None, scorers: tuple[ScorerChoice, ...] = (EXACT,)) -> GoldenSet:
    """A set with these references; a row without one asks for JSON."""
    question = Message("user", "?")
    rows = [
        GoldenRow([question], scorers=["valid_json"])
        if reference is None
        else GoldenRow([question, Message("assistant", reference)])
        for reference in references
    ]
    return GoldenSet("d", tuple(rows), scorers)


def test_each_row_has_its_own_scorers() -> None:
    """A mean is over the rows that have the scorer."""
    found = golden("a", None, "b")
    scored = score_rows(found, [Answered("a"), Answered("{}"), Answered("x")])
    assert scored.items == [{"exact_match": 1.0}, {"valid_json": 1.0}, {"exact_match": 0.0}]
    results = summarize(found, scored, None, 0.05)
    assert (results["rows"], results["alpha"]) == (3, 0.05)
    assert {name: (each["n"], each["mean"]) for name, each in results["scorers"].items()} == {
        "exact_match": (2, 0.5),
        "valid_json": (1, 1.0),
    }
    json.dumps(results, allow_nan=False)


def test_differences_are_between_the_same_rows() -> None:
    """Rows that one of the two has no score for do not count."""
    choice = ScorerChoice("label", {"field": "x"})
    found = golden(*['{"x": 1}'] * 3, "{}", scorers=(choice,))
    own = score_rows(found, [Answered('{"x": 1}')] * 4)
    base: list[Item] = [{"label": 0.0}, {"label": 1.0}, {"label": None}, {"label": 1.0}]
    results = summarize(found, own, base, 0.05)["scorers"]["label"]
    assert (results["n"], results["mean"]) == (3, 1.0)
    assert (results["base"]["n"], results["base"]["mean"]) == (2, 0.5)


def test_an_answer_without_text_is_wrong_not_left_out() -> None:
    """What calls a tool in place of answering has scored nothing."""
    found = golden("a")
    assert score_rows(found, [Answered("")]).items == [{"exact_match": 0.0}]


def test_metrics_over_all_rows() -> None:
    """Accuracy and macro F1 for labels alone; perplexity where likelihoods are known; none without references."""
    labels = golden("yes", "no", "yes", "no")
    answered = [Answered(text, Likelihood(-1.0, 2)) for text in ("yes", "no", "yes", "yes")]
    found = summarize(labels, score_rows(labels, answered), None, 0.05)["metrics"]
    assert found["accuracy"] == 0.75
    assert found["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2)
    assert found["perplexity"] == pytest.approx(1.6487, abs=1e-4)
    texts = golden("the cat sat on the mat", "a dog ran in the park today")
    answers = [Answered("the cat sat on the mat"), Answered("a dog ran in the park today")]
    found = summarize(texts, score_rows(texts, answers), None, 0.05)["metrics"]
    assert found == {"corpus_bleu": pytest.approx(1.0), "mean_rouge_l": pytest.approx(1.0)}
    none = golden(None)
    assert summarize(none, score_rows(none, [Answered("{}")]), None, 0.05)["metrics"] == {}
