"""Where the loop is with every adapter, as the monitor's metrics."""

import contextlib
import math
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, get_args

import msgspec
from sqlalchemy import Row, and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from monitors.decisions import ACTS
from monitors.judging.sequential import BettingTest
from monitors.loop.approvals import open_question
from monitors.loop.done import DoneSoFar
from monitors.loop.sources import ACCEPTED_FROM
from monitors.loop.state import LoopState, Phase
from monitors.loop.store import Pending
from monitors.tables import ApprovalRow, FeedbackRow, LoopRow
from monitors.watch.metrics import MonitorMetrics
from monitors.watch.work import Workshop
from registry.catalog import Adapter, Catalog
from registry.standing import standing_stops
from registry.stops import EVERYTHING

_PHASES: tuple[str, ...] = get_args(Phase)
_FINDINGS = ("worse", "not_worse")
_LABELS_EVERY = timedelta(minutes=5)
"""Counting labels reads much where there are many."""
_ADAPTERS_AT_ONCE = 50
_APPROVALS = ApprovalRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model
_FEEDBACK = FeedbackRow.__table__  # type: ignore[attr-defined]
_LOOPS = LoopRow.__table__  # type: ignore[attr-defined]


class LoopGaugesJob:
    """Shows where the loop is, from the database alone, so that a monitor that takes over shows the same."""

    name = "loop_gauges"
    every_s = 15.0

    def __init__(self, workshop: Workshop) -> None:
        self._database = workshop.database
        self._metrics = workshop.metrics
        self._done = DoneSoFar()
        self._labels_at: datetime | None = None
        self._labels: dict[str, int] = {}

    async def run(self, catalog: Catalog, now: datetime, /) -> None:
        """Set the gauges."""
        async with self._database.connect() as connection:
            rows = {row.adapter: row for row in await connection.execute(select(_LOOPS))}
            states = {name: _state(rows.get(name)) for name in catalog.adapters}
            self._show_stops(catalog, set(await standing_stops(connection)))
            self._show_waits(states, await _asked(connection), now)
            await self._done.look(connection, {row.pending["decision"] for row in rows.values() if row.pending}, now)
            if self._labels_at is None or now - self._labels_at >= _LABELS_EVERY:
                self._labels = await _label_counts(connection, catalog.adapters.values(), states)
                self._labels_at = now
        self._show_done(states)
        for name, state in states.items():
            row = rows.get(name)
            self._show_phase(name, state)
            self._show_evidence(name, state, {} if row is None else row.tests or {})
            self._metrics.loop_pending.labels(name).set(_pending_s(row, now))
            self._metrics.loop_labels.labels(name).set(self._labels.get(name, 0))

    def _show_stops(self, catalog: Catalog, stopped: set[str]) -> None:
        self._metrics.loop_frozen.set(float(EVERYTHING in stopped))
        for name in catalog.adapters:
            self._metrics.loop_paused.labels(name).set(float(name in stopped))

    def _show_waits(self, states: Mapping[str, LoopState], asked: Iterable[Row[Any]], now: datetime) -> None:
        waits = dict.fromkeys(states, 0.0)
        for row in asked:
            if row.adapter in states and (row.wanted, row.cycle) == open_question(states[row.adapter]):
                waits[row.adapter] = max(0.0, (now - row.created_at).total_seconds())
        for name, wait in waits.items():
            self._metrics.loop_approval_wait.labels(name).set(wait)

    def _show_done(self, adapters: Iterable[str]) -> None:
        """Each act from the start, so that its first one is a change of the series."""
        for name in adapters:
            for act in ACTS:
                self._metrics.loop_acts.labels(name, act).set(self._done.counts[name, act])
            if name in self._done.decided_at:
                self._metrics.loop_decided.labels(name).set(self._done.decided_at[name].timestamp())

    def _show_phase(self, name: str, state: LoopState) -> None:
        for phase in _PHASES:
            self._metrics.loop_phase.labels(name, phase).set(float(phase == state.phase))

    def _show_evidence(self, name: str, state: LoopState, tests: Mapping[str, Any]) -> None:
        """Of a rollout alone; without one nothing is shown."""
        gauge = self._metrics.loop_evidence
        if state.rollout is None or "incumbent" not in tests:
            _forget_evidence(self._metrics, name)
            return
        for finding in _FINDINGS:
            gauge.labels(name, finding).set(_share(BettingTest.from_state(tests["incumbent"][finding])))


def _forget_evidence(metrics: MonitorMetrics, adapter: str) -> None:
    for finding in _FINDINGS:
        with contextlib.suppress(KeyError):
            metrics.loop_evidence.remove(adapter, finding)


def _state(row: Row[Any] | None) -> LoopState:
    return LoopState() if row is None else msgspec.convert(row.state or {}, LoopState)


def _share(test: BettingTest) -> float:
    """The evidence over what is needed, both in nats."""
    return float(test.peak) / -math.log(test.alpha)


def _pending_s(row: Row[Any] | None, now: datetime) -> float:
    if row is None or row.pending is None:
        return 0.0
    return max(0.0, (now - msgspec.convert(row.pending, Pending).decided_at).total_seconds())


async def _asked(connection: AsyncConnection) -> Iterable[Row[Any]]:
    """All questions without an answer."""
    return (await connection.execute(select(_APPROVALS).where(_APPROVALS.c.answer == "none"))).all()


async def _label_counts(
    connection: AsyncConnection, adapters: Iterable[Adapter], states: Mapping[str, LoopState]
) -> dict[str, int]:
    """Requests of each adapter that were corrected or accepted since its last training."""
    found: dict[str, int] = {}
    wanted = [adapter.name for adapter in adapters if adapter.policy.mode != "off"]
    columns = _FEEDBACK.c
    is_label = or_(columns.correction.is_not(None), columns.thumb == "up", columns.score >= ACCEPTED_FROM)
    for start in range(0, len(wanted), _ADAPTERS_AT_ONCE):
        some = wanted[start : start + _ADAPTERS_AT_ONCE]
        since = or_(*(_since(name, states[name].labels_until) for name in some))
        query = select(columns.adapter, func.count(columns.record_id.distinct())).where(is_label, since)
        found |= {row[0]: row[1] for row in await connection.execute(query.group_by(columns.adapter))}
    return found


def _since(adapter: str, moment: datetime | None) -> Any:
    columns = _FEEDBACK.c
    own = columns.adapter == adapter
    return own if moment is None else and_(own, columns.created_at > moment)
