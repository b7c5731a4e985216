"""What becomes of a job's pod: told in the job's events to clients, and with its last lines in the log to operators.

Of these lines clients are told what `last_words` lets through.
"""

import asyncio
import contextlib
import logging
import time
from datetime import datetime, timedelta

from registry.tuning.dispatch import Dispatch
from registry.tuning.tables import TuningJobRow
from tuner.cluster.api import Cluster
from tuner.cluster.errors import ClusterError
from tuner.cluster.last_words import last_words
from tuner.cluster.seen import Seen, name_of, words
from tuner.cluster.standing import Line, moment_of
from tuner.cluster.template import Template

log = logging.getLogger(__name__)

_TAIL_LINES = 20
_PODLESS_FOR = timedelta(seconds=10)
_ASK_WHY_EVERY_S = 30.0
_FORBIDDEN = "is forbidden: "


class Reporter:
    """Tells each thing once, however often it is seen; the database knows what a dispatcher before has told."""

    def __init__(self, dispatch: Dispatch, cluster: Cluster, template: Template) -> None:
        self._dispatch, self._cluster, self._template = dispatch, cluster, template
        self._told: dict[str, set[str]] = {}
        self._logged: dict[str, set[str]] = {}
        self._asked_why_at: dict[str, float] = {}

    async def tell(self, job: TuningJobRow, *lines: Line) -> None:
        """Add what the job's events do not say yet."""
        told = self._told.setdefault(job.id, set())
        for line in lines:
            if line.message not in told:
                await self._dispatch.tell_once(job.id, [line.message], line.level)
                told.add(line.message)

    async def tell_why_podless(self, seen: Seen, now: datetime) -> None:
        """Tell why an object has no pod, such as for a quota: only the cluster's own events know."""
        made_at = moment_of(seen.made["metadata"].get("creationTimestamp"))
        asked_at = self._asked_why_at.get(seen.uid)
        if made_at is None or now < made_at + _PODLESS_FOR:
            return
        if asked_at is not None and time.monotonic() < asked_at + _ASK_WHY_EVERY_S:
            return
        self._asked_why_at[seen.uid] = time.monotonic()
        with contextlib.suppress(ClusterError):  # without the right to list events only the reason is missing
            warnings = await asyncio.to_thread(self._cluster.warnings, self._template.kind, seen.name)
            if warnings:
                await self.tell(seen.job, Line(f"{words(seen.made)} has no pod yet: {_reason(warnings[-1])}", "warn"))

    async def tell_last_words(self, seen: Seen) -> None:
        """Keep the last lines of an object's pods in this process' log, and tell the job what is safe of them."""
        logged = self._logged.setdefault(seen.uid, set())
        for name in map(name_of, seen.pods):
            if name in logged:
                continue
            logged.add(name)
            try:
                tail = await asyncio.to_thread(self._cluster.log_tail, name, self._template.container, _TAIL_LINES)
            except ClusterError as error:
                log.warning("the log of the pod %s of the job %s cannot be read: %s", name, seen.job.id, error)
            else:
                log.warning("the pod %s of the job %s ended badly; its last lines:\n%s", name, seen.job.id, tail)
                await self.tell(seen.job, *(Line(f"Pod {name} wrote: {each}", "warn") for each in last_words(tail)))

    def forget(self, job_id: str, uid: str) -> None:
        """Remember nothing of an object that is gone."""
        self._told.pop(job_id, None)
        self._logged.pop(uid, None)
        self._asked_why_at.pop(uid, None)


def _reason(warning: str) -> str:
    """What a warning says without the name of the pod that was not made, which is another one each time."""
    return warning.partition(_FORBIDDEN)[2] or warning
