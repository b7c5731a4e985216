"""Every job of the monitor, in one list."""

from datetime import datetime

from monitors.decisions import decision_counts
from monitors.drifting.job import DriftJob
from monitors.judging.comparing import JudgingJob
from monitors.judging.evaluation import EvaluationJob
from monitors.judging.likelihood_job import LikelihoodJob
from monitors.judging.quality import QualityJob
from monitors.judging.scoring import ScoringJob
from monitors.log.retention import RetentionJob
from monitors.money.jobs import CostJob, ReplicaTimeJob
from monitors.watch.work import Job, Workshop
from registry.catalog import Catalog

TUNING_STATES = ("queued", "running", "paused", "succeeded", "failed", "cancelled")


class CountingJob:
    """Shows how many decisions there are; tuning jobs have all of their states from the start."""

    name = "counting"
    every_s = 15.0

    def __init__(self, workshop: Workshop) -> None:
        self._workshop = workshop

    async def run(self, _catalog: Catalog, _now: datetime, /) -> None:
        """Set the gauges from the database."""
        metrics = self._workshop.metrics
        for state in TUNING_STATES:
            metrics.tuning_jobs.labels(state).set(0)
        for labels, count in (await decision_counts(self._workshop.database)).items():
            metrics.decisions.labels(*labels).set(count)


def all_jobs(workshop: Workshop) -> tuple[Job, ...]:
    """Every job; each runs at its own pace, beside the others."""
    return (
        ReplicaTimeJob(workshop),
        CostJob(workshop),
        ScoringJob(workshop),
        JudgingJob(workshop),
        QualityJob(workshop),
        EvaluationJob(workshop),
        LikelihoodJob(workshop),
        DriftJob(workshop),
        RetentionJob(workshop.database, workshop.settings.request_log_days),
        CountingJob(workshop),
    )
