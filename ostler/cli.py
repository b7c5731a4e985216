"""The `ostler` command.

Exit codes: 0 done, 1 refused or failed (the message says why), 2 the command line is wrong, 3 no gateway answers.
Commands that start processes import what they need when they run, so that the others stay quick.
"""

import asyncio
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from ostler import render
from ostler.client import AdminClient, CommandFailed, segment

app = typer.Typer(
    name="ostler",
    help="Serve many LoRA adapters of one base model, and swap their versions without a failed request.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
keys_app = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")

Name = Annotated[str, typer.Argument(help="The adapter's name.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
Url = Annotated[
    str, typer.Option("--url", envvar="OSTLER_URL", help="The gateway's address.", show_default="http://127.0.0.1:8080")
]
Key = Annotated[
    str,
    typer.Option(
        "--api-key", envvar="OSTLER_API_KEY", help="An admin key.", show_default="the one `ostler up` wrote here"
    ),
]
Reason = Annotated[str, typer.Option("--reason", "-m", help="Why; it stands in the history.")]


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"ostler {version('ostler')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


# Processes


@app.command(rich_help_panel="Processes")
def up(
    base: Annotated[
        str | None, typer.Option(help="Base model: a folder or a Hugging Face id.", show_default="the tiny demo model")
    ] = None,
    base_name: Annotated[
        str | None, typer.Option(help="What clients call it.", show_default="the model's own name")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.", show_default="8080")] = None,
    home: Annotated[
        Path | None, typer.Option(help="Folder for all state.", show_default="$XDG_DATA_HOME/ostler")
    ] = None,
    engine_args: Annotated[str | None, typer.Option(help="More arguments for vLLM, as one string.")] = None,
) -> None:
    """Start everything on this machine: registry, engine and gateway."""
    from ostler.up import run_up

    given = {
        "base_model": base,
        "base": base_name,
        "host": host,
        "port": port,
        "home": home,
        "engine_args": engine_args,
    }
    raise typer.Exit(run_up({name: value for name, value in given.items() if value is not None}))


@app.command(rich_help_panel="Processes")
def gateway(
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.", show_default="8080")] = None,
    base: Annotated[str | None, typer.Option(help="The base model's name in the engine.")] = None,
    base_model: Annotated[str | None, typer.Option(help="The base model's folder; its config.json is read.")] = None,
    engine_url: Annotated[
        str | None, typer.Option(help="The engine's address.", show_default="http://127.0.0.1:8090")
    ] = None,
) -> None:
    """Start a gateway in front of a running engine. The database must be migrated."""
    from ostler.serve import run_gateway

    given = {"host": host, "port": port, "base": base, "base_model": base_model, "engine_url": engine_url}
    raise typer.Exit(run_gateway({name: value for name, value in given.items() if value is not None}))


@app.command(rich_help_panel="Processes")
def migrate() -> None:
    """Bring the database's schema to what this version needs."""
    from ostler.serve import run_migrate

    raise typer.Exit(run_migrate())


# Adapters


@app.command(rich_help_panel="Adapters")
def push(
    source: Annotated[Path, typer.Argument(metavar="DIR", help="A PEFT LoRA folder, or a tar or zip of one.")],
    adapter: Annotated[str, typer.Option(help="The adapter's name; made if it is new.")],
    base: Annotated[
        str | None,
        typer.Option(help="The base model it was trained on, where its own configuration says a local name."),
    ] = None,
    note: Annotated[str, typer.Option(help="A line about this version.")] = "",
    promote: Annotated[bool, typer.Option("--promote", help="Make it live at once.")] = False,
    json: Json = False,
    url: Url = "",
    api_key: Key = "",
) -> None:
    """Register a folder as the adapter's next version. It does not serve until it is promoted."""
    client = AdminClient(url, api_key)
    pushed = client.push(source, adapter, base=base, note=note)
    number = pushed["version"]["number"]
    if promote:
        _deploy(client, adapter, number, "pushed with --promote")
    if json:
        render.as_json(pushed)
    else:
        outcome = "is registered" if pushed["created"] else "was there already, with the same content"
        render.out.print(f"{adapter} version {number} {outcome}" + (" and live." if promote else "."))
        if not promote and pushed["version"]["state"] != "live":
            render.out.print(f"Make it live: ostler promote {adapter} {number}")


@app.command("list", rich_help_panel="Adapters")
def list_adapters(json: Json = False, url: Url = "", api_key: Key = "") -> None:
    """List the adapters and what each serves."""
    _show(AdminClient(url, api_key).call("GET", "/adapters"), json, render.adapters)


@app.command(rich_help_panel="Adapters")
def show(name: Name, json: Json = False, url: Url = "", api_key: Key = "") -> None:
    """Show an adapter with its versions."""
    _show(AdminClient(url, api_key).call("GET", f"/adapters/{segment(name)}"), json, render.adapter)


@app.command(rich_help_panel="Adapters")
def promote(
    name: Name,
    number: Annotated[int, typer.Argument(metavar="VERSION", min=1, help="The version's number.")],
    reason: Reason = "",
    json: Json = False,
    url: Url = "",
    api_key: Key = "",
) -> None:
    """Make a version live: it is loaded and probed first, and what served before stays loaded."""
    answer = _deploy(AdminClient(url, api_key), name, number, reason)
    _show(answer, json, _announce)


@app.command(rich_help_panel="Adapters")
def rollback(
    name: Name,
    to: Annotated[int | None, typer.Option(help="The revision to restore.", show_default="the one before")] = None,
    reason: Reason = "",
    json: Json = False,
    url: Url = "",
    api_key: Key = "",
) -> None:
    """Serve again what an earlier revision served. Rolling back twice goes back twice."""
    body = {"to": to, "reason": reason}
    answer = AdminClient(url, api_key).call("POST", f"/adapters/{segment(name)}/rollback", json=body)
    _show(answer, json, _announce)


@app.command(rich_help_panel="Adapters")
def history(
    name: Name,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many revisions.")] = 50,
    json: Json = False,
    url: Url = "",
    api_key: Key = "",
) -> None:
    """List the revisions of what an adapter serves, newest first."""
    path = f"/adapters/{segment(name)}/history"
    _show(AdminClient(url, api_key).call("GET", path, params={"limit": limit}), json, render.history)


# Keys


@keys_app.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="Whom or what it is for.")],
    admin: Annotated[bool, typer.Option("--admin", help="All rights, not only the chat endpoints.")] = False,
    adapter: Annotated[list[str] | None, typer.Option(help="Limit it to this adapter; may be said again.")] = None,
    days: Annotated[
        int | None, typer.Option(min=1, max=36_500, help="Days until it expires.", show_default="never")
    ] = None,
    local: Annotated[
        bool, typer.Option("--local", help="Write it into the database, not through a gateway: for the first key.")
    ] = False,
    json: Json = False,
    url: Url = "",
    api_key: Key = "",
) -> None:
    """Make an API key and print it, this once."""
    body: dict[str, Any] = {"name": name, "role": "admin" if admin else "client", "adapters": adapter or None}
    if days is not None:
        body["expires_at"] = (datetime.now(UTC) + timedelta(days=days)).isoformat()
    if local:
        from ostler.serve import run_create_key

        answer = run_create_key(body)
    else:
        answer = AdminClient(url, api_key).call("POST", "/keys", json=body)
    if json:
        render.as_json(answer)
    else:
        print(answer["secret"])
        render.err.print(render.words(f"Key {answer['key']['id']} for {name}. It is not shown again."), soft_wrap=True)


@keys_app.command("list")
def list_keys(json: Json = False, url: Url = "", api_key: Key = "") -> None:
    """List the keys, revoked ones too."""
    _show(AdminClient(url, api_key).call("GET", "/keys"), json, render.keys)


@keys_app.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id, as `keys list` shows it.")],
    json: Json = False,
    url: Url = "",
    api_key: Key = "",
) -> None:
    """Take a key's rights for good."""
    answer = AdminClient(url, api_key).call("DELETE", f"/keys/{segment(key_id)}")
    _show(answer, json, lambda key: render.out.print(render.words(f"Key {key['id']} ({key['name']}) is revoked.")))


def _deploy(client: AdminClient, name: str, number: int, reason: str) -> Any:
    body = {"stable": number, "reason": reason}
    return client.call("PATCH", f"/adapters/{segment(name)}/deployment", json=body)


def _announce(adapter: Any) -> None:
    deployment = adapter["deployment"]
    render.out.print(f"{adapter['name']} serves version {deployment['stable']} (revision {deployment['revision']}).")


def _show(answer: Any, json: bool, for_people: Any) -> None:
    if json:
        render.as_json(answer)
    else:
        for_people(answer)


def main() -> None:
    """The entry point: our own failures are one line, not a stack."""
    try:
        app()
    except CommandFailed as failed:
        render.error(str(failed))
        raise SystemExit(failed.exit_code) from None
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise SystemExit(130) from None
