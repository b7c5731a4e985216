"""Commands that show what the monitor concluded."""

from typing import Annotated, Any

import typer

from ostler import render
from ostler.client import AdminClient
from ostler.options import Json, Key, Url, show

_PAGE = 1000


def decisions(
    name: Annotated[str | None, typer.Argument(help="The adapter's name.", show_default="all")] = None,
    kind: Annotated[str | None, typer.Option(help="Only of a kind: loop, quality, drift, golden.")] = None,
    outcome: Annotated[str | None, typer.Option(help="Only with an outcome, such as alarm.")] = None,
    acted: Annotated[bool, typer.Option("--acted", help="Only alarms, and what the loop did by itself.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 50,
    every: Annotated[bool, typer.Option("--all", help="All that there are, whatever the limit.")] = False,
    before: Annotated[int | None, typer.Option(min=1, help="Go on from this one.", show_default="the newest")] = None,
    json: Json = False,
    url: Url = "",
    api_key: Key = "",
) -> None:
    """List what was concluded of an adapter, newest first, and why."""
    given = {"adapter": name, "kind": kind, "outcome": outcome, "acted": acted or None, "before": before}
    params = {key: value for key, value in given.items() if value is not None}
    client = AdminClient(url, api_key)
    answer = _every(client, params) if every else client.call("GET", "/decisions", params=params | {"limit": limit})
    show(answer, json, _table)


def _every(client: AdminClient, params: dict[str, Any]) -> Any:
    """All pages as one."""
    found: list[Any] = []
    has_more = True
    while has_more:
        after = {"before": found[-1]["id"]} if found else {}
        page = client.call("GET", "/decisions", params=params | {"limit": _PAGE} | after)
        found += page["data"]
        has_more = page["has_more"]
    return {"data": found, "has_more": False}


def _table(answer: Any) -> None:
    rows = [
        (
            each["id"],
            render.when(each["created_at"]),
            render.words(each["adapter"]),
            each["version"] or "",
            f"{each['kind']}: {each['outcome']}",
            (each["reason"], *_followed(each)),
        )
        for each in answer["data"]
    ]
    render.table(("ID", "WHEN", "ADAPTER", "VERSION", "WHAT", "WHY"), rows, "Nothing was concluded yet.")
    if rows and answer["has_more"]:
        render.out.print(f"There are older ones: --before {rows[-1][0]}")


def _followed(each: Any) -> tuple[str, ...]:
    """What followed from a decision."""
    if each["job"]:
        return (f"job {each['job']}",)
    return (f"revision {each['revision']}",) if each["revision"] else ()
