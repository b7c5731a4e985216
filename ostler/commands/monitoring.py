"""The command that says how an adapter is watched."""

import json as json_module
from pathlib import Path
from typing import Annotated, Any

import typer

from ostler import render
from ostler.client import AdminClient, CommandFailed, segment
from ostler.options import Json, Key, Name, Url, show

_OPTIONS_FORM = "say it as NAME=JSON, or NAME=@FILE for a file with the JSON"
_QUALITY, _DRIFT = "Quality", "Drift"


def monitoring(
    name: Name,
    capture: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Share of the requests whose text is kept, redacted; 0 keeps none."),
    ] = None,
    capture_days: Annotated[float | None, typer.Option(min=0, help="How long it is kept, days.")] = None,
    scorer: Annotated[
        list[str] | None, typer.Option(help="What scores captured answers; may be said again, and replaces the list.")
    ] = None,
    scorer_options: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=JSON", help="A scorer's options, or NAME=@FILE; may be said again."),
    ] = None,
    no_scorers: Annotated[bool, typer.Option("--no-scorers", help="Take away the list of scorers.")] = False,
    quality_scorer: Annotated[
        str | None, typer.Option(help="Whose scores decide: feedback, or one of the scorers.", rich_help_panel=_QUALITY)
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            help="What is watched: the scores' level, or how far they are above those of the base or the incumbent.",
            metavar="level|base|incumbent",
            rich_help_panel=_QUALITY,
        ),
    ] = None,
    level: Annotated[
        float | None,
        typer.Option(min=-1, max=1, help="The mean score, or difference, that is expected.", rich_help_panel=_QUALITY),
    ] = None,
    level_from_first: Annotated[
        int | None,
        typer.Option(min=10, help="Take the level from a version's first so many sessions.", rich_help_panel=_QUALITY),
    ] = None,
    drop: Annotated[
        float | None, typer.Option(min=0, max=1, help="The least fall that matters.", rich_help_panel=_QUALITY)
    ] = None,
    alarm_every: Annotated[
        int | None,
        typer.Option(min=2, help="Least mean number of sessions to a false alarm.", rich_help_panel=_QUALITY),
    ] = None,
    alpha: Annotated[
        float | None, typer.Option(help="Error probability of tests and intervals.", rich_help_panel=_QUALITY)
    ] = None,
    drift_every_h: Annotated[
        float | None, typer.Option(min=0, help="Hours between two looks; 0 looks never.", rich_help_panel=_DRIFT)
    ] = None,
    drift_window: Annotated[
        int | None, typer.Option(min=20, help="Requests of a look.", rich_help_panel=_DRIFT)
    ] = None,
    drift_reference: Annotated[
        int | None, typer.Option(min=50, help="Requests of the reference.", rich_help_panel=_DRIFT)
    ] = None,
    drift_false_alarms: Annotated[
        float | None, typer.Option(help="Expected false alarms per week.", rich_help_panel=_DRIFT)
    ] = None,
    golden_every_h: Annotated[
        float | None, typer.Option(min=0, help="Hours between two runs of the golden set; 0 runs it on demand.")
    ] = None,
    json: Json = False,
    url: Url = "",
    api_key: Key = "",
) -> None:
    """Show or change how an adapter is watched; what is not said stays."""
    if (level is not None and level_from_first is not None) or (no_scorers and scorer):
        raise CommandFailed("two of these options contradict each other", 2)
    quality = {
        "scorer": quality_scorer,
        "against": against,
        "level": level,
        "drop": drop,
        "alarm_every": alarm_every,
        "alpha": alpha,
    }
    drift = {
        "every_h": drift_every_h,
        "window_rows": drift_window,
        "reference_rows": drift_reference,
        "false_alarms_per_week": drift_false_alarms,
    }
    from_first = {} if level_from_first is None else {"level": None, "level_observations": level_from_first}
    scorers = [] if no_scorers else _scorers(scorer or [], scorer_options or [])
    change = _said(
        {"capture": capture, "capture_days": capture_days, "golden_every_h": golden_every_h, "scorers": scorers}
    )
    change |= {part: said for part, said in (("quality", _said(quality) | from_first), ("drift", _said(drift))) if said}
    client, path = AdminClient(url, api_key), f"/adapters/{segment(name)}/monitoring"
    answer = client.call("PATCH", path, json=change) if change else client.call("GET", path)
    show(answer, json, _screen)


def _said(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _scorers(names: list[str], options: list[str]) -> list[dict[str, Any]] | None:
    """The list of scorers with their options; None if nothing was said."""
    said = dict(map(_options, options))
    if unknown := [name for name in said if name not in names]:
        raise CommandFailed(f"options for {unknown[0]!r}, but there is no --scorer {unknown[0]}", 2)
    return [{"scorer": name, "options": said.get(name, {})} for name in names] or None


def _options(said: str) -> tuple[str, Any]:
    name, equals, content = said.partition("=")
    if not equals:
        raise CommandFailed(f"{said!r} is no option of a scorer; {_OPTIONS_FORM}", 2)
    try:
        text = Path(content[1:]).read_text() if content.startswith("@") else content
        return name, json_module.loads(text)
    except OSError as error:
        raise CommandFailed(f"{content[1:]} cannot be read: {error.strerror}", 2) from None
    except ValueError as error:
        raise CommandFailed(f"the options of {name!r} are no JSON ({error}); {_OPTIONS_FORM}", 2) from None


def _screen(answer: Any) -> None:
    quality, drift = answer["quality"], answer["drift"]
    rows = [
        ("capture", _capture(answer)),
        ("scorers", tuple(_scorer(each) for each in answer["scorers"]) or "none, beside what clients say (feedback)"),
        ("quality", tuple(_quality(quality))),
        ("drift", _drift(drift)),
        ("golden set", f"every {answer['golden_every_h']:g} h" if answer["golden_every_h"] else "on demand"),
    ]
    render.table(("WHAT", "HOW"), rows, "")


def _capture(answer: Any) -> str:
    if not answer["capture"]:
        return "off: no prompt and no answer is kept"
    return f"{100 * answer['capture']:.4g}% of the requests, redacted, kept for {answer['capture_days']:g} days"


def _scorer(choice: Any) -> str:
    options = json_module.dumps(choice["options"]) if choice["options"] else ""
    return f"{choice['scorer']} {options}".strip()


def _quality(rule: Any) -> list[str]:
    level = (
        f"{rule['level']:g}"
        if rule["level"] is not None
        else f"that of the first {rule['level_observations']} sessions"
    )
    beside = {"base": " beside the base model", "incumbent": " beside the version before"}.get(rule["against"], "")
    return [
        f"decided by {rule['scorer']}{beside}; expected level: {level}; a fall of {rule['drop']:g} matters",
        f"at least {rule['alarm_every']} sessions between false alarms; alpha {rule['alpha']:g}",
    ]


def _drift(rule: Any) -> str:
    if not rule["every_h"]:
        return "off"
    return (
        f"every {rule['every_h']:g} h, the newest {rule['window_rows']} against {rule['reference_rows']} requests; "
        f"{rule['false_alarms_per_week']:g} false alarms a week"
    )
