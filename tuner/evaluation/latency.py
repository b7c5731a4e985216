"""How long a model takes for a token, against another one: the same prompts in turn, one request at a time.

What else the engine has to do hits both alike, and the ratio is taken of two requests that follow each other. Its
interval is that of the median by order statistics (the sign test turned round; Conover, 'Practical Nonparametric
Statistics'): exact whatever the times' distribution, and unmoved by a few requests that had to wait.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from statistics import median
from typing import Any

from monitors.judging.asking import SAME_ANSWERS, Asker
from monitors.judging.golden import GoldenRow

_LEAST_PAIRS = 24
_TOKENS = 32
# Answers of one length, whatever a model has to say: an end that comes early would leave little to measure.
_OPTIONS: Mapping[str, Any] = {**SAME_ANSWERS, "max_tokens": _TOKENS, "ignore_eos": True}


@dataclass(frozen=True, slots=True)
class Pair:
    """Seconds for a token of the candidate and of the reference, with the same prompt."""

    candidate: float
    reference: float


@dataclass(frozen=True, slots=True)
class Ratio:
    """The median of `n` ratios with its interval; None is a bound that so few cannot give."""

    n: int
    median: float | None
    low: float | None
    high: float | None


async def measure(
    asker: Asker, candidate: str, reference: str, rows: Sequence[GoldenRow], *, alpha: float
) -> list[Pair]:
    """Time both models on as many prompts as an interval at `alpha` needs; who goes first alternates.

    A request whose answer does not tell its tokens counts for nothing.

    Raises:
        GatewayRefused
    """
    found = []
    wanted = max(_LEAST_PAIRS, 2 * math.ceil(math.log2(2 / alpha)))
    for number, row in enumerate(islice(cycle(rows), wanted + 1)):
        order = (candidate, reference) if number % 2 else (reference, candidate)
        times = {model: await _seconds_per_token(asker, model, row) for model in order}
        own, other = times[candidate], times[reference]
        if number and own is not None and other is not None:  # the first only warms both up
            found.append(Pair(own, other))
    return found


def median_ratio(pairs: Sequence[Pair], alpha: float) -> Ratio:
    """The median of candidate over reference, and the interval that covers the true one but with `alpha`."""
    ratios = sorted(each.candidate / each.reference for each in pairs)
    if not ratios:
        return Ratio(0, None, None, None)
    rank = _rank(len(ratios), alpha)
    bounds = (ratios[rank - 1], ratios[-rank]) if rank else (None, None)
    return Ratio(len(ratios), median(ratios), *bounds)


def _rank(n: int, alpha: float) -> int:
    """The largest r so that fewer than r of n fair coins fall heads with probability alpha / 2 at most; 0 if none."""
    rank, probability = 0, 0.0
    while rank < n // 2:
        probability += math.comb(n, rank) / 2**n
        if probability > alpha / 2:
            break
        rank += 1
    return rank


async def _seconds_per_token(asker: Asker, model: str, row: GoldenRow) -> float | None:
    async def ask() -> tuple[float, Any]:
        start = time.perf_counter()
        completion = await asker.gateway.chat(model, row.prompt, **_OPTIONS, **row.reading)
        return time.perf_counter() - start, completion.get("usage")

    seconds, usage = await asker.patiently(ask)
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return seconds / tokens if isinstance(tokens, int) and tokens > 0 else None
