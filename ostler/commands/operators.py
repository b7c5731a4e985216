"""Commands that look at what runs and at what was done."""

from typing import Annotated

import typer

from ostler import tables
from ostler.client import AdminClient
from ostler.options import Json, Key, Url, show


def replicas(json: Json = False, url: Url = "", api_key: Key = "") -> None:
    """List the engines: state, load, and what is loaded in each."""
    show(AdminClient(url, api_key).call("GET", "/replicas"), json, tables.replicas)


def audit(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many entries.")] = 50,
    before: Annotated[int | None, typer.Option(min=1, help="Go on from this entry.", show_default="the newest")] = None,
    json: Json = False,
    url: Url = "",
    api_key: Key = "",
) -> None:
    """List what admins changed, newest first."""
    params = {"limit": limit} | ({} if before is None else {"before": before})
    show(AdminClient(url, api_key).call("GET", "/audit", params=params), json, tables.audit)
