"""Thresholds of drift: how each column's statistic varies without drift, found by bootstrap of the reference.

Both samples of a comparison vary, the window and the reference, so both are drawn anew, with replacement and at their
real sizes: a window drawn from the very rows that it is held against would look too much like them. And because a
finite reference has not shown everything, each draw may hold something that it has not: what stands once for `m` rows
already seen (the rule of succession), a value below or above all others, one more category, one more direction. So a
column that never varied in the reference still has a distribution, and one new value in a window is no alarm.

The statistics (`monitors.drift` has the same ones for a window):

number      Kolmogorov and Smirnov's distance: the largest difference of the shares at or below any value
category    Jensen and Shannon's distance, the root of the divergence in nats
vector      the Euclidean length of the difference of the two mean vectors

Probabilities beyond what the draws can show follow an exponential tail through the `TAIL` largest. Where the tail
of the distribution falls off faster, as it does for distances of means and shares, that is on the safe side.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

TAIL = 100
_BODY_STEP = 1.05
_CHUNK = 4_000_000  # numbers in memory at once
_BIN_COST = 10  # rows that take as long to draw one by one as one bin's number does at once
_SLACK = 1e-9  # two ways of adding up the same numbers agree to that


@dataclass(frozen=True, slots=True)
class Null:
    """How a column's statistic varies without drift, for a window and a reference of these sizes.

    Attributes:
        rows, reference_rows: the sizes.
        draws: how many draws it is known from.
        ranks: positions among the draws, the largest first; all of the tail, then ever fewer.
        values: the statistic at these ranks, falling.
        tail_share: the share of draws above the tail's start (the value at rank `TAIL`).
        tail_scale: their mean excess over it.
    """

    rows: int
    reference_rows: int
    draws: int
    ranks: tuple[int, ...]
    values: tuple[float, ...]
    tail_share: float
    tail_scale: float

    @classmethod
    def of(cls, statistics: Floats, rows: int, reference_rows: int) -> "Null":
        """Sum up the statistics of all draws, of which there must be more than `TAIL`."""
        falling = np.sort(statistics)[::-1]
        ranks = _ranks(falling.size)
        above = falling[falling > falling[TAIL - 1] + _SLACK] - falling[TAIL - 1]
        return cls(
            rows,
            reference_rows,
            falling.size,
            ranks,
            tuple(float(falling[rank - 1]) for rank in ranks),
            above.size / (falling.size + 1),
            float(above.mean()) if above.size else 0.0,
        )

    def p_value(self, statistic: float) -> float:
        """The probability of a statistic as large as this one without drift; if in doubt, too large."""
        at = next((i for i, value in enumerate(self.values) if value < statistic - _SLACK), None)
        if at is None:
            return 1.0
        return max(self._share(at), self._tail(statistic), 1e-300)

    def threshold(self, level: float) -> float:
        """The least statistic whose probability without drift is at most `level`."""
        at = next((i for i in reversed(range(len(self.ranks))) if self._share(i) <= level), 0)
        least = self.values[at] + 2 * _SLACK
        if self.tail_scale and self.tail_share > level:
            return max(least, self._start + self.tail_scale * math.log(self.tail_share / level) + _SLACK)
        return least

    @property
    def _start(self) -> float:
        return self.values[TAIL - 1]

    def _share(self, at: int) -> float:
        """An upper bound of the share of draws above the value at that position."""
        rank = self.ranks[at]
        return (rank - 1 if rank <= TAIL else rank) / (self.draws + 1)

    def _tail(self, statistic: float) -> float:
        if statistic <= self._start or not self.tail_scale:
            return 0.0
        return self.tail_share * math.exp(-(statistic - self._start) / self.tail_scale)


def _ranks(draws: int) -> tuple[int, ...]:
    ranks = list(range(1, TAIL + 1))
    while ranks[-1] < draws:
        ranks.append(min(draws, math.ceil(ranks[-1] * _BODY_STEP)))
    return tuple(ranks)


def null_of_numbers(reference: Floats, rows: int, rng: np.random.Generator, draws: int) -> Null:
    """How the distance of a number's distributions varies."""
    _, bins = np.unique(reference, return_inverse=True)
    return _null_of_counts(_with_unseen(bins + 1, 0, bins.max() + 2), (reference.size, rows), rng, draws, _ks_distances)


def null_of_categories(reference: Sequence[str], rows: int, rng: np.random.Generator, draws: int) -> Null:
    """How the distance of a category's shares varies."""
    _, bins = np.unique(np.asarray(reference, dtype=str), return_inverse=True)
    return _null_of_counts(_with_unseen(bins, bins.max() + 1), (bins.size, rows), rng, draws, _js_distances)


