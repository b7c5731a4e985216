"""Intervals for the mean of bounded scores that hold at every sample size, however the scores are distributed.

The hedged-capital interval for a fixed sample of Waudby-Smith and Ramdas, 'Estimating means of bounded random
variables by betting' (arXiv 2010.09686, theorem 3 and section 4.2 with the plug-in bets for a fixed n). It needs
no normal approximation, so it is right for ten rows, for scores that are all 1, and for right-or-wrong scores as well
as shares; the price is that it is somewhat wider than an interval for right-or-wrong alone (Clopper and Pearson's).
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

ALPHA = 0.05
_CAP = 0.75
"""Largest share of the capital that one bet puts at risk; below 1, so that no observation takes it all."""
_STEPS = 40
"""Halvings of [0, 1] until a bound is known to 1e-12."""
_Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean of `n` observations with its interval; without any, all that is possible."""

    n: int
    mean: float | None
    low: float
    high: float


def mean_of_scores(scores: Sequence[float], alpha: float = ALPHA) -> Estimate:
    """The mean of scores in [0, 1] and the interval that covers the true mean with probability 1 - `alpha` at least.

    The observations are taken in a fixed random order, so that a set that is sorted by kind looks like a sample.
    """
    if not scores:
        return Estimate(0, None, 0.0, 1.0)
    shuffled = np.asarray(random.Random(len(scores)).sample(list(scores), len(scores)), dtype=np.float64)
    shuffled = shuffled.clip(0.0, 1.0)
    mean = float(shuffled.mean())
    low, high = _lower_bound(shuffled, alpha / 2), 1.0 - _lower_bound(1.0 - shuffled, alpha / 2)
    return Estimate(len(scores), mean, min(low, mean), max(high, mean))


def mean_of_differences(differences: Sequence[float], alpha: float = ALPHA) -> Estimate:
    """The same for paired differences in [-1, 1]."""
    found = mean_of_scores([(each + 1.0) / 2.0 for each in differences], alpha)
    mean = None if found.mean is None else 2.0 * found.mean - 1.0
    return Estimate(found.n, mean, 2.0 * found.low - 1.0, 2.0 * found.high - 1.0)


def _lower_bound(scores: _Array, alpha: float) -> float:
    """The largest mean that betting against 'the mean is no more' has refuted: the capital reached 1 / alpha."""
    bets = _bets(scores, alpha)
    refuted, possible = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (refuted + possible) / 2
        if _most_capital(scores, bets, middle) >= math.log(1 / alpha):
            refuted = middle
        else:
            possible = middle
    return refuted


def _most_capital(scores: _Array, bets: _Array, mean: float) -> float:
    """The logarithm of the most that the gambler ever had; it falls as the mean that is bet against rises."""
    gains = 1.0 + np.minimum(bets, _CAP / mean) * (scores - mean)
    return float(np.cumsum(np.log(gains)).max())


def _bets(scores: _Array, alpha: float) -> _Array:
    """Each bet from the observations before it alone: sqrt(2 ln(1/alpha) / (n times their variance))."""
    n = len(scores)
    counts = np.arange(1, n + 1)
    means = (0.5 + np.cumsum(scores)) / (counts + 1)
    variances = (0.25 + np.cumsum((scores - means) ** 2)) / (counts + 1)
    before = np.concatenate(([0.25], variances[:-1]))
    return np.sqrt(2.0 * math.log(1 / alpha) / (n * before))
