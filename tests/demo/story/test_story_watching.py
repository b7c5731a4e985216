"""How the story reads what Ostler did."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from demo.story.admin import Admin
from demo.story.watching import Live, Watcher

BEGAN = datetime(2026, 11, 3, 12, tzinfo=UTC)


class Answers:
    """An admin API of answers that were made beforehand, by the ends of their paths."""

    def __init__(self) -> None:
        self.decisions: list[Any] = []
        self.revisions: list[Any] = []
        self.jobs: list[Any] = []
        self.events: list[Any] = []
        self.looks: list[Any] = []
        self.quality: Mapping[str, Any] = {"versions": []}

    async def call(self, _method: str, path: str, **_arguments: Any) -> Any:
        """As a gateway would, the newest first."""
        if path.endswith("/quality"):
            return self.quality
        ends = {"decisions": self.decisions, "history": self.revisions, "jobs": self.jobs, "events": self.events}
        found = ends.get(path.rpartition("/")[2], self.looks)
        return {"data": list(reversed(found))}

    async def adapter(self, method: str, path: str, **arguments: Any) -> Any:
        """The same about the adapter."""
        return await self.call(method, path, **arguments)

    def decide(self, kind: str, outcome: str, at: float, **inputs: Any) -> None:
        """Add a decision."""
        number, moment = len(self.decisions) + 1, (BEGAN + timedelta(seconds=at)).isoformat()
        self.decisions.append(
            {"id": number, "kind": kind, "outcome": outcome, "reason": outcome, "inputs": inputs, "created_at": moment}
        )

    def deploy(self, stable: int, at: float, action: str = "canary", **more: Any) -> None:
        """Add a revision."""
        moment = (BEGAN + timedelta(seconds=at)).isoformat()
        revision = {"revision": len(self.revisions) + 1, "stable": stable, "canary": None, "decision": None}
        self.revisions.append({**revision, "action": action, "created_at": moment, **more})


@pytest.fixture
def answers() -> Answers:
    """Nothing happened yet, but for the adapter's two first versions."""
    made = Answers()
    made.deploy(1, -20, "promote")
    made.deploy(2, -10, "promote")
    return made


@pytest.fixture
def watcher(answers: Answers) -> Watcher:
    """Who looks at them."""
    return Watcher(cast("Admin", answers), BEGAN)


async def test_each_decision_is_told_once_with_its_time(watcher: Watcher, answers: Answers) -> None:
    """However often one looks; a reason to wait that says nothing new is not told."""
    answers.decide("loop", "quality_holds", 5, act="wait")
    answers.decide("quality", "alarm", 11.5)
    answers.decide("loop", "begun", 60, act="retrain")
    await watcher.look()
    await watcher.look()
    assert [(event.kind, event.at) for event in watcher.events] == [("saw", 11.5), ("did", 60.0)]
    assert (watcher.reached("alarm"), watcher.reached("retrain")) == (11.5, 60.0)
    assert watcher.trouble is None


@pytest.mark.parametrize("action", ["canary", "rollback"])
async def test_a_promotion_counts_from_when_it_serves(watcher: Watcher, answers: Answers, action: str) -> None:
    """Not from its decision, and only if it followed from one; the holdback's end and a rollback likewise."""
    canary = {"version": 3, "weight": 0.3, "holdback": False}
    answers.deploy(2, 100, canary=canary, decision=7)
    await watcher.look()
    assert watcher.live == Live(2, 3, 0.3)
    assert watcher.reached("promoted") is None
    answers.deploy(3, 130, "promote", canary={"version": 2, "weight": 0.1, "holdback": True}, decision=8)
    answers.deploy(3, 160, decision=9)
    answers.deploy(3, 200, canary={**canary, "version": 4})
    answers.deploy(3, 220, action, decision=10)
    await watcher.look()
    assert watcher.reached("promoted") == 130.0
    assert watcher.reached("settled") == 160.0
    assert watcher.reached("rolled back") == 220.0
    assert watcher.reached("rolled back", after=221.0) is None
    assert [live.stable for _, live in watcher.lives] == [1, 2, 2, 3, 3, 3, 3]


