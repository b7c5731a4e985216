"""What the tests of `monitors.judging.sequential` find, how soon, and how often they err, beside a naive z-test.

``python -m benchmarks.sequential`` takes about two minutes and writes ``benchmarks/results/sequential.md``. All
numbers are drawn with one seed. A simulation feeds arrays of independent runs through the classes that decide.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from monitors.judging.sequential import BettingTest, ConfidenceSequence, ECusum, to_unit

RESULTS = Path(__file__).parent / "results" / "sequential.md"
SEED = 20_260_101
RUNS = 2_000
LOOKS = 4_000
ALPHA = 0.05
EFFECTS = (0.02, 0.05, 0.1, 0.2)
LEVEL = 0.9
FALLS = (0.05, 0.1, 0.2, 0.4)
FIRST_LOOK = 30  # of the z-test, which means nothing before

Array = npt.NDArray[np.float64]
Draw = Callable[[np.random.Generator, float, int], Array]


def pairs(rng: np.random.Generator, effect: float, runs: int) -> Array:
    """Differences of right-or-wrong scores: 60% ties at no effect, and else one side is right alone."""
    u = rng.random(runs)
    return np.where(u < 0.2 + effect / 2, 1.0, np.where(u < 0.4, -1.0, 0.0))


def right_or_wrong(rng: np.random.Generator, mean: float, runs: int) -> Array:
    """Scores of 0 or 1."""
    return (rng.random(runs) < mean).astype(float)


def graded(rng: np.random.Generator, mean: float, runs: int) -> Array:
    """Scores in between, as ROUGE or F1 give: beta-distributed, with a standard deviation of 0.1 at a mean of 0.9."""
    return rng.beta(mean * 8, (1 - mean) * 8, runs)


class ZTest:
    """The textbook's one-sided z-test, looked at after every observation: what not to do."""

    def __init__(self) -> None:
        self.count, self.total, self.squares = 0, 0.0, 0.0
        self.now: Any = False
        self.rejected: Any = False

    def update(self, x: Any) -> None:
        """Take the next difference, in [-1, 1]."""
        self.count += 1
        self.total, self.squares = self.total + x, self.squares + x**2
        if self.count >= FIRST_LOOK:
            mean = self.total / self.count
            error = np.sqrt(np.maximum(self.squares / self.count - mean**2, 1e-12) / self.count)
            self.now = mean / error > 1.645
            self.rejected = self.rejected | self.now


class OneBet(ECusum):
    """An e-CUSUM with the one bet that is best for right-or-wrong scores that fall from 0.9 by 0.1."""

    SHARES = np.array([0.1 / 0.9])


class ShiryaevRoberts(ECusum):
    """The paper's other e-detector, which adds where the e-CUSUM takes the larger."""

    def update(self, x: Any) -> None:
        """Take the next observation."""
        bets = self.SHARES / (1 - self.level)
        before = np.logaddexp(self.logs, 0.0) if self.count else 0.0
        self.logs = before + np.log1p(np.multiply.outer(self.level - x, bets))
        self.peak = np.maximum(self.peak, self.log_evidence)
        self.count += 1


def paired_tests(rng: np.random.Generator) -> list[str]:
    """How often each test says 'better' within the looks, and after how many in the median."""
    lines = _header(
        "difference", "betting test", "looks, median", "z-test at every look", "z-test at the last look alone"
    )
    for effect in (0.0, *EFFECTS):
        betting, naive = BettingTest(0.5, ALPHA), ZTest()
        first = np.full(RUNS, np.inf)
        for look in range(1, LOOKS + 1):
            differences = pairs(rng, effect, RUNS)
            betting.update(to_unit(differences))
            naive.update(differences)
            first = np.where(betting.rejected & np.isinf(first), look, first)
        found = [f"{np.mean(betting.rejected):.1%}", _median(first), f"{np.mean(naive.rejected):.1%}"]
        lines.append(_row(f"{effect:g}", *found, f"{np.mean(naive.now):.1%}"))
    return lines


def intervals(rng: np.random.Generator) -> list[str]:
    """How often any interval of 4,000 fails, and how wide they are."""
    looks = (100, 400, 1_000, 4_000)
    lines = _header("scores", "runs in which any interval fails", *(f"half width at {n:,}" for n in looks))
    for name, draw, mean in (
        ("0 or 1", right_or_wrong, 0.5),
        ("0 or 1", right_or_wrong, LEVEL),
        ("graded", graded, LEVEL),
    ):
        sequence, failed, widths = ConfidenceSequence(ALPHA), np.zeros(RUNS, bool), []
        for look in range(1, LOOKS + 1):
            sequence.update(draw(rng, mean, RUNS))
            failed |= (sequence.low > mean) | (sequence.high < mean)
            if look in looks:
                widths.append(f"{np.mean(sequence.high - sequence.low) / 2:.3f}")
        lines.append(_row(f"{name}, mean {mean:g}", f"{failed.mean():.2%}", *widths))
    return lines


