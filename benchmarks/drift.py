"""Drift: how often windows without drift alarm, and how soon windows with drift do. Writes ``results/drift.md``.

``python -m benchmarks.drift [--windows 500] [--repeats 12]``; half an hour on two cores.

Everything runs as the monitor's child runs it (`monitors.drift`: Evidently's statistics, thresholds by bootstrap,
Holm), on generated tickets of a support desk. Each window without drift has a reference of its own and so thresholds
of its own: windows held against one reference fail together, and no binomial interval would hold for them.
"""

import argparse
import importlib
import os
import random
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from types import ModuleType
from typing import Any

from msgspec import structs
from scipy.stats import binomtest

from monitors.drifting.calibration import holm, per_look, to_json
from monitors.drifting.task import DRAWS, Kind, Result, Task, Values
from monitors.drifting.windows import language

RESULTS = Path(__file__).parent / "results" / "drift.md"
REFERENCE = 1000
SIZES = (50, 200, 1000)
WEEKLY, EVERY_H = 0.1, 6.0  # the defaults of an adapter's monitoring
LEVELS = (0.05, per_look(WEEKLY, EVERY_H))
SHARE = 0.3  # of the requests after a drift are of the new kind
MOST_LOOKS, STEPS = 40, 4
WHOLE = 10  # Evidently's report takes longer than all else and is made for one window in so many

LIMITS = """## What this does not show

- {draws:,} draws of the bootstrap, where the monitor has {of_monitor:,}: its thresholds vary less than these.
- Requests here come independently of each other. Those of real clients come in bursts and have days and nights, and
  then alarm more often than stated.
- Each window has a fresh reference, so the rate is a mean over references. A monitor keeps one for long: with an odd
  one it alarms more often for as long.
- A few hundred windows cannot tell {level:.2%} a look from 1%; there were {windows:,}. "held" says that the rate is not
  shown to be above the stated one, no more."""

_TOPICS: dict[str, tuple[str, ...]] = {
    "refund": ("I want my money back for the {thing}", "please refund the {thing} that I sent back {when}"),
    "delivery": ("my {thing} has not arrived since {when}", "where is the parcel with the {thing}, order {number}?"),
    "login": ("I cannot sign in to the app of my {thing}", "the password for the {thing} is not accepted since {when}"),
    "broken": ("the {thing} does not turn on any more", "my {thing} stopped working {when}, order {number}"),
}
_NEW_TOPICS: dict[str, tuple[str, ...]] = {
    "invoice": ("the invoice for {number} shows the wrong tax rate", "send the receipt of {when} to our accountant"),
    "privacy": ("delete all personal data that you hold on me", "who has seen the recordings of {when}?"),
}
_OTHER_LANGUAGES: tuple[str, ...] = (
    "mein {thing} ist seit {when} nicht angekommen, Bestellung {number}",
    "ich möchte mein Geld für den {thing} zurück, bitte antworten Sie bald",
    "je voudrais annuler la commande {number} de mon {thing}, merci beaucoup",
    "no puedo entrar en la cuenta de mi {thing} desde {when}, ayuda por favor",
)
_THINGS = ("router", "camera", "doorbell", "thermostat", "speaker", "tablet", "watch", "printer")
_WHENS = ("yesterday", "last week", "Monday", "Friday", "two days ago", "last month")
_EXTRAS = (
    "I have been a customer for three years",
    "we are a small bakery in Leeds",
    "I already wrote to you about this",
    "thanks in advance",
    "kind regards, Anna",
    "please answer soon, it is urgent",
    "I bought it in your shop",
    "my neighbour has the same one",
)


@dataclass(frozen=True)
class Request:
    """What the monitor would know of a request."""

    prompt: str
    prompt_tokens: int
    completion_tokens: int
    mean_logprob: float
    finish_reason: str
    refusal: str


Traffic = Callable[[random.Random], Request]


def usual(rng: random.Random) -> Request:
    """A request of the traffic that the version was made for: English but for one in fifty."""
    if rng.random() < 0.02:
        return _request(rng.choice(_OTHER_LANGUAGES), rng)
    return _request(rng.choice(_TOPICS[rng.choice(list(_TOPICS))]), rng)


def new_topics(rng: random.Random) -> Request:
    """About what the version never saw; answered as before."""
    return _request(rng.choice(_NEW_TOPICS[rng.choice(list(_NEW_TOPICS))]), rng)


def longer_prompts(rng: random.Random) -> Request:
    """About the same, in several more sentences."""
    return _request(rng.choice(_TOPICS[rng.choice(list(_TOPICS))]), rng, extras=rng.randint(4, 7))


