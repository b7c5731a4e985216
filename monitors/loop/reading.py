"""Reads what decisions about an adapter are made from, and feeds the tests of its rollout with what is new.

watched         monitors.loop.quality       how the stable version does
who was first   registry.standing           what a person changed, and what is stopped
jobs            registry.tuning.outlook     the loop's training, others, and what they cost
the rollout     monitors.loop.scores        sessions of both versions
                monitors.loop.limits        requests of both versions

All that a rollout's tests know is in what is returned as JSON, so another monitor goes on with them from there.
"""

import asyncio
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, cast

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from monitors.judging.quality import QualityJob
from monitors.log.arrivals import Position, newest, position_at
from monitors.loop.approvals import answers
from monitors.loop.evidence import Beside
from monitors.loop.limits import feed_requests
from monitors.loop.material import Surveyor
from monitors.loop.quality import seen_quality
from monitors.loop.scores import feed_scores, first_observation
from monitors.loop.seen import Comparison, JobEnd, JobSeen, Labels, Quality, Seen
from monitors.loop.state import LoopState, Rollout
from monitors.loop.store import Kept
from monitors.loop.trial import Sides, Trial
from monitors.loop.watching import is_answered
from monitors.money.pricing import PricedSettings
from monitors.tables import ObservationRow
from monitors.watch.progress import cursor
from registry.catalog import Adapter, Catalog, Deployment
from registry.standing import standing, standing_stops
from registry.stops import EVERYTHING
from registry.tuning.outlook import JobTime, open_jobs, times_of
from registry.tuning.states import ENDED, OPEN
from registry.tuning.tables import TuningJobRow

_AT_ONCE = 2
"""Adapters of which it is asked at once whether their labels are wanted."""
_OBSERVATIONS = ObservationRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model


@dataclass(frozen=True, slots=True)
class Looked:
    """What was read; `tests` and `cursors` are to be kept in the same transaction as whatever follows from it."""

    seen: Seen
    tests: dict[str, Any]
    cursors: dict[str, Any]


class Reader:
    """Reads for the controller.

    Args:
        database: everything that happened.
        prices: what an hour of an engine costs, for trainings whose cost nobody noted.
    """

    def __init__(self, database: AsyncEngine, prices: PricedSettings) -> None:
        self._database = database
        self._prices = prices
        self._surveyor = Surveyor(database)
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._catalog: Catalog | None = None
        self._stops: frozenset[str] = frozenset()
        self._fed = 0
        self._requests: Position | None = None
        self._follows_rollouts = False

    async def changed(self, catalog: Catalog, _now: datetime) -> set[str]:
        """The adapters about which anything is new since the last call; all of them at the first.

        That is: a deployment, a policy, a stop, or an observation that the tests were fed. It costs the same for any
        number of adapters about which nothing is. Rollouts that are looked at before the next call read requests that
        were there by now.
        """
        async with self._database.connect() as connection:
            stops = frozenset(await standing_stops(connection))
            fed = int(await cursor(connection, QualityJob.name, "") or 0)
            names = set() if self._catalog is None else await _observed(connection, self._fed, fed)
            self._requests = await newest(connection) if self._follows_rollouts else None
        names |= _differing(self._catalog, catalog) | (stops ^ self._stops)
        if EVERYTHING in names:
            names |= catalog.adapters.keys()
        self._catalog, self._stops, self._fed, self._follows_rollouts = catalog, stops, fed, False
        return names & catalog.adapters.keys()

    async def survey(self, adapter: Adapter, kept: Kept, now: datetime) -> Labels | None:
        """What a training would have; None where nobody asks for that.

        It may read much, and so does it on a connection of its own, before the transaction in which is decided.
        """
        if kept.state.phase != "watching":
            return None
        async with self._places, self._database.connect() as connection:
            quality = await seen_quality(connection, adapter, adapter.deployment)
        if not _asks_for_labels(kept.state, quality):
            return None
        since = kept.state.labels_until
        return await self._surveyor.labels(adapter, adapter.policy, since=since, until=now)

    async def see(
        self,
        connection: AsyncConnection,
        adapter: Adapter,
        kept: Kept,
        now: datetime,
        *,
        labels: Labels | None = None,
    ) -> Looked:
        """Everything that a decision about the adapter is made from.

        `labels` is what `survey` said. An alarm that was raised only since then is seen at the next look, together
        with its labels.
        """
        state = kept.state
        stood = await standing(connection, adapter.name, since=state.revision)
        stops = await standing_stops(connection, adapter.name)
        quality = await seen_quality(connection, adapter, stood.deployment)
        if labels is None and state.phase == "watching" and quality is not None and _asks_for_labels(state, quality):
            quality = _before_alarm(quality)
        trial = await self._trial(connection, adapter, stood.deployment, kept)
        jobs = await open_jobs(connection, adapter.name, state.job)
        seen = Seen(
            now=now,
            deployment=stood.deployment,
            changed_by=stood.changed_by,
            taken_away=stood.taken_away,
            frozen=None if EVERYTHING not in stops else str(stops[EVERYTHING]),
            paused=None if adapter.name not in stops else str(stops[adapter.name]),
            quality=quality,
            new_quality=await _new_quality(connection, adapter, stood.deployment, state.rollout),
            labels=labels or Labels(),
            open_job=next((_job_seen(job) for job in jobs if job.state in OPEN), None),
            job=next((_job_seen(job) for job in jobs if job.id == state.job), None),
            spent=await self._spent(connection, adapter.name, now) if state.phase == "watching" else 0.0,
            has_price=self._prices.pricing(adapter.base).is_by_gpu_hour,
            comparison=Comparison() if trial is None else trial.comparison(),
            approvals=await answers(connection, adapter.name),
        )
        return Looked(seen, {} if trial is None else trial.tests(), {} if trial is None else trial.cursors())

    async def _trial(
        self, connection: AsyncConnection, adapter: Adapter, deployment: Deployment | None, kept: Kept
    ) -> Trial | None:
        """The tests of the rollout under way, with all that is new; None if there is none."""
        rollout = kept.state.rollout
        if rollout is None or deployment is None:
            return None
        self._follows_rollouts = True
        trial = _stored_trial(kept, rollout) or await _begin(connection, adapter, deployment, rollout)
        trial.follow(adapter.policy.rollout)
        await feed_scores(connection, trial)
        last = await newest(connection) if self._requests is None else self._requests
        await feed_requests(connection, trial, last)
        return trial

    async def _spent(self, connection: AsyncConnection, adapter: str, now: datetime) -> float:
        """What the loop's trainings of this month (UTC) cost so far, those under way included.

        A version's lineage says what its training cost. Where it does not, since no version was made or no GPU was
        measured, the job's time counts as that of one replica of its base model, at the price of its GPUs.
        """
        month = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        times = await times_of(connection, adapter, idempotency_prefix=f"loop-{adapter}-", since=month)
        return sum(self._cost(time, now) for time in times)

    def _cost(self, time: JobTime, now: datetime) -> float:
        if time.amount is not None:
            return time.amount
        if time.started_at is None:
            return 0.0
        seconds = ((time.ended_at or now) - time.started_at).total_seconds()
        return self._prices.pricing(time.base).engines(max(0.0, seconds))


