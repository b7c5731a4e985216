"""The loop before a whole gateway: what it sees is told by the test, what it does is real.

`Story` takes one adapter from an alarm to a promotion that is over. `Points` are the places between which a monitor can
be killed: each transaction of the loop, and each of its calls of the gateway, before and after.
"""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from monitors.loop.approvals import answers
from monitors.loop.controller import LoopJob
from monitors.loop.seen import Comparison, Held, JobSeen, Labels, Quality, Seen
from monitors.loop.store import Kept, load
from monitors.settings import MonitorSettings
from monitors.tables import CaptureRow, DecisionRow, FeedbackRow
from monitors.watch.client import GatewayClient
from monitors.watch.metrics import MonitorMetrics
from monitors.watch.work import Workshop
from registry.artifacts import ArtifactStore
from registry.catalog import Adapter, Catalog
from registry.database import writing
from registry.policies import Policy, RetrainRule, RolloutRule
from registry.registry import Registry
from registry.tables import AdapterRow, RevisionRow, StopRow
from registry.tuning.jobs import OPEN, Jobs
from registry.tuning.tables import FileRow, TuningJobRow

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
KEYS = ("key_a", "key_b", "key_c")
RETRAIN = RetrainRule(least_rows=10, cool_down_h=0.0)
ROLLOUT = RolloutRule(steps=(0.1, 0.5), least_sessions=1, least_minutes=0.0, holdback=0.1, holdback_h=0.02)
ACTS = Policy(mode="act", retrain=RETRAIN, rollout=ROLLOUT)
GOOD = Held(n=1000, mean=0.2, low=0.1, high=0.3, not_worse=True)
WORSE = Held(n=1000, mean=-0.2, low=-0.3, high=-0.1, worse=True)
_JOBS = TuningJobRow.__table__  # type: ignore[attr-defined]
_REVISIONS = RevisionRow.__table__  # type: ignore[attr-defined]
_ADAPTERS = AdapterRow.__table__  # type: ignore[attr-defined]
_STOPS = StopRow.__table__  # type: ignore[attr-defined]
_DECISIONS = DecisionRow.__table__  # type: ignore[attr-defined]
_FILES = FileRow.__table__  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Looked:
    """What was seen; nothing of it is kept."""

    seen: Seen
    tests: dict[str, Any] = field(default_factory=dict)
    cursors: dict[str, Any] = field(default_factory=dict)


@dataclass
class Told:
    """Looks at the registry and the jobs as they are, and has quality and comparisons told by the test.

    Attributes:
        bad: the stable versions that raise the alarm, by adapter.
        beside: what the tests of each adapter's rollout say.
    """

    bad: dict[str, int] = field(default_factory=dict)
    beside: dict[str, Held] = field(default_factory=dict)
    errors: dict[str, Held] = field(default_factory=dict)

    async def changed(self, catalog: Catalog, _now: datetime) -> set[str]:
        """All of them, each time."""
        return set(catalog.adapters)

    async def survey(self, _adapter: Adapter, _kept: Kept, _now: datetime) -> Labels:
        """Enough, of several."""
        return Labels(rows=500, found=500, agreed=True)

    async def see(
        self, connection: AsyncConnection, adapter: Adapter, kept: Kept, now: datetime, *, labels: Labels | None
    ) -> Looked:
        """What there is."""
        name, state = adapter.name, kept.state
        actor = await _person(connection, name)
        stops = {row.adapter: row.reason for row in await connection.execute(select(_STOPS))}
        jobs = list(await connection.execute(select(_JOBS).where(_JOBS.c.adapter == name)))
        stable = adapter.deployment.stable if adapter.deployment else 0
        alarm = self.bad.get(name, 1) == stable
        quality = Quality(stable, "feedback", 100, 0.9, 0.5, ratio=float(alarm), alarm=alarm, alarms=int(alarm))
        seen = Seen(
            now=now,
            deployment=adapter.deployment,
            changed_by=actor,
            frozen=stops.get(""),
            paused=stops.get(name),
            quality=quality,
            labels=labels or Labels(),
            open_job=next((_job(row) for row in jobs if row.state in OPEN), None),
            job=next((_job(row) for row in jobs if row.id == state.job), None),
            comparison=Comparison(incumbent=self._beside(name, kept), errors=self.errors.get(name)),
            approvals=await answers(connection, name),
        )
        return Looked(seen)

    def _beside(self, name: str, kept: Kept) -> Held:
        """More sessions at each step, so that each is long enough."""
        held = self.beside.get(name, GOOD)
        rollout = kept.state.rollout
        return replace(held, n=held.n * (1 + (rollout.step if rollout else 0)))


async def _person(connection: AsyncConnection, name: str) -> str | None:
    query = (
        select(_REVISIONS).join(_ADAPTERS, _ADAPTERS.c.id == _REVISIONS.c.adapter_id).where(_ADAPTERS.c.name == name)
    )
    row = (await connection.execute(query.order_by(_REVISIONS.c.number.desc()).limit(1))).first()
    return row.actor if row is not None and row.decision is None else None


