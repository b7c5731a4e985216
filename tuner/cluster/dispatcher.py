"""Has an object in the cluster for each job that waits for a tuner, and for no other.

It compares, again and again, what the database says of jobs with what the cluster says of objects, and does what is
missing. It keeps nothing that it could not find out anew: whatever is killed in whatever moment, the next turn goes on.
A job whose pod waits stays queued, with events that say why; it is at work once its pod's tuner has claimed it.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime

from registry.outages import is_outage, problem_of
from registry.tuning.dispatch import Dispatch
from registry.tuning.tables import TuningJobRow
from tuner.cluster import naming
from tuner.cluster.api import POD, Cluster, Object
from tuner.cluster.care import Care
from tuner.cluster.errors import ClusterError, ClusterRefused
from tuner.cluster.metrics import ClusterMetrics
from tuner.cluster.mirror import Mirror
from tuner.cluster.reporting import Reporter
from tuner.cluster.seen import Seen, name_of, uid_of, words
from tuner.cluster.standing import Line, standing_of
from tuner.cluster.template import Template
from tuner.settings import TunerSettings

log = logging.getLogger(__name__)

_CONFLICT = 409
_GATHER_S = 0.1
_SWEEP_EVERY_S = 60.0


def utc_now() -> datetime:
    """The time."""
    return datetime.now(UTC)


class Dispatcher:
    """The dispatcher of one base model's jobs in one namespace.

    Args:
        sweep: throws away what ended jobs left behind.
        now: the time, as the cluster's machines have it.
        pause_s: before an API server is asked again that did not answer, seconds.
    """

    def __init__(
        self,
        settings: TunerSettings,
        dispatch: Dispatch,
        cluster: Cluster,
        template: Template,
        metrics: ClusterMetrics,
        *,
        sweep: Callable[[], Awaitable[None]],
        now: Callable[[], datetime] = utc_now,
        pause_s: float = 1.0,
    ) -> None:
        self._settings, self._dispatch, self._cluster = settings, dispatch, cluster
        self._template, self._metrics, self._sweep = template, metrics, sweep
        self._changed, self._stopping = asyncio.Event(), asyncio.Event()
        self._objects = Mirror(cluster, template.kind, naming.SELECTOR, self._changed.set, pause_s)
        self._pods = Mirror(cluster, POD, template.pods, self._changed.set, pause_s)
        self._reporter = Reporter(dispatch, cluster, template)
        self._care = Care(settings, dispatch, cluster, template, self._reporter, now)
        metrics.is_up.set_function(lambda: float(self._objects.problem is None and self._pods.problem is None))
        self._database_problem: str | None = "the database was not asked yet"
        self._refusal: str | None = None
        self._rest_until = 0.0
        self._swept_at: float | None = None

    @property
    def problem(self) -> str | None:
        """Why nothing, or not everything, can be done now; None while all is well."""
        return self._database_problem or self._objects.problem or self._pods.problem or self._refusal

    def stop(self) -> None:
        """Do nothing more. What is in the cluster goes on, and is found again."""
        self._stopping.set()
        self._changed.set()

    async def run(self) -> None:
        """Work until `stop`."""
        log.info("each job of %s becomes a %s", self._settings.base, self._template.kind.name)
        mirrors = [asyncio.create_task(each.run()) for each in (self._objects, self._pods)]
        try:
            while not self._stopping.is_set():
                for each in mirrors:
                    if each.done():
                        each.result()
                await self._try_a_turn()
                await self._wait()
        finally:
            for each in mirrors:
                each.cancel()
            await asyncio.gather(*mirrors, return_exceptions=True)

    async def _wait(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.tuner_poll_s):
                await self._changed.wait()
            await asyncio.sleep(_GATHER_S)  # what changes, changes in several steps
        self._changed.clear()

    async def _try_a_turn(self) -> None:
        if time.monotonic() < self._rest_until:
            return
        try:
            await self._turn()
        except ClusterError as error:
            self._rest(error)
        except Exception as error:
            if not is_outage(error):
                raise
            if self._database_problem is None:
                log.warning("no job can be seen: %s (%s)", problem_of(error), type(error).__name__)
            self._database_problem = problem_of(error)

    async def _turn(self) -> None:
        """Do what is missing now. While the cluster is not seen, nothing is known to be missing, or to be unwanted."""
        waiting = {job.id: job for job in await self._dispatch.waiting([self._settings.base])}
        self._database_problem = None
        if any(each.problem is not None or not each.is_whole for each in (self._objects, self._pods)):
            return
        gone = list(self._objects.gone)
        seen = await self._look(waiting, list(self._objects.objects.values()))
        changed = {each.job.id for each in await self._look(waiting, gone) if await self._care.look_after_gone(each)}
        self._objects.forget(gone)
        changed |= {each.job.id for each in seen if await self._care.look_after(each)}
        self._count(seen)
        missing = [job for job in waiting.values() if job.id not in changed and not self._care.leaves(job.id)]
        refused = await self._make(missing, self._room(seen))
        await self._sweep_sometimes()
        if not refused:
            self._refusal = None

    async def _look(self, waiting: Mapping[str, TuningJobRow], objects: Sequence[Object]) -> list[Seen]:
        """Objects with their jobs. Those of another database, or of another base model, are left alone."""
        ids = [job_id for made in objects if (job_id := naming.job_of(made)) is not None]
        jobs = await self._dispatch.named(ids) if ids else {}
        seen = []
        for made in objects:
            job = jobs.get(naming.job_of(made) or "")
            if job is not None and job.base == self._settings.base:
                waits, is_older, pods = job.id in waiting, uid_of(made) in self._objects.first, self._pods_of(made)
                standing = standing_of(made, pods, self._template.container)
                seen.append(Seen(made, pods, waiting.get(job.id, job), waits, is_older, standing))
        return seen

    def _pods_of(self, made: Object) -> list[Object]:
        return [pod for pod in self._pods.objects.values() if naming.owner(pod) == name_of(made)]

    def _room(self, seen: Sequence[Seen]) -> int:
        """How many objects may be made. One that is leaving counts no more, as a lost node may hold it for long."""
        return self._settings.tuner_max_pods - sum(
            not each.standing.is_finished and not each.is_leaving for each in seen
        )

    async def _make(self, jobs: Sequence[TuningJobRow], room: int) -> bool:
        """Make the objects that are missing, the job first that waits longest; whether any was refused."""
        refused = False
        for job in jobs:
            if naming.object_name(job) in self._objects.objects:
                continue
            if room <= 0:
                break
            if await self._make_one(job):
                room -= 1
            else:
                refused = True
        return refused

    async def _make_one(self, job: TuningJobRow) -> bool:
        """Make a job's object; whether it is there now."""
        body = self._template.of(job, self._cluster.namespace)
        try:
            made = await asyncio.to_thread(self._cluster.create, self._template.kind, body)
        except ClusterRefused as refused:
            if refused.status == _CONFLICT:
                return True  # another dispatcher was quicker, or this one before it was killed: the mirror will tell
            line = Line(f"The {self._template.kind.name} of this job cannot be made: {refused}", "warn")
            await self._reporter.tell(job, line)
            self._rest(refused)
            return False
        log.info("the job %s of %s becomes %s", job.id, job.adapter, words(made))
        self._objects.put(made)
        await self._reporter.tell(job, Line(f"{words(made)} was made; the job begins when its pod does"))
        return True

    def _rest(self, error: ClusterError) -> None:
        """Ask for nothing more for a while."""
        self._rest_until = time.monotonic() + self._settings.tuner_retry_s
        self._refusal = str(error)
        said = error.said if isinstance(error, ClusterRefused) else ""
        log.warning("%s; it is tried again in %.0f s. %s", error, self._settings.tuner_retry_s, said)

    def _count(self, seen: Sequence[Seen]) -> None:
        unfinished = [each for each in seen if not each.standing.is_finished]
        running = sum(each.standing.is_running for each in unfinished)
        self._metrics.objects.labels("running").set(running)
        self._metrics.objects.labels("pending").set(len(unfinished) - running)

    async def _sweep_sometimes(self) -> None:
        if self._swept_at is None or time.monotonic() - self._swept_at >= _SWEEP_EVERY_S:
            await self._sweep()
            self._swept_at = time.monotonic()
