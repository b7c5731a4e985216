"""What a run of a golden set comes to: each row's scores, their means with intervals, and metrics over all rows.

The intervals are those of `monitors.judging.intervals`: they hold at the size of any set. A difference to the base
model is paired: only rows that both were scored on count.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from monitors.judging.golden import GoldenRow, GoldenSet
from monitors.judging.intervals import mean_of_differences, mean_of_scores
from monitors.judging.likelihood import Likelihood, perplexity
from monitors.judging.scorers import METRICS, SCORERS, Sample, score

_OF_LABELS = {"accuracy", "macro_f1"}
_MOST_LABELS = 200
Item = Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Answered:
    """What a model made of a row: its answer, and how likely it holds the reference, where that was asked."""

    answer: str
    likelihood: Likelihood | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """Each row's scores by scorer, in the set's order, with the answers that they are of."""

    items: Sequence[Item]
    answers: Sequence[Answered]


def asks_likelihood(row: GoldenRow, golden: GoldenSet) -> bool:
    """Whether one of the row's scorers needs to know how likely the reference is."""
    return any("mean_logprob" in SCORERS[choice.scorer].needs for choice in row.choices(golden.scorers))


def score_rows(golden: GoldenSet, answers: Sequence[Answered]) -> Scored:
    """Score each row's answer; None is where a scorer has nothing to say of it."""
    pairs = zip(golden.rows, answers, strict=True)
    return Scored([_score_row(golden, row, answered) for row, answered in pairs], answers)


def summarize(golden: GoldenSet, scored: Scored, base: Sequence[Item] | None, alpha: float) -> dict[str, Any]:
    """A run's results, as JSON; `base` has the rows' scores of the base model's run, if there is one."""
    names = sorted({name for item in scored.items for name in item})
    scorers = {}
    for name in names:
        scorers[name] = asdict(mean_of_scores(_known(item.get(name) for item in scored.items), alpha))
        if base is not None:
            scorers[name]["base"] = asdict(mean_of_differences(_differences(name, scored.items, base), alpha))
    return {"rows": len(golden.rows), "alpha": alpha, "scorers": scorers, "metrics": _metrics(golden, scored)}


def _metrics(golden: GoldenSet, scored: Scored) -> dict[str, float]:
    """What is said of all rows together, where the rows allow it."""
    likelihoods = [each.likelihood for each in scored.answers if each.likelihood is not None]
    rows = zip(golden.rows, scored.answers, strict=True)
    pairs = [(answered.answer, row.reference) for row, answered in rows if row.reference is not None]
    found: dict[str, float | None] = {"perplexity": perplexity(likelihoods)}
    if pairs:
        answers, references = [answer for answer, _ in pairs], [reference for _, reference in pairs]
        names = METRICS.keys() if _are_labels(references) else METRICS.keys() - _OF_LABELS
        found |= {name: METRICS[name](answers, references) for name in sorted(names)}
    return {name: value for name, value in found.items() if value is not None}


def _are_labels(references: Sequence[str]) -> bool:
    """Whether references are few words that come again and again, and not texts of their own."""
    return len(set(references)) <= min(_MOST_LABELS, len(references) // 2)


def _score_row(golden: GoldenSet, row: GoldenRow, answered: Answered) -> Item:
    mean_logprob = answered.likelihood.mean_logprob if answered.likelihood is not None else None
    sample = Sample(answered.answer, row.reference, row.prompt, mean_logprob)
    return {choice.scorer: score(choice, sample) for choice in row.choices(golden.scorers)}


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _differences(name: str, items: Sequence[Item], base: Sequence[Item]) -> list[float]:
    pairs = ((item.get(name), other.get(name)) for item, other in zip(items, base, strict=True))
    return [own - other for own, other in pairs if own is not None and other is not None]
