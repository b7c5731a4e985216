"""Commands that change what an adapter's name serves, and look back on it."""

from enum import StrEnum
from typing import Annotated, Any

import typer

from ostler import render, tables, tuning
from ostler.client import AdminClient, CommandFailed, segment
from ostler.options import IfRevision, Json, Key, Name, Number, Off, Reason, Url, show
from ostler.reports import tell_loosened

Force = Annotated[
    bool, typer.Option("--force", help="Even if the version's gate did not let it through; needs a --reason.")
]


class FallbackStep(StrEnum):
    """What may serve in a version's place."""

    PREVIOUS = "previous"
    BASE = "base"


def promote(
    name: Name,
    number: Number,
    force: Force = False,
    reason: Reason = "",
    if_revision: IfRevision = None,
    json: Json = False,
    url: Url = "",
    api_key: Key = "",
) -> None:
    """Make a version live: it is loaded and probed first, and what served before stays loaded."""
    client, change = AdminClient(url, api_key), {"stable": number, "reason": reason, **_forced(force, reason)}
    show(client.deploy(name, change, if_revision), json, _announce)
    if not json:
        _tell_of_gate(client, name, number)


def canary(
    name: Name,
    number: Annotated[int | None, typer.Argument(metavar="VERSION", min=1, help="The version's number.")] = None,
    weight: Annotated[float | None, typer.Option(min=0, max=1, help="Its share of the sessions, 0 to 1.")] = None,
    off: Off = False,
    force: Force = False,
    reason: Reason = "",
    if_revision: IfRevision = None,
    json: Json = False,
    url: Url = "",
    api_key: Key = "",
) -> None:
    """Give a version a share of an adapter's sessions; each session stays where it is."""
    if off is not (number is None and weight is None) or (number is None) is not (weight is None):
        raise CommandFailed("say a VERSION with its --weight, or --off", 2)
    wanted = None if off else {"version": number, "weight": weight}
    client, change = AdminClient(url, api_key), {"canary": wanted, "reason": reason, **_forced(force, reason)}
    show(client.deploy(name, change, if_revision), json, _announce)
    if number is not None and not json:
        _tell_of_gate(client, name, number)


def shadow(
    name: Name,
    target: Annotated[str | None, typer.Argument(metavar="VERSION|base", help="A version, or the base model.")] = None,
    share: Annotated[float | None, typer.Option(min=0, max=1, help="Share of the requests, 0 to 1.")] = None,
    off: Off = False,
    reason: Reason = "",
    if_revision: IfRevision = None,
    json: Json = False,
    url: Url = "",
    api_key: Key = "",
) -> None:
    """Have a version or the base model answer a share of the requests, too, without any client's seeing it."""
    if off is not (target is None and share is None) or (target is None) is not (share is None):
        raise CommandFailed("say a VERSION or base with its --share, or --off", 2)
    wanted = None if target is None else {"version": _shadow_version(target), "share": share}
    show(AdminClient(url, api_key).deploy(name, {"shadow": wanted, "reason": reason}, if_revision), json, _announce)


def fallback(
    name: Name,
    steps: Annotated[list[FallbackStep] | None, typer.Argument(help="What serves, in this order.")] = None,
    off: Off = False,
    reason: Reason = "",
    if_revision: IfRevision = None,
    json: Json = False,
    url: Url = "",
    api_key: Key = "",
) -> None:
    """Say what serves while an adapter's own version cannot: the version before, the base model, or both in turn."""
    if off is bool(steps):
        raise CommandFailed("say previous, base, or both, or --off", 2)
    change = {"fallback": steps or None, "reason": reason}
    show(AdminClient(url, api_key).deploy(name, change, if_revision), json, _announce)


def rollback(
    name: Name,
    to: Annotated[
        int | None, typer.Option(min=1, help="The revision to restore.", show_default="the one before")
    ] = None,
    reason: Reason = "",
    if_revision: IfRevision = None,
    json: Json = False,
    url: Url = "",
    api_key: Key = "",
) -> None:
    """Serve again what an earlier revision served. Rolling back twice goes back twice."""
    client = AdminClient(url, api_key)
    before = None if json else client.call("GET", f"/adapters/{segment(name)}")
    after = client.rollback(name, {"to": to, "reason": reason}, if_revision)
    show(after, json, _announce)
    if not json:
        render.out.print(_restored(client, before, after))


def history(
    name: Name,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many revisions.")] = 50,
    json: Json = False,
    url: Url = "",
    api_key: Key = "",
) -> None:
    """List the revisions of what an adapter serves, newest first."""
    path = f"/adapters/{segment(name)}/history"
    show(AdminClient(url, api_key).call("GET", path, params={"limit": limit}), json, tables.history)


def _forced(force: bool, reason: str) -> dict[str, bool]:
    if force and not reason.strip():
        raise CommandFailed("--force needs a --reason, which stands in the history", 2)
    return {"force": True} if force else {}


def _tell_of_gate(client: AdminClient, name: str, number: int) -> None:
    """Say of what serves now if its gate was held lower than the defaults; what cannot be asked undoes no change."""
    try:
        report = tuning.version(client, name, number)["report"]
    except CommandFailed:
        return
    tell_loosened(report or {})


def _shadow_version(target: str) -> int | str:
    if target == "base":
        return target
    if not target.isascii() or not target.isdecimal():
        raise CommandFailed(f"{target!r} is neither a version's number nor base", 2)
    return int(target)


def _restored(client: AdminClient, before: Any, after: Any) -> str:
    """What a rollback did, in words."""
    number = after["deployment"]["revision"]
    if number == before["deployment"]["revision"]:
        return "That is what it served already; nothing has changed."
    path = f"/adapters/{segment(after['name'])}/history"
    new, old = client.call("GET", path, params={"limit": 2, "before": number + 1})["data"]
    archived = {version["number"] for version in before["versions"] if version["archived"]}
    back = [v["number"] for v in after["versions"] if v["number"] in archived and not v["archived"]]
    done = [f"version {new['stable']}", *tables.changes(old, new)]
    done += [f"version {number} came back from the archive" for number in back]
    return f"Restored revision {new['restores']}: {'; '.join(done)}."


def _announce(adapter: Any) -> None:
    deployment = adapter["deployment"]
    more = tables.besides(deployment)
    render.out.print(
        f"{adapter['name']} serves version {deployment['stable']} (revision {deployment['revision']})."
        + (f" {more[0].upper()}{more[1:]}." if more else "")
    )
