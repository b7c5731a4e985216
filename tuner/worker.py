"""Claims jobs, one after another or one alone, and writes how each ended; its stages are in `tuner.stages`."""

import asyncio
import contextlib
import logging
import secrets
import socket
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from monitors.watch.errors import place_of
from registry.errors import NotFound, RegistryError
from registry.outages import is_outage, problem_of
from registry.tuning.jobs import ENDED, MOST_ATTEMPTS, JobLost, order_of
from registry.tuning.tables import TuningJobRow
from tuner.candidates import reject_candidate
from tuner.control import Control
from tuner.errors import ChildCrashed, EngineAway, Interrupted, JobFailed
from tuner.fullness import is_full
from tuner.holding import Hold
from tuner.nodes import Nodes
from tuner.shop import AtWork, Shop
from tuner.single import NOT_CLAIMED
from tuner.stages import STAGES, Stage, carry_out
from tuner.sweeping import sweep
from tuner.workspace import Workspace

log = logging.getLogger(__name__)

_SETTLED = (*ENDED, "paused")
_SWEEP_EVERY_S = 60.0
_CLAIM_FOR_S = 30.0
"""Clocks differ by seconds, and a job may wait for another of its adapter that is just ending."""
_LONGER_EACH_TIME = 6
_GIVEN_BACK = {
    "shutdown": "The tuner shuts down; the job goes on where there is another one",
    "engine": "The engine needs its GPU again; the job goes on when there is room",
}


