"""The page of results, and what it says of goals."""

from pathlib import Path

import pytest

from benchmarks.speed import report
from benchmarks.speed.report import Found, Goal, at_least, at_most, none
from benchmarks.speed.rounds import Figure


@pytest.mark.parametrize(("values", "is_met"), [((0.1, 0.5, 0.9), True), ((0.9, 0.49, 0.1), False)])
def test_the_median_meets_a_goal(values: tuple[float, ...], is_met: bool) -> None:
    """Not the best round, nor is the worst one held against it; a median at the limit is enough."""
    assert at_least("ratio", 0.5, Figure(values)).is_met is is_met
    assert at_most("ratio", -0.5, Figure(tuple(-value for value in values))).is_met is is_met


def test_what_was_not_found_meets_no_goal() -> None:
    """Not a number is neither below nor above."""
    nothing = Figure((float("nan"),))
    assert not at_least("x", 0, nothing).is_met
    assert not at_most("x", 0, nothing).is_met


def test_none_is_none_in_every_round() -> None:
    """One broken stream in one of three rounds is one too many, whatever the median."""
    assert none("broken", Figure((0.0, 0.0, 0.0))) == Goal("broken", "none", "0", is_met=True)
    assert none("broken", Figure((0.0, 2.0, 0.0))) == Goal("broken", "none", "2", is_met=False)


def test_the_page_says_which_goals_are_not_met() -> None:
    """In bold, before the tables that explain it."""
    goals = [Goal("fast", "at least 2", "3", is_met=True), Goal("small", "at most 1", "5", is_met=False)]
    page = report.page([Found("1-x", "Title", "Text.", ["system", "per s"], [["Ostler", "3"]], goals, "2026-01-01")])
    assert "| fast | at least 2 | 3 | yes |\n| small | at most 1 | 5 | **no** |\n" in page
    assert page.index("**no**") < page.index("## Title")
    assert "Text. Measured on 2026-01-01.\n\n| system | per s |\n| --- | ---: |\n| Ostler | 3 |\n" in page


def test_a_piece_that_is_measured_anew_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces come in the order of their numbers, of which some have two digits, and notes stay, too."""
    monkeypatch.setattr(report, "RESULTS", tmp_path / "RESULTS.md")
    monkeypatch.setattr(report, "_FOUND", tmp_path / "speed")
    for name, title in (("10-late", "Late"), ("2-soon", "Soon"), ("10-late", "Late again")):
        report.keep(Found(name, title, "Text.", ["a"], [], [Goal("it", "none", "0", is_met=True)]))
    (tmp_path / "speed" / "notes.md").write_text("Why it is not.\n")
    report.keep(Found("2-soon", "Soon", "Text.", ["a"], []))
    titles = [line for line in (tmp_path / "RESULTS.md").read_text().splitlines() if line.startswith("## ")]
    assert titles == ["## What it must show", "## Soon", "## Late again"]
    page = (tmp_path / "RESULTS.md").read_text()
    assert page.index("What it must show") < page.index("Why it is not.") < page.index("## Soon")
