"""What the watch over quality would have said in the past, and what would have followed: alarms, and trainings.

Recorded observations go through the same tests as live ones, and each alarm through the same decisions. A training is
taken to end at once and without a version, for nobody knows what it would have made.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncConnection

from monitors.judging.evidence import DifferenceEvidence, LevelEvidence
from monitors.judging.pairing import BASE, LEVEL
from monitors.judging.watched import WatchedTest, watched_test
from monitors.loop.decide import decide
from monitors.loop.moments import Moment, approved, moment_of
from monitors.loop.past import Era, era_at
from monitors.loop.past_labels import PastLabels
from monitors.loop.quality import quality_of
from monitors.loop.scores import first_observation, last_observation
from monitors.loop.seen import JobSeen, Quality, Seen
from monitors.loop.state import LoopState
from monitors.loop.transitions import after
from monitors.loop.verdicts import Verdict
from monitors.loop.voices import NEWEST, Agreement, Fall, agreement_of
from monitors.loop.watching import is_answered
from monitors.tables import ObservationRow
from registry.catalog import Adapter, Deployment
from registry.monitoring import Against

MOST_OBSERVATIONS = 200_000
MOST_ALARMS = 500
_PAGE = 1000
_LOOK_EVERY = timedelta(hours=1)
"""How often an alarm that stands is looked at again, for labels and the time that passes."""
_OBSERVATIONS = ObservationRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model
_C = _OBSERVATIONS.c
_AGAINST: dict[Against, Any] = {
    "level": _C.against == LEVEL,
    "base": _C.against == BASE,
    "incumbent": _C.against.not_in((LEVEL, BASE)),
}


@dataclass(frozen=True, slots=True)
class Alarm:
    """An alarm, with the newest sessions that the watch was fed before it, and what they were held against."""

    at: datetime
    quality: Quality
    fall: Fall
    fed: tuple[tuple[str, float], ...]


@dataclass
class _Watched:
    """The test of one version."""

    test: WatchedTest
    version: int
    evidence: LevelEvidence | DifferenceEvidence
    fed: deque[tuple[str, float]] = field(default_factory=lambda: deque(maxlen=NEWEST))


@dataclass
class WatchReplay:
    """Feeds the past to the watch of an adapter, which has the quality rule and the policy that are tried.

    Attributes:
        found: the eras of its deployment.
        since, until: what is looked at.
        observations: how many sessions were fed.
        last_at: when the last one of them was scored.
        alarms: what was raised.
        is_cut: whether there was more than what is looked at.
    """

    connection: AsyncConnection
    adapter: Adapter
    found: Sequence[Era]
    since: datetime
    until: datetime
    observations: int = 0
    last_at: datetime | None = None
    alarms: list[Alarm] = field(default_factory=list)
    is_cut: bool = False
    _tests: dict[WatchedTest, _Watched] = field(default_factory=dict)

    async def feed(self) -> None:
        """Give the tests everything that was observed."""
        async for rows in self._pages():
            if self.observations >= MOST_OBSERVATIONS or len(self.alarms) >= MOST_ALARMS:
                self.is_cut = True
                return
            tests = [await self._test_of(row) for row in rows]
            await asyncio.to_thread(self._take, rows, tests)

    async def decisions(self, labels: PastLabels) -> list[Moment]:
        """What would have followed from the alarms: the decisions to do something, and each new reason to wait."""
        following = _Following(self.connection, self.adapter, labels)
        standing: dict[int, Alarm] = {}
        later = deque(self.alarms)
        for moment in self._looks():
            while later and later[0].at <= moment:
                alarm = later.popleft()
                standing[alarm.quality.version] = alarm
            era = era_at(self.found, moment)
            if era is not None and era.deployment.stable in standing:
                await following.look(standing[era.deployment.stable], era.deployment, moment)
        return following.moments

    def _looks(self) -> list[datetime]:
        """When to look: at each alarm, and from the first on again and again, as long as scores are known."""
        until = self.last_at if self.is_cut and self.last_at is not None else self.until
        moments = {each.at for each in self.alarms}
        moment = min(moments, default=until)
        while moment < until:
            moments.add(moment)
            moment += _LOOK_EVERY
        return sorted(moments)

    async def _pages(self) -> AsyncIterator[Sequence[Row[Any]]]:
        """The observations by the rule's scorer, in the order of their ids."""
        behind = await first_observation(self.connection, self.since)
        newest = await last_observation(self.connection, self.until)
        rule = self.adapter.monitoring.quality
        own = (_C.adapter + "" == self.adapter.name, _C.scorer == rule.scorer, _AGAINST[rule.against])
        query = select(_OBSERVATIONS).where(*own, _C.id <= newest).order_by(_C.id).limit(_PAGE)
        while rows := (await self.connection.execute(query.where(_C.id > behind))).all():
            yield rows
            behind = rows[-1].id

    async def _test_of(self, row: Row[Any]) -> _Watched | None:
        """The test that the observation belongs to; None if nobody watched that then.

        The level, and the difference to the base, of any version is watched, as it may be the stable one later.
        """
        era = era_at(self.found, row.created_at)
        if era is None:
            return None
        test: WatchedTest | None = WatchedTest(row.version, row.scorer, row.against)
        stable = row.version
        if self.adapter.monitoring.quality.against == "incumbent":
            test, stable = watched_test(self.adapter, era.deployment), era.deployment.stable
        if test is None or (test.version, test.against) != (row.version, row.against):
            return None
        if test not in self._tests:
            self._tests[test] = await self._begin(test, stable, row.id)
        return self._tests[test]

    async def _begin(self, test: WatchedTest, version: int, before: int) -> _Watched:
        """A test that begins with this observation; its level is that of the first ones, however long ago."""
        rule = self.adapter.monitoring.quality
        evidence = (LevelEvidence if test.against == LEVEL else DifferenceEvidence).begin(rule.alpha)
        evidence.adopt(rule, self.since, is_watched=True)
        watched = _Watched(test, version, evidence)
        if rule.level is None and evidence.watch is not None:
            own = (_C.adapter == self.adapter.name, _C.version == test.version, _C.scorer == test.scorer)
            first = select(_C.value).where(*own, _C.against == test.against, _C.id < before).order_by(_C.id)
            fall = Fall(test, 0.0, rule.alpha)
            for value in (await self.connection.execute(first.limit(rule.level_observations))).scalars():
                evidence.watch.update(fall.unit(value))
        return watched

    def _take(self, rows: Sequence[Row[Any]], tests: Sequence[_Watched | None]) -> None:
        for row, watched in zip(rows, tests, strict=True):
            if watched is None:
                continue
            self.observations += 1
            self.last_at = row.created_at
            watched.fed.append((row.session, row.value))
            watch = watched.evidence.watch
            before = 0 if watch is None else watch.alarms
            watched.evidence.update(row.value)
            if watch is not None and watch.alarms > before:
                self._alarm(watched, row.created_at)

    def _alarm(self, watched: _Watched, at: datetime) -> None:
        rule, watch = self.adapter.monitoring.quality, watched.evidence.watch
        assert watch is not None, "only a watch raises an alarm"
        assert watch.cusum is not None, "only a test raises an alarm"
        quality = quality_of(watched.version, watched.test, watched.evidence.summary(), rule)
        fall = Fall(watched.test, float(watch.cusum.level), rule.alpha)
        self.alarms.append(Alarm(at, quality, fall, tuple(watched.fed)))