async def _observed(connection: AsyncConnection, last: int, newest: int) -> set[str]:
    """The adapters of the observations after the `last` one."""
    if newest <= last:
        return set()
    new = select(_OBSERVATIONS.c.adapter).where(_OBSERVATIONS.c.id > last, _OBSERVATIONS.c.id <= newest)
    return set((await connection.execute(new.distinct())).scalars())


def _differing(before: Catalog | None, after: Catalog) -> set[str]:
    """The adapters whose deployment or policy differs."""
    if before is after:
        return set()
    known = {} if before is None else before.adapters
    return {name for name, adapter in after.adapters.items() if _said(known.get(name)) != _said(adapter)}


def _said(adapter: Adapter | None) -> Any:
    return None if adapter is None else (adapter.deployment, adapter.policy, adapter.policy_number)


def _asks_for_labels(state: LoopState, quality: Quality | None) -> bool:
    """Whether an alarm stands that no training has answered."""
    return quality is not None and quality.alarm and not is_answered(state, quality)


async def _new_quality(
    connection: AsyncConnection, adapter: Adapter, deployment: Deployment | None, rollout: Rollout | None
) -> Quality | None:
    """What the watch over the version that rolls out says, as if it were stable already."""
    if deployment is None or rollout is None or deployment.stable == rollout.version:
        return None
    promoted = replace(deployment, stable=rollout.version, canary=None, previous=deployment.stable)
    return await seen_quality(connection, adapter, promoted)


def _before_alarm(quality: Quality) -> Quality:
    return replace(quality, alarm=False, alarms=quality.alarms - 1)


def _stored_trial(kept: Kept, rollout: Rollout) -> Trial | None:
    """The trial that is kept, if it is that of this rollout."""
    if "sides" not in kept.cursors:
        return None
    trial = Trial.from_state(kept.tests, kept.cursors)
    sides = trial.sides
    same = (sides.new, sides.old, sides.began_at) == (rollout.version, rollout.incumbent, rollout.began_at)
    return trial if same else None


async def _begin(connection: AsyncConnection, adapter: Adapter, deployment: Deployment, rollout: Rollout) -> Trial:
    rule, new, old, since = adapter.monitoring.quality, rollout.version, rollout.incumbent, rollout.began_at
    sides = Sides(
        adapter=adapter.name,
        new=new,
        old=old,
        new_name=_engine_name(adapter, new),
        old_name=_engine_name(adapter, old),
        began_at=since,
        scorer=rule.scorer,
        paired=deployment.shadow is not None and deployment.shadow.version in (new, old),
    )
    return Trial(
        sides,
        incumbent=Beside.begin(drop=rule.drop, alpha=rule.alpha),
        base=Beside.begin(drop=rule.drop, alpha=rule.alpha),
        observation=await first_observation(connection, since),
        requests=await position_at(connection, adapter.name, (new, old), since),
    )


def _engine_name(adapter: Adapter, number: int) -> str:
    return adapter.versions[number].engine_name if number in adapter.versions else f"{adapter.name}@{number}"


def _job_seen(job: TuningJobRow) -> JobSeen:
    error = job.error or {}
    is_rejected = job.state == "failed" and error.get("code") == "rejected_by_gate"
    end = "rejected" if is_rejected else job.state if job.state in ENDED else "open"
    return JobSeen(job.id, cast("JobEnd", end), job.version, str(error.get("message", "")), job.finished_at)