def other_languages(rng: random.Random) -> Request:
    """In German, French or Spanish."""
    return _request(rng.choice(_OTHER_LANGUAGES), rng)


KINDS: dict[str, Traffic] = {
    "new topics": new_topics,
    "longer prompts": longer_prompts,
    "another language mix": other_languages,
}


def _request(template: str, rng: random.Random, extras: int | None = None) -> Request:
    filled = template.format(thing=rng.choice(_THINGS), when=rng.choice(_WHENS), number=rng.randint(10_000, 99_999))
    count = rng.choice((0, 0, 1, 1, 2, 3)) if extras is None else extras
    prompt = ". ".join([filled, *rng.choices(_EXTRAS, k=count)])
    return Request(
        prompt=prompt,
        prompt_tokens=40 + len(prompt) // 4,
        completion_tokens=max(1, round(rng.lognormvariate(3.2, 0.4))),
        mean_logprob=-rng.gammavariate(4, 0.08),
        finish_reason="length" if rng.random() < 0.03 else "stop",
        refusal="yes" if rng.random() < 0.02 else "no",
    )


def task(reference: Sequence[Request], window: Sequence[Request], alpha: float, seed: int, draws: int) -> Task:
    """A look at the window, as the monitor would have it done, but for the number of draws."""

    def values(name: str, kind: Kind) -> Values:
        return Values(name, kind, *([getattr(request, name) for request in side] for side in (reference, window)))

    languages = [[language(request.prompt) for request in side] for side in (reference, window)]
    columns = [
        values("prompt_tokens", "number"),
        values("completion_tokens", "number"),
        values("mean_logprob", "number"),
        values("finish_reason", "category"),
        values("refusal", "category"),
        Values("language", "category", *languages),
        values("prompt", "text"),
    ]
    return Task(columns, alpha, seed, draws=draws)


def without_drift(size: int, draws: int, seed: int) -> dict[str, float]:
    """The p-values of one window without drift against a reference of its own."""
    drift = _drift()
    rng = random.Random(f"without {size} {seed}")
    reference, window = ([usual(rng) for _ in range(rows)] for rows in (REFERENCE, size))
    asked = task(reference, window, LEVELS[0], seed, draws)
    found: dict[str, float] = drift.measure(asked).p_values
    if seed % WHOLE == 0:
        _require_holm(drift.judge(asked), found, LEVELS[0])
    return found


def _drift() -> ModuleType:
    """The monitor's child as a module. Evidently is imported only in the processes that need it."""
    os.environ["DO_NOT_TRACK"] = "1"
    return importlib.import_module("monitors.drift")


def _require_holm(result: Result, p_values: dict[str, float], alpha: float) -> None:
    """Stop everything if the report's verdicts are not what follows from the p-values."""
    drifted = {verdict.name for verdict in result.columns if verdict.drifted}
    if drifted != holm(p_values, alpha)[0]:
        raise AssertionError(f"Evidently says {sorted(drifted)}, p-values are {p_values}")


@dataclass(frozen=True)
class Detection:
    """One drift: looks from its onset to the alarm (None if there was none), and the columns of that alarm."""

    looks: int | None
    columns: tuple[str, ...]


