"""The closed loop's story with real parts: vLLM, TRL, the gate and the monitor, and traffic through OpenAI's SDK.

Nothing is faked and nobody helps: traffic comes, the world shifts, and the rest happens by itself.
"""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console

from demo.story.acts import Story, tell
from demo.story.page import page_of
from demo.story.plan import KEYS, Plan
from demo.story.summary import Summary
from demo.story.view import Lines
from ostler.stage import Stage, stage

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1000)]

LONGEST_S = 600.0


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stage, float]]:
    """An `ostler up` for the story alone, as `ostler demo` starts it, and the seconds that it took to start."""
    began = time.monotonic()
    with stage(tmp_path_factory.mktemp("story")) as serves:
        yield serves, time.monotonic() - began


@pytest.fixture(scope="module")
def told(ready: tuple[Stage, float]) -> tuple[Story, Summary]:
    """The story, told once; the log of the test run has its events if it fails."""
    serves, _ = ready
    return asyncio.run(tell(serves.url, serves.key, Plan.fast(), Lines(Console())))


@pytest.fixture(scope="module")
def revisions(ready: tuple[Stage, float], told: tuple[Story, Summary]) -> list[Any]:
    """The deployment's history after the story, newest first."""
    assert told
    serves, _ = ready
    answer = httpx.get(
        f"{serves.url}/admin/v1/adapters/support/history?limit=100",
        headers={"authorization": f"Bearer {serves.key}"},
    )
    found: list[Any] = answer.json()["data"]
    return found


def test_quality_comes_back_by_itself(
    ready: tuple[Stage, float], told: tuple[Story, Summary], capsys: pytest.CaptureFixture[str]
) -> None:
    """Within ten minutes, the start included, to within 0.05 of what it was before the world shifted."""
    _, summary = told
    _, start = ready
    with capsys.disabled():
        print()
        for what, words in summary.lines():
            print(f"  {what}: {words}")
        print(f"  lost for good: {summary.lost:+.3f}")
        print(f"  with the start of its ostler up: {start + summary.seconds:.0f} s")
    assert start + summary.seconds <= LONGEST_S
    assert summary.fallen.mean < summary.before.mean - 0.2, "the world did not shift"
    assert summary.lost <= 0.05


def test_no_request_fails_in_either_act(told: tuple[Story, Summary]) -> None:
    """Of all keys, answers and feedback; what Ostler counts is what the clients counted."""
    story, summary = told
    assert story.ledger.failures == []
    assert {each.key for each in story.ledger.answers} == set(KEYS)
    assert summary.requests == len(story.ledger.answers) + story.ledger.said
    assert story.ledger.said == len(story.ledger.answers)


def test_it_went_live_by_steps_that_followed_from_decisions(revisions: list[Any], told: tuple[Story, Summary]) -> None:
    """Canary, its steps, the promotion with a holdback, and its end: each revision names its decision."""
    _, new, bad = told[1].versions
    automatic = [each for each in reversed(revisions) if each["decision"] is not None]
    canaries = [each["canary"] for each in automatic]
    weights = [canary["weight"] for canary in canaries if canary is not None and not canary["holdback"]]
    assert weights == sorted(weights)
    assert weights == Plan.fast().policy()["rollout"]["steps"]
    (promoted,) = [each for each in automatic if each["action"] == "promote"]
    assert (promoted["stable"], promoted["canary"]["holdback"]) == (new, True)
    assert bad not in {each["stable"] for each in automatic}


def test_the_training_knew_why(told: tuple[Story, Summary]) -> None:
    """The job has the decision's reason and the drift report; its gate let the version through, part by part."""
    story, summary = told
    job = story.watcher.job
    assert job["status"] == "succeeded"
    assert "Quality was lost" in job["ostler"]["reason"]
    assert "The drift report" in job["ostler"]["reason"]
    assert summary.drift is not None
    assert any(column["drifted"] for column in summary.drift["columns"])
    assert summary.gate["passed"]


def test_a_bad_version_is_taken_back(revisions: list[Any], told: tuple[Story, Summary]) -> None:
    """By the newest revision, which followed from a decision: the good version serves everyone again."""
    _, new, _ = told[1].versions
    newest = revisions[0]
    assert (newest["stable"], newest["canary"]) == (new, None)
    assert newest["decision"] is not None
    assert told[1].bad is not None
    assert told[1].bad.mean < told[1].after.mean


def test_the_page_tells_it(told: tuple[Story, Summary], tmp_path: Path) -> None:
    """With its plots and figures, in one file."""
    page = tmp_path / "story.html"
    page.write_text(page_of(*told))
    assert page.stat().st_size < 1_000_000
    assert page.read_text().count("<svg") == 2
