"""Two models on the same rows: the mean of their paired differences, with an interval that holds at any size.

The intervals are those of `monitors.judging.intervals`, of bounded differences. Losses have no bound, so a row's
difference counts as `LOSS_BOUND` at most: what is covered is the mean of the differences so clipped. Then the interval
needs no normal distribution, which a few answers that a model is sure are wrong would belie (Student's t misses most
where such tails are long), and one row cannot decide alone. The candidate's mean is told so clipped, too, that the two
means are as far apart as the difference says; its mean as it is stands beside it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from monitors.judging.intervals import mean_of_differences

LOSS_BOUND = 0.5
"""Nats a token: each of an answer's tokens 1.6 times as likely. With a wider bound fifty rows would not suffice to see
that nothing has changed; rows that lie beyond it are answered wrongly, and quality sees them."""
Values = Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Compared:
    """Means over the `n` of the `asked` rows that both are known on; without any, all that is possible.

    `difference` is the mean of the candidate's values less the reference's, and lies between `low` and `high`. Of
    losses it is that of the clipped differences, and `candidate` the reference's mean with it; `unclipped` is the
    candidate's mean as it is, None of scores, of which nothing is clipped.
    """

    asked: int
    n: int
    candidate: float | None
    reference: float | None
    difference: float | None
    low: float
    high: float
    unclipped: float | None = None


def compare_scores(candidate: Values, reference: Values, alpha: float) -> Compared:
    """Of scores in [0, 1]. Where the candidate's answer alone cannot be scored, it scores 0."""
    return _compare(_pairs(candidate, reference, lambda _: 0.0), len(reference), alpha, bound=1.0)


def compare_losses(candidate: Values, reference: Values, alpha: float) -> Compared:
    """Of mean losses a token (nats), clipped. Where the candidate's alone is unknown, it is as much worse as counts."""
    pairs = _pairs(candidate, reference, lambda other: other + LOSS_BOUND)
    found = _compare(pairs, len(reference), alpha, bound=LOSS_BOUND)
    return replace(found, unclipped=fmean(own for own, _ in pairs)) if pairs else found


def differences(candidate: Values, reference: Values) -> list[float | None]:
    """Each row's difference of scores, as `compare_scores` counts it; None where the reference has none."""
    return [None if other is None else (own or 0.0) - other for own, other in zip(candidate, reference, strict=True)]


def _pairs(candidate: Values, reference: Values, worst: Callable[[float], float]) -> list[tuple[float, float]]:
    """Rows on which the reference is known; what the candidate lacks there is the worst, so that it gains nothing."""
    known = ((own, other) for own, other in zip(candidate, reference, strict=True) if other is not None)
    return [(worst(other) if own is None else own, other) for own, other in known]


def _compare(pairs: Sequence[tuple[float, float]], asked: int, alpha: float, *, bound: float) -> Compared:
    if not pairs:
        return Compared(asked, 0, None, None, None, -bound, bound)
    clipped = [min(max((own - other) / bound, -1.0), 1.0) for own, other in pairs]
    found = mean_of_differences(clipped, alpha)
    assert found.mean is not None
    other = fmean(other for _, other in pairs)
    difference = bound * found.mean
    return Compared(asked, found.n, other + difference, other, difference, bound * found.low, bound * found.high)
