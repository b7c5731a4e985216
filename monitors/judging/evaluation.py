"""Runs golden sets: on a schedule against the stable version and the base, and whatever was asked for.

How a model is asked stands in `monitors.judging.asking`; a run that cannot be finished fails, and says why.
"""

import asyncio
import logging
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from monitors.judging import golden_runs
from monitors.judging.asking import PAUSES_S, Asker, RunFailed
from monitors.judging.golden import GoldenSet, read_golden_set
from monitors.judging.golden_sets import SetEntry, newest_sets
from monitors.judging.results import Scored, score_rows, summarize
from monitors.watch.errors import place_of
from monitors.watch.progress import claim_window
from monitors.watch.work import Workshop
from registry.catalog import Adapter, Catalog
from registry.database import writing
from registry.errors import Conflict, RegistryError
from registry.monitoring import Monitoring

log = logging.getLogger(__name__)

_EVERY_S = 5.0
_SCHEDULED, _MONITOR = "scheduled", "monitor"
_HOUR_S = 3600.0


class EvaluationJob:
    """Queues the scheduled runs, and works off all that wait, one after another.

    Args:
        pauses_s: how long it waits before each further attempt, where the gateway is busy or away, seconds.
    """

    name = "evaluation"
    every_s = _EVERY_S

    def __init__(self, workshop: Workshop, *, pauses_s: Sequence[float] = PAUSES_S) -> None:
        self._workshop = workshop
        self._asker = Asker(workshop.gateway, workshop.settings.evaluation_concurrency, pauses_s)
        self._claimed: dict[str, str] = {}
        self._shown_change: int | None = None

    async def run(self, catalog: Catalog, now: datetime) -> None:
        """Do what is due and what waits."""
        database = self._workshop.database
        async with database.connect() as connection:
            was_left = await golden_runs.are_any(connection, "running")
            due = self._due(catalog, await newest_sets(connection), now)
        if was_left:
            async with writing(database) as connection:
                await golden_runs.requeue_running(connection)
        for adapter, entry, window in due:
            try:
                async with writing(database) as connection:
                    await self._schedule(connection, adapter, entry, window)
            except Conflict as refused:  # too many wait; once some are done, the window is there still
                log.warning("the golden set of %s is not scheduled now: %s", adapter.name, refused)
            else:
                self._claimed[adapter.name] = window
        if self._shown_change != catalog.change:
            await self._show(catalog)
        while (begun := await self._begin()) is not None:
            await self._carry_out(begun, catalog)
            await self._show(catalog)

    def _due(self, catalog: Catalog, sets: dict[str, SetEntry], now: datetime) -> list[tuple[Adapter, SetEntry, str]]:
        """Adapters whose newest set was not run yet, as far as we know, against what is stable in this window."""
        found = []
        for name, entry in sets.items():
            adapter = catalog.adapters.get(name)
            window = _window(adapter, entry, now) if adapter is not None else None
            if adapter is not None and window is not None and self._claimed.get(name) != window:
                found.append((adapter, entry, window))
        return found

    async def _schedule(self, connection: AsyncConnection, adapter: Adapter, entry: SetEntry, window: str) -> None:
        if await claim_window(connection, self.name, adapter.name, window):
            against = golden_runs.contenders(adapter, ("stable", "base"))
            if await golden_runs.are_asked_for(connection, adapter.name, entry.digest, against):
                return  # somebody has just asked for the same
            order = golden_runs.Order(adapter.name, entry, against, _SCHEDULED, _MONITOR)
            await golden_runs.queue_runs(connection, order)

    async def _begin(self) -> Row[Any] | None:
        async with self._workshop.database.connect() as connection:
            if not await golden_runs.are_any(connection, "queued"):
                return None
        async with writing(self._workshop.database) as connection:
            return await golden_runs.next_run(connection)

    async def _carry_out(self, run: Row[Any], catalog: Catalog) -> None:
        try:
            golden = await asyncio.to_thread(read_golden_set, self._workshop.store, run.digest)
            answers = await self._asker.answers(run.model, golden)
            scored = await asyncio.to_thread(score_rows, golden, answers)
        except (RunFailed, RegistryError) as failed:
            await self._fail(run, str(failed))
        except Exception as error:
            log.error("the run %s of a golden set failed inside the monitor: %s", run.id, place_of(error))
            await self._fail(run, f"it failed inside the monitor ({type(error).__name__}); its log says more")
        else:
            await self._finish(run, golden, scored, catalog)

    async def _finish(self, run: Row[Any], golden: GoldenSet, scored: Scored, catalog: Catalog) -> None:
        base = None
        if run.version != golden_runs.BASE_VERSION:
            async with self._workshop.database.connect() as connection:
                base = await golden_runs.items_of_base(connection, run.batch)
        results = await asyncio.to_thread(summarize, golden, scored, base, _alpha(catalog, run.adapter))
        async with writing(self._workshop.database) as connection:
            await golden_runs.finish_run(connection, run, results=results, items=scored.items)
        log.info("the golden set %s of %s was run against %s", run.golden_set, run.adapter, run.model)

    async def _fail(self, run: Row[Any], why: str) -> None:
        log.warning("the run of golden set %s of %s against %s failed: %s", run.golden_set, run.adapter, run.model, why)
        async with writing(self._workshop.database) as connection:
            await golden_runs.finish_run(connection, run, error=why)

    async def _show(self, catalog: Catalog) -> None:
        """Set the gauges from the newest results of what is in service."""
        metrics = self._workshop.metrics
        async with self._workshop.database.connect() as connection:
            rows = await golden_runs.newest_results(connection)
        gauges = {"mean": metrics.golden, "low": metrics.golden_low, "high": metrics.golden_high}
        for gauge in gauges.values():
            gauge.clear()
        for row in rows:
            if not _is_in_service(catalog, row.adapter, row.version):
                continue
            for scorer, estimate in row.results["scorers"].items():
                labels = (row.adapter, str(row.version or ""), scorer)
                for part, gauge in gauges.items():
                    if estimate["mean"] is not None:
                        gauge.labels(*labels).set(estimate[part])
        self._shown_change = catalog.change


def _window(adapter: Adapter, entry: SetEntry, now: datetime) -> str | None:
    """What is run once: this set against this stable version in this stretch of time; None if nothing is.

    A new set and a new stable version are so run at once, and what a pause left out is not made up for.
    """
    every_h = adapter.monitoring.golden_every_h
    if not every_h or adapter.deployment is None:
        return None
    stretch = int(now.timestamp() // (every_h * _HOUR_S))
    return f"{entry.number}/{adapter.deployment.stable}/{every_h:g}/{stretch}"


def _alpha(catalog: Catalog, name: str) -> float:
    adapter = catalog.adapters.get(name)
    return (adapter.monitoring if adapter else Monitoring()).quality.alpha


def _is_in_service(catalog: Catalog, name: str, version: int) -> bool:
    adapter = catalog.adapters.get(name)
    if adapter is None:
        return False
    known = adapter.versions.get(version)
    return version == golden_runs.BASE_VERSION or (known is not None and not known.archived)
