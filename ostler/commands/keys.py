"""Commands about API keys. A secret is printed once, where it is made, and nowhere else."""

import os
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from ostler import render, tables
from ostler.client import AdminClient, CommandFailed, keep_new_secret, segment
from ostler.durations import seconds
from ostler.options import Json, Key, Url, show
from registry.catalog import ApiKey, Scope

KeyId = Annotated[str, typer.Argument(metavar="ID", help="The key's id, as `keys list` shows it.")]
Scopes = Annotated[
    list[Scope] | None,
    typer.Option("--scope", help="A right; may be said again."),
]
Adapters = Annotated[list[str] | None, typer.Option("--adapter", help="Limit it to this adapter; may be said again.")]
Days = Annotated[int | None, typer.Option(min=1, max=36_500, help="Days until it expires.")]
Rpm = Annotated[int | None, typer.Option(min=0, help="Requests per minute; 0 is without limit.")]
Tpm = Annotated[int | None, typer.Option(min=0, help="Tokens per minute; 0 is without limit.")]
Concurrent = Annotated[int | None, typer.Option(min=0, help="Requests at once; 0 is without limit.")]
Budget = Annotated[float | None, typer.Option(min=0, help="Money per month; 0 is without limit.")]


def create(
    name: Annotated[str, typer.Argument(help="Whom or what it is for.")],
    scope: Scopes = None,
    admin: Annotated[bool, typer.Option("--admin", help="All rights, not only the clients' endpoints.")] = False,
    adapter: Adapters = None,
    rpm: Rpm = None,
    tpm: Tpm = None,
    concurrent: Concurrent = None,
    budget: Budget = None,
    days: Days = None,
    local: Annotated[
        bool, typer.Option("--local", help="Write it into the database, not through a gateway: for the first key.")
    ] = False,
    json: Json = False,
    url: Url = "",
    api_key: Key = "",
) -> None:
    """Make an API key and print it, this once. Without --scope it may ask models and send feedback."""
    body: dict[str, Any] = {"name": name, "adapters": adapter or None}
    if scopes := [*(scope or []), *([Scope.ADMIN] if admin else [])]:
        body["scopes"] = scopes
    if limits := _limits(rpm, tpm, concurrent, budget):
        body["limits"] = limits
    if days is not None:
        body["expires_at"] = _in_days(days)
    client = None if local else AdminClient(url, api_key)
    answer = client.call("POST", "/keys", json=body) if client else _create_here(body)
    show(answer, json, lambda made: _tell_secret(made, "It is not shown again."))
    if client:
        _warn_of_unknown(client, adapter or [])


def list_keys(json: Json = False, url: Url = "", api_key: Key = "") -> None:
    """List the keys, revoked ones too."""
    show(AdminClient(url, api_key).call("GET", "/keys"), json, tables.keys)


def update(
    key_id: KeyId,
    name: Annotated[str | None, typer.Option(help="Whom or what it is for.")] = None,
    scope: Scopes = None,
    adapter: Adapters = None,
    all_adapters: Annotated[bool, typer.Option("--all-adapters", help="Let it use all adapters again.")] = False,
    rpm: Rpm = None,
    tpm: Tpm = None,
    concurrent: Concurrent = None,
    budget: Budget = None,
    days: Days = None,
    no_expiry: Annotated[bool, typer.Option("--no-expiry", help="Let it never expire.")] = False,
    json: Json = False,
    url: Url = "",
    api_key: Key = "",
) -> None:
    """Change what a key may do; what is not said stays. Its secret stays, too."""
    if (all_adapters and adapter) or (no_expiry and days is not None):
        raise CommandFailed("two of these options contradict each other", 2)
    body: dict[str, Any] = {"name": name, "scopes": scope, "adapters": adapter or None}
    body = {field: value for field, value in body.items() if value is not None}
    body |= {"adapters": None} if all_adapters else {}
    if limits := _limits(rpm, tpm, concurrent, budget):
        body["limits"] = limits
    if days is not None or no_expiry:
        body["expires_at"] = None if days is None else _in_days(days)
    if not body:
        raise CommandFailed("say what shall change; --help lists what can", 2)
    client = AdminClient(url, api_key)
    answer = client.call("PATCH", f"/keys/{segment(key_id)}", json=body)
    show(answer, json, lambda key: tables.keys({"data": [key]}))
    _warn_of_unknown(client, adapter or [])


