"""The story as one page of HTML: what happened when, with plots; it loads nothing and runs nothing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from demo.story.acts import Story
from demo.story.ledger import Answered, Mean, mean_of, served
from demo.story.summary import Summary
from demo.story.watching import Live
from monitors.pages.environment import duration, page_environment
from monitors.pages.scales import Scale

__all__ = ["page_of"]

_WIDTH, _HEIGHT, _BAND = 860.0, 220.0, 60.0
_WINDOW = 25
"""Answers in one point of a plot."""
_MARKS = {
    "shift": "the world shifts",
    "alarm": "alarm",
    "retrain": "training",
    "succeeded": "gate passed",
    "canary": "canary",
    "promoted": "promoted",
    "forced": "bad canary",
    "rolled back": "rolled back",
}
_MARK_ROWS = 3


def page_of(story: Story, summary: Summary) -> str:
    """The page of a story that is over."""
    environment = page_environment(Path(__file__).parent)
    environment.filters["clock"] = _clock
    environment.filters["duration"] = duration
    return environment.get_template("page.html.jinja").render(
        summary=summary,
        lines=summary.lines(),
        quality=quality_plot(story, summary),
        shares=shares_plot(story),
        parts=[] if summary.gate is None else summary.gate["parts"],
        columns=_columns(summary),
        keys=_by_key(story),
        events=[event for event in story.watcher.events if event.kind != "job"],
        served=served(story.ledger.answers),
        width=_WIDTH,
        height=_HEIGHT,
        band=_BAND,
    )


def quality_plot(story: Story, summary: Summary) -> dict[str, Any]:
    """Quality over time with its interval, a line for each version, and marks where something happened."""
    times = _times(story)
    scores = Scale(0, 1, _HEIGHT, 0)
    versions = sorted({each.version for each in story.ledger.answers})
    lines = []
    for version in versions:
        course = _course(story.ledger.answers, version)
        lines.append(
            {
                "version": version,
                "kind": _kind(version, summary),
                "points": [(times.at(mean.at), scores.at(mean.mean)) for mean in course],
                "area": [(times.at(mean.at), scores.at(mean.high)) for mean in course]
                + [(times.at(mean.at), scores.at(mean.low)) for mean in reversed(course)],
            }
        )
    marks = sorted((at[0], _MARKS[name]) for name, at in story.watcher.milestones.items() if name in _MARKS)
    return {
        "lines": lines,
        "marks": [{"x": times.at(at), "text": text, "row": n % _MARK_ROWS} for n, (at, text) in enumerate(marks)],
        "times": [{**tick, "text": _clock(float(tick["text"]))} for tick in times.ticks()],
        "scores": scores.ticks(),
        "before": scores.at(summary.before.mean),
    }


def shares_plot(story: Story) -> list[dict[str, Any]]:
    """Which version had which share of the sessions, from when to when."""
    times, shares = _times(story), Scale(0, 1, 0, _BAND)
    lives, end = story.watcher.lives, story.watcher.now()
    boxes: list[dict[str, Any]] = []
    for (at, live), until in zip(lives, [at for at, _ in lives[1:]] + [end], strict=True):
        begins = max(0.0, at)
        if until <= begins:
            continue
        x, width = times.at(begins), round(times.at(until) - times.at(begins), 2)
        boxes += [{**box, "x": x, "width": width} for box in _boxes(live, shares)]
    return boxes


def _boxes(live: Live, shares: Scale) -> list[dict[str, Any]]:
    split = shares.at(live.weight if live.canary is not None else 0.0)
    boxes = [{"version": live.stable, "y": split, "height": round(shares.end - split, 2), "is_canary": False}]
    if live.canary is not None:
        boxes.append({"version": live.canary, "y": 0.0, "height": split, "is_canary": True})
    return boxes


def _course(answers: Sequence[Answered], version: int) -> list[Mean]:
    """Means of a version's answers that follow one another; of few answers one mean."""
    own = [each for each in answers if each.version == version]
    parts = [own[start : start + _WINDOW] for start in range(0, len(own), _WINDOW)]
    if len(parts) > 1 and len(parts[-1]) < _WINDOW / 2:
        parts[-2:] = [parts[-2] + parts[-1]]
    return [mean_of(part) for part in parts]


def _times(story: Story) -> Scale:
    return Scale(0, max(1.0, story.watcher.now()), 0, _WIDTH)


def _kind(version: int, summary: Summary) -> str:
    old, new, bad = summary.versions
    return {old: "muted", new: "good", bad: "bad"}.get(version, "accent")


def _columns(summary: Summary) -> list[dict[str, Any]]:
    """The drift report's columns, those that drifted first, each with what it was before the shift."""
    if summary.drift is None:
        return []
    before = {each["name"]: each for each in (summary.drift_before or {}).get("columns", ())}
    columns = sorted(summary.drift["columns"], key=lambda each: -each["statistic"] / each["threshold"])
    return [{**each, "before": before.get(each["name"])} for each in columns]


def _by_key(story: Story) -> list[dict[str, Any]]:
    """Requests by channel, with the mean quality of each channel's answers."""
    keys = sorted({each.key for each in story.ledger.answers})
    groups = {key: [each for each in story.ledger.answers if each.key == key] for key in keys}
    return [{"key": key, "n": len(answers), "quality": mean_of(answers).mean} for key, answers in groups.items()]


def _clock(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    return f"{minutes}:{rest:02d}"
