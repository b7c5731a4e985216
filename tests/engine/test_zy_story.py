"""The closed loop's story with real parts: vLLM, TRL, the gate and the monitor, and traffic through OpenAI's SDK.

Nothing is faked and nobody helps: traffic comes, the world shifts, and the rest happens by itself.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from demo.story.acts import Story, tell
from demo.story.page import page_of
from demo.story.plan import KEYS, Plan
from demo.story.summary import Summary
from demo.story.view import Lines
from ostler.stage import SETTINGS
from tests.engine.conftest import Up, free_port

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1000)]

LONGEST_S = 600.0


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """An `ostler up` for the story alone."""
    running = Up(tmp_path_factory.mktemp("story"), free_port(), free_port(), settings=dict(SETTINGS))
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def told(stage: Up) -> tuple[Story, Summary]:
    """The story, told once; the log of the test run has its events if it fails."""
    return asyncio.run(tell(stage.url, stage.key, Plan.fast(), Lines(Console())))


def revisions(stage: Up) -> list[Any]:
    """The deployment's history, newest first."""
    with stage.http() as http:
        found: list[Any] = http.get("/admin/v1/adapters/support/history?limit=100").json()["data"]
        return found


def test_quality_comes_back_by_itself(told: tuple[Story, Summary], capsys: pytest.CaptureFixture[str]) -> None:
    """Within ten minutes, to within 0.05 of what it was before the world shifted."""
    _, summary = told
    with capsys.disabled():
        print()
        for what, words in summary.lines():
            print(f"  {what}: {words}")
        print(f"  lost for good: {summary.lost:+.3f}")
    assert summary.seconds <= LONGEST_S
    assert summary.fallen.mean < summary.before.mean - 0.2, "the world did not shift"
    assert summary.lost <= 0.05


def test_no_request_fails_in_either_act(told: tuple[Story, Summary]) -> None:
    """Of all keys, answers and feedback; what Ostler counts is what the clients counted."""
    story, summary = told
    assert story.ledger.failures == []
    assert {each.key for each in story.ledger.answers} == set(KEYS)
    assert summary.requests == len(story.ledger.answers) + story.ledger.said
    assert story.ledger.said == len(story.ledger.answers)


def test_it_went_live_by_steps_that_followed_from_decisions(stage: Up, told: tuple[Story, Summary]) -> None:
    """Canary, its steps, the promotion with a holdback, and its end: each revision names its decision."""
    _, new, bad = told[1].versions
    automatic = [each for each in reversed(revisions(stage)) if each["decision"] is not None]
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


def test_a_bad_version_is_taken_back(stage: Up, told: tuple[Story, Summary]) -> None:
    """By the newest revision, which followed from a decision: the good version serves everyone again."""
    _, new, _ = told[1].versions
    newest = revisions(stage)[0]
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
