"""Training along with another machine that does a job: the same training child, under the same rendezvous.

The first machine takes the job through all of its stages. The others wait until it trains, fetch what it trains on from
the artifact store, train with it and end. They write nothing of the job, but what their own part failed of.
"""

import asyncio
import logging
import signal
import time
from typing import Literal

from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.watch.client import GatewayClient
from registry.database import connect
from registry.errors import NotFound, RegistryError
from registry.outages import is_outage
from registry.tuning.dispatch import Dispatch
from registry.tuning.jobs import AT_WORK, ENDED, order_of
from registry.tuning.tables import TuningJobRow
from tuner.children import run_task
from tuner.code_version import CodeVersion
from tuner.control import Control
from tuner.errors import ChildCrashed, Interrupted, JobFailed
from tuner.messages import Message
from tuner.metrics import TunerMetrics
from tuner.nodes import Nodes
from tuner.settings import TunerSettings
from tuner.shop import AtWork, Shop
from tuner.single import GIVEN_BACK, NOT_THERE, host_of
from tuner.stages import make_data, training_task
from tuner.wiring import shop_of, store_of
from tuner.workspace import Workspace

log = logging.getLogger(__name__)

_FAILED = 1
Phase = Literal["unclaimed", "preparing", "training", "over"]
"""How far the first machine is with the job."""


async def join(settings: TunerSettings, job_id: str, nodes: Nodes) -> int:
    """Train along; the exit code (see `tuner.single`), 1 where this machine's part has failed."""
    database, control = connect(settings.database), Control()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, lambda: control.stop("shutdown"))
    try:
        async with GatewayClient(settings.url, settings.key, concurrency=1) as gateway:  # which nobody asks here
            store = store_of(settings)
            shop = shop_of(settings, database, store, gateway, TunerMetrics(), CodeVersion(""))
            return await Along(shop, database, job_id, nodes, control).run()
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        await database.dispose()


class Along:
    """One machine of several that train a job's adapter, but not the first.

    Args:
        control: says when this machine is to stop.
    """

    def __init__(self, shop: Shop, database: AsyncEngine, job_id: str, nodes: Nodes, control: Control) -> None:
        self._shop, self._job_id, self._nodes, self._control = shop, job_id, nodes, control
        self._dispatch = Dispatch(database)
        self._last: Phase = "unclaimed"
        self._was_told = False
        self._workspace = Workspace(shop.settings.work / f"{job_id}.{nodes.rank}")

    async def run(self) -> int:
        """Wait for the training, take part in it, and leave nothing behind; the exit code."""
        try:
            found = await self._control.unless_stopped(self._until_training())
            return found if isinstance(found, int) else await self._train(found)
        except Interrupted:
            return GIVEN_BACK
        finally:
            await asyncio.to_thread(self._workspace.remove)

    async def _until_training(self) -> TuningJobRow | int:
        """The job, once the first machine trains; or the exit code, where it will not."""
        until = time.monotonic() + self._shop.settings.tuner_claim_s
        has_begun = False
        while True:
            phase, job = await self._look()
            if phase == "training" and job is not None:
                return job
            if phase == "over":
                return 0
            if phase == "unclaimed" and has_begun:
                return GIVEN_BACK
            if phase == "unclaimed" and time.monotonic() >= until:
                return NOT_THERE
            has_begun = has_begun or phase == "preparing"
            await self._pause()

    async def _train(self, job: TuningJobRow) -> int:
        assert job.worker is not None
        work = AtWork(job, order_of(job), job.worker, self._workspace, self._control, self._shop)
        watching = asyncio.create_task(self._stop_when_over())
        try:
            await make_data(work)  # which is frozen already
            await run_task(work, await training_task(work), _hear_nothing)
        except (JobFailed, ChildCrashed, RegistryError) as error:
            return await self._fail(error)
        except Interrupted:
            return 0 if self._control.cause == "cancel" and not self._was_told else GIVEN_BACK
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        return 0

    async def _fail(self, error: JobFailed | ChildCrashed | RegistryError) -> int:
        """Say whose part has failed: the first machine sees no more than that this one is gone."""
        why = str(error) if isinstance(error, ChildCrashed) else error.message
        log.error("the training of %s failed on the machine %d: %s", self._job_id, self._nodes.rank, why)
        said = f"Training failed on the machine {self._nodes.rank} of {self._nodes.count}, counted from 0: {why}"
        await self._dispatch.tell_once(self._job_id, [said], "warn")
        return _FAILED

    async def _stop_when_over(self) -> None:
        """Have the child end when the first machine has left the training, however it did."""
        try:
            while (await self._look())[0] == "training":
                await self._pause()
        except Exception:  # else nobody would see the end of the training, which then has no end
            log.exception("how far the training of %s is cannot be seen any more", self._job_id)
            self._control.stop("shutdown")
            return
        self._was_told = self._control.cause is not None
        self._control.stop("cancel")

    async def _look(self) -> tuple[Phase, TuningJobRow | None]:
        """How far the first machine is; while the database is away, as far as it was."""
        try:
            job = await self._shop.jobs.find(self._job_id)
        except NotFound:
            return "over", None
        except Exception as error:
            if not is_outage(error):
                raise
            return self._last, None
        self._last = self._phase(job)
        return self._last, job

    def _phase(self, job: TuningJobRow) -> Phase:
        name = self._shop.settings.tuner_name
        if job.state in (*ENDED, "paused") or job.version is not None:
            return "over"
        if job.state not in AT_WORK or job.worker is None or (name and host_of(job.worker) != name):
            return "unclaimed"
        return "training" if job.stage == "training" and job.dataset is not None else "preparing"

    async def _pause(self) -> None:
        await asyncio.sleep(self._shop.settings.tuner_poll_s)


async def _hear_nothing(_message: Message) -> None:
    """What this machine's child tells, the first one's tells too."""
