"""The command that has a teacher answer prompts, so that its answers can be trained on."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

import typer
from rich.progress import BarColumn, Progress, TextColumn

from ostler import render
from ostler.client import CommandFailed
from ostler.options import Json

if TYPE_CHECKING:
    from monitors.teaching.teacher import TeacherChoice
    from tuner.data.labelling import Tally

_LINE_EVERY_S = 10.0


def label(
    prompts: Annotated[Path, typer.Argument(metavar="PROMPTS", help="JSON lines with `messages`; answers in it go.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The rows; what is there already stays.")],
    teacher_url: Annotated[
        str | None,
        typer.Option(help="The teacher's OpenAI-compatible endpoint.", show_default="OSTLER_TEACHER_URL"),
    ] = None,
    model: Annotated[str | None, typer.Option(help="The teacher's model.", show_default="OSTLER_TEACHER_MODEL")] = None,
    system: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Instructions for the teacher alone: no row keeps them.", show_default=False),
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of an answer; a longer one is no label.")] = 1024,
    temperature: Annotated[
        float | None, typer.Option(min=0, max=2, help="Of its answers.", show_default="the endpoint's own")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Requests at once.")] = 4,
    requests_per_minute: Annotated[
        float | None, typer.Option(min=0.01, help="No more than that.", show_default="no limit")
    ] = None,
    price_in: Annotated[float, typer.Option(min=0, help="Of a million tokens of prompts.")] = 0.0,
    price_out: Annotated[float, typer.Option(min=0, help="Of a million tokens of answers.")] = 0.0,
    max_cost: Annotated[
        float | None, typer.Option(min=0, help="What this run may cost, in the prices' currency.", show_default="any")
    ] = None,
    json: Json = False,
) -> None:
    """Have a teacher answer prompts; what has a row in FILE already is not asked again. Exit code 1 if some failed."""
    from monitors.teaching.teacher import TeacherChoice
    from ostler.serve import read_settings  # these are heavier than what other commands need
    from tuner.settings import TunerSettings

    if max_cost is not None and not (price_in or price_out):
        raise CommandFailed("--max-cost needs --price-in and --price-out, by which costs are counted", 2)
    given = {"teacher_url": teacher_url, "teacher_model": model}
    settings = read_settings(TunerSettings, {name: value for name, value in given.items() if value is not None})
    if not (settings.teacher_url and settings.teacher_model):
        raise CommandFailed("say --teacher-url and --model, or set OSTLER_TEACHER_URL and OSTLER_TEACHER_MODEL", 2)
    choice = TeacherChoice(
        url=settings.teacher_url,
        model=settings.teacher_model,
        key=settings.teacher_api_key,
        instructions=_read(system).strip() if system else "",
        max_tokens=max_tokens,
        temperature=temperature,
        concurrency=concurrency,
        requests_per_minute=requests_per_minute,
        price_in=price_in,
        price_out=price_out,
        max_cost=max_cost,
    )
    tally = _run(prompts, out, choice)
    if json:
        render.as_json({"complete": tally.is_complete, **asdict(tally)})
    else:
        _tell(tally, out, choice)
    if not tally.is_complete:
        raise typer.Exit(1)


class _Show(Protocol):
    """Shows how far it is."""

    def __call__(self, tally: "Tally", /) -> None:
        """Show it."""
        ...


def _run(prompts: Path, out: Path, choice: "TeacherChoice") -> "Tally":
    from monitors.teaching.teacher import Teacher
    from tuner.data.labelling import InUse, label_file

    if prompts.resolve() == out.resolve():
        raise CommandFailed("--out must be another file than the prompts", 2)

    async def work(show: _Show) -> "Tally":
        async with Teacher(choice) as teacher:
            return await label_file(prompts, out, teacher, show)

    try:
        with _shown(choice) as show:
            return asyncio.run(work(show))
    except InUse:
        raise CommandFailed(f"another run writes into {out}; wait for it, or take another file") from None
    except OSError as error:
        raise CommandFailed(f"{error.filename} cannot be used: {error.strerror}", 2) from None
    except KeyboardInterrupt:
        render.error(f"stopped; what was answered stands in {out}, and the same command goes on")
        raise typer.Exit(130) from None


@contextlib.contextmanager
def _shown(choice: "TeacherChoice") -> Iterator[_Show]:
    """A bar on a terminal, else a line now and then; on standard error, so that output stays what programs read."""
    if not render.err.is_terminal:
        yield _Lines(choice)
        return
    columns = (BarColumn(bar_width=24), TextColumn("{task.description}"))
    with Progress(*columns, console=render.err, transient=True) as progress:
        task = progress.add_task("waiting for the first answer", total=None)

        def show(tally: "Tally") -> None:
            done = tally.before + tally.labelled + tally.failed
            progress.update(task, completed=done, total=tally.prompts, description=_words(tally, choice))

        yield show


class _Lines:
    """For logs."""

    def __init__(self, choice: "TeacherChoice") -> None:
        self._choice = choice
        self._next = time.monotonic() + _LINE_EVERY_S

    def __call__(self, tally: "Tally") -> None:
        """A line, if the last one is old."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _LINE_EVERY_S
            render.err.print(_words(tally, self._choice), soft_wrap=True)


def _words(tally: "Tally", choice: "TeacherChoice") -> str:
    """Counts, tokens and money so far."""
    done = f"{tally.before + tally.labelled:,} of {tally.prompts:,}"
    failed = f", {tally.failed:,} failed" if tally.failed else ""
    counted = f"; {tally.prompt_tokens:,} tokens in, {tally.completion_tokens:,} out"
    tokens = counted if tally.prompt_tokens else ""
    return f"{done}{failed}{tokens}{_money(tally, choice)}"


def _money(tally: "Tally", choice: "TeacherChoice") -> str:
    if not (choice.price_in or choice.price_out):
        return ""
    limit = "" if choice.max_cost is None else f" of at most {choice.max_cost:g}"
    return f"; cost {tally.cost:.4g}{limit}"


def _tell(tally: "Tally", out: Path, choice: "TeacherChoice") -> None:
    for problem in tally.problems:
        render.err.print(render.words(problem), soft_wrap=True)
    if tally.failed > len(tally.problems):
        render.err.print(f"and {tally.failed - len(tally.problems):,} more")
    if tally.stopped:
        render.error(f"it ended early: {tally.stopped}")
    render.out.print(render.words(f"{out}: {_words(tally, choice)}."), soft_wrap=True)
    if not tally.is_complete:
        render.out.print("The same command goes on with those that are missing.")


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandFailed(f"{file} cannot be read as text ({type(error).__name__})", 2) from None
