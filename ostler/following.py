"""Shows a tuning job while it goes on: a live bar on a terminal, lines in a log, JSON for programs."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from ostler import render, tuning
from ostler.client import AdminClient, CommandFailed

_POLL_S = 1.0
_LONGEST_AWAY_S = 60.0
_STEP_LINE_EVERY_S = 10.0
_UNREACHABLE, _SERVER_ERROR = 3, 500
_LEVELS = {"warn": "yellow", "error": "red"}
T = TypeVar("T")


class View(Protocol):
    """How a job is shown."""

    def tell(self, event: Any) -> None:
        """Show something that it said."""
        ...

    def show(self, job: Any) -> None:
        """Show how it stands now."""
        ...

    def note(self, words: str) -> None:
        """Say something beside the job."""
        ...


class Figures:
    """The newest numbers of a job's training and of its gate's answers, out of its events."""

    def __init__(self) -> None:
        self.step = 0
        self.total: int | None = None
        self.remaining_s: float | None = None
        self.answers = 0
        self.total_answers: int | None = None
        self._parts: dict[str, str] = {}

    def take(self, data: Any) -> None:
        """Take the numbers of one event; others stay as they were."""
        self.step = int(data.get("step") or self.step)
        if data.get("total_answers"):
            self.answers, self.total_answers = int(data["answers"]), int(data["total_answers"])
        if data.get("total_steps"):
            self.total, self.remaining_s = int(data["total_steps"]), data.get("remaining_s")
        for name, words in _FIGURES.items():
            if data.get(name) is not None:
                self._parts[name] = words(data[name])

    @property
    def line(self) -> str:
        """Them in one line."""
        return ", ".join(self._parts[name] for name in _FIGURES if name in self._parts)

    @property
    def remaining(self) -> str:
        """How long it still takes, as a clock shows it."""
        return "" if self.remaining_s is None else f"{span(self.remaining_s)} left"


_FIGURES: dict[str, Callable[[float], str]] = {
    "train_loss": lambda value: f"loss {value:.4f}",
    "full_valid_loss": lambda value: f"validation {value:.4f}",
    "learning_rate": lambda value: f"rate {value:.2e}",
    "gradient_norm": lambda value: f"gradient {value:.2f}",
    "tokens_per_second": lambda value: f"{value:,.0f} tokens/s",
    "memory_bytes": lambda value: render.size(int(value)),
}


def span(seconds: float) -> str:
    """A time as a clock shows it."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Screen:
    """On a terminal: events as lines, and below them a bar that moves."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._figures = Figures()
        columns = (TextColumn("{task.description:<11}"), BarColumn(bar_width=32), TextColumn("{task.fields[told]}"))
        self._progress = Progress(*columns, console=console)
        self._task = self._progress.add_task("", total=None, told="")
        self._live = Live(get_renderable=self._draw, console=console, transient=True, refresh_per_second=4)

    def __enter__(self) -> "Screen":
        """Begin to draw."""
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take the bar away; the lines stay."""
        self._live.stop()

    def _draw(self) -> Group:
        return Group(self._progress, Text(self._figures.line, style="dim"))

    def tell(self, event: Any) -> None:
        """A line; numbers move the bar instead."""
        if event["type"] == "metrics":
            self._figures.take(event["data"] or {})
        else:
            self._console.print(_line(event), soft_wrap=True)

    def show(self, job: Any) -> None:
        """Move the bar."""
        state, figures = job["ostler"]["state"], self._figures
        stage = job["ostler"]["stage"] if state in ("validating_files", "running") else state
        completed, total, told = 0, None, ""
        if stage == "training" and figures.total:
            completed, total = figures.step, figures.total
            told = f"{completed}/{total}  {figures.remaining}"
        elif stage == "evaluating" and figures.total_answers:
            completed, total = figures.answers, figures.total_answers
            told = f"{completed}/{total} answers"
        self._progress.update(self._task, description=stage, completed=completed, total=total, told=told)

    def note(self, words: str) -> None:
        """A line."""
        self._console.print(words, style="dim", soft_wrap=True)


