"""The command that shows how good an adapter's versions are."""

from typing import Any

from rich.text import Text

from ostler import render
from ostler.client import AdminClient, segment
from ostler.options import Json, Key, Name, Url, show

_BAR = 20


def quality(name: Name, json: Json = False, url: Url = "", api_key: Key = "") -> None:
    """Show how good an adapter's versions are, beside the base model and beside each other."""
    show(AdminClient(url, api_key).call("GET", f"/adapters/{segment(name)}/quality"), json, _screen)


def _screen(answer: Any) -> None:
    if not answer["versions"]:
        render.out.print("No version is deployed, and none was scored yet.")
    for version in answer["versions"]:
        serves = version["serves"] or "not deployed"
        heading = render.words(f"({serves}, {version['engine_name']}): {_words(version, answer['rule'])}")
        render.out.print(Text.assemble((f"version {version['version']}", "bold"), " ", heading))
        rows = [row for scorer in version["scorers"] for row in _rows(scorer)]
        headings = ("SCORER", "OF WHAT", "SESSIONS", "MEAN", "INTERVAL", "NEWEST", "VERDICT")
        render.table(headings, rows, "Nothing was scored yet.")


def _words(version: Any, rule: Any) -> str:
    """The verdict, and what it rests on."""
    scorer = next((each for each in version["scorers"] if each["scorer"] == rule["scorer"]), None)
    watch = scorer["watch"] if scorer else None
    if watch is None:
        return f"{version['verdict']}; decided by {rule['scorer']}"
    if watch["level"] is None:
        told = f"the expected level is being taken from the first sessions, {watch['gathered']} of {watch['to_gather']}"
    else:
        level = f"{watch['level']:.3f}" if watch["against"] == "level" else f"{watch['level']:+.3f}"
        matters = f"expected {level}, a fall of {watch['drop']:g} matters"
        told = f"{matters}, alarm {_bar(watch['cusum_ratio'])}"
    beside = {"base": " beside the base model", "incumbent": " beside the version before"}.get(watch["against"], "")
    return f"{version['verdict']} by {rule['scorer']}{beside}; {told}"


def _bar(ratio: float) -> str:
    filled = round(_BAR * min(ratio, 1.0))
    return f"[{'#' * filled}{'.' * (_BAR - filled)}] {ratio:.2f} of 1"


def _rows(scorer: Any) -> list[tuple[object, ...]]:
    own = (scorer["scorer"], "its answers", *_figures(scorer, ""), _verdict(scorer, scorer["verdict"]))
    return [own] + [
        ("", f"against {each['against']}", *_figures(each, "+"), _verdict(each, each["verdict"]))
        for each in scorer["differences"]
    ]


def _figures(found: Any, sign: str) -> tuple[str | None, ...]:
    """Sessions, mean, interval, and the newest mean."""
    if not found["observations"]:
        return "0", None, None, None
    mean, low, high, recent = (format(found[name], f"{sign}.3f") for name in ("mean", "low", "high", "recent"))
    return str(found["observations"]), mean, f"{low} to {high}", recent


def _verdict(found: Any, verdict: str) -> tuple[str, ...]:
    anew = found["began_anew"]
    return (verdict, f"anew since {render.when(anew['at'])}: {anew['why']}") if anew else (verdict,)
