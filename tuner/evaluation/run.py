"""Holds a candidate against the incumbent and the base model, and says what its gate makes of it.

1. who stands against whom
2. what they are asked: the dataset's holdout, general skills, what should be refused; by the rule that the job tells
3. all of them answer, as users would be answered
4. the gate's rule decides
5. the report, as JSON for programs and as a page for people
"""

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

from tuner.evaluation.contenders import Contenders, contenders
from tuner.evaluation.counting import answers_wanted, counted
from tuner.evaluation.gate import Verdict, decide
from tuner.evaluation.measuring import asker_of, measure
from tuner.evaluation.page import store_page
from tuner.evaluation.parts import WORDS
from tuner.evaluation.plots import plots
from tuner.evaluation.questions import Questions, questions_of
from tuner.evaluation.report import report
from tuner.evaluation.rule import loosened, write_rule
from tuner.shop import AtWork
from tuner.storing import stored


async def evaluate(work: AtWork, number: int) -> dict[str, Any]:
    """The gate's report on a version that this job registered, as JSON; `registry.judge` keeps it.

    Raises:
        JobFailed: it could not be evaluated.
        EngineAway: nobody answered for as long as the settings wait.
    """
    began_at, began = datetime.now(UTC), time.monotonic()
    catalog, gate = await work.shop.registry.catalog(), work.order.gate
    standing = contenders(catalog, work.order.adapter, number)
    questions = await questions_of(work)
    await write_rule(work, questions)
    await _tell_of(work, standing, questions)
    async with counted(work, asker_of(work), answers_wanted(standing, questions)) as asker:
        measured = await measure(asker, standing, questions, alpha=gate.alpha)
    verdict = await asyncio.to_thread(decide, gate, standing, measured)
    metrics = await work.shop.events.metrics(work.job.id)
    before = await work.shop.registry.judged_on(work.order.adapter, questions.holdout.digest, besides=number)
    found = report(
        standing,
        verdict,
        alpha=gate.alpha,
        loosened=loosened(gate),
        attempt=before + 1,
        dataset=work.job.dataset,
        sets=questions.asked,
        created_at=began_at,
        seconds=time.monotonic() - began,
        plots=plots(standing, measured, questions.holdout, metrics),
    )
    await _tell_parts(work, verdict)
    return found | {"page": await stored(work.shop.store, lambda: store_page(work.shop.store, found))}


async def _tell_of(work: AtWork, standing: Contenders, questions: Questions) -> None:
    holdout, sets = questions.holdout, questions.sets
    refusals = len(sets.harmful.rows) + len(sets.harmless.rows)
    await work.tell(
        f"The gate holds {standing.named} against {standing.reference}: {len(holdout.golden.rows)} rows of the "
        f"holdout, {len(sets.retention.rows)} of general skills, {refusals} about refusals"
    )
    if holdout.left_out:
        await work.tell(
            f"{holdout.left_out} rows of the holdout are not asked: their answer is a call of a tool", "warn"
        )


async def _tell_parts(work: AtWork, verdict: Verdict) -> None:
    """An event for each part; what comes of them all is told by the job's end."""
    for part in verdict.parts:
        outcome = "passed" if part.passed else "failed"
        message = f"{WORDS[part.name].title} {outcome}: {part.reason}"
        await work.tell(message, "info" if part.passed else "warn")
