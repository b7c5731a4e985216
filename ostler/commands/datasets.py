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
            render.when(each["created_at"]),
            _about(each),
        )
        for each in answer["data"]
    ]
    render.table(("ID", "DIGEST", "MADE", "ROWS, LABELS, PARENTS, JOB"), rows, "No datasets yet.")
    if answer["has_more"]:
        render.out.print(f"There are older ones: --before {answer['data'][-1]['id']}")


def _counted(counts: Any) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())


def _about(dataset: Any) -> tuple[str, ...]:
    """What is in it and was left out, where its labels came from, which datasets it follows, and which job made it."""
    parents = ", ".join(parent[:_DIGEST_SHOWN] for parent in dataset["parents"])
    bad_rows = dataset["report"].get("bad_rows_file")
    lines = (
        f"{dataset['method']}: {_counted(dataset['counts'])}",
        f"labels: {_counted(dataset['sources'])}",
        f"bad rows: {bad_rows}" if bad_rows else "",
        f"after {parents}" if parents else "",
        f"by {dataset['job']}",
    )
    return tuple(filter(None, lines))
