"""RESULTS.md, from what the pieces have found: each leaves a file of its own, so that one can be measured anew.

`python -m benchmarks.speed.report` writes the page again from these files and the notes, without measuring.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.speed.rounds import Figure, Values

HOME = Path(__file__).parents[1]
"""The folder of the page that is told; another one has a page of its own."""
_PAGE, _FOUND, _NOTES = Path("RESULTS.md"), Path("results", "speed"), "notes.md"
"""Beside what was found: what a person says of goals that are not met."""
_HEAD = """# Speed: Ostler beside what people would use instead

`make bench` writes this page, and `make bench PIECES="requests swap"` parts of it anew; `docs/benchmarks.md` says what
is measured, and how. Each system ran alone on one core, with the load (wrk, or a client that notes the time of each
event) and the upstream on the others; they took turns in each round. A figure is the median of the rounds, with the
range in brackets. Seconds of a machine that others share mean little by themselves; the ratios were taken within one
round, and then their median.
"""


@dataclass(frozen=True, slots=True)
class Goal:
    """What was to be shown, and what was found.

    Attributes:
        is_met: whether the median is on the right side.
    """

    measure: str
    goal: str
    found: str
    is_met: bool


def at_least(measure: str, goal: float, found: Figure, digits: int = 2) -> Goal:
    """A goal that a median meets which is not below it."""
    return Goal(measure, f"at least {goal:g}", found.shown(digits), found.median >= goal)


def at_most(measure: str, goal: float, found: Figure, digits: int = 2) -> Goal:
    """A goal that a median meets which is not above it."""
    return Goal(measure, f"at most {goal:g}", found.shown(digits), found.median <= goal)


def none(measure: str, found: Figure) -> Goal:
    """A goal that only rounds meet in which there was none of it."""
    most = max(found.values)
    return Goal(measure, "none", f"{most:,.0f}", most == 0)


@dataclass(frozen=True, slots=True)
class Found:
    """What one piece has found.

    Attributes:
        name: of its file; the page has them by the number that it begins with.
        title: of its section.
        text: what was done, and what follows from it.
        columns, rows: its table.
        values: what was found in each round, from which the table was made.
        rounds, seconds: how often, and for how long, each thing was measured; 0 if that was not kept.
        machine, versions: where, and with what.
    """

    name: str
    title: str
    text: str
    columns: list[str]
    rows: list[list[str]]
    goals: list[Goal] = field(default_factory=list)
    at: str = field(default_factory=lambda: f"{datetime.now(UTC):%Y-%m-%d}")
    values: Values = field(default_factory=dict)
    rounds: int = 0
    seconds: float = 0.0
    machine: str = ""
    versions: dict[str, str] = field(default_factory=dict)


def keep(found: Found, folder: Path = HOME) -> Path:
    """Keep what a piece has found, and write the folder's page anew; where that is."""
    (folder / _FOUND).mkdir(parents=True, exist_ok=True)
    (folder / _FOUND / f"{found.name}.json").write_text(json.dumps(asdict(found), indent=1) + "\n")
    return write(folder)


def write(folder: Path = HOME) -> Path:
    """Write a folder's page from what was kept there; where it is."""
    (folder / _PAGE).write_text(kept(folder))
    return folder / _PAGE


def kept(folder: Path = HOME) -> str:
    """The page that follows from what was kept in a folder."""
    notes = folder / _FOUND / _NOTES
    found = [_read(path) for path in sorted((folder / _FOUND).glob("*.json"), key=_place)]
    return page(found, notes.read_text() if notes.exists() else "")


def _place(path: Path) -> tuple[int, str]:
    number = path.stem.partition("-")[0]
    return int(number) if number.isdigit() else sys.maxsize, path.stem


def _read(path: Path) -> Found:
    content = json.loads(path.read_text())
    return Found(**{**content, "goals": [Goal(**goal) for goal in content["goals"]]})


def page(found: list[Found], notes: str = "") -> str:
    """The whole page; the notes stand below the goals."""
    goals = [goal for each in found for goal in each.goals]
    rows = [[goal.measure, goal.goal, goal.found, "yes" if goal.is_met else "**no**"] for goal in goals]
    everywhere = _common(found)
    parts = [_HEAD, *([f"{_told(everywhere)}.\n"] if everywhere else [])]
    parts += ["## What it must show\n", table(["measure", "goal", "found", "met"], rows)]
    parts += [notes] if notes else []
    for each in found:
        text = f"{each.text} {_how(each, everywhere)}\n"
        parts += [f"## {each.title}\n", text, table(each.columns, each.rows)]
    return "\n".join(parts)


def _around(found: Found) -> dict[str, str]:
    """The machine and the versions, by name; the machine's is empty, as it says itself what it is."""
    return {"": found.machine, **found.versions} if found.machine else {}


def _common(found: Iterable[Found]) -> dict[str, str]:
    """The machine and the versions that are the same in all pieces that say them."""
    said: defaultdict[str, set[str]] = defaultdict(set)
    for each in found:
        for name, what in _around(each).items():
            said[name].add(what)
    return {name: whats.pop() for name, whats in said.items() if len(whats) == 1}


def _how(found: Found, everywhere: Mapping[str, str]) -> str:
    """When a piece was measured and how often, and what was not as in the other pieces."""
    if not found.rounds:
        return f"Measured on {found.at}; rounds, machine and versions were not kept then."
    own = {name: what for name, what in _around(found).items() if name not in everywhere}
    often = f"{found.rounds} round{'s' if found.rounds > 1 else ''} of {found.seconds:g} s"
    return f"Measured on {found.at}, {often}." + (f" Here: {_told(own)}." if own else "")


def _told(around: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {what}".strip() for name, what in around.items())


def table(columns: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown; all columns but the first are numbers."""
    ruler = ["---", *("---:" for _ in columns[1:])]
    return "\n".join("| " + " | ".join(row) + " |" for row in (columns, ruler, *rows)) + "\n"


if __name__ == "__main__":
    print(write())
