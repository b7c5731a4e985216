"""How far an evaluation is: its answers are counted, and now and then the job tells how many there are."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

from monitors.judging.asking import Asker
from registry.outages import is_outage
from registry.tuning.events import NewEvent
from tuner.evaluation.contenders import Contenders
from tuner.evaluation.questions import Questions
from tuner.shop import AtWork

_TOLD_EVERY_S = 2.0


@dataclass(slots=True)
class _Count:
    answers: int = 0

    def add(self) -> None:
        self.answers += 1


def answers_wanted(contenders: Contenders, questions: Questions) -> int:
    """How many rows all models are asked, each of the holdout twice for preferences; what is timed does not count."""
    holdout, sets = questions.holdout, questions.sets
    on_holdout = len(holdout.golden.rows) * (1 if holdout.worse is None else 2)
    beside = sum(len(each.rows) for each in (sets.retention, sets.harmful, sets.harmless))
    return len(contenders.models) * on_holdout + 2 * beside  # the candidate and the base


@contextlib.asynccontextmanager
async def counted(work: AtWork, asker: Asker, total: int) -> AsyncIterator[Asker]:
    """Who asks as `asker` does, while the job's events of metrics tell how many of `total` answers there are."""
    count, over = _Count(), asyncio.Event()
    telling = asyncio.create_task(_tell(work, count, total, over))
    try:
        yield replace(asker, answered=count.add)
    finally:
        over.set()
        await telling


async def _tell(work: AtWork, count: _Count, total: int, over: asyncio.Event) -> None:
    told, is_over = 0, False
    while not is_over:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_TOLD_EVERY_S):
                await over.wait()
        is_over = over.is_set()
        if count.answers > told:
            told = count.answers
            await _tell_of(work, told, total)


async def _tell_of(work: AtWork, answers: int, total: int) -> None:
    event = NewEvent(f"{answers} of {total} answers", data={"answers": answers, "total_answers": total})
    try:
        await work.shop.jobs.tell_all(work.job.id, work.worker, [event])
    except Exception as error:
        if not is_outage(error):  # the next count will do
            raise
