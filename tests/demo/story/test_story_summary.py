"""What came of a story, in numbers, on a page and on a terminal."""

import io
import re
from contextlib import suppress
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from rich.console import Console

from demo.story.errors import StoryFailed
from demo.story.ledger import Failure
from demo.story.page import page_of
from demo.story.summary import Summary, summarize
from demo.story.view import Lines, Screen, view
from tests.demo.story.samples import BAD, FOUND, NEW, OLD, QUALITY, told


@pytest.fixture(scope="module")
def summary() -> Summary:
    """Of the sample."""
    story = told()
    return summarize(story.plan, story.ledger, story.watcher, FOUND)


def test_times_count_from_the_first_shifted_request(summary: Summary) -> None:
    """And that of the rollback from when the bad version was forced into canary."""
    assert (summary.to_alarm, summary.to_training, summary.to_candidate) == (11.0, 100.0, 235.0)
    assert (summary.to_canary, summary.to_promotion, summary.to_rollback) == (239.0, 270.0, 25.0)


def test_quality_is_that_of_the_version_that_it_is_about(summary: Summary) -> None:
    """Before the shift all answers, after it those of the old version, then the new one's as the stable one."""
    assert summary.versions == (OLD, NEW, BAD)
    assert summary.before.mean == 1.0
    assert summary.fallen.mean == pytest.approx(0.6, abs=0.05)
    assert summary.after.n == told().plan.after
    assert summary.after.mean == pytest.approx(QUALITY[NEW], abs=0.05)
    assert summary.lost == pytest.approx(1.0 - summary.after.mean)
    assert summary.bad is not None
    assert summary.bad.mean == pytest.approx(QUALITY[BAD], abs=0.3)


def test_every_request_is_in_the_sum(summary: Summary) -> None:
    """Those between the shift and the promotion are counted, and so are the wrong ones among them."""
    story = told()
    assert (summary.requests, summary.failed) == (2 * len(story.ledger.answers), 0)
    between = [each for each in story.ledger.answers if 60 <= each.at < 330]
    assert summary.meanwhile == len(between)
    assert summary.wrong_meanwhile == sum(each.quality < 1 for each in between)
    story.ledger.failures.append(Failure(1.0, "answer", "no"))
    failed = summarize(story.plan, story.ledger, story.watcher, FOUND)
    assert (failed.requests, failed.failed) == (summary.requests + 1, 1)


def test_the_page_stands_alone_and_escapes_what_is_not_ours(summary: Summary) -> None:
    """It loads and runs nothing, is well-formed where it draws, and has each figure and each event."""
    page = page_of(told(), summary)
    assert not re.search(r"<script|<link|@import|src=|href=|url\(", page)
    assert "&lt;script&gt;alert(1)" in page
    assert "&lt;b&gt;by far&lt;/b&gt;" in page
    for what, words in summary.lines():
        assert f"<td>{what}</td><td>{words}</td>" in page
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawings) == 2
    for drawing in drawings:
        ElementTree.fromstring(drawing)
    assert page.count("<polyline") == 3
    assert "--good-soft" in page, "the style is there"


def test_the_page_has_the_drift_before_the_shift_beside_that_after_it(summary: Summary) -> None:
    """The column that drifted most first; without a report there is no table."""
    page = page_of(told(), summary)
    rows = re.findall(r"<tr><td>(prompt|finish_reason)</td>.*?</tr>", page, re.DOTALL)
    assert rows == ["prompt", "finish_reason"]
    assert re.search(r"2\.4</td>\s*<td class=\"number\">9\.1</td>", page)
    story = told()
    without = summarize(story.plan, story.ledger, story.watcher, {**FOUND, "drift": None, "drift_before": None})
    assert "drift report</h2>" not in page_of(story, without)


def test_the_page_does_not_claim_what_did_not_happen() -> None:
    """Quality came back only if it is within 0.05 of what it was."""
    story = told()
    back = summarize(story.plan, story.ledger, story.watcher, FOUND)
    assert back.came_back
    assert "came back by itself" in page_of(story, back)
    lower = replace(back, after=replace(back.after, mean=back.before.mean - 0.06))
    assert not lower.came_back
    page = page_of(story, lower)
    assert "did not come back" in page
    assert "came back by itself" not in page


def test_the_screen_stays_where_the_story_broke_off() -> None:
    """So that people see how far it came; else it makes room for the summary."""
    shown = {}
    for broke_off in (True, False):
        console = Console(file=io.StringIO(), width=80, height=30, force_terminal=True, color_system=None)
        with suppress(StoryFailed), Screen(console) as screen:
            screen.show(told())
            if broke_off:
                raise StoryFailed
        shown[broke_off] = console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO
    erased = "\x1b[2K"
    assert shown[True].rpartition(erased)[2].count("retrain: quality was lost") == 1
    assert "retrain: quality was lost" not in shown[False].rpartition(erased)[2]


@pytest.mark.parametrize("width", [80, 120])
def test_the_screen_fits_a_terminal(width: int) -> None:
    """No line is wider, the newest event is there, and others' words cannot act on the terminal."""
    console = Console(file=io.StringIO(), width=width, height=30, force_terminal=True, color_system=None)
    with Screen(console) as screen:
        screen.show(told())
    shown = console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO
    assert "retrain: quality was lost" in shown
    assert "\x1b[31m" not in shown
    assert all(len(line) <= width for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).splitlines())


def test_without_a_terminal_each_event_is_a_line_once() -> None:
    """And figures now and then."""
    console = Console(file=io.StringIO(), width=100)
    lines = view(console)
    assert isinstance(lines, Lines)
    story = told()
    lines.show(story)
    lines.show(story)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert shown.count("retrain: quality was lost") == 1
    assert shown.count("0 failed") == 1
