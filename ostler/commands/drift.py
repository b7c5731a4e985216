"""The command that shows whether traffic drifts away from what a version was made for."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ostler import render
from ostler.client import AdminClient, CommandFailed, segment
from ostler.options import Json, Key, Name, Url, show

_PATH = "/admin/v1"


def drift(
    name: Name,
    now: Annotated[
        bool, typer.Option("--now", help="Have the monitor look at the newest requests as soon as it can.")
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the newest look's HTML report there.", show_default=False),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many looks.")] = 10,
    json: Json = False,
    url: Url = "",
    api_key: Key = "",
) -> None:
    """Show how far the newest requests of an adapter's versions are from their references, column by column."""
    if now and report is not None:
        raise CommandFailed("--now does not wait for the report; ask for it once the look is done", 2)
    client, path = AdminClient(url, api_key), f"/adapters/{segment(name)}/drift"
    if now:
        show(client.call("POST", path), json, _tell_asked)
        return
    looks = client.call("GET", path, params={"limit": limit})
    if report is not None:
        _save_report(client, looks["data"], report)
    show(looks, json, _table)


def _save_report(client: AdminClient, looks: list[Any], file: Path) -> None:
    kept = next((look["report"] for look in looks if look["report"]), None)
    if kept is None:
        raise CommandFailed("there is no report yet: none of these looks had enough data")
    content = client.download(kept.removeprefix(_PATH))
    try:
        file.write_bytes(content)
    except OSError as error:
        raise CommandFailed(f"{file} cannot be written: {error.strerror}", 2) from error


def _tell_asked(answer: Any) -> None:
    words = f"The monitor looks at {answer['adapter']} as soon as it can; `ostler drift {answer['adapter']}` shows it."
    render.out.print(render.words(words), soft_wrap=True)


def _table(answer: Any) -> None:
    rows = [
        (render.when(look["created_at"]), look["version"], f"{look['rows']:,}", look["outcome"], _columns(look))
        for look in answer["data"]
    ]
    render.table(("WHEN", "VERSION", "ROWS", "OUTCOME", "COLUMNS (DRIFT / THRESHOLD)"), rows, "Nobody has looked yet.")


def _columns(look: Any) -> tuple[str, ...]:
    """The columns that drifted first, then the others, then what lacked."""
    judged = sorted(look["columns"], key=lambda column: (not column["drifted"], column["name"]))
    lines = [
        f"{column['name']} {column['statistic']:.3g} / {column['threshold']:.3g}{' drifted' * column['drifted']}"
        for column in judged
    ]
    lacked = [f"not judged: {each}" for each in (look["missing"] or "").split("; ") if each]
    return (*lines, *lacked) or ("-",)