def _job(row: Any) -> JobSeen:
    if row.state == "succeeded":
        return JobSeen(row.id, "succeeded", row.version, ended_at=row.finished_at)
    return JobSeen(row.id, "open" if row.state in OPEN else "failed", ended_at=row.finished_at)


class Killed(BaseException):
    """What ends a monitor at once: no handler of errors stops it."""


@dataclass
class Points:
    """The places that a monitor has passed; others do something there."""

    passed: list[str] = field(default_factory=list)

    async def __call__(self, place: str) -> None:
        """The monitor is there now."""
        self.passed.append(place)


class CountedClient(GatewayClient):
    """A client each of whose calls is two points."""

    def __init__(self, url: str, key: str, points: Points) -> None:
        super().__init__(url, key, concurrency=2)
        self._points = points

    async def _answer(self, method: str, path: str, **arguments: Any) -> Any:
        await self._points(f"before {method} {path}")
        answer = await super()._answer(method, path, **arguments)
        await self._points(f"after {method} {path}")
        return answer


def counted_transactions(patched: pytest.MonkeyPatch, points: Points) -> None:
    """Make each of the loop's transactions two points: before its commit and after it."""

    @contextlib.asynccontextmanager
    async def counted(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        async with writing(engine) as connection:
            yield connection
            await points("before commit")
        await points("after commit")

    patched.setattr("monitors.loop.turns.writing", counted)


@dataclass
class World:
    """A gateway's database, and a monitor at its side that can be begun anew.

    Attributes:
        folder: of the monitor's own.
        now: the monitor's time; each turn is a minute later.
    """

    url: str
    key: str
    database: AsyncEngine
    store: ArtifactStore
    folder: Path
    told: Told = field(default_factory=Told)
    now: datetime = NOW

    @property
    def registry(self) -> Registry:
        """One that knows no base: it reads and changes deployments, policies and stops."""
        return Registry(self.database, self.store, ())

    def workshop(self, points: Points | None = None, client: GatewayClient | None = None) -> Workshop:
        """A new monitor's."""
        settings = MonitorSettings(home=self.folder, cache=self.folder, loop_every_s=0.05)
        gateway = client or CountedClient(self.url, self.key, points or Points())
        return Workshop(self.database, self.store, gateway, None, MonitorMetrics(), settings, self.folder)

    def job(self, points: Points | None = None, client: GatewayClient | None = None) -> LoopJob:
        """A new monitor's loop, by this world's time."""
        return LoopJob(self.workshop(points, client), self.told, lambda: self.now)

    async def turn(self, name: str, job: LoopJob) -> None:
        """One turn of one adapter, a minute later."""
        self.now += MINUTE
        catalog = await self.registry.catalog()
        only = Catalog(catalog.change, MappingProxyType({name: catalog.adapters[name]}), catalog.keys)
        await job.run(only, self.now)

    async def kept(self, name: str) -> Kept:
        """Where the loop is."""
        async with self.database.connect() as connection:
            return await load(connection, name)

    async def decisions(self, name: str) -> list[tuple[str, str]]:
        """What was decided, in order: act and outcome."""
        query = select(_DECISIONS).where(_DECISIONS.c.adapter == name).order_by(_DECISIONS.c.id)
        async with self.database.connect() as connection:
            return [(row.inputs["act"], row.outcome) for row in await connection.execute(query)]

    async def revisions(self, name: str) -> list[tuple[str, int, int | None, float | None, bool]]:
        """What was served, in order: action, stable, canary, weight, and whether it followed from a decision."""
        rows = await self.registry.history(name)
        return [(r.action, r.stable, r.canary, r.canary_weight, r.decision is not None) for r in reversed(rows)]

    async def jobs(self, name: str) -> list[TuningJobRow]:
        """Its tuning jobs."""
        return await Jobs(self.database).listed(adapters=[name], limit=10)

    async def files(self, name: str) -> int:
        """How many files of its data there are."""
        query = select(func.count()).where(_FILES.c.filename.startswith(f"loop-{name}-"))
        async with self.database.connect() as connection:
            return int((await connection.execute(query)).scalar_one())


async def label(
    database: AsyncEngine, name: str, rows: int = 12, *, what: str = "", when: datetime = NOW - timedelta(hours=1)
) -> None:
    """Corrections by several keys to captured prompts about something."""
    ids = [f"{name}-{what}{number}" for number in range(rows)]
    captures = [
        {
            "id": each,
            "request_id": each,
            "adapter": name,
            "version": 1,
            "variant": "stable",
            "prompt": [{"role": "user", "content": f"ticket {each}"}],
            "answer": "wrong",
            "redactions": 0,
            "created_at": when,
        }
        for each in ids
    ]
    feedback = [
        {
            "id": each,
            "record_id": each,
            "request_id": each,
            "key_id": KEYS[number % len(KEYS)],
            "adapter": name,
            "version": 1,
            "variant": "stable",
            "correction": f"right {each}",
            "created_at": when,
        }
        for number, each in enumerate(ids)
    ]
    async with database.begin() as connection:
        await connection.execute(insert(CaptureRow), captures)
        await connection.execute(insert(FeedbackRow), feedback)
