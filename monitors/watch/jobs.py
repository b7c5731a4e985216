"""Every job of the monitor, in one list."""

from collections import Counter
from datetime import datetime

from monitors.drifting.job import DriftJob
from monitors.drifting.training import TrainingPrompts
from monitors.judging.comparing import JudgingJob
from monitors.judging.evaluation import EvaluationJob
from monitors.judging.likelihood_job import LikelihoodJob
from monitors.judging.quality import QualityJob
from monitors.judging.scoring import ScoringJob
from monitors.log.retention import RetentionJob
from monitors.loop.controller import LoopJob
from monitors.loop.gauges import LoopGaugesJob
from monitors.money.jobs import CostJob, ReplicaTimeJob
from monitors.tally import NewDecisions
from monitors.teaching.job import TeachingJob
from monitors.watch.work import Job, Workshop
from monitors.webhooks.job import WebhookJob
from monitors.webhooks.queue import standing
from registry.catalog import Catalog
from registry.registry import Registry
from registry.tuning.backlog import waits_since
from registry.tuning.jobs import Jobs


class CountingJob:
    """Shows how many decisions, tuning jobs and webhooks' deliveries there are, and how long what waits has waited."""

    name = "counting"
    every_s = 15.0

    def __init__(self, workshop: Workshop) -> None:
        self._workshop = workshop
        self._new = NewDecisions()
        self._decisions: Counter[tuple[str, str, str]] = Counter()

    async def run(self, _catalog: Catalog, now: datetime, /) -> None:
        """Set the gauges from the database."""
        metrics, database = self._workshop.metrics, self._workshop.database
        for state, count in (await Jobs(database).counts()).items():
            metrics.tuning_jobs.labels(state).set(count)
        for code, count in (await Jobs(database).failures()).items():
            metrics.tuning_failures.labels(code).set(count)
        oldest = await waits_since(database)
        metrics.tuning_wait.set(0.0 if oldest is None else max(0.0, (now - oldest).total_seconds()))
        async with database.connect() as connection:
            async for page in self._new.pages(connection):
                self._decisions.update((row.adapter, row.kind, row.outcome) for row in page)
        for labels, count in self._decisions.items():
            metrics.decisions.labels(*labels).set(count)
        told = await standing(database)
        metrics.webhook_deliveries.labels("queued").set(told.queued)
        metrics.webhook_deliveries.labels("dead").set(told.dead)
        metrics.webhook_wait.set(0.0 if told.oldest is None else max(0.0, (now - told.oldest).total_seconds()))


def all_jobs(workshop: Workshop) -> tuple[Job, ...]:
    """Every job; each runs at its own pace, beside the others."""
    registry = Registry(workshop.database, workshop.store, ())
    return (
        ReplicaTimeJob(workshop),
        CostJob(workshop),
        ScoringJob(workshop),
        JudgingJob(workshop),
        QualityJob(workshop),
        LoopJob(workshop),
        WebhookJob(workshop),
        EvaluationJob(workshop),
        LikelihoodJob(workshop),
        DriftJob(workshop, TrainingPrompts(registry, workshop.store)),
        TeachingJob(workshop),
        RetentionJob(workshop.database, workshop.settings.request_log_days),
        CountingJob(workshop),
        LoopGaugesJob(workshop),
    )
