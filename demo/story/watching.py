"""What Ostler does by itself, as an admin sees it: decisions, revisions of the deployment, and the training job.

Looked at once a second. What is new becomes an event of the story, and what the story waits for a milestone.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from demo.story.admin import Admin
from demo.story.plan import ADAPTER, SCORER

__all__ = ["Event", "Live", "Monitored", "Watcher", "drift_words"]

Kind = Literal["story", "saw", "did", "job", "person", "bad"]
_LOOK_EVERY_S = 1.0
_PAGE = 100
_QUIET = ("no_level", "quality_holds", "nothing_serves", "gathers", "tuning", "holds_back", "watched")
"""Reasons to wait of which the story has no line: nothing is amiss, or nothing new."""
_MILESTONES = {
    "retrain": "retrain",
    "begin_rollout": "canary",
    "next_step": "step",
    "watch_canary": "watched",
}
_TROUBLE = ("end_cycle", "stand_back")


@dataclass(frozen=True)
class Event:
    """Something that happened: when, seconds since the story began; of which kind; in words."""

    at: float
    kind: Kind
    words: str


@dataclass(frozen=True)
class Live:
    """What serves: the stable version, and the canary with its weight."""

    stable: int = 0
    canary: int | None = None
    weight: float = 0.0
    holdback: bool = False


@dataclass(frozen=True)
class Monitored:
    """What the monitor knows of the stable version's quality; `ratio` is the evidence of a fall, 1 is an alarm."""

    sessions: int = 0
    mean: float | None = None
    low: float = 0.0
    high: float = 1.0
    recent: float | None = None
    level: float | None = None
    ratio: float = 0.0