class Lines:
    """In a log: events as lines, and a line of numbers now and then."""

    def __init__(self) -> None:
        self._figures = Figures()
        self._shown_at, self._shown_step, self._shown_answers = 0.0, 0, 0

    def tell(self, event: Any) -> None:
        """A line; the numbers of every step would be too many."""
        data = event["data"] or {}
        if event["type"] != "metrics":
            render.out.print(_line(event), soft_wrap=True)
            return
        self._figures.take(data)
        if "full_valid_loss" in data:
            self._print()

    def show(self, job: Any) -> None:
        """The newest numbers, if the last ones are old or the job has ended."""
        is_due = time.monotonic() - self._shown_at >= _STEP_LINE_EVERY_S or job["status"] in tuning.ENDED
        if is_due and self._figures.step > self._shown_step:
            self._print()
        elif is_due and self._figures.answers != self._shown_answers:
            self._shown_at, self._shown_answers = time.monotonic(), self._figures.answers
            render.out.print(f"{self._figures.answers} of {self._figures.total_answers} answers")

    def _print(self) -> None:
        figures = self._figures
        self._shown_at, self._shown_step = time.monotonic(), figures.step
        of = f"/{figures.total}" if figures.total else ""
        left = f", {figures.remaining}" if figures.remaining else ""
        render.out.print(f"step {figures.step}{of}: {figures.line}{left}", soft_wrap=True)

    def note(self, words: str) -> None:
        """A line, apart from the job's."""
        render.err.print(words, soft_wrap=True)


class JsonLines:
    """For programs: each event as it came, a line of JSON each."""

    def tell(self, event: Any) -> None:
        """The line."""
        render.plain(json.dumps(event))

    def show(self, job: Any) -> None:
        """Nothing: the job itself is the last line."""

    def note(self, words: str) -> None:
        """A line, apart from the job's."""
        render.err.print(words, soft_wrap=True)


def follow(client: AdminClient, job_id: str, *, json: bool) -> Any:
    """Show a job until it has ended; the job then. A paused one is waited for, and so is a gateway that restarts.

    Raises:
        CommandFailed: the gateway refuses, or has been away for a minute.
    """
    seen: set[str] = set()
    with _view(json) as view:
        while True:
            # The job first: whatever it said before it ended is there once it has ended.
            job = _patiently(lambda: tuning.job(client, job_id), view)
            for event in _patiently(lambda: tuning.new_events(client, job_id, seen), view):
                seen.add(event["id"])
                view.tell(event)
            view.show(job)
            if job["status"] in tuning.ENDED:
                return job
            time.sleep(_POLL_S)


@contextlib.contextmanager
def _view(json: bool) -> Iterator[View]:
    if json:
        yield JsonLines()
    elif render.out.is_terminal:
        with Screen(render.out) as screen:
            yield screen
    else:
        yield Lines()


def _patiently(ask: Callable[[], T], view: View) -> T:
    """The answer, though the gateway may be away for a while."""
    give_up_at = time.monotonic() + _LONGEST_AWAY_S
    told = False
    while True:
        try:
            return ask()
        except CommandFailed as failed:
            is_away = failed.exit_code == _UNREACHABLE or (failed.status or 0) >= _SERVER_ERROR
            if not is_away or time.monotonic() >= give_up_at:
                raise
        if not told:
            view.note("the gateway does not answer; the job goes on, and this waits for it")
            told = True
        time.sleep(_POLL_S)


def _line(event: Any) -> Text:
    moment = time.strftime("%H:%M:%S", time.localtime(event["created_at"]))
    return Text.assemble((moment, "dim"), " ", (render.words(event["message"]).plain, _LEVELS.get(event["level"], "")))