@pytest.mark.parametrize("act", ["end_cycle", "stand_back", "roll_back"])
async def test_the_loops_giving_up_is_trouble(watcher: Watcher, answers: Answers, act: str) -> None:
    """Without a version, behind a person, or a rollback of what it made itself."""
    answers.decide("loop", "rejected", 60, act=act)
    await watcher.look()
    assert watcher.trouble == "rejected"


async def test_the_bad_versions_rollback_is_none(watcher: Watcher, answers: Answers) -> None:
    """It is what the second act waits for."""
    watcher.reach("forced", 50)
    answers.decide("loop", "worse_than_stable", 60, act="roll_back")
    await watcher.look()
    assert watcher.trouble is None


async def test_the_training_jobs_stages_are_told_once_each(watcher: Watcher, answers: Answers) -> None:
    """With its newest step, and what it says of itself."""
    answers.decide("loop", "begun", 60, act="retrain")
    answers.jobs.append({"id": "ftjob-1", "status": "running", "ostler": {"stage": "training"}})
    said = {"id": "e1", "type": "message", "message": "Reads", "data": None, "created_at": BEGAN.timestamp() + 70}
    steps = {"type": "metrics", "message": "", "created_at": BEGAN.timestamp()}
    answers.events += [said, *({**steps, "id": f"m{n}", "data": {"step": n, "total_steps": 9}} for n in (1, 2))]
    await watcher.look()
    await watcher.look()
    assert watcher.step == (2, 9)
    assert [event.words for event in watcher.events if event.kind == "job"] == ["training job: trains", "  Reads"]
    answers.jobs[0] = {"id": "ftjob-1", "status": "succeeded", "ostler": {"stage": "done"}}
    await watcher.look()
    assert watcher.reached("succeeded") is not None


async def test_what_the_monitor_knows_is_that_of_the_stable_version(watcher: Watcher, answers: Answers) -> None:
    """By the scorer that decides."""

    def version(serves: str | None, recent: float) -> dict[str, Any]:
        watch = {"level": 0.9, "cusum_ratio": 0.25}
        numbers = {"observations": 70, "mean": 0.8, "low": 0.7, "high": 0.9, "recent": recent, "watch": watch}
        return {
            "serves": serves,
            "scorers": [{"scorer": "feedback", **numbers}, {"scorer": "json_equality", **numbers}],
        }

    answers.quality = {"versions": [version("canary", 0.1), version("stable", 0.6), version(None, 0.2)]}
    await watcher.look()
    assert (watcher.monitored.recent, watcher.monitored.level, watcher.monitored.ratio) == (0.6, 0.9, 0.25)


async def test_a_drift_report_is_told_once_the_worst_column_first(watcher: Watcher, answers: Answers) -> None:
    """A look without enough data is none."""
    columns = [
        {"name": "language", "statistic": 0.3, "threshold": 0.2, "drifted": True},
        {"name": "prompt", "statistic": 9.0, "threshold": 2.0, "drifted": True},
        {"name": "refusal", "statistic": 0.0, "threshold": 0.2, "drifted": False},
    ]
    moment = (BEGAN + timedelta(seconds=20)).isoformat()
    look = {"version": 2, "created_at": moment, "columns": columns}
    answers.looks += [{**look, "id": "a", "outcome": "not_enough_data"}, {**look, "id": "b", "outcome": "drift"}]
    await watcher.look()
    await watcher.look()
    (event,) = watcher.events
    assert event.words == "drift report about version 2: drift in prompt 9 / 2, language 0.3 / 0.2"
    assert event.at == 20.0
    assert list(watcher.looks) == ["a", "b"]
