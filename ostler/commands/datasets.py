"""The command that shows what an adapter's versions were made from."""

from typing import Annotated, Any

import typer

from ostler import render
from ostler.client import AdminClient, segment
from ostler.options import Json, Key, Name, Url, show

_DIGEST_SHOWN = 12


def datasets(
    name: Name,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 20,
    before: Annotated[int | None, typer.Option(min=1, help="Go on from this one.", show_default="the newest")] = None,
    json: Json = False,
    url: Url = "",
    api_key: Key = "",
) -> None:
    """List the datasets that an adapter's versions were made from, newest first."""
    params = {"limit": limit} | ({"before": before} if before else {})
    path = f"/adapters/{segment(name)}/datasets"
    show(AdminClient(url, api_key).call("GET", path, params=params), json, _table)


def _table(answer: Any) -> None:
    rows = [
        (
            each["id"],
            each["digest"][:_DIGEST_SHOWN],
            each["method"],
            _counted(each["counts"]),
            render.when(each["created_at"]),
            _origin(each),
        )
        for each in answer["data"]
    ]
    render.table(("ID", "DIGEST", "METHOD", "ROWS", "MADE", "LABELS, PARENTS, JOB"), rows, "No datasets yet.")
    if answer["has_more"]:
        render.out.print(f"There are older ones: --before {answer['data'][-1]['id']}")


def _counted(counts: Any) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())


def _origin(dataset: Any) -> tuple[str, ...]:
    """Where its labels came from, which datasets it follows, and which job made it."""
    parents = ", ".join(parent[:_DIGEST_SHOWN] for parent in dataset["parents"])
    lines = (_counted(dataset["sources"]), f"after {parents}" if parents else "", f"by {dataset['job']}")
    return tuple(filter(None, lines))