class Worker:
    """One worker, which does one job at a time.

    Args:
        stages: what a job goes through, by name.
    """

    def __init__(self, shop: Shop, stages: Mapping[str, Stage] = STAGES) -> None:
        self._shop = shop
        self._stages = stages
        host = shop.settings.tuner_name or socket.gethostname()
        self._name = f"{host[:80]}-{secrets.token_hex(6)}"
        self._control: Control | None = None
        self._stopping = asyncio.Event()
        self._swept_at = 0.0
        self.problem: str | None = "the database was not asked yet"

    async def run(self) -> None:
        """Work until `stop`."""
        log.info("the tuner %s looks for jobs", self._name)
        while not self._stopping.is_set():
            await self._sweep()
            since = time.monotonic()
            job = None if self._stopping.is_set() else await self._claim()
            if job is not None:
                await self._work_on(job, since)
                self._swept_at = 0.0
                continue
            await self._wait()

    async def do(self, job_id: str) -> str:
        """Do one job; how it went.

        That is how it ended, `NOT_CLAIMED`, or that it is ``paused``, ``given_back``, ``tried_again`` or ``lost``.
        """
        until = time.monotonic() + _CLAIM_FOR_S
        while not self._stopping.is_set():
            since = time.monotonic()
            job = await self._claim(job_id)
            if job is not None:
                outcome = await self._work_on(job, since)
                await sweep(self._shop)
                return outcome
            state = await self._state_of(job_id)
            if state in _SETTLED:
                return state
            if state is None or time.monotonic() >= until:
                return NOT_CLAIMED
            await self._wait()
        return "given_back"

    async def _state_of(self, job_id: str) -> str | None:
        """The state of a job that could not be claimed; None if there is no such job."""
        try:
            return (await self._shop.jobs.find(job_id)).state
        except NotFound:
            return None
        except Exception as error:
            if not is_outage(error):
                raise
            return "queued"  # as it was when this tuner was started for it

    async def _wait(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._shop.settings.tuner_poll_s):
                await self._stopping.wait()

    def stop(self) -> None:
        """Claim nothing more, and give back what is at work once its step is done and saved."""
        self._stopping.set()
        if self._control is not None:
            self._control.stop("shutdown")

    async def _sweep(self) -> None:
        if self._swept_at == 0.0 or time.monotonic() - self._swept_at >= _SWEEP_EVERY_S:
            await sweep(self._shop)
            self._swept_at = time.monotonic()

    async def _claim(self, job_id: str | None = None) -> TuningJobRow | None:
        settings = self._shop.settings
        bases, lease_s = [settings.base], settings.tuner_lease_s
        try:
            job = await self._shop.jobs.claim(self._name, bases=bases, lease_s=lease_s, job_id=job_id)
        except Exception as error:
            if not is_outage(error):
                raise
            if self.problem is None:
                log.warning("no job can be claimed: %s (%s)", problem_of(error), type(error).__name__)
            self.problem = problem_of(error)
            return None
        self.problem = None
        return job

    async def _work_on(self, job: TuningJobRow, since: float) -> str:
        log.info("the job %s of %s begins, attempt %d", job.id, job.adapter, job.attempt)
        shop = self._shop
        try:
            order = order_of(job)
        except msgspec.ValidationError:
            await self._refuse_unknown(job)
            return "failed"
        self._control = control = Control()
        if self._stopping.is_set():
            control.stop("shutdown")
        work = AtWork(job, order, self._name, Workspace(shop.settings.work / job.id), control, shop)
        hold = Hold(shop.jobs, job.id, self._name, control, lease_s=shop.settings.tuner_lease_s, since=since)
        shop.metrics.at_work.labels(job.adapter).set(1)
        try:
            async with hold.kept():
                outcome = await self._outcome(work)
        finally:
            self._control = None
            shop.metrics.forget(job.adapter)
        log.info("the job %s of %s: %s", job.id, job.adapter, outcome)
        shop.metrics.ended.labels(outcome).inc()
        return outcome

    async def _refuse_unknown(self, job: TuningJobRow) -> None:
        """End a job whose order cannot be read: who took it knows more than this tuner."""
        message = "this tuner is of another version than the gateway that took the job; bring both to the same"
        error = {"code": "training_failed", "message": message, "param": None}
        with contextlib.suppress(JobLost):
            await self._shop.jobs.end(job.id, self._name, "failed", f"The job failed: {message}", error=error)

    async def _outcome(self, work: AtWork) -> str:
        """Carry the job out, and write how it ended; a word for that."""
        try:
            return await self._carry_out(work)
        except (JobLost, Interrupted):
            return "lost"
        except Exception as error:
            # Whoever claims it after its lease goes on, or gives it up if that is all that ever happens.
            log.error("how the job %s ended cannot be written: %s", work.job.id, place_of(error))
            return "lost"

    async def _carry_out(self, work: AtWork) -> str:
        try:
            await carry_out(work, self._stages)
        except JobFailed as failed:
            return await self._fail(work, failed)
        except Interrupted as interrupted:
            return await self._interrupt(work, interrupted)
        except ChildCrashed as crashed:
            return await self._try_again(work, str(crashed))
        except EngineAway as away:
            return await self._try_again(work, str(away), "evaluation_failed")
        except JobLost:
            raise
        except RegistryError as refused:
            return await self._refuse(work, refused)
        except Exception as error:
            return await self._break(work, error)
        return "succeeded"

    async def _fail(self, work: AtWork, failed: JobFailed) -> str:
        message = failed.message
        if work.job.version is not None and failed.code != "rejected_by_gate":
            message += f"; {work.order.adapter}@{work.job.version} is registered: resume the job to go on from there"
        param = None if failed.param is None else work.order.param_of(failed.param)
        error = {"code": failed.code, "message": message, "param": param}
        await self._end(work, "failed", f"The job failed: {message}", error=error)
        return "failed"

    async def _interrupt(self, work: AtWork, interrupted: Interrupted) -> str:
        if interrupted.cause == "cancel":
            await work.insist(lambda: reject_candidate(work, "the job was cancelled while it stood at its gate"))
            return await self._end(work, "cancelled", "The job was cancelled")
        if interrupted.cause == "pause":
            return await self._end(work, "paused", "The job is paused", attempt=work.job.attempt - 1)
        if interrupted.cause == "lost":
            return "lost"
        if Nodes.of_this_process().count > 1:  # one of them may be why; it counts, or this might go on for ever
            return await self._try_again(work, "one of the machines that train together had to stop")
        await self._end(work, "queued", _GIVEN_BACK[interrupted.cause], attempt=work.job.attempt - 1)
        return "given_back"

    async def _refuse(self, work: AtWork, refused: RegistryError) -> str:
        """What the registry or its store could not do: by its own state, or by what was asked."""
        if is_full(refused):
            return await self._fail(work, JobFailed("disk_full", f"{refused.message}; free some, and ask again"))
        if refused.status >= 500:
            return await self._try_again(work, refused.message)
        return await self._fail(work, JobFailed("invalid_hyperparameters", refused.message, refused.param))

    async def _break(self, work: AtWork, error: Exception) -> str:
        """What no stage has foreseen."""
        if is_full(error):
            return await self._fail(work, JobFailed("disk_full", "the tuner's disk is full; free some, and ask again"))
        log.error("the job %s broke off: %s", work.job.id, place_of(error))
        if is_outage(error):
            return await self._try_again(work, problem_of(error))
        why = f"something failed inside the tuner ({type(error).__name__}); its log says more"
        if isinstance(error, OSError):
            return await self._try_again(work, why)
        return await self._fail(work, JobFailed("training_failed", why))

    async def _try_again(self, work: AtWork, why: str, code: str = "training_failed") -> str:
        """Queue it again, for a while later each time, unless it was tried often enough."""
        if work.job.attempt >= MOST_ATTEMPTS:
            return await self._fail(work, JobFailed(code, f"{why}, {work.job.attempt} times"))
        pause_s = self._shop.settings.tuner_retry_s * _LONGER_EACH_TIME ** (work.job.attempt - 1)
        later = datetime.now(UTC) + timedelta(seconds=pause_s)
        await self._end(work, "queued", f"The stage {work.job.stage} is tried again: {why}", claimable_from=later)
        return "tried_again"

    async def _end(self, work: AtWork, state: str, message: str, **values: Any) -> str:
        """Have it end so, or as somebody wished meanwhile; the state that it is in."""
        return await work.insist(lambda: self._shop.jobs.end(work.job.id, self._name, state, message, **values))
