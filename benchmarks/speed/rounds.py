"""Turns, medians and ranges: what is compared takes turns in each round, so that a slow minute slows all of it."""

import math
import statistics
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

Thing = TypeVar("Thing")
Figures = Mapping[str, float]
"""What one turn found, by the figure's name."""
Values = Mapping[str, Mapping[str, Sequence[float | None]]]
"""What was found of each thing, by its name and the figure's, round by round; None is what could not be found."""
_DIGITS = 6
_TRIES = 3


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure over all rounds."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.values)

    def shown(self, digits: int = 2) -> str:
        """The median with the range, for a table."""
        low, high = min(self.values), max(self.values)
        return f"{self.median:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


def values_of(names: Iterable[str], turns: Iterable[Mapping[str, Figure]]) -> Values:
    """The figures of things as they were found, to be kept: with six digits, which is more than they are good for."""
    return {
        name: {figure: [_rounded(value) for value in all_rounds.values] for figure, all_rounds in found.items()}
        for name, found in zip(names, turns, strict=True)
    }


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else float(f"{value:.{_DIGITS}g}")


def ratio(of: Figure, to: Figure) -> Figure:
    """How one thing does against another one, round by round."""
    return Figure(tuple(mine / other for mine, other in zip(of.values, to.values, strict=True)))


def difference(of: Figure, to: Figure) -> Figure:
    """By how much one thing exceeds another one, round by round."""
    return Figure(tuple(mine - other for mine, other in zip(of.values, to.values, strict=True)))


async def take_turns(
    things: Sequence[Thing],
    measure: Callable[[Thing], Awaitable[Figures]],
    *,
    rounds: int,
    is_disturbed: Callable[[Sequence[Figures]], bool] = lambda _: False,
) -> list[dict[str, Figure]]:
    """Measure each thing once in each round, every other round backwards; the figures of each, in the given order.

    A round that is disturbed by what it found, of each thing in that order, is measured again, at most twice.
    """
    found = []
    for number in range(rounds):
        for _ in range(_TRIES):
            once = await _round(things, measure, backwards=number % 2 == 1)
            if not is_disturbed(once):
                break
        found.append(once)
    return [
        {name: Figure(tuple(figures[name] for figures in all_rounds)) for name in all_rounds[0]}
        for all_rounds in zip(*found, strict=True)
    ]


async def _round(
    things: Sequence[Thing], measure: Callable[[Thing], Awaitable[Figures]], *, backwards: bool
) -> list[Figures]:
    """The figures of each thing, in the given order, whichever it was measured in."""
    step = -1 if backwards else 1
    return [await measure(thing) for thing in things[::step]][::step]