def first_alarms(rng: np.random.Generator, cusum: ECusum, draw: Draw, mean: float, runs: int, limit: int) -> Array:
    """After how many observations each run raises its alarm; infinite if not within the limit."""
    first = np.full(runs, np.inf)
    for look in range(1, limit + 1):
        cusum.update(draw(rng, mean, runs))
        first = np.where(cusum.alarm & np.isinf(first), look, first)
        if np.isfinite(first).all():
            break
    return first


def false_alarms(rng: np.random.Generator) -> list[str]:
    """The mean number of observations until a false alarm, where the mean is exactly the level."""
    lines = _header("scores", "asked for, at least", "e-CUSUM", "with one bet", "Shiryaev-Roberts")
    for every, runs, limit in ((1_000, 200, 20_000), (10_000, 100, 50_000)):
        for name, draw in (("0 or 1", right_or_wrong), ("graded", graded)):
            found = []
            for kind in (ECusum, OneBet, ShiryaevRoberts):
                first = first_alarms(rng, kind(LEVEL, every), draw, LEVEL, runs, limit)
                found.append(_mean_time(first, limit))
            lines.append(_row(name, f"{every:,}", *found))
    return lines


def delays(rng: np.random.Generator) -> list[str]:
    """How many observations after a fall the alarm is raised, in the mean, where none went before it."""
    lines = _header("scores", "level watched", "A", "kind", *(f"fall of {fall:g}" for fall in FALLS))
    cases = [("0 or 1", right_or_wrong, LEVEL), ("0 or 1", right_or_wrong, LEVEL - 0.05), ("graded", graded, LEVEL)]
    for name, draw, level in cases:
        for every in (1_000, 10_000):
            for kind, told in ((ECusum, "e-CUSUM"), (OneBet, "with one bet"), (ShiryaevRoberts, "Shiryaev-Roberts")):
                found = []
                for fall in FALLS:
                    if LEVEL - fall >= level - 1e-9:
                        found.append("not one")
                        continue
                    first = first_alarms(rng, kind(level, every), draw, LEVEL - fall, 300, 10_000)
                    found.append(f"{np.mean(first):,.0f}" if np.isfinite(first).all() else f"median {_median(first)}")
                lines.append(_row(name, f"{level:g}", f"{every:,}", told, *found))
    return lines


def estimated_levels(rng: np.random.Generator) -> list[str]:
    """What becomes of the guarantee where the level is the mean of a version's first scores."""
    lines = _header("scores that the level is taken from", "watched at that level", "watched at 0.05 below it")
    every, limit = 1_000, 10_000
    for scores in (200, 1_000):
        drawn = rng.binomial(scores, LEVEL, 10_000) / scores
        levels = np.quantile(drawn, np.linspace(0.025, 0.975, 20))
        found = []
        for drop in (0.0, 0.05):
            watches = [ECusum(float(level) - drop, every) for level in levels]
            times = [first_alarms(rng, watch, right_or_wrong, LEVEL, 20, limit) for watch in watches]
            found.append(_mean_time(np.concatenate(times), limit))
        lines.append(_row(f"{scores:,}", *found))
    return lines


def main() -> None:
    """Run everything and write the results."""
    rng = np.random.default_rng(SEED)
    parts = [
        "# The sequential tests, simulated",
        "Made by `python -m benchmarks.sequential`; what the tests are is told in `docs/judging.md`.",
        f"## Paired differences: {RUNS:,} runs, a look after each of {LOOKS:,} observations, alpha {ALPHA:g}",
        "Right-or-wrong scores of which 60% tie. The first row, without a difference, is the rate of false alarms.",
        *paired_tests(rng),
        f"## Intervals: {RUNS:,} runs of {LOOKS:,} observations, alpha {ALPHA:g}",
        *intervals(rng),
        f"## Observations until a false alarm, at a mean of exactly the level ({LEVEL:g})",
        "Observations over alarms, of runs that end at the alarm or at 20,000 (50,000 for 10,000).",
        *false_alarms(rng),
        f"## Observations from a fall below {LEVEL:g} to the alarm, mean of 300 runs",
        *delays(rng),
        "## The same until a false alarm, with a level taken from the first scores; 1,000 were asked for",
        *estimated_levels(rng),
    ]
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(_page(parts))


def _mean_time(first: Array, limit: int) -> str:
    alarms = int(np.isfinite(first).sum())
    observed = float(np.minimum(first, limit).sum())
    return f"{observed / alarms:,.0f}" if alarms else f"over {observed:,.0f}"


def _median(first: Array) -> str:
    middle = float(np.median(first))
    return f"{middle:,.0f}" if math.isfinite(middle) else "never"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _header(*cells: str) -> list[str]:
    return [_row(*cells), _row(*("---" for _ in cells))]


def _page(parts: Sequence[str]) -> str:
    """Join lines of tables closely, and everything else with an empty line between."""
    page = ""
    for part in parts:
        page += "" if not page else "\n" if part.startswith("|") and page.endswith("|") else "\n\n"
        page += part
    return page + "\n"


if __name__ == "__main__":
    main()
