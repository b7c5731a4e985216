"""Runs the monitor's jobs, each at its own pace, as long as this monitor holds the lease."""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime

from monitors.watch.errors import place_of
from monitors.watch.metrics import MonitorMetrics
from monitors.watch.work import Job
from registry.catalog import Catalog
from registry.leases import MONITOR, Leases
from registry.outages import problem_of

log = logging.getLogger(__name__)

LEASE = MONITOR
LEASE_S = 30.0
_RENEW_S = 5.0
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 300.0


class MonitorLoop:
    """The one active monitor, or one that stands by.

    A job that fails is logged, counted, and tried again after a pause that grows; the others go on. Work of a lost
    lease is cancelled: what it had not committed, the next holder does.

    Args:
        leases: where the lease is.
        read_catalog: reads what exists now.
        new_jobs: makes what there is to do. Each time that the lease is won the jobs are new ones, which know nothing
            of what they did or showed before.
        lease_s, renew_s: how long the lease holds, and how often it is renewed, seconds.
    """

    def __init__(
        self,
        leases: Leases,
        read_catalog: Callable[[], Awaitable[Catalog]],
        metrics: MonitorMetrics,
        new_jobs: Callable[[], Sequence[Job]],
        *,
        lease_s: float = LEASE_S,
        renew_s: float = _RENEW_S,
    ) -> None:
        self._leases = leases
        self._read_catalog = read_catalog
        self._metrics = metrics
        self._new_jobs = new_jobs
        self._lease_s = lease_s
        self._renew_s = renew_s
        self._holder = f"monitor-{secrets.token_hex(6)}"
        self._held_until = 0.0
        self.is_active = False
        self.database_problem: str | None = "the database was not asked yet"

    async def run(self) -> None:
        """Work for ever; when cancelled, give the lease back."""
        try:
            while True:
                await self._try_to_hold()
                if self.is_active:
                    await self._work()
                await asyncio.sleep(self._renew_s)
        finally:
            self._set_active(active=False)
            with contextlib.suppress(Exception):
                await self._leases.release_lease(LEASE, self._holder)

    async def _try_to_hold(self) -> None:
        asked = time.monotonic()
        try:
            holds = await self._leases.acquire_lease(LEASE, self._holder, self._lease_s)
        except Exception as error:
            if self.database_problem is None:
                log.warning("the monitor's lease cannot be renewed: %s (%s)", problem_of(error), type(error).__name__)
            self.database_problem = problem_of(error)
            self._set_active(active=time.monotonic() < self._held_until)
            return
        self.database_problem = None
        # Less than the whole, so that it is over here before another monitor may take it.
        self._held_until = asked + self._lease_s - self._renew_s if holds else 0.0
        self._set_active(active=holds)

    def _set_active(self, *, active: bool) -> None:
        if active != self.is_active:
            log.info("this monitor is %s", "active" if active else "standing by")
        self.is_active = active
        self._metrics.active.set(active)
        if not active:
            self._metrics.forget_findings()

    async def _work(self) -> None:
        """Run the jobs until the lease is lost."""
        tasks = [asyncio.create_task(self._repeat(job), name=job.name) for job in self._new_jobs()]
        try:
            while self.is_active:
                await asyncio.sleep(self._renew_s)
                await self._try_to_hold()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _repeat(self, job: Job) -> None:
        pause = 0.0
        while True:
            succeeded = await self._once(job)
            pause = 0.0 if succeeded else min(max(2 * pause, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
            await asyncio.sleep(max(job.every_s, pause))

    async def _once(self, job: Job) -> bool:
        try:
            with self._metrics.runs.labels(job.name).time():
                await job.run(await self._read_catalog(), datetime.now(UTC))
        except Exception as error:
            log.error("the monitor's job %s failed; it is tried again: %s", job.name, place_of(error))
            self._metrics.failures.labels(job.name).inc()
            return False
        self._metrics.last_run.labels(job.name).set_to_current_time()
        return True