@dataclass
class Watcher:
    """Knows what happened so far.

    Attributes:
        began: the story's beginning.
        events: what happened, the oldest first.
        milestones: by name, the times at which each was reached, seconds since the beginning.
        lives: each deployment with the time from which it was so.
        monitored: the newest figures of the monitor.
        job: the training job, once there is one, with its newest numbers.
        step: of the training, and of how many.
        decisions: every decision, the oldest first.
        looks: every look at drift, by its id.
        trouble: why the loop gave up, if it did.
    """

    admin: Admin
    began: datetime
    events: list[Event] = field(default_factory=list)
    milestones: dict[str, list[float]] = field(default_factory=dict)
    lives: list[tuple[float, Live]] = field(default_factory=list)
    monitored: Monitored = field(default_factory=Monitored)
    job: Any = None
    step: tuple[int, int] = (0, 0)
    decisions: list[Any] = field(default_factory=list)
    looks: dict[str, Any] = field(default_factory=dict)
    trouble: str | None = None
    _last_revision: int = 0
    _stage: str = ""
    _told: set[str] = field(default_factory=set)

    @property
    def live(self) -> Live:
        """What serves now."""
        return self.lives[-1][1] if self.lives else Live()

    def tell(self, kind: Kind, words: str, at: float | None = None) -> None:
        """Note an event, of now unless it is said of when."""
        self.events.append(Event(self.now() if at is None else at, kind, words))

    def reach(self, milestone: str, at: float) -> None:
        """Note that a milestone was reached."""
        self.milestones.setdefault(milestone, []).append(at)

    def reached(self, milestone: str, after: float = 0.0) -> float | None:
        """When a milestone was first reached after some time; None if it was not yet."""
        return next((at for at in self.milestones.get(milestone, ()) if at >= after), None)

    def now(self) -> float:
        """Seconds since the story began."""
        return (datetime.now(self.began.tzinfo) - self.began).total_seconds()

    async def run(self, on_look: Callable[[], None]) -> None:
        """Look again and again; `on_look` is called after each look.

        Raises:
            StoryFailed: the gateway does not answer.
        """
        while True:
            await self.look()
            on_look()
            await asyncio.sleep(_LOOK_EVERY_S)

    async def look(self) -> None:
        """Look once."""
        await self._look_at_decisions()
        await self._look_at_deployment()
        await self._look_at_job()
        await self._look_at_quality()
        await self._look_at_drift()

    async def _look_at_decisions(self) -> None:
        found = await self.admin.call("GET", "/admin/v1/decisions", params={"adapter": ADAPTER, "limit": _PAGE})
        last = self.decisions[-1]["id"] if self.decisions else 0
        for decision in reversed([each for each in found["data"] if each["id"] > last]):
            self.decisions.append(decision)
            self._take(decision, self._since(decision["created_at"]))

    def _take(self, decision: Any, at: float) -> None:
        kind, outcome, reason = decision["kind"], decision["outcome"], decision["reason"]
        if kind == "quality":
            self.tell("saw", f"{_KINDS.get(outcome, outcome)}: {reason}", at)
            if outcome == "alarm":
                self.reach("alarm", at)
        elif kind == "loop":
            self._take_loop(decision, at)

    def _take_loop(self, decision: Any, at: float) -> None:
        act, outcome = decision["inputs"]["act"], decision["outcome"]
        if act == "wait":
            if outcome not in _QUIET:
                self.tell("saw", f"waits: {decision['reason']}", at)
            return
        self.tell("did", f"{act.replace('_', ' ')}: {decision['reason']}", at)
        if act in _TROUBLE or (act == "roll_back" and not self.milestones.get("forced")):
            self.trouble = decision["reason"]
        if act in _MILESTONES:
            self.reach(_MILESTONES[act], at)

    async def _look_at_deployment(self) -> None:
        """New revisions; a decision's change of what serves is a milestone of its own, for then it holds."""
        page = await self.admin.adapter("GET", "/history", params={"limit": _PAGE})
        for revision in reversed([each for each in page["data"] if each["revision"] > self._last_revision]):
            self._last_revision = revision["revision"]
            at, before = self._since(revision["created_at"]), self.live
            canary = revision["canary"] or {"version": None, "weight": 0.0, "holdback": False}
            live = Live(revision["stable"], canary["version"], canary["weight"], canary["holdback"])
            self.lives.append((at, live))
            if revision["decision"] is not None:
                self._change(revision["action"], before, live, at)

    def _change(self, action: str, before: Live, live: Live, at: float) -> None:
        """What a change that followed from a decision came to."""
        if action == "rollback":
            self.reach("rolled back", at)
        elif live.stable != before.stable:
            self.reach("promoted", at)
        elif before.canary is not None and live.canary is None:
            self.reach("settled" if before.holdback else "rolled back", at)

    async def _look_at_job(self) -> None:
        if self.job is None and self.reached("retrain") is None:
            return
        jobs = (await self.admin.call("GET", "/v1/fine_tuning/jobs", params={"limit": 1}))["data"]
        if not jobs:
            return
        self.job = jobs[0]
        stage = self.job["ostler"]["stage"] if self.job["status"] in _OPEN else self.job["status"]
        if stage != self._stage:
            self._stage = stage
            self.reach(stage, self.now())
            self.tell("job", f"training job: {_STAGES.get(stage, stage)}")
        await self._look_at_events(self.job["id"])

    async def _look_at_events(self, job: str) -> None:
        page = await self.admin.call("GET", f"/v1/fine_tuning/jobs/{job}/events", params={"limit": _PAGE})
        for event in reversed(page["data"]):
            data = event["data"] or {}
            if data.get("total_steps"):
                self.step = (int(data["step"]), int(data["total_steps"]))
            if event["type"] == "message" and event["id"] not in self._told:
                self._told.add(event["id"])
                self.tell("job", f"  {event['message']}", float(event["created_at"]) - self.began.timestamp())

    async def _look_at_quality(self) -> None:
        found = await self.admin.adapter("GET", "/quality")
        for version in found["versions"]:
            for scorer in version["scorers"]:
                if version["serves"] == "stable" and scorer["scorer"] == SCORER:
                    self.monitored = _monitored(scorer)

    async def _look_at_drift(self) -> None:
        page = await self.admin.adapter("GET", "/drift", params={"limit": _PAGE})
        for look in reversed([each for each in page["data"] if each["id"] not in self.looks]):
            self.looks[look["id"]] = look
            at = self._since(look["created_at"])
            if look["outcome"] in ("drift", "no_drift"):
                self.tell("saw", f"drift report about version {look['version']}: {drift_words(look)}", at)

    def _since(self, moment: str) -> float:
        return (datetime.fromisoformat(moment) - self.began).total_seconds()


def drift_words(look: Any) -> str:
    """What a look at drift found, the columns that drifted first."""
    columns = sorted(look["columns"], key=lambda each: -each["statistic"] / each["threshold"])
    drifted = [
        f"{each['name']} {each['statistic']:.3g} / {each['threshold']:.3g}" for each in columns if each["drifted"]
    ]
    return f"drift in {', '.join(drifted)}" if drifted else "no drift"


_OPEN = ("validating_files", "queued", "running")
_STAGES = {
    "waiting": "waits for a tuner",
    "data": "makes the dataset",
    "fitness": "tries whether the engine could serve it",
    "training": "trains",
    "registering": "registers the version",
    "evaluating": "holds it against its gate",
    "succeeded": "its gate let it through",
    "failed": "failed",
}
_KINDS = {"alarm": "alarm", "better": "better than another", "worse": "worse than another"}


def _monitored(scorer: Any) -> Monitored:
    watch = scorer["watch"] or {}
    return Monitored(
        sessions=scorer["observations"],
        mean=scorer["mean"],
        low=scorer["low"],
        high=scorer["high"],
        recent=scorer["recent"],
        level=watch.get("level"),
        ratio=watch.get("cusum_ratio", 0.0),
    )
