"""Commands that show what the monitor concluded."""

from typing import Annotated, Any

import typer

from ostler import render
from ostler.client import AdminClient
from ostler.options import Json, Key, Url, show


def decisions(
    name: Annotated[str | None, typer.Argument(help="The adapter's name.", show_default="all")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 50,
    before: Annotated[int | None, typer.Option(min=1, help="Go on from this one.", show_default="the newest")] = None,
    json: Json = False,
    url: Url = "",
    api_key: Key = "",
) -> None:
    """List what was concluded of an adapter, newest first, and why."""
    given = {"adapter": name, "limit": limit, "before": before}
    params = {key: value for key, value in given.items() if value is not None}
    show(AdminClient(url, api_key).call("GET", "/decisions", params=params), json, _table)


def _table(answer: Any) -> None:
    rows = [
        (
            each["id"],
            render.when(each["created_at"]),
            render.words(each["adapter"]),
            each["version"] or "",
            f"{each['kind']}: {each['outcome']}",
            render.words(each["reason"]),
        )
        for each in answer["data"]
    ]
    render.table(("ID", "WHEN", "ADAPTER", "VERSION", "WHAT", "WHY"), rows, "Nothing was concluded yet.")
    if rows and answer["has_more"]:
        render.out.print(f"There are older ones: --before {rows[-1][0]}")
