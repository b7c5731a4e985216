"""Holding a job: its lease is renewed, and what is wanted of it is handed on."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable

from registry.outages import is_outage
from registry.tuning.jobs import JobLost, Jobs
from tuner.control import Control

log = logging.getLogger(__name__)

_LOOK_S = 0.5
"""A person who cancels or pauses a job sees it within a second and a step."""
_RENEWALS = 4
"""In the time of a lease, so that a slow database loses none."""


class Hold:
    """The hold of a worker on its job.

    Args:
        since: when it was claimed, on `time.monotonic`'s clock, or a little before.
    """

    def __init__(self, jobs: Jobs, job_id: str, worker: str, control: Control, *, lease_s: float, since: float) -> None:
        self._jobs = jobs
        self._job_id = job_id
        self._worker = worker
        self._control = control
        self._lease_s = lease_s
        self._renewed_at = since
        self._is_away = False

    @contextlib.asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Keep it for the block."""
        keeping = asyncio.create_task(self._keep())
        try:
            yield
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(min(_LOOK_S, self._lease_s / (2 * _RENEWALS)))
            try:
                wanted = await self._ask()
            except JobLost:
                self._control.stop("lost")
                return
            except Exception as error:
                if not is_outage(error):
                    log.exception("the hold on the job %s has failed", self._job_id)
                self._tell_of_outage(error)
                if time.monotonic() >= self._renewed_at + self._lease_s:
                    self._control.stop("lost")
                    return
                continue
            self._is_away = False
            if wanted == "pause":
                self._control.stop("pause")
            elif wanted == "cancel":
                self._control.stop("cancel")

    async def _ask(self) -> str:
        """What is wanted, with the lease renewed if it is time for that.

        Raises:
            JobLost
        """
        asked = time.monotonic()
        if asked < self._renewed_at + self._lease_s / _RENEWALS:
            return await self._while_held(self._jobs.wanted(self._job_id, self._worker))
        wanted = await self._while_held(self._jobs.renew(self._job_id, self._worker, lease_s=self._lease_s))
        self._renewed_at = asked
        return wanted

    async def _while_held(self, call: Awaitable[str]) -> str:
        """The result of a call, which is waited for no longer than the lease holds."""
        left_s = self._renewed_at + self._lease_s - time.monotonic()
        # A write that is broken off in the middle would leave SQLite locked for the next one.
        async with asyncio.timeout(max(0.0, left_s)):
            return await asyncio.shield(asyncio.ensure_future(call))

    def _tell_of_outage(self, error: Exception) -> None:
        if not self._is_away:
            log.warning("the lease of the job %s cannot be renewed (%s)", self._job_id, type(error).__name__)
        self._is_away = True
