"""Commands about adapters and their versions."""

from pathlib import Path
from typing import Annotated

import typer

from ostler import policies, render, tables, tuning
from ostler.client import AdminClient, CommandFailed, segment
from ostler.options import Json, Key, Name, Number, Reason, Url, save, show
from ostler.reports import show_version


def push(
    source: Annotated[Path, typer.Argument(metavar="DIR", help="A PEFT LoRA folder, or a tar or zip of one.")],
    adapter: Annotated[str, typer.Option(help="The adapter's name; made if it is new.")],
    base: Annotated[
        str | None,
        typer.Option(help="The base model it was trained on, where its own configuration says a local name."),
    ] = None,
    note: Annotated[str, typer.Option(help="A line about this version.")] = "",
    promote: Annotated[bool, typer.Option("--promote", help="Make it live at once.")] = False,
    reason: Reason = "",
    json: Json = False,
    url: Url = "",
    api_key: Key = "",
) -> None:
    """Register a folder as the adapter's next version. It does not serve until it is promoted."""
    if reason and not promote:
        raise CommandFailed("--reason is for --promote; what is to be said of the version is its --note", 2)
    client = AdminClient(url, api_key)
    pushed = client.push(source, adapter, base=base, note=note)
    number = pushed["version"]["number"]
    if promote:
        client.deploy(adapter, {"stable": number, "reason": reason or "pushed with --promote"})
    if json:
        render.as_json(pushed)
        return
    outcome = "is registered" if pushed["created"] else "was there already, with the same content"
    render.out.print(f"{adapter} version {number} {outcome}" + (" and live." if promote else "."))
    if not promote and pushed["version"]["state"] != "live":
        render.out.print(f"Make it live: ostler promote {adapter} {number}")


def list_adapters(json: Json = False, url: Url = "", api_key: Key = "") -> None:
    """List the adapters and what each serves."""
    show(AdminClient(url, api_key).adapters(), json, tables.adapters)


def show_adapter(
    name: Annotated[
        str, typer.Argument(metavar="NAME[@VERSION]", help="An adapter, or one of its versions.", show_default=False)
    ],
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the page of the version's gate there.", show_default=False),
    ] = None,
    json: Json = False,
    url: Url = "",
    api_key: Key = "",
) -> None:
    """Show an adapter with its versions; or one version, what it was made from, and what its gate said."""
    client = AdminClient(url, api_key)
    adapter, at, number = name.partition("@")
    if not at:
        if report is not None:
            raise CommandFailed(f"--report is of a version: ostler show {name}@VERSION --report FILE", 2)
        show(client.call("GET", f"/adapters/{segment(name)}"), json, tables.adapter)
        if not json:
            policy = client.call("GET", f"/adapters/{segment(name)}/policy")
            policies.standing(name, policy, client.call("GET", "/freeze"))
        return
    if not (number.isascii() and number.isdecimal() and int(number) > 0):
        raise CommandFailed(f"{number!r} is no version's number, as in {adapter}@2", 2)
    version = tuning.version(client, adapter, int(number))
    if report is not None:
        page = client.download(f"/adapters/{segment(adapter)}/versions/{number}/report")
        save(report, page)
    show(version, json, lambda version: show_version(adapter, version))


def archive(
    name: Name,
    number: Number,
    undo: Annotated[bool, typer.Option("--undo", help="Bring it back.")] = False,
    json: Json = False,
    url: Url = "",
    api_key: Key = "",
) -> None:
    """Put a version away: it is kept, but not served until it is brought back."""
    path = f"/adapters/{segment(name)}/versions/{number}"
    answer = AdminClient(url, api_key).call("PATCH", path, json={"archived": not undo})
    outcome = "is in service again" if undo else "is archived"
    show(answer, json, lambda version: render.out.print(f"{name} version {version['number']} {outcome}."))


def verify(name: Name, number: Number, json: Json = False, url: Url = "", api_key: Key = "") -> None:
    """Prove on each engine that a version acts, and as it was trained; exit code 1 if one says no."""
    path = f"/adapters/{segment(name)}/versions/{number}/verify"
    answer = AdminClient(url, api_key).call("POST", path)
    show(answer, json, tables.verdicts)
    if not all(verdict["ok"] for verdict in answer["data"]):
        raise typer.Exit(1)
