"""What a policy would have done with a canary that there was.

Its recorded sessions and requests go through the same tests and decisions as live ones. Its share was what it was,
so its sessions come at the pace at which they came; the steps of the policy are gone through as far as that leads.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Self

from sqlalchemy import Row, and_, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from monitors.loop.decide import decide
from monitors.loop.evidence import Beside
from monitors.loop.limits import take as take_request
from monitors.loop.moments import Moment, approved, moment_of
from monitors.loop.past import PastCanary
from monitors.loop.rolling_out import undecided_at
from monitors.loop.scores import first_observation, last_observation, new_scores, take_score
from monitors.loop.seen import Comparison, Seen
from monitors.loop.state import LoopState, Rollout
from monitors.loop.transitions import after
from monitors.loop.trial import Sides, Trial
from monitors.tables import RequestRow
from registry.catalog import Adapter, Canary, Deployment

MOST_REQUESTS = 200_000
_PAGE = 2000
_LOOK_EVERY = timedelta(seconds=10)
_REQUESTS = RequestRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model
_C = _REQUESTS.c


@dataclass(frozen=True, slots=True)
class Event:
    """Something recorded: an observation, or a request that ended."""

    at: datetime
    row: Row[Any]
    is_score: bool


@dataclass
class RolloutReplay:
    """One canary's trial under the adapter's policy, from its beginning until it is decided or was over.

    Attributes:
        canary: what there was.
        moments: what would have been decided: each step, and the end if there was one.
        last: why it would still wait; None once it is decided.
        requests: how many were looked at.
    """

    adapter: Adapter
    canary: PastCanary
    trial: Trial
    state: LoopState
    deployment: Deployment
    moments: list[Moment] = field(default_factory=list)
    last: Moment | None = None
    requests: int = 0
    is_over: bool = False
    _looked_at: datetime | None = None

    @classmethod
    def begin(cls, adapter: Adapter, canary: PastCanary) -> Self:
        """Before the first session."""
        rule, alpha = adapter.policy.rollout, adapter.policy.quality.alpha
        drop, since = adapter.policy.quality.drop, canary.since
        sides = Sides(
            adapter=adapter.name,
            new=canary.version,
            old=canary.incumbent,
            new_name=adapter.versions[canary.version].engine_name,
            old_name=adapter.versions[canary.incumbent].engine_name,
            began_at=since,
            scorer=adapter.policy.quality.scorer,
            paired=canary.paired,
        )
        begun = (Beside.begin(drop=drop, alpha=alpha), Beside.begin(drop=drop, alpha=alpha))
        trial = Trial(sides, *begun, observation=0, requests={})
        trial.follow(rule)
        rollout = Rollout(canary.version, canary.incumbent, since, since)
        state = LoopState("rolling_out", cycle=1, since=since, rollout=rollout)
        return cls(
            adapter, canary, trial, state, Deployment(0, canary.incumbent, Canary(canary.version, rule.steps[0]))
        )

    async def run(self, connection: AsyncConnection, most_requests: int) -> None:
        """Go through everything that was recorded of it."""
        events = _merged(
            _scored(connection, self.trial.sides, self.canary.until),
            self._asked(connection, most_requests),
        )
        page: list[Event] = []
        async for event in events:
            page.append(event)
            if len(page) == _PAGE:
                await asyncio.to_thread(self._take, page)
                page = []
            if self.is_over:
                return
        await asyncio.to_thread(self._take, page)
        self._look_until(self.canary.until)
        if not self.is_over:
            self._look(self.canary.until)

    @property
    def comparison(self) -> Comparison:
        """What was known when it was decided, or over."""
        return self.trial.comparison()

    async def _asked(self, connection: AsyncConnection, most: int) -> AsyncIterator[Event]:
        """The requests of both versions, in the order in which they began."""
        sides = self.trial.sides
        numbers = (sides.new, sides.old)
        theirs = or_(_C.version.in_(numbers), _C.intended.in_(numbers))
        own = (_C.adapter == sides.adapter, theirs, _C.started_at < self.canary.until)
        query = select(_REQUESTS).where(*own).order_by(_C.started_at, _C.id).limit(_PAGE)
        behind: Any = _C.started_at >= sides.began_at
        while self.requests < most and (rows := (await connection.execute(query.where(behind))).all()):
            for row in rows:
                self.requests += 1
                yield Event(row.started_at + timedelta(seconds=row.duration_s), row, is_score=False)
            start, last = rows[-1].started_at, rows[-1].id
            behind = or_(_C.started_at > start, and_(_C.started_at == start, _C.id > last))

    def _take(self, events: Iterable[Event]) -> None:
        for event in events:
            self._look_until(event.at)
            if self.is_over:
                return
            if event.is_score:
                take_score(self.trial, event.row)
            else:
                take_request(self.trial, event.row)
            if self._looked_at is None or event.at - self._looked_at >= _LOOK_EVERY:
                self._look(event.at)

    def _look_until(self, moment: datetime) -> None:
        """Look when a step's time, or that of the whole, ran out before then."""
        while not self.is_over and self.state.rollout is not None:
            rollout, rule = self.state.rollout, self.adapter.policy.rollout
            step = rollout.step_began_at + timedelta(minutes=rule.least_minutes)
            longest = undecided_at(rollout, rule)
            before = self._looked_at or rollout.began_at
            due = [each for each in (step, longest) if before < each <= moment]
            if not due:
                return
            self._look(min(due))

    def _look(self, now: datetime) -> None:
        if self.is_over:
            return
        self._looked_at = now
        seen = Seen(now, self.deployment, comparison=self.trial.comparison())
        verdict = decide(seen, self.state, self.adapter.policy)
        if verdict.act == "ask":
            self.moments.append(moment_of(verdict, now))
            seen = approved(seen, verdict, self.state.cycle)
            verdict = decide(seen, self.state, self.adapter.policy)
        if verdict.act == "wait":
            self.last = moment_of(verdict, now)
            return
        self.last = None
        self.moments.append(moment_of(verdict, now))
        self.state = after(self.state, verdict, seen)
        self.is_over = verdict.act != "next_step"
        if verdict.weight is not None and not self.is_over:
            self.deployment = replace(self.deployment, canary=Canary(self.canary.version, verdict.weight))


async def _scored(connection: AsyncConnection, sides: Sides, until: datetime) -> AsyncIterator[Event]:
    """The observations that count, in the order of their ids."""
    behind, newest = await first_observation(connection, sides.began_at), await last_observation(connection, until)
    while behind < newest:
        rows, behind = await new_scores(connection, sides, behind, newest)
        for row in rows:
            yield Event(row.created_at, row, is_score=True)


async def _merged(*streams: AsyncIterator[Event]) -> AsyncIterator[Event]:
    """The events of all streams by their moments."""
    heads = [(await anext(stream, None), stream) for stream in streams]
    while waiting := [(event, stream) for event, stream in heads if event is not None]:
        event, stream = min(waiting, key=lambda head: head[0].at)
        yield event
        following = await anext(stream, None)
        heads = [(following if each is stream else head, each) for head, each in heads]
