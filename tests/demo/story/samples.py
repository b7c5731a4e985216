"""A story that is over, as its parts know it, without anything having run."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any

from demo.story.acts import Story
from demo.story.ledger import Answered
from demo.story.plan import KEYS, Plan
from demo.story.watching import Live, Monitored

OLD, NEW, BAD = 2, 3, 4
MILESTONES = {
    "shift": 60.0,
    "alarm": 71.0,
    "retrain": 160.0,
    "succeeded": 295.0,
    "canary": 299.0,
    "promoted": 330.0,
    "settled": 361.0,
    "forced": 400.0,
    "rolled back": 425.0,
}
QUALITY = {NEW: 0.97, BAD: 0.3}
FOUND: dict[str, Any] = {
    "version": NEW,
    "gate": {
        "parts": [
            {"name": "quality", "passed": True, "reason": "support@3 is better <b>by far</b>"},
            {"name": "retention", "passed": False, "reason": "it forgot"},
        ]
    },
    "drift": {
        "columns": [
            {"name": "finish_reason", "drifted": False, "statistic": 0.1, "threshold": 0.2},
            {"name": "prompt", "drifted": True, "statistic": 9.1, "threshold": 2.2},
        ]
    },
    "drift_before": {"columns": [{"name": "prompt", "drifted": True, "statistic": 2.4, "threshold": 2.2}]},
}


class Nobody:
    """An onlooker who counts how often he was shown the story."""

    def __init__(self) -> None:
        self.shown = 0

    def show(self, _story: Story) -> None:
        """Look."""
        self.shown += 1


def told() -> Story:
    """A story of 455 seconds with three answers a second, the last of which was given at its end."""
    story = Story("http://127.0.0.1:1", "sk-none", Plan(), Nobody())
    watcher, rng = story.watcher, random.Random(1)
    watcher.began = datetime.now(UTC) - timedelta(seconds=455)
    for number in range(1365):
        story.ledger.answers.append(_answer(number / 3, rng))
        story.ledger.said += 1
    for name, at in MILESTONES.items():
        watcher.reach(name, at)
    watcher.lives = [
        (-10.0, Live(1)),
        (-9.0, Live(OLD)),
        (300.0, Live(OLD, NEW, 0.3)),
        (330.0, Live(NEW, OLD, 0.1, holdback=True)),
        (361.0, Live(NEW)),
        (401.0, Live(NEW, BAD, 0.3)),
        (425.0, Live(NEW)),
    ]
    watcher.monitored = Monitored(300, 0.8, 0.75, 0.85, 0.6, 0.97, 0.62)
    watcher.job = {"status": "succeeded", "ostler": {"stage": "done", "candidate": "support@3"}}
    watcher.tell("story", "Act 1: the world shifts", 60.0)
    watcher.tell("saw", "alarm: it fell <script>alert(1)</script> \x1b[31m", 71.0)
    watcher.tell("did", "retrain: quality was lost", 160.0)
    story.act = "The end"
    return story


def _answer(at: float, rng: random.Random) -> Answered:
    world, version, variant = ("before" if at < MILESTONES["shift"] else "shifted"), OLD, "stable"
    if 300 <= at < 330 and rng.random() < 0.3:
        version, variant = NEW, "canary"
    elif at >= 330:
        version, variant = NEW, "stable"
    if 401 <= at < 425 and rng.random() < 0.3:
        version, variant = BAD, "canary"
    mean = QUALITY.get(version, 1.0 if world == "before" else 0.6)
    quality = 1.0 if rng.random() < mean else 0.0
    return Answered(at, world, rng.choice(KEYS), version, variant, quality, 0.1)  # type: ignore[arg-type]  # a literal
