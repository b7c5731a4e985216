"""What a job's gate asks: the dataset's holdout, general skills, and what should be refused."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from monitors.judging.golden import needs_reference
from registry.monitoring import ScorerChoice
from registry.tuning.rules import AskedSet
from tuner.context import context_of
from tuner.evaluation.holdout import Holdout, read_holdout
from tuner.evaluation.sets import Sets, read_sets
from tuner.shop import AtWork

DEFAULT_SCORERS = (ScorerChoice("exact_match"), ScorerChoice("token_f1"))


@dataclass(frozen=True, slots=True)
class Questions:
    """What is asked: the dataset's holdout, and the sets of what must not be lost."""

    holdout: Holdout
    sets: Sets

    @property
    def asked(self) -> Mapping[str, AskedSet]:
        """Which rows these are, set by set."""
        return {"holdout": self.holdout.asked, **self.sets.asked}


async def questions_of(work: AtWork, sets: Sets | None = None) -> Questions:
    """What the job's gate asks, once there is a dataset; `sets` are those that were read before.

    Raises:
        JobFailed: a set cannot be used.
    """
    holdout = await asyncio.to_thread(
        read_holdout,
        work.workspace.dataset,
        work.order.method,
        await _scorers(work),
        most=work.order.gate.rows,
        context=await asyncio.to_thread(context_of, work.shop.settings),
        digest=work.job.dataset or "",
    )
    return Questions(holdout, sets or await read_sets(work))


async def _scorers(work: AtWork) -> Sequence[ScorerChoice]:
    """What the order names, else what the adapter is watched by and needs a reference, else a default."""
    adapter = (await work.shop.registry.catalog()).adapters.get(work.order.adapter)
    watched = () if adapter is None else adapter.monitoring.scorers
    return work.order.gate.scorers or [each for each in watched if needs_reference(each)] or DEFAULT_SCORERS
