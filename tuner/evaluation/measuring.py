"""Asks every contender what the gate wants to know, as users would: through the gateway, at temperature 0."""

import asyncio
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from monitors.judging.asking import Asker, RunFailed
from monitors.judging.golden import GoldenRow, GoldenSet
from monitors.judging.likelihood import Likelihood
from monitors.judging.results import score_rows
from monitors.watch.client import GatewayRefused
from tuner.errors import EngineAway, JobFailed
from tuner.evaluation import latency
from tuner.evaluation.comparing import Values
from tuner.evaluation.contenders import Contenders
from tuner.evaluation.gate import Measured
from tuner.evaluation.holdout import Holdout
from tuner.evaluation.parts import PREFERENCE
from tuner.evaluation.questions import Questions
from tuner.patience import pauses
from tuner.shop import AtWork

_PASSING = frozenset({404, 429})  # a gateway does not know a version before it has looked again


@dataclass(frozen=True, slots=True)
class _OnHoldout:
    """What one model made of the holdout: its scores by scorer, and its losses on the right answers."""

    scores: Mapping[str, Values]
    losses: Values


async def measure(asker: Asker, contenders: Contenders, questions: Questions, *, alpha: float) -> Measured:
    """Ask all contenders everything; each set one model after another, and the times last.

    Raises:
        EngineAway: nobody answered for too long.
        JobFailed: the engine refused a question.
    """
    with refusals_told(asker, contenders.named):
        await _wake(asker, contenders, questions.sets.retention.rows[0])
        return await _measure(asker, contenders, questions, alpha)


def asker_of(work: AtWork) -> Asker:
    """Who asks for a job, as its tuner's settings have it."""
    settings = work.shop.settings
    pauses_s = tuple(pauses(settings.tuner_engine_wait_s))
    return Asker(work.shop.gateway, settings.tuner_concurrency, pauses_s, _PASSING)


@contextlib.contextmanager
def refusals_told(asker: Asker, named: str) -> Iterator[None]:
    """Have a question that was not answered end the job, or be asked another time."""
    try:
        yield
    except (RunFailed, GatewayRefused) as refused:
        message = f"{named} could not be evaluated: {refused}"
        may_pass = refused.may_pass if isinstance(refused, RunFailed) else asker.may_pass(refused)
        if may_pass:
            raise EngineAway(message) from None
        raise JobFailed("evaluation_failed", message) from None


async def _wake(asker: Asker, contenders: Contenders, row: GoldenRow) -> None:
    """Have each model answer once: a gateway comes to know a new version within a second or so, and loads it then."""
    for model in contenders.models:
        await asker.patiently(partial(asker.gateway.chat, model, row.prompt, max_tokens=1, temperature=0))


async def _measure(asker: Asker, contenders: Contenders, questions: Questions, alpha: float) -> Measured:
    holdout, sets = questions.holdout, questions.sets
    found = {model: await _on_holdout(asker, model, holdout, contenders) for model in contenders.models}
    against_base = (contenders.candidate, contenders.base)
    return Measured(
        scores={
            scorer: {model: each.scores[scorer] for model, each in found.items()}
            for scorer in found[contenders.candidate].scores
        },
        losses={model: each.losses for model, each in found.items()},
        retention={model: await row_means(asker, model, sets.retention) for model in against_base},
        harmful={model: await _refusals(asker, model, sets.harmful) for model in against_base},
        harmless={model: await _refusals(asker, model, sets.harmless) for model in against_base},
        times=await latency.measure(
            asker, contenders.candidate, contenders.reference, holdout.golden.rows, alpha=alpha
        ),
        by_preference=holdout.worse is not None,
    )


async def _on_holdout(asker: Asker, model: str, holdout: Holdout, contenders: Contenders) -> _OnHoldout:
    decides = model in (contenders.candidate, contenders.reference)
    answers = await asker.answers(model, holdout.golden, likelihoods=decides or holdout.worse is not None)
    scored = await asyncio.to_thread(score_rows, holdout.golden, answers)
    scores: dict[str, Values] = {
        choice.scorer: [item[choice.scorer] for item in scored.items] for choice in holdout.golden.scorers
    }
    better = [each.likelihood for each in answers]
    if holdout.worse is not None:
        scores = {PREFERENCE: _preferences(better, await asker.likelihoods(model, holdout.worse))} | scores
    return _OnHoldout(scores, [None if each is None else -each.mean_logprob for each in better])


def _preferences(better: Sequence[Likelihood | None], worse: Sequence[Likelihood | None]) -> Values:
    """1 where the preferred answer is the likelier one by the mean of its tokens, a half where both are alike."""
    pairs = zip(better, worse, strict=True)
    return [None if own is None or other is None else _preference(own, other) for own, other in pairs]


def _preference(better: Likelihood, worse: Likelihood) -> float:
    if better.mean_logprob == worse.mean_logprob:
        return 0.5
    return float(better.mean_logprob > worse.mean_logprob)


async def row_means(asker: Asker, model: str, golden: GoldenSet) -> Values:
    """Each row's score, the mean of its scorers'."""
    scored = await asyncio.to_thread(score_rows, golden, await asker.answers(model, golden))
    known = [[value for value in item.values() if value is not None] for item in scored.items]
    return [sum(values) / len(values) if values else None for values in known]


async def _refusals(asker: Asker, model: str, golden: GoldenSet) -> Values:
    """1 where the model refuses."""
    return [None if score is None else 1.0 - score for score in await row_means(asker, model, golden)]
