"""Which decisions other systems are told of, and in which words: small, and never a prompt or a key."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from monitors.decisions import WOULD, Decision

Event = Literal[
    "alarm",
    "approval_wanted",
    "retrain_begun",
    "retrain_ended",
    "rollout_begun",
    "promoted",
    "rolled_back",
    "paused",
    "undecided",
]
"""alarm            quality was lost
approval_wanted  the loop asks a person before it trains or promotes
retrain_begun    a tuning job was asked for
retrain_ended    it is over, with a version or without one
rollout_begun    a new version serves a few
promoted         it serves everyone, but for a share that may be held back
rolled_back      the version from before serves everyone again
paused           a person is to decide: somebody changed what was under way, or the loop could not go on
undecided        a rollout has taken longer than it may, and goes on"""

EVENTS: tuple[Event, ...] = get_args(Event)
TEST = "test"
"""What a webhook is told to try it."""
_BY_ACT: Mapping[str, Event] = {
    "ask": "approval_wanted",
    "retrain": "retrain_begun",
    "begin_rollout": "rollout_begun",
    "promote": "promoted",
    "roll_back": "rolled_back",
    "stand_back": "paused",
}
_DONE_LATER = frozenset({"retrain", "begin_rollout", "promote", "roll_back"})
"""Acts that are decided first, and may be overtaken before they are carried out."""
_LONGEST_SOURCE = 80


@dataclass(frozen=True, slots=True)
class Told:
    """One event that follows from a decision.

    Attributes:
        event: what happened.
        source: what it follows from; a webhook is told once of each.
        once_done: whether it is told only once the decision is carried out, and not at all if it never is.
        job: the tuning job that it is about, where the decision names one.
    """

    event: Event
    source: str
    once_done: bool = False
    job: str | None = None


def told_of(number: int, decision: Decision) -> list[Told]:
    """What is told of the decision of that id; most are not told at all."""
    if decision.kind == "quality" and decision.outcome == "alarm":
        return [Told("alarm", f"alarm-{number}")]
    if decision.kind == "loop" and not decision.outcome.startswith(WOULD):
        return list(_of_loop(number, decision))
    return []


def _of_loop(number: int, decision: Decision) -> Iterator[Told]:
    act = str(decision.inputs.get("act"))
    if (ended := _ended(number, act, decision)) is not None:
        yield ended
    if (event := _BY_ACT.get(act)) is not None:
        yield Told(event, f"{event}-{number}", once_done=act in _DONE_LATER)
    if act == "wait" and decision.outcome == "undecided":
        yield Told("undecided", f"undecided-{number}")


def _ended(number: int, act: str, decision: Decision) -> Told | None:
    """That a training is over; of one job that is told once, however often what follows is decided anew."""
    inputs = decision.inputs
    if decision.outcome == "given_up":
        return Told("retrain_ended", f"retrain_ended-{number}") if act == "end_cycle" else None
    if inputs.get("phase") != "tuning" or act not in ("end_cycle", "begin_rollout"):
        return None
    job = inputs.get("job")
    return Told("retrain_ended", f"retrain_ended-{job or number}"[:_LONGEST_SOURCE], job=job)


def body_of(told: Told, number: int, decision: Decision, now: datetime) -> dict[str, Any]:
    """What is sent of it; `revision` and `job` are filled in where they are known only later."""
    data = {
        "adapter": decision.adapter,
        "version": decision.version or None,
        "decision": number,
        "outcome": decision.outcome,
        "reason": decision.reason,
        "revision": None,
        "job": told.job,
        "links": _links(told, number, decision),
    }
    return _envelope(told.event, now, data)


def with_job(body: Mapping[str, Any], job: str | None) -> dict[str, Any]:
    """The body with the job that was asked for, and the way to it."""
    if job is None:
        return dict(body)
    data = body["data"]
    links = data["links"] | {"job": _job_link(job)}
    return {**body, "data": {**data, "job": job, "links": links}}


def with_revision(body: Mapping[str, Any], revision: int | None) -> dict[str, Any]:
    """The body with the deployment's revision that was made."""
    return {**body, "data": {**body["data"], "revision": revision}}


def trial_body(webhook: str, now: datetime) -> dict[str, Any]:
    """What a webhook is sent to try it."""
    return _envelope(TEST, now, {"webhook": webhook})


def _envelope(event: str, now: datetime, data: Mapping[str, Any]) -> dict[str, Any]:
    timestamp = now.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"type": f"ostler.{event}", "timestamp": timestamp, "data": dict(data)}


def _links(told: Told, number: int, decision: Decision) -> dict[str, str]:
    """Ways to more of it, below the gateway's address, which not every receiver reaches."""
    adapter = f"/admin/v1/adapters/{decision.adapter}"
    found = {
        "why": f"{adapter}/why",
        "decision": f"/admin/v1/decisions?adapter={decision.adapter}&before={number + 1}&limit=1",
    }
    if decision.version:
        found["version"] = f"{adapter}/versions/{decision.version}"
    if told.job is not None:
        found["job"] = _job_link(told.job)
    if told.event == "approval_wanted":
        found |= {"approve": f"{adapter}/approve", "reject": f"{adapter}/reject"}
    return found


def _job_link(job: str) -> str:
    return f"/v1/fine_tuning/jobs/{job}"
