"""A dry run of a policy, as people read it."""

from collections.abc import Iterable
from typing import Any

from rich.text import Text

from ostler import render

ENDED = {
    "promoted": "was promoted",
    "rolled_back": "was taken back by the loop",
    "withdrawn": "was taken away by a person",
    "replaced": "was replaced by another one",
    "serves": "serves its share still",
}
_HEADINGS = ("WHEN", "WHAT", "WHY")


def replay(answer: Any) -> None:
    """What a policy would have done: with the stable versions, and with each canary that there was."""
    since, until = _when(answer["since"]), _when(answer["until"])
    _say(f"{answer['adapter']} under this policy, from {since} to {until}:", style="bold")
    last = answer["observed_until"] and f" (the last one of {_when(answer['observed_until'])})"
    _say(
        f"{answer['observations']} scored sessions{last or ''}, {answer['labels']} labels and {answer['requests']} "
        "requests of canaries were looked at."
    )
    render.table(_HEADINGS, sorted(_watched(answer)), "No alarm of lost quality, and so no training.")
    for canary in answer["canaries"]:
        _canary(canary)
    for note in answer["notes"]:
        _say(f"Note: {note}")


def _watched(answer: Any) -> Iterable[tuple[str, str, str]]:
    for alarm in answer["alarms"]:
        said = f"version {alarm['version']} scores {_score(alarm['recent'])}, {_score(alarm['level'])} is expected"
        yield _when(alarm["at"]), "alarm", said
    yield from (_row(moment) for moment in answer["decisions"])


def _canary(canary: Any) -> None:
    name = f"Version {canary['version']} beside version {canary['incumbent']}"
    _say(f"{name}, from {_when(canary['since'])}:", style="bold")
    _say(f"It {ENDED[canary['ended']]} ({_when(canary['until'])}).")
    rows = [_row(moment) for moment in canary["moments"]]
    if canary["waits"]:
        rows.append(_row(canary["waits"]))
    render.table(_HEADINGS, rows, "Nothing would have been decided about it.")


def _row(moment: Any) -> tuple[str, str, str]:
    waits = moment["act"] == "wait"
    return _when(moment["at"]), f"waits: {moment['outcome']}" if waits else moment["act"], moment["reason"]


def _score(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.3f}"


def _when(moment: str) -> str:
    """To the minute."""
    return render.when(moment)[:16]


def _say(line: str, style: str = "") -> None:
    render.out.print(Text.assemble((render.words(line).plain, style)))