def rotate(
    key_id: KeyId,
    overlap: Annotated[
        str, typer.Option(metavar="DURATION", help="How long the old secret works on: 90s, 15m, 24h, 7d, or 0.")
    ] = "24h",
    json: Json = False,
    url: Url = "",
    api_key: Key = "",
) -> None:
    """Give a key a new secret and print it, this once; the old one works on for a while."""
    order = {"overlap_s": seconds(overlap)}
    client, path = AdminClient(url, api_key), f"/keys/{segment(key_id)}"
    replaced = client.call("GET", path)["hint"]
    answer = client.call("POST", f"{path}/rotate", json=order)
    until = "at once" if order["overlap_s"] == 0 else f"in {overlap}"
    show(answer, json, lambda made: _tell_secret(made, f"It is not shown again; the old secret ends {until}."))
    _keep(replaced, answer["secret"])


def revoke(key_id: KeyId, json: Json = False, url: Url = "", api_key: Key = "") -> None:
    """Take a key's rights for good."""
    answer = AdminClient(url, api_key).call("DELETE", f"/keys/{segment(key_id)}")
    show(answer, json, lambda key: render.out.print(render.words(f"Key {key['id']} ({key['name']}) is revoked.")))


def ensure(
    name: Annotated[str, typer.Argument(help="Whom or what it is for, should it have to be made.")],
    scope: Scopes = None,
    admin: Annotated[bool, typer.Option("--admin", help="All rights, as --scope admin.")] = False,
    variable: Annotated[
        str, typer.Option("--secret-variable", help="The environment's variable that holds the secret.")
    ] = "OSTLER_API_KEY",
    local: Annotated[
        bool, typer.Option("--local", help="In the database, not through a gateway, which would need a key.")
    ] = False,
) -> None:
    """Make sure that a secret opens a key with these rights, so that it can be made where secrets are kept.

    Doing it again changes nothing. A secret that can be guessed, or whose key was revoked, is limited or has other
    rights, is refused.
    """
    scopes = frozenset([*(scope or []), *([Scope.ADMIN] if admin else [])])
    if not (scopes and local):
        raise CommandFailed("say the rights, and that it is where the database is: --admin --local, or --scope", 2)
    secret = os.environ.get(variable, "")
    if not secret:
        raise CommandFailed(f"no secret: set {variable}", 2)
    key, is_new = _ensure_here(name, secret, scopes)
    done = "is made" if is_new else "is there"
    render.out.print(render.words(f"Key {key.id} ({key.name}, {key.hint}) {done}."), soft_wrap=True)


def _tell_secret(made: Any, words: str) -> None:
    """The secret alone on standard output, so that a script can take it."""
    render.plain(made["secret"])
    key = made["key"]
    render.err.print(render.words(f"Key {key['id']} for {key['name']}. {words}"), soft_wrap=True)


def _create_here(body: dict[str, Any]) -> Any:
    from gateway.errors import GatewayError
    from ostler.serve import run_create_key
    from registry.errors import RegistryError

    try:
        return run_create_key(body)
    except (GatewayError, RegistryError) as error:
        raise CommandFailed(error.message) from None


def _ensure_here(name: str, secret: str, scopes: frozenset[Scope]) -> tuple[ApiKey, bool]:
    from ostler.serve import run_ensure_key
    from registry.errors import RegistryError

    try:
        return run_ensure_key(name, secret, scopes)
    except RegistryError as error:
        raise CommandFailed(error.message) from None


def _keep(replaced: str, secret: str) -> None:
    """The key that the commands on this machine use goes on working for them."""
    try:
        if keep_new_secret(replaced, secret):
            render.err.print("It was the key of this machine's commands; they use the new secret from now on.")
    except OSError as error:
        raise CommandFailed(f"the key file of this machine's commands cannot be written: {error.strerror}") from None


def _warn_of_unknown(client: AdminClient, names: list[str]) -> None:
    """A key may name what will exist only later; a misspelt name would be found out much later."""
    for name in names:
        if not client.has_model(name):
            render.err.print(render.words(f"warning: there is no adapter {name!r} yet"), soft_wrap=True)


def _limits(rpm: int | None, tpm: int | None, concurrent: int | None, budget: float | None) -> dict[str, Any]:
    """The limits that were said; 0 takes one away."""
    said = {
        "requests_per_minute": rpm,
        "tokens_per_minute": tpm,
        "concurrent_requests": concurrent,
        "monthly_budget": budget,
    }
    return {name: value or None for name, value in said.items() if value is not None}


def _in_days(days: int) -> str:
    return (datetime.now(UTC) + timedelta(days=days)).isoformat()