def null_of_vectors(reference: Floats, rows: int, rng: np.random.Generator, draws: int) -> Null:
    """How the distance of mean vectors varies; `reference` is (reference rows, dimensions)."""
    size, width = reference.shape
    spread = np.zeros((size + 1, width + 1), dtype=np.float32)
    spread[:size, :width] = reference
    spread[size, width] = math.sqrt(float((reference**2).sum(axis=1).mean())) or 1.0

    def distances(shares: Floats, reference_shares: Floats) -> Floats:
        difference = (shares - reference_shares).astype(np.float32) @ spread
        return np.asarray(np.sqrt((difference.astype(np.float64) ** 2).sum(axis=1)))

    return _null_of_counts(np.arange(size + 1), (size, rows), rng, draws, distances)


def holm(p_values: Mapping[str, float], alpha: float) -> tuple[frozenset[str], float]:
    """Which hypotheses fall at the error probability `alpha` for all of them together, by Holm's procedure.

    Returns:
        The names of those that fall, and the level at which one p-value more would: those that fall are at most it, the
        others above it.
    """
    fallen: list[str] = []
    for name in sorted(p_values, key=p_values.__getitem__):
        if p_values[name] > alpha / (len(p_values) - len(fallen)):
            break
        fallen.append(name)
    return frozenset(fallen), alpha / max(1, len(p_values) - len(fallen))


def per_look(false_alarms_per_week: float, every_h: float) -> float:
    """The error probability of one look that gives this expected number of false alarms per week, at most 1/2.

    Expectations add up however much windows overlap, so it is the number divided by the looks of a week.
    """
    return min(0.5, false_alarms_per_week * every_h / (7 * 24))


def numbers(values: Iterable[float]) -> Floats:
    """An array of them."""
    return np.asarray(list(values), dtype=np.float64)


def to_json(null: Null) -> dict[str, Any]:
    """A distribution as the database keeps it."""
    return {name: getattr(null, name) for name in Null.__slots__}


def from_json(stored: Mapping[str, Any]) -> Null:
    """The distribution that `to_json` gave."""
    lists = {name: tuple(stored[name]) for name in ("ranks", "values")}
    return Null(**{**stored, **lists})


def _with_unseen(bins: NDArray[np.intp], *unseen: int) -> NDArray[np.intp]:
    """The bins of the rows, and once each of those that the reference has not shown."""
    return np.concatenate([bins, np.asarray(unseen, dtype=bins.dtype)])


def _null_of_counts(
    bins: NDArray[np.intp],
    sizes: tuple[int, int],
    rng: np.random.Generator,
    draws: int,
    distances: Callable[[Floats, Floats], Floats],
) -> Null:
    """Draw references and windows of these sizes from the rows in `bins`, and hold their shares against each other."""
    size, rows = sizes
    width = int(bins.max()) + 1
    at_once = max(1, _CHUNK // max(width, rows, size))
    found = [
        distances(_shares(bins, width, rows, count, rng), _shares(bins, width, size, count, rng))
        for count in (min(at_once, draws - begun) for begun in range(0, draws, at_once))
    ]
    return Null.of(np.concatenate(found), rows, size)


def _shares(bins: NDArray[np.intp], width: int, rows: int, count: int, rng: np.random.Generator) -> Floats:
    """The shares of the bins in `count` samples of `rows` rows: (count, width)."""
    if width * _BIN_COST < rows:
        return rng.multinomial(rows, np.bincount(bins, minlength=width) / bins.size, size=count) / rows
    drawn = bins[rng.integers(0, bins.size, size=(count, rows))]
    drawn += np.arange(count)[:, None] * width
    return np.bincount(drawn.ravel(), minlength=count * width).reshape(count, width) / rows


def _ks_distances(shares: Floats, reference: Floats) -> Floats:
    return np.asarray(np.abs(np.cumsum(shares - reference, axis=1)).max(axis=1))


def _js_distances(shares: Floats, reference: Floats) -> Floats:
    middle = (shares + reference) / 2
    divergence = (_relative_entropy(shares, middle) + _relative_entropy(reference, middle)) / 2
    return np.asarray(np.sqrt(np.maximum(divergence, 0.0)))


def _relative_entropy(shares: Floats, of: Floats) -> Floats:
    ratio = np.divide(shares, of, out=np.ones_like(shares), where=shares > 0)
    return np.asarray((shares * np.log(ratio)).sum(axis=1))