@dataclass
class _Following:
    """Decides after alarms, as the loop does."""

    connection: AsyncConnection
    adapter: Adapter
    labels: PastLabels
    moments: list[Moment] = field(default_factory=list)
    state: LoopState = field(default_factory=LoopState)
    _last: tuple[str, str] = ("", "")
    _agreed: tuple[Alarm | None, Agreement] = (None, Agreement())

    async def look(self, alarm: Alarm, deployment: Deployment, now: datetime) -> None:
        """Decide about the alarm that stands of the stable version."""
        canary = deployment.canary
        if is_answered(self.state, alarm.quality) or (canary is not None and not canary.holdback):
            return  # while another version is on trial the loop is about that one
        seen = await self._seen(alarm, deployment, now)
        verdict = decide(seen, self.state, self.adapter.policy)
        if verdict.act == "ask":
            self._note(verdict, now)
            seen = approved(seen, verdict, self.state.cycle + 1)
            verdict = decide(seen, self.state, self.adapter.policy)
        self._note(verdict, now)
        if verdict.act == "retrain":
            self._train(seen, verdict)

    def _train(self, seen: Seen, verdict: Verdict) -> None:
        """A training that ends at once without a version."""
        self.state = after(self.state, verdict, seen)
        ended = replace(seen, job=JobSeen("of the dry run", "cancelled", ended_at=seen.now))
        self.state = after(self.state, decide(ended, self.state, self.adapter.policy), ended)
        self.labels.begin_anew(seen.now)

    async def _seen(self, alarm: Alarm, deployment: Deployment, now: datetime) -> Seen:
        rule = self.adapter.policy.retrain
        if self._agreed[0] is not alarm:
            found = await agreement_of(self.connection, self.adapter.name, alarm.fall, alarm.fed, rule.trusted_keys)
            self._agreed = (alarm, found)
        labels = self.labels.at(now, rule, self._agreed[1])
        return Seen(now, deployment, quality=alarm.quality, labels=labels)

    def _note(self, verdict: Verdict, now: datetime) -> None:
        said = (verdict.act, verdict.outcome)
        if verdict.act != "wait" or said != self._last:
            self.moments.append(moment_of(verdict, now))
        self._last = said
