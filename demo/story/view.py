"""The story while it goes on: a screen that moves on a terminal, lines elsewhere."""

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from demo.story.acts import Story
from demo.story.ledger import Mean, served
from demo.story.watching import Event, Watcher

__all__ = ["Lines", "Screen", "view"]

_WINDOW = 30
"""Answers in one bar of the course of quality."""
_RECENT = 60
_BLOCKS = " ▁▂▃▄▅▆▇█"
_LEAST_EVENTS = 6
_AROUND_EVENTS = 18
_GOOD, _FAIR = 0.9, 0.75
_STYLES = {"story": "bold cyan", "saw": "yellow", "did": "bold green", "job": "dim", "person": "magenta", "bad": "red"}
_LINE_EVERY_S = 10.0
_BAR = 20


def view(console: Console) -> "Screen | Lines":
    """A screen where there is a terminal."""
    return Screen(console) if console.is_terminal else Lines(console)


class Screen:
    """On a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False)

    def __enter__(self) -> "Screen":
        """Begin to draw."""
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Take it away, for the summary follows; where the story broke off, the last picture stays."""
        self._live.transient = kind is None
        self._live.stop()

    def show(self, story: Story) -> None:
        """Draw it as it stands now."""
        self._live.update(self._draw(story), refresh=True)

    def _draw(self, story: Story) -> RenderableType:
        room = max(_LEAST_EVENTS, self._console.height - _AROUND_EVENTS)
        width = max(20, self._console.width - 4)
        return Group(
            Panel(_quality(story, width), title=Text(story.act, style="bold cyan"), title_align="left"),
            Panel(_live(story), title="live", title_align="left"),
            Panel(_events(story.watcher.events, room, width), title="events", title_align="left"),
        )


class Lines:
    """In a log: each event once, and the figures now and then."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._told = 0
        self._last = -_LINE_EVERY_S

    def __enter__(self) -> "Lines":
        """Nothing to begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to end."""

    def show(self, story: Story) -> None:
        """Say what is new."""
        events = story.watcher.events
        for event in events[self._told :]:
            self._console.print(_line(event), soft_wrap=True)
        self._told = len(events)
        now = story.watcher.now()
        if now - self._last >= _LINE_EVERY_S:
            self._last = now
            self._console.print(Text(f"{_clock(now)} {_figures(story)}"), soft_wrap=True)


def _quality(story: Story, width: int) -> RenderableType:
    """The course of quality as bars, and what is known of it now."""
    course = story.ledger.course(_WINDOW)[-width:]
    bars = Text()
    for mean in course:
        bars.append(_BLOCKS[round(mean.mean * (len(_BLOCKS) - 1))], style=_colour(mean.mean))
    return Group(bars or Text("no answers yet", style="dim"), _now(story))


def _now(story: Story) -> Table:
    recent, monitored = story.ledger.recent(_RECENT), story.watcher.monitored
    table = Table.grid(padding=(0, 2))
    table.add_row("quality now", Text.assemble(_interval(recent), "  ", (_bounds(recent), "dim")))
    filled = round(min(1.0, monitored.ratio) * _BAR)
    bar = ("█" * filled + "░" * (_BAR - filled), "red" if monitored.ratio >= 1 else "yellow")
    table.add_row("evidence of a fall", Text.assemble(bar, "  ", (f"{monitored.ratio:.0%}", "dim")))
    level = "gathers what to expect" if monitored.level is None else f"expects {monitored.level:.3f}"
    if monitored.mean is not None:
        level += f"; so far {monitored.mean:.3f} ({monitored.low:.3f} to {monitored.high:.3f})"
    table.add_row("the monitor", level)
    return table


def _live(story: Story) -> RenderableType:
    watcher, ledger = story.watcher, story.ledger
    failed = len(ledger.failures)
    counts = ", ".join(f"version {version}: {count}" for version, count in served(ledger.answers).items())
    table = Table.grid(padding=(0, 2))
    table.add_row("serves", _serves(watcher))
    table.add_row("job", _job(watcher))
    table.add_row("answers", counts or "-")
    table.add_row("requests", Text(f"{ledger.requests}, {failed} failed", style="red" if failed else ""))
    return table


def _serves(watcher: Watcher) -> Text:
    live = watcher.live
    words = Text(f"version {live.stable}", style="bold")
    if live.canary is not None:
        kind = "holdback" if live.holdback else "canary"
        words.append(f"   {kind}: version {live.canary} with {live.weight:.0%}", style="magenta")
    return words


def _job(watcher: Watcher) -> str:
    if watcher.job is None:
        return "-"
    step, total = watcher.step
    stage = watcher.job["ostler"]["stage"]
    return f"{stage} {step}/{total}" if stage == "training" and total else f"{stage} ({watcher.job['status']})"


def _events(events: Sequence[Event], room: int, width: int) -> Text:
    lines = []
    for event in events[-room:]:
        line = _line(event)
        line.truncate(width, overflow="ellipsis")
        lines.append(line)
    return Text("\n").join(lines)


def _line(event: Event) -> Text:
    words = " ".join(event.words.split()) if not event.words.startswith(" ") else f"  {event.words.strip()}"
    shown = "".join(letter if letter.isprintable() else "\ufffd" for letter in words)
    return Text.assemble((_clock(event.at), "dim"), " ", (shown, _STYLES[event.kind]))


def _figures(story: Story) -> str:
    recent = story.ledger.recent(_RECENT)
    quality = "no answers yet" if recent is None else f"quality {_bounds(recent)}"
    return (
        f"{quality}; evidence of a fall {story.watcher.monitored.ratio:.0%}; {_serves(story.watcher).plain}; "
        f"job: {_job(story.watcher)}; {story.ledger.requests} requests, {len(story.ledger.failures)} failed"
    )


def _interval(mean: Mean | None) -> Text:
    """A line from 0 to 1 with the interval on it."""
    if mean is None:
        return Text("░" * _BAR, style="dim")
    low, high, middle = (round(value * (_BAR - 1)) for value in (mean.low, mean.high, mean.mean))
    cells = ["●" if at == middle else "━" if low <= at <= high else "·" for at in range(_BAR)]
    return Text("".join(cells), style=_colour(mean.mean))


def _bounds(mean: Mean | None) -> str:
    return "" if mean is None else f"{mean.mean:.3f} ({mean.low:.3f} to {mean.high:.3f}), last {mean.n}"


def _colour(value: float) -> str:
    return "green" if value >= _GOOD else "yellow" if value >= _FAIR else "red"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    return f"{minutes:2d}:{rest:02d}"