def with_drift(kind: str, size: int, draws: int, seed: int) -> Detection:
    """Look every quarter of a window at traffic of which a share is new from a moment on, until the alarm."""
    drift = _drift()
    rng = random.Random(f"{kind} {size} {seed}")
    reference = [usual(rng) for _ in range(REFERENCE)]
    step = max(1, size // STEPS)
    rows = [usual(rng) for _ in range(size)]
    nulls: dict[str, dict[str, Any]] = {}
    for look in range(1, MOST_LOOKS + 1):
        rows += [KINDS[kind](rng) if rng.random() < SHARE else usual(rng) for _ in range(step)]
        asked = structs.replace(task(reference, rows[-size:], LEVELS[1], seed, draws), nulls=nulls)
        found = drift.measure(asked)
        nulls = {name: to_json(null) for name, null in found.nulls.items()}
        if fallen := holm(found.p_values, LEVELS[1])[0]:
            _require_holm(drift.judge(asked), found.p_values, LEVELS[1])
            return Detection(look, tuple(sorted(fallen)))
    return Detection(None, ())


def main() -> None:
    """Run it all and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--draws", type=int, default=2000, help=f"of the bootstrap; the monitor's are {DRAWS:,}")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
    begun = perf_counter()
    with ProcessPoolExecutor(options.processes) as pool:
        alarms = {
            size: list(pool.map(partial(without_drift, size, options.draws), range(options.windows), chunksize=5))
            for size in SIZES
        }
        found = {
            (kind, size): list(pool.map(partial(with_drift, kind, size, options.draws), range(options.repeats)))
            for kind in KINDS
            for size in SIZES
        }
    page = _page(alarms, found, options.draws, perf_counter() - begun)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(page)
    sys.stdout.write(page)


def _page(
    alarms: dict[int, list[dict[str, float]]], found: dict[tuple[str, int], list[Detection]], draws: int, seconds: float
) -> str:
    windows, repeats = len(alarms[SIZES[0]]), len(next(iter(found.values())))
    how = (
        f"`python -m benchmarks.drift --windows {windows} --repeats {repeats}`, {datetime.now(UTC):%Y-%m-%d}, "
        f"{seconds / 60:.0f} minutes in two processes beside other work. Generated tickets, seven columns (prompt and "
        "completion tokens, mean logprob, finish reason, refusal, language, prompt), references of "
        f"{REFERENCE:,} rows, {draws:,} draws of the bootstrap for each (the monitor draws {DRAWS:,}, for thresholds "
        "that vary less), on the monitor's own way: Evidently's statistics, thresholds by bootstrap at the window's "
        "size, Holm over the columns. Evidently's whole report was "
        f"made for every {WHOLE}th window without drift and for every alarm after one, and its verdicts were the same."
    )
    rates = (
        f"The second rate is that of the defaults: {WEEKLY} false alarms a week, a look every {EVERY_H:g} hours. By "
        "column, at 5% each:"
    )
    onset = (
        f"From a moment on, {SHARE:.0%} of the requests are of the new kind. A look every quarter of a window, at the "
        f"rate of the defaults; given up after {MOST_LOOKS} looks. The delay is the median of those that were found."
    )
    lines = [
        "# Drift: false alarms and delay",
        "",
        how,
        "",
        f"## Windows without drift that alarm ({windows} each, every one against a reference of its own)",
        "",
        "The interval is Clopper and Pearson's, 95%. It must not lie above the stated rate.",
        "",
        "| window, rows | stated per look | alarms | rate | interval | held |",
        "| ---: | ---: | ---: | ---: | ---: | --- |",
        *(_alarm_line(size, level, alarms[size]) for level in LEVELS for size in SIZES),
        "",
        rates,
        "",
        *_by_column(alarms),
        "",
        f"## Delay ({repeats} drifts each)",
        "",
        onset,
        "",
        "| drift | window, rows | found | delay, rows | delay, windows | longest, rows | columns that told |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
        *(_delay_line(kind, size, detections) for (kind, size), detections in found.items()),
        "",
        LIMITS.format(draws=draws, of_monitor=DRAWS, level=LEVELS[1], windows=windows),
    ]
    return "\n".join(lines) + "\n"


def _alarm_line(size: int, level: float, windows: Sequence[dict[str, float]]) -> str:
    count = sum(bool(holm(p_values, level)[0]) for p_values in windows)
    interval = binomtest(count, len(windows)).proportion_ci()
    held = "yes" if interval.low <= level else "NO"
    return (
        f"| {size:,} | {level:.2%} | {count} | {count / len(windows):.2%} | "
        f"{interval.low:.2%} to {interval.high:.2%} | {held} |"
    )


def _by_column(alarms: dict[int, list[dict[str, float]]]) -> Iterable[str]:
    names = list(alarms[SIZES[0]][0])
    yield "| window, rows | " + " | ".join(names) + " |"
    yield "| ---: |" + " ---: |" * len(names)
    for size, windows in alarms.items():
        rates = (sum(p_values[name] <= LEVELS[0] for p_values in windows) / len(windows) for name in names)
        yield f"| {size:,} | " + " | ".join(f"{rate:.1%}" for rate in rates) + " |"


def _delay_line(kind: str, size: int, detections: Sequence[Detection]) -> str:
    step = max(1, size // STEPS)
    rows = [each.looks * step for each in detections if each.looks is not None]
    told = sorted({name for each in detections for name in each.columns})
    if not rows:
        return f"| {kind} | {size:,} | 0 of {len(detections)} | | | | |"
    middle = median(rows)
    return (
        f"| {kind} | {size:,} | {len(rows)} of {len(detections)} | {middle:,.0f} | {middle / size:.2f} | "
        f"{max(rows):,} | {', '.join(told)} |"
    )


if __name__ == "__main__":
    os.nice(15)
    main()
