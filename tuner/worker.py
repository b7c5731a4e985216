"""Claims jobs, one after another, and holds each by its lease while its stages are carried out."""

import asyncio
import contextlib
import logging
import secrets
import shutil
import socket
import time
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from monitors.watch.errors import place_of
from registry.errors import NotFound, RegistryError
from registry.tuning.jobs import ENDED, MOST_ATTEMPTS, JobLost, order_of
from registry.tuning.tables import TuningJobRow
from tuner.control import Control
from tuner.errors import ChildCrashed, Interrupted, JobFailed
from tuner.shop import AtWork, Shop
from tuner.stages import carry_out
from tuner.workspace import Workspace

log = logging.getLogger(__name__)

_RENEWALS = 4  # in the time of a lease, so that a slow database loses none
_CANCELLED = {"passed": False, "reason": "the job was cancelled before the gate had said anything"}
_AWAY = (SQLAlchemyError, OSError)


class Worker:
    """One worker, which does one job at a time."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        self._name = f"{socket.gethostname()[:80]}-{secrets.token_hex(6)}"
        self._control: Control | None = None
        self._stopping = asyncio.Event()
        self.reaches_database = False

    async def run(self) -> None:
        """Work until `stop`."""
        await self._sweep()
        while not self._stopping.is_set():
            job = await self._claim()
            if job is None:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), self._shop.settings.tuner_poll_s)
                continue
            await self._work_on(job)
            await self._sweep()

    def stop(self) -> None:
        """Claim nothing more, and give back what is at work once its step is done and saved."""
        self._stopping.set()
        if self._control is not None:
            self._control.stop("shutdown")

    async def _claim(self) -> TuningJobRow | None:
        settings = self._shop.settings
        try:
            job = await self._shop.jobs.claim(self._name, bases=[settings.base], lease_s=settings.tuner_lease_s)
        except _AWAY as error:
            if self.reaches_database:
                log.warning("no job can be claimed: the database does not answer (%s)", type(error).__name__)
            self.reaches_database = False
            return None
        self.reaches_database = True
        return job

    async def _work_on(self, job: TuningJobRow) -> None:
        log.info("the job %s of %s begins, attempt %d", job.id, job.adapter, job.attempt)
        self._control = control = Control()
        workspace = Workspace(self._shop.settings.work / job.id)
        work = AtWork(job, order_of(job), self._name, workspace, control, self._shop)
        holding = asyncio.create_task(self._hold(job.id, control))
        try:
            outcome = await self._outcome(work)
        finally:
            self._control = None
            holding.cancel()
            await asyncio.gather(holding, return_exceptions=True)
        log.info("the job %s of %s: %s", job.id, job.adapter, outcome)
        self._shop.metrics.ended.labels(outcome).inc()

    async def _outcome(self, work: AtWork) -> str:
        """Carry the job out, and write how it ended; a word for that."""
        try:
            return await self._carry_out(work)
        except JobLost:
            return "lost"
        except _AWAY as error:
            log.error("the job %s is left to another try: %s", work.job.id, place_of(error))
            return "lost"

    async def _carry_out(self, work: AtWork) -> str:
        try:
            await carry_out(work)
        except JobFailed as failed:
            return await self._fail(work, failed.code, failed.message, failed.param)
        except Interrupted as interrupted:
            return await self._interrupt(work, interrupted)
        except ChildCrashed as crashed:
            return await self._try_again(work, str(crashed))
        except RegistryError as refused:
            if refused.status >= 500:
                return await self._try_again(work, refused.message)
            return await self._fail(work, "invalid_hyperparameters", refused.message, refused.param)
        except (JobLost, *_AWAY):
            raise
        except Exception as error:
            log.error("the job %s failed inside the tuner: %s", work.job.id, place_of(error))
            why = f"it failed inside the tuner ({type(error).__name__}); the tuner's log says more"
            return await self._fail(work, "training_failed", why, None)
        await self._clean(work)
        return "succeeded"

    async def _fail(self, work: AtWork, code: str, message: str, param: str | None) -> str:
        error = {"code": code, "message": message, "param": param}
        await self._end(work, "failed", f"The job failed: {message}", error=error)
        await self._clean(work)
        return "failed"

    async def _interrupt(self, work: AtWork, interrupted: Interrupted) -> str:
        if interrupted.cause == "pause":
            await self._end(work, "paused", "The job is paused", attempt=work.job.attempt - 1)
            return "paused"
        if interrupted.cause == "cancel":
            await self._reject_candidate(work)
            await self._end(work, "cancelled", "The job was cancelled")
            await self._clean(work)
            return "cancelled"
        if interrupted.cause == "shutdown":
            said = "The tuner shuts down; another one goes on"
            await self._end(work, "queued", said, attempt=work.job.attempt - 1)
            return "given_back"
        return "lost"

    async def _try_again(self, work: AtWork, why: str) -> str:
        """Queue it again, unless it was tried often enough."""
        if work.job.attempt >= MOST_ATTEMPTS:
            return await self._fail(work, "training_failed", f"{why}, {work.job.attempt} times", None)
        await self._end(work, "queued", f"The stage {work.job.stage} is tried again: {why}")
        return "tried_again"

    async def _end(self, work: AtWork, state: str, message: str, **values: Any) -> None:
        await self._shop.jobs.end(work.job.id, self._name, state, message, **values)

    async def _reject_candidate(self, work: AtWork) -> None:
        if work.job.version is not None:
            actor = f"tuner ({work.job.id})"
            await self._shop.registry.judge(
                work.order.adapter, work.job.version, passed=False, report=_CANCELLED, actor=actor
            )

    async def _clean(self, work: AtWork) -> None:
        """Let go of what only an unfinished job needs."""
        for digest in await self._shop.events.drop_checkpoints(work.job.id):
            with contextlib.suppress(RegistryError):
                await asyncio.to_thread(self._shop.store.remove, digest)

    async def _hold(self, job_id: str, control: Control) -> None:
        """Renew the lease, and hand on what is wanted of the job."""
        lease_s = self._shop.settings.tuner_lease_s
        held_until = time.monotonic() + lease_s
        while True:
            await asyncio.sleep(lease_s / _RENEWALS)
            asked = time.monotonic()
            try:
                wanted = await self._shop.jobs.renew(job_id, self._name, lease_s=lease_s)
            except JobLost:
                control.stop("lost")
                return
            except _AWAY as error:
                log.warning("the lease of the job %s cannot be renewed (%s)", job_id, type(error).__name__)
                if asked >= held_until:
                    control.stop("lost")
                    return
                continue
            held_until = asked + lease_s
            if wanted == "pause":
                control.stop("pause")
            elif wanted == "cancel":
                control.stop("cancel")

    async def _sweep(self) -> None:
        """Throw away the workspaces of jobs that have ended."""
        with contextlib.suppress(*_AWAY):
            for folder in await asyncio.to_thread(lambda: list(self._shop.settings.work.glob("ftjob-*"))):
                if await self._has_ended(folder.name):
                    await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _has_ended(self, job_id: str) -> bool:
        try:
            return (await self._shop.jobs.find(job_id)).state in ENDED
        except NotFound:
            return True
