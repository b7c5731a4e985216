"""RESULTS.md, from what the pieces have found: each leaves a file of its own, so that one can be measured anew."""

import json
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks.speed.installing import LITELLM_VERSION, PORTKEY_VERSION
from benchmarks.speed.processes import ALLOWED
from benchmarks.speed.rounds import Figure

RESULTS = Path(__file__).parents[1] / "RESULTS.md"
_FOUND = Path(__file__).parents[1] / "results" / "speed"
_NOTES = "notes.md"
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
    """

    name: str
    title: str
    text: str
    columns: list[str]
    rows: list[list[str]]
    goals: list[Goal] = field(default_factory=list)
    at: str = field(default_factory=lambda: f"{datetime.now(UTC):%Y-%m-%d}")


def keep(found: Found) -> None:
    """Keep what a piece has found, and write the page anew."""
    _FOUND.mkdir(parents=True, exist_ok=True)
    (_FOUND / f"{found.name}.json").write_text(json.dumps(asdict(found), indent=1) + "\n")
    notes = (_FOUND / _NOTES).read_text() if (_FOUND / _NOTES).exists() else ""
    RESULTS.write_text(page([_read(path) for path in sorted(_FOUND.glob("*.json"), key=_place)], notes))


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
    parts = [_HEAD, _machine(), "## What it must show\n", table(["measure", "goal", "found", "met"], rows)]
    parts += [notes] if notes else []
    for each in found:
        parts += [f"## {each.title}\n", f"{each.text} Measured on {each.at}.\n", table(each.columns, each.rows)]
    return "\n".join(parts)


def table(columns: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown; all columns but the first are numbers."""
    ruler = ["---", *("---:" for _ in columns[1:])]
    return "\n".join("| " + " | ".join(row) + " |" for row in (columns, ruler, *rows)) + "\n"


def _machine() -> str:
    versions = {
        "Python": platform.python_version(),
        **{name: version(name) for name in ("ostler", "uvicorn", "uvloop", "httptools", "aiohttp", "litestar")},
        "nginx": _said("nginx", "-v").rpartition("/")[2].split(" ")[0],
        "LiteLLM": LITELLM_VERSION,
        "Portkey": PORTKEY_VERSION,
        "Node": _said("node", "--version").removeprefix("v"),
    }
    shown = ", ".join(f"{name} {number}" for name, number in versions.items())
    kernel = platform.release().partition("-")[0]
    return f"{_processor()}, {len(ALLOWED)} cores, {platform.system()} {kernel}. {shown}.\n"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(": ")[2]
    return platform.machine()


def _said(*argv: str) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return (done.stdout + done.stderr).strip()
