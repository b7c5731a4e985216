"""Every job of the monitor, in one list."""

from datetime import datetime

from monitors.decisions import decision_counts
from monitors.watch.work import Job, Workshop
from registry.catalog import Catalog
from registry.registry import Registry

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


def all_jobs(workshop: Workshop, registry: Registry) -> tuple[Job, ...]:
    """The jobs, in the order in which they first run."""
    return (CountingJob(workshop),)
