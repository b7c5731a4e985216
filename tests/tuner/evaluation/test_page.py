"""The report's page: whole for any report, loading nothing, and nothing in it runs."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from monitors.judging.golden import GoldenSet
from registry.tuning.orders import GateOrder
from registry.tuning.rules import AskedSet
from tests.tuner.evaluation.measured import CANDIDATE, FIRST, INCUMBENT, ROWS, STANDING, fit, right, with_
from tuner.evaluation.comparing import Values
from tuner.evaluation.contenders import Contenders
from tuner.evaluation.drawing import curves, dumbbells, histogram, interval
from tuner.evaluation.gate import Measured, decide
from tuner.evaluation.holdout import Holdout
from tuner.evaluation.page import page_of
from tuner.evaluation.plots import plots
from tuner.evaluation.report import report
from tuner.evaluation.rule import loosened

EVIL = '"><script>alert(1)</script><img src=x onerror=alert(1)>'
LOST: dict[str, Any] = {
    "rule": "non_inferiority",
    "unit": "score",
    "difference": -0.4,
    "low": -0.6,
    "high": -0.2,
    "threshold": -0.1,
    "wants": "above",
    "passed": False,
}
SLOW = {"rule": "guardrail", "unit": "times", "threshold": 1.5, "wants": "below"}
SETS = {
    "holdout": AskedSet("holdout.jsonl", "a1" * 32, ROWS),
    "retention": AskedSet("Ostler's own", "b2" * 32, 205),
    "refusals": AskedSet("file-7", "c3" * 32, 200),
}
VOID = {"meta", "br"}
METRICS = [{"step": step, "train_loss": 2.0 / step} for step in range(1, 301)] + [
    {"step": step, "full_valid_loss": 2.1 / step} for step in range(50, 301, 50)
]


def found(
    measured: Measured,
    contenders: Contenders = STANDING,
    label: str = "refund",
    order: GateOrder = GateOrder(),  # noqa: B008 - immutable
    attempt: int = 1,
) -> dict[str, Any]:
    """A report of measurements, its rows labelled."""
    labels = tuple(label if number % 3 else "billing" for number in range(ROWS))
    holdout = Holdout(GoldenSet("", (), ()), None, labels, tuple(range(1, ROWS + 1)), 0, "")
    return report(
        contenders,
        decide(order, contenders, measured),
        alpha=0.05,
        loosened=loosened(order),
        attempt=attempt,
        dataset="5e7a" * 16,
        sets=SETS,
        created_at=datetime(2026, 11, 21, 18, 5, tzinfo=UTC),
        seconds=194.3,
        plots=plots(contenders, measured, holdout, METRICS),
    )


@pytest.fixture
def measured() -> Measured:
    """Of a fit candidate."""
    return fit(np.random.default_rng(8))


class Checker(HTMLParser):
    """Collects what a page has in it, and sees that its elements are closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember it."""
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """One that has nothing inside."""
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        """It must be the innermost."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """What people read."""
        self.text += data


def test_a_page_says_what_the_report_says(measured: Measured) -> None:
    """Every part with its reason and its interval, in elements that are closed."""
    told = found(measured)
    page = Checker(page_of(told))
    assert page.open == []
    for part in told["parts"]:
        assert part["reason"][1:] in page.text
    assert "passed all 7 parts" in page.text
    assert page.text.count("✓ passed") == 7
    assert page_of(told).count("<svg") == 7 + 3


def test_a_page_says_what_is_clipped(measured: Measured) -> None:
    """The mean that decides, and beside it the mean as it is."""
    told = found(with_(measured, "losses", incumbent=[0.25] * ROWS, candidate=[0.2] * (ROWS - 4) + [8.25] * 4))
    (perplexity,) = (part for part in told["parts"] if part["name"] == "perplexity")
    assert (perplexity["candidate"], perplexity["unclipped"]) == (pytest.approx(0.211), pytest.approx(0.361))
    text = " ".join(Checker(page_of(told)).text.split())
    assert "clipped_loss" in text
    assert "0.211unclipped 0.361" in text
    assert "the mean of the differences so clipped is what decides" in text


def test_a_page_says_what_was_asked(measured: Measured) -> None:
    """Each set by its name, its rows and its whole digest."""
    text = " ".join(Checker(page_of(found(measured))).text.split())
    for name, each in SETS.items():
        assert f"{each.name} {each.rows} {each.digest}" in text, name


def test_a_page_says_what_the_order_loosened(measured: Measured) -> None:
    """Each field with its value and the default, escaped like all else; and nothing of an order that loosened none."""
    assert "less than the defaults" not in Checker(page_of(found(measured))).text
    order = GateOrder(alpha=0.01, retention_margin=1, refusal_file=EVIL)
    page = Checker(page_of(found(measured, order=order)))
    assert not page.tags & {"script", "img"}
    text = " ".join(page.text.split())
    assert "asked for less than the defaults do: retention_margin 1 in place of 0.1, refusal_file " in text
    assert f"{EVIL} in place of the tuner's own set." in text


def test_a_page_says_which_attempt_it_was(measured: Measured) -> None:
    """On its holdout, counted from 1."""
    assert "3 on this holdout" in " ".join(Checker(page_of(found(measured, attempt=3))).text.split())


def test_a_page_says_of_what_a_time_is_a_multiple(measured: Measured) -> None:
    """In the plot and in the figures; and how many of the rows that were asked count."""
    some = [*([1.0] * 67), *([None] * (ROWS - 67))]
    told = found(with_(measured, "scores", candidate=some, incumbent=some))
    text = " ".join(Checker(page_of(told)).text.split())
    assert "times the other's" in text
    assert f"67 of {ROWS}" in text


def test_worst_rows_are_named_as_people_do(measured: Measured) -> None:
    """One line, or several."""
    told = found(measured)
    told["plots"]["worst_rows"] = [23]
    assert "It lost most on line 23 of the dataset" in " ".join(Checker(page_of(told)).text.split())
    told["plots"]["worst_rows"] = [23, 40, 7]
    assert "It lost most on lines 23, 40 and 7 of the dataset" in " ".join(Checker(page_of(told)).text.split())


def test_a_rejected_one_names_what_fell_short(measured: Measured) -> None:
    """At the top, in words."""
    forgot = with_(measured, "retention", candidate=right(np.random.default_rng(1), 0.3, 120))
    page = Checker(page_of(found(forgot)))
    assert "It fell short in general skills." in " ".join(page.text.split())
    assert page.text.count("✗ failed") == 1


def test_nothing_is_loaded_and_nothing_runs(measured: Measured) -> None:
    """No script, no address of anywhere, no handler."""
    content = page_of(found(measured))
    page = Checker(content)
    assert not page.tags & {"script", "link", "img", "iframe", "object", "embed", "form", "base"}
    assert not any(name.startswith("on") or name in {"src", "href", "srcset"} for name in page.attributes)
    assert not re.search(r"https?:|//\w|url\(|@import|javascript:", content)


def test_what_others_wrote_stays_text(measured: Measured) -> None:
    """Labels and names with markup in them are shown, not done."""
    told = found(measured, replace(STANDING, named=EVIL), label=EVIL)
    for name in ("candidate", "incumbent", "base", "dataset", "created_at"):
        told[name] = EVIL
    told["plots"]["scorer"] = told["parts"][0]["scorer"] = told["parts"][1]["against"] = EVIL
    page = Checker(page_of(told))
    assert page.open == []
    assert not page.tags & {"script", "img"}
    assert "alert(1)" in page.text


def test_a_page_without_data_is_a_page() -> None:
    """No rows, no times, no events, no incumbent."""
    nothing: dict[str, Values] = {CANDIDATE: [], INCUMBENT: [], "tiny": []}
    empty = Measured({"exact_match": nothing}, nothing, nothing, nothing, nothing, [])
    holdout = Holdout(GoldenSet("", (), ()), None, (), (), 0, "")
    told = report(
        FIRST,
        decide(GateOrder(), FIRST, empty),
        alpha=0.001,
        loosened={},
        attempt=1,
        dataset=None,
        sets={},
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        seconds=0.2,
        plots=plots(FIRST, empty, holdout, []),
    )
    page = Checker(page_of(told))
    assert page.open == []
    assert "nothing to draw: no data" in page.text
    assert "A closer look" not in page.text


def test_the_plots_are_small_and_hold_no_text_of_rows(measured: Measured) -> None:
    """A curve of many steps is thinned, its last step kept; rows go by their lines."""
    drawn = found(measured)["plots"]
    assert len(json.dumps(drawn)) < 10_000
    assert len(drawn["loss"]["train"]) <= 201
    assert drawn["loss"]["train"][-1] == [300, pytest.approx(2 / 300, rel=1e-4)]
    assert [step for step, _ in drawn["loss"]["validation"]] == [50, 100, 150, 200, 250, 300]
    assert sum(drawn["differences"]) == ROWS
    own, other = measured.scores["exact_match"][CANDIDATE], measured.scores["exact_match"][INCUMBENT]
    lost = [line for line, (one, two) in enumerate(zip(own, other, strict=True), 1) if one == 0 and two == 1]
    assert drawn["worst_rows"] == lost[:10]
    assert drawn["differences"][0] == len(lost)
    assert [label["label"] for label in drawn["labels"]] == ["refund", "billing"]


@pytest.mark.parametrize(
    ("values", "passes"),
    [
        ({}, False),
        ({"difference": 0.0, "low": -0.05, "high": 0.05}, True),
        ({"difference": 0.0, "low": -0.12, "high": 0.12}, False),
        ({"difference": 0.0, "low": -0.01, "high": 0.12, "threshold": 0.1, "wants": "below"}, False),
        ({"difference": 0.0, "low": -0.01, "high": 0.09, "threshold": 0.1, "wants": "below"}, True),
        ({**SLOW, "difference": 1.8, "low": 1.2, "high": 1.9}, True),
        ({**SLOW, "difference": 1.8, "low": 1.6, "high": 1.9}, False),
        ({**SLOW, "difference": 1.8, "low": None, "high": None}, True),
    ],
)
def test_a_dot_lies_in_the_green_if_its_part_passes(values: dict[str, Any], passes: bool) -> None:
    """And outside of it if not, wherever the ends of its interval are: the green is where the dot has to be."""
    drawn = interval({**LOST, **values, "passed": passes}, 300)
    assert drawn is not None
    assert drawn["good"] is not None
    start, end = drawn["good"]["x"], drawn["good"]["x"] + drawn["good"]["width"]
    assert (start <= drawn["dot"]["x"] <= end) is passes
    assert 0 <= start < end <= 300


def test_where_a_set_shows_nothing_no_dot_would_pass() -> None:
    """So nothing is green, though the interval is clear of the limit."""
    drawn = interval({**LOST, "difference": 0.0, "low": -0.01, "high": 0.01}, 300)
    assert drawn is not None
    assert drawn["good"] is None


def test_what_is_drawn_lies_inside() -> None:
    """Intervals, bars and points, whatever the values; the larger value further to the right."""
    drawn = interval(LOST, 300)
    assert drawn is not None
    threshold = drawn["threshold"]["x"]
    assert 0 < drawn["low"] < drawn["dot"]["x"] < drawn["high"] < threshold < drawn["same"] < 300
    assert (drawn["dot"]["anchor"], drawn["threshold"]["anchor"]) == ("middle", "middle")
    assert interval({**LOST, "difference": None}, 300) is None
    bars = histogram([3] + [0] * 19 + [1], 560, 180)
    assert bars is not None
    assert [(bar["kind"], bar["height"], bar["value"]) for bar in bars["bars"]] == [
        ("lost", 180.0, "-1.0"),
        ("gained", 60.0, "+1.0"),
    ]
    lines = curves({"train": [[1, 5.0]], "validation": []}, 560, 180)
    assert lines is not None
    assert lines["lines"]["train"] == [(0, 0)]
    assert histogram([0] * 21, 560, 180) is None
    assert curves({"train": [], "validation": []}, 560, 180) is None
    assert dumbbells([], 560, 26) is None
