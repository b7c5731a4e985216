"""The monitor's job that looks for drift: which versions are due, one after the other, each in a child process."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec

from monitors.drifting import runs
from monitors.drifting.calibration import per_look
from monitors.drifting.child import ChildFailed, Judged, judge_apart, sweep
from monitors.drifting.embeddings import embed_both
from monitors.drifting.runs import Calibration, DriftRun
from monitors.drifting.task import Task
from monitors.drifting.windows import (
    Columns,
    Embeddings,
    Window,
    bounded,
    columns_of,
    fingerprint,
    missing_rows,
    newest_arrival,
    prompts_of,
    read_window,
)
from monitors.watch.client import GatewayClient, GatewayRefused
from monitors.watch.work import Workshop
from registry.catalog import Adapter, Catalog
from registry.database import writing
from registry.errors import StoreFailure
from registry.monitoring import DriftRule

log = logging.getLogger(__name__)

REPORT = "report.html"
REPORTS_KEPT = 5
IDLE_PAUSE = timedelta(minutes=5)
"""So long a version without new requests is left alone, unless a look is asked for, and an adapter that failed."""
FIRST_REQUESTS, TRAINING_PROMPTS = "first requests", "training prompts"
_EMBEDDING_CALLS = 2

TrainingPrompts = Callable[[str, int], Awaitable[Sequence[str]]]
Judge = Callable[[Task], Awaitable[Judged]]


async def no_training_prompts(_adapter: str, _version: int) -> Sequence[str]:
    """For versions of which nobody knows what they were trained on."""
    return ()


@dataclass(frozen=True, slots=True)
class _Look:
    """What a look is about, and what it found so far."""

    adapter: str
    version: int
    rule: DriftRule
    window: Window
    columns: Columns
    reference: str

    def run(self, outcome: runs.Outcome, missing: str | None, **found: Any) -> DriftRun:
        """The look as it is stored."""
        end = self.window.end
        assert end is not None, "a version without requests is not looked at"
        return DriftRun(
            adapter=self.adapter,
            version=self.version,
            window_start=self.window.start,
            window_end=end,
            rows=len(self.window.requests.current),
            reference_rows=len(self.window.requests.reference),
            reference=self.reference,
            outcome=outcome,
            missing=missing,
            **found,
        )


class DriftJob:
    """Looks at every deployed version that is due, and at those that somebody asked for.

    A window is looked at once: what a look found and the mark that it is done are one transaction. After a pause
    only the newest window is looked at.

    Args:
        workshop: what jobs work with.
        training_prompts: the prompts that a version was trained on, empty if they are not known.
        judge: does a look's computing; the child process is the default.
    """

    name = runs.JOB
    every_s = 15.0

    def __init__(
        self, workshop: Workshop, training_prompts: TrainingPrompts = no_training_prompts, judge: Judge | None = None
    ) -> None:
        self._workshop = workshop
        self._training_prompts = training_prompts
        self._judge = judge or (lambda task: judge_apart(task, workshop.scratch))
        self._newest = runs.NewestRuns()
        self._idle_until: dict[tuple[str, int], datetime] = {}
        self._failed_until: dict[str, datetime] = {}

    async def run(self, catalog: Catalog, now: datetime) -> None:
        """Look at what is due, and show the newest looks. An adapter whose look fails does not hold up the others."""
        await asyncio.to_thread(sweep, self._workshop.scratch)
        self._idle_until = {key: until for key, until in self._idle_until.items() if until > now}
        self._failed_until = {name: until for name, until in self._failed_until.items() if until > now}
        await self._read_newest(now)
        for adapter in catalog.adapters.values():
            if adapter.name not in self._failed_until:
                await self._try_to_look_at(adapter, now)
        await self._read_newest(now)
        self._show(catalog)

    async def _read_newest(self, now: datetime) -> None:
        async with self._workshop.database.connect() as connection:
            await self._newest.read(connection, now)

    async def _try_to_look_at(self, adapter: Adapter, now: datetime) -> None:
        try:
            await self._look_at(adapter, now)
        except Exception as error:
            # Its kind alone: an error's own words may quote a prompt.
            log.error("drift of %s could not be looked at (%s); it is tried again", adapter.name, type(error).__name__)
            self._workshop.metrics.failures.labels(self.name).inc()
            self._failed_until[adapter.name] = now + IDLE_PAUSE

    async def _look_at(self, adapter: Adapter, now: datetime) -> None:
        async with self._workshop.database.connect() as connection:
            asked = await runs.asked_for(connection, adapter.name)
        rule = bounded(adapter.monitoring.drift)
        for version in _served_versions(adapter):
            if asked or self._is_due(adapter.name, version, rule, now):
                await self._look(adapter.name, version, rule, now)
        if asked:
            async with writing(self._workshop.database) as connection:
                await runs.answer_look(connection, adapter.name, asked)

    def _is_due(self, adapter: str, version: int, rule: DriftRule, now: datetime) -> bool:
        if rule.every_h <= 0 or (adapter, version) in self._idle_until:
            return False
        last = self._newest.by_version.get((adapter, version))
        return last is None or now - last.created_at >= timedelta(hours=rule.every_h)

    async def _look(self, adapter: str, version: int, rule: DriftRule, now: datetime) -> None:
        """Look at the newest window, unless there is none that is new."""
        async with self._workshop.database.connect() as connection:
            end = await newest_arrival(connection, adapter, version)
            if end is None or await runs.is_done(connection, adapter, version, end):
                self._idle_until[adapter, version] = now + IDLE_PAUSE
                return
            window = await read_window(connection, adapter, version, rule)
        look = await self._gather(adapter, version, rule, window)
        run, calibration = await self._judged(look)
        async with writing(self._workshop.database) as connection:
            if await runs.store_run(connection, run, _rule(look), calibration, now):
                dropped = await runs.drop_reports(connection, adapter, REPORTS_KEPT)
                await runs.drop_runs(connection, adapter, now)
            else:
                dropped = await runs.unheld(connection, {run.report} if run.report else set())
        for digest in dropped:
            await asyncio.to_thread(self._workshop.store.remove, digest)
        log.info("drift of %s@%d: %s", adapter, version, run.outcome)

    async def _gather(self, adapter: str, version: int, rule: DriftRule, window: Window) -> _Look:
        """The columns that can be judged, and what lacks of the others."""
        if (few := missing_rows(window, rule)) is not None:
            return _Look(adapter, version, rule, window, Columns(missing={"requests": few}), FIRST_REQUESTS)
        prompts = await self._training_prompts(adapter, version)
        texts = await asyncio.to_thread(prompts_of, window, prompts)
        embeddings, refused = await self._embeddings(*texts)
        columns = await asyncio.to_thread(columns_of, window, rule, texts, embeddings)
        if refused is not None:
            columns = Columns(columns.judged, {**columns.missing, "embedding": refused})
        return _Look(adapter, version, rule, window, columns, TRAINING_PROMPTS if prompts else FIRST_REQUESTS)

    async def _embeddings(
        self, reference: Sequence[str], current: Sequence[str]
    ) -> tuple[Embeddings | None, str | None]:
        """The prompts' vectors where an endpoint is set, or why there are none."""
        settings = self._workshop.settings
        if not (settings.embeddings_url and settings.embeddings_model):
            return None, None
        client = GatewayClient(
            settings.embeddings_url, settings.embeddings_api_key, concurrency=_EMBEDDING_CALLS, purpose=""
        )
        try:
            async with client:
                return await embed_both(client, settings.embeddings_model, reference, current), None
        except GatewayRefused as refused:
            return None, f"the endpoint of embeddings failed: {refused}"

    async def _judged(self, look: _Look) -> tuple[DriftRun, Calibration | None]:
        """What the child finds, and the distributions for the next look; what lacks where it was not asked."""
        missing = "; ".join(f"{name}: {lacks}" for name, lacks in look.columns.missing.items()) or None
        if not look.columns.judged:
            return look.run("not_enough_data", missing), None
        mark = await asyncio.to_thread(fingerprint, look.columns)
        try:
            judged = await self._judge(await self._task(look, mark))
            report = await asyncio.to_thread(self._workshop.store.put_files, {REPORT: judged.report})
        except (ChildFailed, StoreFailure) as failed:
            log.warning("drift of %s@%d could not be computed: %s", look.adapter, look.version, failed)
            return look.run("failed", str(failed)), None
        verdicts = tuple(msgspec.to_builtins(verdict) for verdict in judged.result.columns)
        outcome: runs.Outcome = "drift" if any(each["drifted"] for each in verdicts) else "no_drift"
        run = look.run(outcome, missing, columns=verdicts, report=report.digest)
        return run, Calibration(look.rule.window_rows, mark, judged.result.nulls)

    async def _task(self, look: _Look, mark: str) -> Task:
        async with self._workshop.database.connect() as connection:
            nulls = await runs.calibration_of(connection, look.adapter, look.version, look.rule.window_rows, mark)
        seed = int(mark[:12], 16)  # the same reference has the same thresholds
        return Task(list(look.columns.judged), _alpha(look.rule), seed, dict(nulls))

    def _show(self, catalog: Catalog) -> None:
        """Set the gauges of the versions that are served, and of no others."""
        metrics = self._workshop.metrics
        for gauge in (metrics.drift, metrics.drift_detected, metrics.drift_rows, metrics.drift_enough):
            gauge.clear()
        served = {
            (adapter.name, version) for adapter in catalog.adapters.values() for version in _served_versions(adapter)
        }
        for run in self._newest.by_version.values():
            if (run.adapter, run.version) not in served:
                continue
            labels = (run.adapter, str(run.version))
            metrics.drift_detected.labels(*labels).set(run.outcome == "drift")
            metrics.drift_enough.labels(*labels).set(run.outcome in ("drift", "no_drift"))
            metrics.drift_rows.labels(*labels).set(run.rows)
            for column in run.columns or ():
                metrics.drift.labels(*labels, column["name"]).set(column["statistic"] / column["threshold"])


def _served_versions(adapter: Adapter) -> list[int]:
    """The versions that clients get; a shadow's answers are nobody's traffic."""
    deployment = adapter.deployment
    if deployment is None:
        return []
    return [deployment.stable, *([deployment.canary.version] if deployment.canary else [])]


def _alpha(rule: DriftRule) -> float:
    """Of one look; where looks come only when asked for, the rate is that of one a week."""
    return per_look(rule.false_alarms_per_week, rule.every_h or 7 * 24)


def _rule(look: _Look) -> str:
    return (
        f"at most {look.rule.false_alarms_per_week:g} false alarms a week, {_alpha(look.rule):.2g} a look over "
        f"{len(look.columns.judged)} columns (Holm), thresholds by bootstrap of {look.reference}"
    )
