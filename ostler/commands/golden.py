"""Commands about golden sets and their runs."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from ostler import render
from ostler.client import AdminClient, CommandFailed, segment
from ostler.options import Json, Key, Name, Url, show

_POLL_S = 1.0
_NAMED = ("stable", "canary", "base")
_OPEN = ("queued", "running")

Limit = Annotated[int, typer.Option(min=1, max=1000, help="How many.")]


def push(
    file: Annotated[Path, typer.Argument(help="JSON lines as in OpenAI's fine-tuning files.", show_default=False)],
    adapter: Annotated[str, typer.Option("--adapter", help="Whose set it is.", show_default=False)],
    scorer: Annotated[
        list[str] | None, typer.Option("--scorer", help="What scores rows that do not say; may be said again.")
    ] = None,
    note: Annotated[str, typer.Option("--note", "-m", help="What it is.")] = "",
    json: Json = False,
    url: Url = "",
    api_key: Key = "",
) -> None:
    """Freeze a file as an adapter's next golden set; the same set again is no second one."""
    params = {"note": note, "scorers": scorer or []}
    path = f"/adapters/{segment(adapter)}/golden-sets"
    try:
        content = file.read_bytes()
    except OSError as error:
        raise CommandFailed(f"{file} cannot be read: {error.strerror}", 2) from error
    show(AdminClient(url, api_key).call("POST", path, params=params, content=content), json, _tell_push)


def list_sets(name: Name, limit: Limit = 50, json: Json = False, url: Url = "", api_key: Key = "") -> None:
    """List an adapter's golden sets, newest first."""
    path = f"/adapters/{segment(name)}/golden-sets"
    show(AdminClient(url, api_key).call("GET", path, params={"limit": limit}), json, _sets)


def evaluate(
    name: Name,
    version: Annotated[
        list[str] | None,
        typer.Option(
            "--version",
            help="A version's number, stable, canary or base; may be said again.",
            show_default="stable and base",
        ),
    ] = None,
    golden_set: Annotated[
        int | None, typer.Option("--set", min=1, help="The golden set's number.", show_default="the newest")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the results; exit code 1 if a run fails.")] = False,
    json: Json = False,
    url: Url = "",
    api_key: Key = "",
) -> None:
    """Run an adapter's golden set against versions and the base model; a monitor must be running."""
    order: dict[str, Any] = {"golden_set": golden_set}
    if version:
        order["versions"] = [_target(each) for each in version]
    client = AdminClient(url, api_key)
    runs = client.call("POST", f"/adapters/{segment(name)}/evaluations", json=order)
    if wait:
        runs["data"] = [_finished(client, name, run["id"]) for run in runs["data"]]
    show(runs, json, _runs)
    if any(run["state"] == "failed" for run in runs["data"]):
        raise typer.Exit(1)


def evaluations(
    name: Name,
    evaluation_id: Annotated[
        str | None, typer.Argument(metavar="ID", help="One of them, with each row's scores.", show_default="all")
    ] = None,
    limit: Limit = 20,
    json: Json = False,
    url: Url = "",
    api_key: Key = "",
) -> None:
    """List the runs of an adapter's golden sets, newest first, or show one."""
    path, client = f"/adapters/{segment(name)}/evaluations", AdminClient(url, api_key)
    if evaluation_id is None:
        show(client.call("GET", path, params={"limit": limit}), json, _runs)
    else:
        show(client.call("GET", f"{path}/{segment(evaluation_id)}"), json, _run)


def _target(said: str) -> int | str:
    if said in _NAMED:
        return said
    if said.isascii() and said.isdecimal() and int(said) > 0:
        return int(said)
    raise CommandFailed(f"{said!r} is neither a version's number nor one of {', '.join(_NAMED)}", 2)


def _finished(client: AdminClient, name: str, run_id: str) -> Any:
    """The run once it is over, without its rows."""
    while True:
        run = client.call("GET", f"/adapters/{segment(name)}/evaluations/{segment(run_id)}")
        if run["state"] not in _OPEN:
            del run["items"]
            return run
        time.sleep(_POLL_S)


def _tell_push(answer: Any) -> None:
    pushed = answer["golden_set"]
    outcome = "is new" if answer["created"] else "was there already, with the same content"
    what = f"{pushed['rows']} rows, {pushed['digest'][:12]}"
    render.out.print(f"Golden set {pushed['number']} of {answer['adapter']} {outcome}: {what}.")


def _sets(answer: Any) -> None:
    rows = [
        (
            each["number"],
            each["rows"],
            each["digest"][:12],
            ", ".join(choice["scorer"] for choice in each["scorers"]),
            each["created_by"],
            render.when(each["created_at"]),
            each["note"],
        )
        for each in answer["data"]
    ]
    render.table(("SET", "ROWS", "DIGEST", "SCORERS", "BY", "PUSHED", "NOTE"), rows, "No golden sets.")


def _runs(answer: Any) -> None:
    rows = [
        (
            run["id"],
            run["golden_set"],
            "base" if run["version"] is None else run["version"],
            run["state"],
            render.when(run["created_at"]),
            _outcome(run),
        )
        for run in answer["data"]
    ]
    render.table(("ID", "SET", "VERSION", "STATE", "ASKED FOR", "RESULTS"), rows, "No runs.")


def _outcome(run: Any) -> tuple[str, ...]:
    """A line for each scorer, or why it failed."""
    if run["state"] == "failed":
        return (run["error"],)
    results = run["results"] or {"scorers": {}}
    return tuple(f"{name} {_estimate(found)}" for name, found in results["scorers"].items()) or ("-",)


def _estimate(found: Any) -> str:
    """A mean with its interval, and the difference to the base with its own."""
    if found["mean"] is None:
        return "no row scored"
    told = f"{found['mean']:.3f} ({found['low']:.3f} to {found['high']:.3f}, {found['n']} rows)"
    if base := found.get("base"):
        told += f", base {base['mean']:+.3f} ({base['low']:+.3f} to {base['high']:+.3f})"
    return told


def _run(run: Any) -> None:
    _runs({"data": [run]})
    metrics = (run["results"] or {}).get("metrics", {})
    render.table(("METRIC", "VALUE"), [(name, f"{value:.4g}") for name, value in metrics.items()], "No metrics.")
    scorers = list((run["results"] or {"scorers": {}})["scorers"])
    items = enumerate(run["items"] or [], start=1)
    rows = [(number, *(_score(item.get(scorer)) for scorer in scorers)) for number, item in items]
    render.table(("ROW", *scorers), rows, "No rows.")


def _score(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"
