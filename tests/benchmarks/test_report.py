"""The page of results, and what it says of goals."""

import json
from pathlib import Path

import pytest

from benchmarks.speed import report
from benchmarks.speed.report import Found, Goal, at_least, at_most, none
from benchmarks.speed.rounds import Figure, values_of


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
    assert "not kept then.\n\n| system | per s |\n| --- | ---: |\n| Ostler | 3 |\n" in page


def found(name: str, *, rounds: int = 5, machine: str = "M", **versions: str) -> Found:
    """A piece measured in so many rounds of 10 s, on such a machine and with these versions."""
    run = {"rounds": rounds, "seconds": 10.0, "machine": machine, "versions": versions}
    return Found(name, name.title(), "Text.", ["a"], [], at="2026-01-01", **run)  # type: ignore[arg-type]


def test_what_all_pieces_were_measured_with_is_told_once() -> None:
    """What one of them alone used stands there, too, as no other says otherwise."""
    page = report.page([found("one", ostler="1.0", wrk="4"), found("two", ostler="1.0"), found("old", rounds=0)])
    assert page.index("\nM, ostler 1.0, wrk 4.\n") < page.index("## What it must show")
    assert "## One\n\nText. Measured on 2026-01-01, 5 rounds of 10 s.\n" in page
    assert "## Old\n\nText. Measured on 2026-01-01; rounds, machine and versions were not kept then.\n" in page


def test_what_is_not_the_same_in_all_pieces_stands_with_each() -> None:
    """A piece that was measured later, elsewhere or with other versions says so itself."""
    page = report.page([found("one", ostler="1.0", wrk="4"), found("two", machine="N", rounds=1, ostler="2.0")])
    assert "\nwrk 4.\n" in page
    assert "5 rounds of 10 s. Here: M, ostler 1.0.\n" in page
    assert "1 round of 10 s. Here: N, ostler 2.0.\n" in page


def test_a_piece_that_is_measured_anew_leaves_the_others(tmp_path: Path) -> None:
    """Pieces come in the order of their numbers, of which some have two digits, and notes stay, too."""
    for name, title in (("10-late", "Late"), ("2-soon", "Soon"), ("10-late", "Late again")):
        report.keep(Found(name, title, "Text.", ["a"], [], [Goal("it", "none", "0", is_met=True)]), tmp_path)
    (tmp_path / "results" / "speed" / "notes.md").write_text("Why it is not.\n")
    page = report.keep(Found("2-soon", "Soon", "Text.", ["a"], []), tmp_path).read_text()
    titles = [line for line in page.splitlines() if line.startswith("## ")]
    assert titles == ["## What it must show", "## Soon", "## Late again"]
    assert page.index("What it must show") < page.index("Why it is not.") < page.index("## Soon")


def test_what_was_found_in_each_round_is_kept(tmp_path: Path) -> None:
    """So that whoever doubts a ratio takes it again; what could not be found is null, which JSON has."""
    turns = [{"per_s": Figure((100.0, 1 / 3)), "counted": Figure((float("nan"), 2.0))}]
    report.keep(Found("1-x", "X", "", [], [], values=values_of(["Ostler"], turns), rounds=2, seconds=5.0), tmp_path)
    kept = json.loads((tmp_path / "results" / "speed" / "1-x.json").read_text())
    assert kept["values"] == {"Ostler": {"per_s": [100.0, 0.333333], "counted": [None, 2.0]}}
    assert (kept["rounds"], kept["seconds"]) == (2, 5.0)


def test_the_page_is_made_of_what_is_kept_beside_it() -> None:
    """Not by hand; `python -m benchmarks.speed.report` writes it, also after a change to the notes."""
    assert (report.HOME / "RESULTS.md").read_text() == report.kept()
