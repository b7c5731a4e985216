"""`ostler demo`: the closed loop as a story, with real parts on this machine."""

import asyncio
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from ostler import render
from ostler.client import CommandFailed, home
from tuner.libraries import missing_libraries

_NEEDS = ("vllm", "evidently", "openai", "jinja2", "safetensors")
_REPORT = "story.html"


def demo(
    minutes: Annotated[float, typer.Option(min=1, help="When the story has failed, if it is not over.")] = 10.0,
    fast: Annotated[bool, typer.Option("--fast", help="Less traffic.")] = False,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the page goes.", show_default="the demo's own folder")
    ] = None,
) -> None:
    """Tell the closed loop as a story: quality falls, Ostler retrains, proves and swaps, and takes a bad version back.

    It starts an `ostler up` of its own, in a folder beside your state and on free ports, and ends it. No GPU is needed.
    """
    if missing := [name for name in _NEEDS if find_spec(name) is None] + missing_libraries():
        raise CommandFailed(f"{', '.join(missing)} not installed; the demo needs: pip install 'ostler[cpu,demo]'")
    folder = home() / "demo"
    if report is not None:
        _require_writable(report)
    _tell(folder, report or folder / _REPORT, seconds=60 * minutes, fast=fast)


def _require_writable(report: Path) -> None:
    """Before the story, for afterwards it would be in vain. A file that is there stays as it is, and no other comes."""
    is_new = not report.exists()
    try:
        with report.open("a"):
            pass
        if is_new:
            report.unlink()
    except OSError as error:
        raise CommandFailed(f"the report cannot be written to {report}: {error.strerror}", 2) from None


def _tell(folder: Path, page: Path, *, seconds: float, fast: bool) -> None:
    from dataclasses import replace

    from demo.story.acts import tell
    from demo.story.errors import StoryFailed
    from demo.story.page import page_of
    from demo.story.plan import Plan
    from demo.story.summary import MOST_LOST
    from demo.story.view import view
    from ostler.stage import stage

    began = time.monotonic()
    render.out.print(f"Starting `ostler up` for the story; what it says is in {folder / 'up.log'}", soft_wrap=True)
    try:
        with stage(folder) as ready:
            took = time.monotonic() - began
            render.out.print(f"It serves at {ready.url} after {took:.0f} s.", soft_wrap=True)
            plan = replace(Plan.fast() if fast else Plan(), longest_s=max(1.0, seconds - took))
            try:
                with view(render.out) as onlooker:
                    story, summary = asyncio.run(tell(ready.url, ready.key, plan, onlooker))
            finally:
                render.out.print("Ending its `ostler up`.", soft_wrap=True)
    except StoryFailed as failed:
        raise CommandFailed(f"the story did not go as it should: {failed}; its logs are in {folder}") from None
    render.table(("WHAT CAME OF IT", ""), summary.lines(), "")
    try:
        page.write_text(page_of(story, summary), encoding="utf-8")
    except OSError as error:
        raise CommandFailed(f"the page cannot be written to {page}: {error.strerror}") from None
    render.out.print(f"The page: {page}", soft_wrap=True)
    if summary.failed:
        raise CommandFailed(f"{summary.failed} requests failed; the first one: {story.ledger.failures[0].how}")
    if not summary.came_back:
        raise CommandFailed(f"quality ended {summary.lost:.3f} lower than before the shift; {MOST_LOST} is allowed")
