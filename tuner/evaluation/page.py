"""The gate's report as a page for people: one file of HTML that loads nothing from anywhere and runs nothing.

Everything that is not ours in it, such as labels, goes through the template's escaping.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from monitors.pages.environment import duration, page_environment
from registry.artifacts import ArtifactStore
from tuner.evaluation import drawing
from tuner.evaluation.parts import WORDS

FILE = "report.html"
"""The name of the one file in a page's artifact."""
_PART_WIDTH, _WIDTH, _WIDE, _HEIGHT, _ROW = 300.0, 400.0, 640.0, 170.0, 26.0
_SET_TITLES = {"holdout": "Holdout", "retention": "General skills", "refusals": "Refusals"}
_TEMPLATE = "page.html.jinja"


def store_page(store: ArtifactStore, report: dict[str, Any]) -> str:
    """Draw the page and keep it; its artifact's digest.

    Raises:
        StoreFailure
    """
    return store.put_files({FILE: page_of(report).encode()}).digest


def page_of(report: dict[str, Any]) -> str:
    """The page of a report."""
    plots = report["plots"]
    return (
        _environment()
        .get_template(_TEMPLATE)
        .render(
            report=report,
            set_titles=_SET_TITLES,
            intervals=[drawing.interval(part, _PART_WIDTH) for part in report["parts"]],
            histogram=drawing.histogram(plots["differences"], _WIDTH, _HEIGHT),
            dumbbells=drawing.dumbbells(plots["labels"], _WIDE, _ROW),
            curves=drawing.curves(plots["loss"], _WIDTH, _HEIGHT),
            width=_WIDTH,
            wide=_WIDE,
            height=_HEIGHT,
            part_width=_PART_WIDTH,
        )
    )


def _environment() -> jinja2.Environment:
    environment = page_environment(Path(__file__).parent)
    environment.filters |= {
        "title_of": lambda name: WORDS[name].title,
        "figure": _figure,
        "signed": _signed,
        "short": lambda value, unit: f"{value:g}×" if unit == "times" else f"{value:g}",  # noqa: RUF001
        "trim_zeros": lambda value: f"{value:g}",
        "setting": _setting,
        "duration": duration,
        "sentence": lambda text: (
            text[:1].upper() + text[1:] if text.startswith(("it ", "no ", "the ", "nothing ")) else text
        ),
        "listed": _listed,
    }
    return environment


def _figure(value: float | None, unit: str) -> str:
    """A mean of a part: milliseconds in latency."""
    if value is None:
        return "–"  # noqa: RUF001 - a dash where a figure would be
    return f"{1000 * value:.1f} ms" if unit == "times" else f"{value:.3f}"


def _signed(value: float | None, unit: str) -> str:
    """A difference of a part: a factor in latency."""
    if value is None:
        return "–"  # noqa: RUF001
    return f"{value:.2f}×" if unit == "times" else f"{value:+.3f}"  # noqa: RUF001


def _setting(value: str | float | None) -> str:
    """A value of the gate's order; None is a set that is not the job's own."""
    if value is None:
        return "the tuner's own set"
    return value if isinstance(value, str) else f"{value:g}"


def _listed(names: Sequence[str]) -> str:
    """Names as a sentence has them."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
