"""Why an adapter is as it is: what was seen, by which rule, what was done, and what would change it.

It shows what the loop itself last looked at and decided, for its tests and its verdict are kept
(`monitors.loop.store`). What stops it, and what waits for an answer, is read anew.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from monitors.decisions import StoredDecision, Wanted, newest_decisions
from monitors.loop.approvals import Question, waiting
from monitors.loop.decide import stop_of
from monitors.loop.followed import Followed, followed
from monitors.loop.seen import Comparison, Labels, Quality, Seen
from monitors.loop.state import LoopState, Phase, Rollout
from monitors.loop.store import Kept, Pending, load
from monitors.loop.verdicts import Verdict
from registry.catalog import Adapter
from registry.leases import MONITOR
from registry.monitoring import QualityRule
from registry.policies import Mode, RetrainRule, RolloutRule
from registry.standing import standing, standing_stops
from registry.stops import EVERYTHING, Stop
from registry.tables import LeaseRow

MOST_DONE = 5
_LEASES = LeaseRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model


class Said(msgspec.Struct, frozen=True):
    """What was decided last: to do what, by which rule, why, and what would change it.

    `decided_at` is when the loop looked; `decision` is the one that it is recorded in.
    """

    act: str
    outcome: str
    rule: str
    reason: str
    would_change: str
    decided_at: datetime | None = None
    decision: int | None = None


class Rules(msgspec.Struct, frozen=True):
    """The policy; number 0 is the defaults."""

    number: int
    mode: Mode
    quality: QualityRule
    retrain: RetrainRule
    rollout: RolloutRule


class Stopped(msgspec.Struct, frozen=True):
    """Who stopped automatic change, why and when: of the adapter (``pause``), or all (``freeze``)."""

    by: Literal["pause", "freeze"]
    actor: str
    reason: str
    created_at: datetime


class UnderWay(msgspec.Struct, frozen=True):
    """A decision that is not carried out yet; `trouble` is why the gateway refused it last, in its words."""

    decision: int
    act: str
    decided_at: datetime
    tries: int
    next_at: datetime | None
    trouble: str


class RollingOut(msgspec.Struct, frozen=True):
    """A new version on its way: `step` counts from 1, `sessions` are those at the present step."""

    version: int
    incumbent: int
    by_person: bool
    began_at: datetime
    step_began_at: datetime
    step: int
    sessions: int
    weight: float | None
    comparison: Comparison | None


class DoneBefore(msgspec.Struct, frozen=True):
    """A decision that something followed from: the revision that it made, or the job that it asked for."""

    id: int
    created_at: datetime
    version: int | None
    act: str
    outcome: str
    reason: str
    revision: int | None
    job: str | None


class Explanation(msgspec.Struct, frozen=True):
    """Everything on one screen.

    Attributes:
        quality: how the stable version does; None while nothing was scored.
        labels: what a training would have; looked at from an alarm on only, None before.
        conditions: what must hold before a training, and how it stands; empty unless an alarm stands.
        met: those of them that hold, and of which nothing need be said.
        waits: what would be done if nothing were stopped, as far as the loop has looked; None where nothing is stopped.
        monitored: whether a monitor is active, without which nothing is looked at or done.
        rollout: the new version under way; None if there is none.
        job: the tuning job under way, or the loop's last one.
        waits_for: what a person is asked; None if nothing is.
        done: the newest decisions that something followed from.
    """

    adapter: str
    policy: Rules
    phase: Phase
    since: datetime | None
    cycle: int
    stable: int | None
    verdict: Said | None
    waits: Said | None
    monitored: bool
    stopped: Sequence[Stopped]
    waits_for: Question | None
    under_way: UnderWay | None
    quality: Quality | None
    labels: Labels | None
    conditions: dict[str, str]
    met: Sequence[str]
    rollout: RollingOut | None
    job: str | None
    done: Sequence[DoneBefore]


async def explain(connection: AsyncConnection, adapter: Adapter, now: datetime) -> Explanation:
    """Why the adapter is as it is, as of now."""
    from monitors.loop.quality import seen_quality  # with numpy, which a gateway needs for nothing else

    kept = await load(connection, adapter.name)
    stops = await standing_stops(connection, adapter.name)
    stood = await standing(connection, adapter.name)
    state = kept.state
    known = _known(kept)
    inputs: dict[str, Any] = (known or {}).get("inputs") or {}
    seen = Seen(now, stood.deployment, frozen=_word(stops.get(EVERYTHING)), paused=_word(stops.get(adapter.name)))
    stop = stop_of(seen, adapter.policy)
    return Explanation(
        adapter=adapter.name,
        policy=_rules(adapter),
        phase=state.phase,
        since=state.since,
        cycle=state.cycle,
        stable=None if stood.deployment is None else stood.deployment.stable,
        verdict=_as_said(known) if stop is None else _of(stop),
        waits=None if stop is None or stop.outcome == "off" else _as_said(known),
        monitored=await _is_monitored(connection, now),
        stopped=_stopped(stops.get(adapter.name), stops.get(EVERYTHING)),
        waits_for=await waiting(connection, adapter.name),
        under_way=None if kept.pending is None else _under_way(kept.pending),
        quality=await seen_quality(connection, adapter, stood.deployment),
        labels=msgspec.convert(inputs["labels"], Labels) if "labels" in inputs else None,
        conditions=inputs.get("conditions", {}),
        met=inputs.get("met", []),
        rollout=_rollout(kept, state, seen),
        job=state.job,
        done=await _done(connection, adapter.name),
    )


def _rules(adapter: Adapter) -> Rules:
    policy = adapter.policy
    return Rules(adapter.policy_number, policy.mode, policy.quality, policy.retrain, policy.rollout)


def _known(kept: Kept) -> dict[str, Any] | None:
    """The newest verdict, without a stop: of one while the loop was stopped what would have been done."""
    said = kept.verdict
    waits = (said or {}).get("inputs", {}).get("waits")
    return said if said is None or waits is None else waits | {"at": said["at"], "decision": said["decision"]}


def _as_said(said: dict[str, Any] | None) -> Said | None:
    if said is None:
        return None
    shown = {name: said[name] for name in ("act", "outcome", "rule", "reason", "would_change")}
    return Said(**shown, decided_at=datetime.fromisoformat(said["at"]), decision=said["decision"])


def _of(verdict: Verdict) -> Said:
    return Said(verdict.act, verdict.outcome, verdict.rule, verdict.reason, verdict.would_change)


def _word(stop: Stop | None) -> str | None:
    return None if stop is None else str(stop)


def _stopped(paused: Stop | None, frozen: Stop | None) -> list[Stopped]:
    found: tuple[tuple[Literal["pause", "freeze"], Stop | None], ...] = (("freeze", frozen), ("pause", paused))
    return [Stopped(by, stop.actor, stop.reason, stop.created_at) for by, stop in found if stop is not None]


def _under_way(pending: Pending) -> UnderWay:
    return UnderWay(
        pending.decision, pending.verdict.act, pending.decided_at, pending.tries, pending.next_at, pending.trouble
    )


def _rollout(kept: Kept, state: LoopState, seen: Seen) -> RollingOut | None:
    rollout = state.rollout
    if rollout is None:
        return None
    canary = None if seen.deployment is None else seen.deployment.canary
    comparison = _comparison(kept, rollout)
    sessions = 0 if comparison is None else comparison.incumbent.n - rollout.sessions_before
    return RollingOut(
        version=rollout.version,
        incumbent=rollout.incumbent,
        by_person=rollout.by_person,
        began_at=rollout.began_at,
        step_began_at=rollout.step_began_at,
        step=rollout.step + 1,
        sessions=max(0, sessions),
        weight=None if canary is None else canary.weight,
        comparison=comparison,
    )


def _comparison(kept: Kept, rollout: Rollout) -> Comparison | None:
    """What is known of the rollout; None until the loop has looked at it once."""
    from monitors.loop.trial import Trial  # with numpy, too

    if "sides" not in kept.cursors:
        return None
    trial = Trial.from_state(kept.tests, kept.cursors)
    is_its = (trial.sides.new, trial.sides.began_at) == (rollout.version, rollout.began_at)
    return trial.comparison() if is_its else None


async def _is_monitored(connection: AsyncConnection, now: datetime) -> bool:
    """Whether any monitor holds the lease."""
    held = select(_LEASES.c.holder).where(_LEASES.c.name == MONITOR, _LEASES.c.expires_at > now)
    return await connection.scalar(held) is not None


async def _done(connection: AsyncConnection, adapter: str) -> list[DoneBefore]:
    found = await newest_decisions(connection, Wanted(adapter=adapter, acted=True), limit=MOST_DONE)
    after = await followed(connection, found)
    return [_done_before(each, after.get(each.id, Followed())) for each in found]


def _done_before(decision: StoredDecision, after: Followed) -> DoneBefore:
    act = "alarm" if decision.kind == "quality" else str(decision.inputs["act"])
    return DoneBefore(
        id=decision.id,
        created_at=decision.created_at,
        version=decision.version or None,
        act=act,
        outcome=decision.outcome,
        reason=decision.reason,
        revision=after.revision,
        job=after.job,
    )
