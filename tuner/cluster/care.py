"""Looks after the objects that are in the cluster: each is kept while its job needs it, and told of, and then deleted.

What it does to a job follows from the job's row and its events, which all dispatchers share, and not from what it
remembers: a restart, or another dispatcher, also one with another template, changes nothing and costs no attempt.
"""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from registry.tuning.dispatch import Dispatch
from tuner.cluster import naming
from tuner.cluster.api import Cluster, Object
from tuner.cluster.errors import ClusterRefused
from tuner.cluster.reporting import Reporter
from tuner.cluster.seen import Seen, uid_of, words
from tuner.cluster.standing import Line
from tuner.cluster.template import Template
from tuner.settings import TunerSettings

log = logging.getLogger(__name__)

_NOT_THERE = (404, 409)
_UNWANTED_FOR = timedelta(seconds=60)
"""A pod that runs although nobody needs it any more has that long to see so by itself."""
_LATE_FOR = timedelta(seconds=10)
"""An object may be heard of before its pods are; and what is made anew, the dispatcher makes that deleted it."""
_OLD_TEMPLATE = ", as the template of tuning jobs was changed"
_NOT_NEXT = " when the job comes next again"
_WAITED = ", as its deadline was over before its pod had begun"
_DIGITS = 8


class Care:
    """The care of one dispatcher for the objects of its jobs."""

    def __init__(
        self,
        settings: TunerSettings,
        dispatch: Dispatch,
        cluster: Cluster,
        template: Template,
        reporter: Reporter,
        now: Callable[[], datetime],
    ) -> None:
        self._settings, self._dispatch, self._cluster = settings, dispatch, cluster
        self._template, self._reporter, self._now = template, reporter, now
        self._patience = timedelta(seconds=settings.tuner_claim_s)
        self._unwanted_since: dict[str, datetime] = {}
        self._left_until: dict[str, datetime] = {}

    async def look_after(self, seen: Seen) -> bool:
        """Do what an object needs; whether its job does not stand any more as it was read."""
        await self._reporter.tell(seen.job, *seen.standing.lines)
        if seen.is_leaving:
            return await self._see_off(seen)
        if seen.ends_its_job:
            await self._fail_for_deadline(seen)
            return True
        if seen.has_waited_too_long:
            await self._take_back_unchanged(seen, _WAITED)
            return False
        if seen.standing.is_finished:
            return await self._finish(seen)
        if seen.is_awaited:
            return await self._hurry(seen)
        if not seen.is_at_work:
            await self._drop_unwanted(seen)
        return False

    async def look_after_gone(self, seen: Seen) -> bool:
        """The same for an object that is not there any more, which may be done twice."""
        self._unwanted_since.pop(seen.uid, None)
        is_missed = not seen.standing.is_finished and (seen.is_awaited or seen.is_at_work)
        if is_missed and await self._is_ours(seen):
            if naming.template_of(seen.made) == self._template.digest:  # so another dispatcher's may be newer
                self._left_until[seen.job.id] = self._now() + _LATE_FOR
        elif is_missed:
            why = f"{words(seen.made)} was deleted before it had finished"
            await self._reporter.tell(seen.job, *seen.standing.lines, Line(why, "warn"))
            if seen.is_awaited:
                await self._miss(seen, why)
        self._reporter.forget(seen.job.id, seen.uid)
        return seen.is_awaited

    def leaves(self, job_id: str) -> bool:
        """Whether the object of a job is another dispatcher's to make."""
        until = self._left_until.get(job_id)
        if until is not None and self._now() >= until:
            del self._left_until[job_id]
            return False
        return until is not None

    async def _fail_for_deadline(self, seen: Seen) -> None:
        """Have the job fail; if somebody changes it just now, the next turn sees how."""
        deadline = "its deadline" if seen.deadline_s is None else f"its deadline of {seen.deadline_s} s"
        message = f"it took longer than {deadline} allows"
        await self._reporter.tell_last_words(seen)
        await self._dispatch.fail(seen.job, "training_failed", message)

    async def _see_off(self, seen: Seen) -> bool:
        """Give up an object that cannot go, as a lost node keeps its pod for ever; its job gets one of another name."""
        since = seen.leaving_since
        if not seen.is_awaited or since is None or self._now() < since + self._patience:
            return False
        why = f"{words(seen.made)} was to be deleted and is still there, as when its node is lost"
        await self._miss(seen, why, counts=not await self._is_ours(seen))
        return True

    async def _finish(self, seen: Seen) -> bool:
        """Keep what a finished object had to say, and throw it away."""
        standing, finished_at = seen.standing, seen.standing.finished_at
        if not standing.are_pods_over and finished_at is not None and self._now() < finished_at + _LATE_FOR:
            return False
        if standing.has_failed or seen.is_awaited:
            await self._reporter.tell_last_words(seen)
        if seen.is_awaited:
            await self._miss(seen, standing.why)
        await self._delete(seen)
        return seen.is_awaited

    async def _hurry(self, seen: Seen) -> bool:
        """See to it that the pod of a job that waits comes to begin with it."""
        standing = seen.standing
        if (why := self._why_late(seen)) is not None:
            if await self._dispatch.is_as_read(seen.job):
                await self._reporter.tell_last_words(seen)
                if await self._miss(seen, why):  # else its pod has just begun, or somebody had another wish
                    await self._delete(seen)
            return True
        if not standing.has_begun and seen.is_older and naming.template_of(seen.made) != self._template.digest:
            await self._take_back_unchanged(seen, _OLD_TEMPLATE)
        elif not standing.has_pods and not standing.is_suspended:
            await self._reporter.tell_why_podless(seen, self._now())
        return False

    def _why_late(self, seen: Seen) -> str | None:
        """Why nobody waits any longer for an object's pod; None while somebody does."""
        standing, latest = seen.standing, self._now() - self._patience
        if standing.running_since is not None and standing.running_since <= latest:
            return f"its pod ran for {self._settings.tuner_claim_s:.0f} s and had not begun with the job"
        if standing.failing_since is not None and standing.failing_since <= latest:
            return standing.why
        return None

    async def _take_back(self, seen: Seen, why: str) -> None:
        """Delete the object of a turn that is still to come. That is told first, for whoever sees it gone."""
        await self._reporter.tell(seen.job, Line(_taken_back(seen.made, why)))
        await self._delete(seen)

    async def _take_back_unchanged(self, seen: Seen, why: str) -> None:
        """The same, unless its pod has begun just now."""
        if await self._dispatch.is_as_read(seen.job):
            await self._take_back(seen, why)

    async def _is_ours(self, seen: Seen) -> bool:
        """Whether a dispatcher has deleted it, this one or another, now or before it was started anew."""
        told = [_taken_back(seen.made, why) for why in (_OLD_TEMPLATE, _NOT_NEXT, _WAITED)]
        return await self._dispatch.has_told(seen.job.id, told)

    async def _drop_unwanted(self, seen: Seen) -> None:
        """Delete what no job waits for: at once where nothing runs, else when that has not ended by itself."""
        since = self._unwanted_since.setdefault(seen.uid, self._now())
        is_due = not seen.standing.is_running or self._now() >= since + _UNWANTED_FOR
        if not is_due or not await self._dispatch.is_as_read(seen.job):  # its pod may have begun just now
            return
        if seen.job.state == "queued" and naming.object_name(seen.job) == seen.name:
            await self._take_back(seen, _NOT_NEXT)
        else:
            await self._delete(seen)

    async def _miss(self, seen: Seen, why: str, *, counts: bool = True) -> bool:
        """Give up an object before its pod has begun with the job; whether that was still so."""
        pause_s = self._settings.tuner_retry_s
        state = await self._dispatch.miss(seen.job, why, pause_s=pause_s, counts=counts)
        if state is not None:
            log.warning("the job %s was not begun with: %s; it is %s now", seen.job.id, why, state)
        return state is not None

    async def _delete(self, seen: Seen) -> None:
        try:
            await asyncio.to_thread(self._cluster.delete, self._template.kind, seen.name, seen.uid)
        except ClusterRefused as refused:
            if refused.status not in _NOT_THERE:
                raise


def _taken_back(made: Object, why: str) -> str:
    """What is told of an object that is; another one of the same name is told of in other words."""
    return f"{words(made)} ({uid_of(made)[:_DIGITS]}) is made anew{why}"
