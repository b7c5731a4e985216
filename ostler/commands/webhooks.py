"""Commands about webhooks: where events are told, and what became of each."""

import time
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any

import typer

from ostler import render
from ostler.client import AdminClient, CommandFailed, segment
from ostler.durations import seconds
from ostler.options import Json, Key, Url, show

_PAGE = 500
_POLL_S = 0.5
_LONGEST_TEST_S = 30.0
_OF_THIS_ONE = (404, 409)
WebhookId = Annotated[str, typer.Argument(metavar="ID", help="The webhook's id, as `webhooks list` shows it.")]
DeliveryIds = Annotated[
    list[str] | None, typer.Argument(metavar="[ID]...", help="Deliveries, as `webhooks deliveries` shows them.")
]
Dead = Annotated[bool, typer.Option("--dead", help="All that were given up.")]


class State(StrEnum):
    """How far a delivery is."""

    HELD = "held"
    QUEUED = "queued"
    DELIVERED = "delivered"
    DEAD = "dead"


def add(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="Where to tell, such as https://example.com/hook.")],
    event: Annotated[
        list[str] | None, typer.Option("--event", help="Tell of this; may be said again.", show_default="all events")
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option("--adapter", help="Tell of this adapter; may be said again.", show_default="all adapters"),
    ] = None,
    json: Json = False,
    url: Url = "",
    api_key: Key = "",
) -> None:
    """Have events told to an address, and print the secret that signs them, this once."""
    body = {"url": address, "events": event or None, "adapters": adapter or None}
    made = AdminClient(url, api_key).call("POST", "/webhooks", json=body)
    show(made, json, lambda made: _tell_secret(made, "It is not shown again."))


def list_webhooks(json: Json = False, url: Url = "", api_key: Key = "") -> None:
    """List the webhooks."""
    show(AdminClient(url, api_key).call("GET", "/webhooks"), json, _webhooks)


def remove(webhook_id: WebhookId, json: Json = False, url: Url = "", api_key: Key = "") -> None:
    """Delete a webhook, with all that it was not told yet."""
    answer = AdminClient(url, api_key).call("DELETE", _path(webhook_id))
    show(answer, json, lambda webhook: _say(f"Webhook {webhook['id']} to {webhook['url']} is deleted."))


def enable(webhook_id: WebhookId, json: Json = False, url: Url = "", api_key: Key = "") -> None:
    """Have a webhook told of events again."""
    _switch(AdminClient(url, api_key), webhook_id, json, enabled=True)


def disable(webhook_id: WebhookId, json: Json = False, url: Url = "", api_key: Key = "") -> None:
    """Tell a webhook nothing until it is enabled; what waits is given up, and can be sent again then."""
    _switch(AdminClient(url, api_key), webhook_id, json, enabled=False)


def rotate(
    webhook_id: WebhookId,
    overlap: Annotated[
        str, typer.Option(metavar="DURATION", help="How long the old secret signs, too: 90s, 15m, 24h, 7d, or 0.")
    ] = "24h",
    json: Json = False,
    url: Url = "",
    api_key: Key = "",
) -> None:
    """Give a webhook a new secret and print it, this once; the old one signs, too, for a while."""
    order = {"overlap_s": seconds(overlap)}
    answer = AdminClient(url, api_key).call("POST", f"{_path(webhook_id)}/rotate", json=order)
    ends = "at once" if order["overlap_s"] == 0 else f"in {overlap}"
    show(answer, json, lambda made: _tell_secret(made, f"It is not shown again; the old secret ends {ends}."))


def try_out(webhook_id: WebhookId, json: Json = False, url: Url = "", api_key: Key = "") -> None:
    """Send a webhook an `ostler.test`, and wait for what comes of it; exit code 1 if it does not arrive."""
    client = AdminClient(url, api_key)
    sent = _ended(client, client.call("POST", f"{_path(webhook_id)}/test"))
    show(sent, json, _tell_test)
    if sent["state"] != State.DELIVERED:
        raise typer.Exit(1)


def deliveries(
    state: Annotated[State | None, typer.Option(help="Only these.", show_default="all")] = None,
    webhook: Annotated[str | None, typer.Option(metavar="ID", help="Only this webhook's.", show_default="all")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 50,
    before: Annotated[
        str | None, typer.Option(metavar="ID", help="Go on from this one.", show_default="the newest")
    ] = None,
    json: Json = False,
    url: Url = "",
    api_key: Key = "",
) -> None:
    """List what was told and what was not, newest first."""
    given = {"state": state and state.value, "webhook": webhook, "limit": limit, "before": before}
    params = {name: value for name, value in given.items() if value is not None}
    show(AdminClient(url, api_key).call("GET", "/webhooks/deliveries", params=params), json, _deliveries)


def retry(
    delivery_ids: DeliveryIds = None, dead: Dead = False, json: Json = False, url: Url = "", api_key: Key = ""
) -> None:
    """Send deliveries again, each under its own id; a monitor does it within seconds."""
    client = AdminClient(url, api_key)
    done = _for_each(_meant(client, delivery_ids, dead=dead), lambda path: client.call("POST", f"{path}/retry"))
    _tell(done, json, _deliveries)


def drop(
    delivery_ids: DeliveryIds = None, dead: Dead = False, json: Json = False, url: Url = "", api_key: Key = ""
) -> None:
    """Drop deliveries that were given up: nobody is told of them any more."""
    client = AdminClient(url, api_key)
    done = _for_each(_meant(client, delivery_ids, dead=dead), lambda path: client.call("DELETE", path))
    _tell(done, json, lambda dropped: _say(f"Dropped: {len(dropped['data'])}."))


def _path(webhook_id: str) -> str:
    return f"/webhooks/{segment(webhook_id)}"


def _delivery_path(delivery_id: str) -> str:
    return f"/webhooks/deliveries/{segment(delivery_id)}"


def _switch(client: AdminClient, webhook_id: str, json: bool, *, enabled: bool) -> None:
    answer = client.call("PATCH", _path(webhook_id), json={"enabled": enabled})
    show(answer, json, lambda webhook: _webhooks({"data": [webhook]}))


def _meant(client: AdminClient, ids: list[str] | None, *, dead: bool) -> list[str]:
    """The deliveries that were named, or all that were given up."""
    if dead == bool(ids):
        raise CommandFailed("say either which deliveries, or --dead", 2)
    return ids or _all_dead(client)


def _for_each(ids: list[str], act: Callable[[str], Any]) -> Any:
    """Do it to each delivery, whatever is refused of others: the answers, and of what was refused the reasons.

    Raises:
        CommandFailed: it failed otherwise, as it would for the others, too.
    """
    done: list[Any] = []
    refused: list[Any] = []
    for each in ids:
        try:
            done.append(act(_delivery_path(each)))
        except CommandFailed as failed:
            if failed.status not in _OF_THIS_ONE:
                raise
            refused.append({"id": each, "error": str(failed)})
    return {"data": done, "has_more": False, "refused": refused}


def _tell(done: Any, json: bool, for_people: Callable[[Any], None]) -> None:
    """Say what was done, and what was refused, which fails the command."""
    refused = done["refused"]
    if json or done["data"] or not refused:
        show(done, json, for_people)
    for each in refused:
        render.error(f"{each['id']}: {each['error']}")
    if refused:
        raise typer.Exit(1)


def _all_dead(client: AdminClient) -> list[str]:
    found: list[str] = []
    page = {"data": [], "has_more": True}
    while page["has_more"]:
        params: dict[str, Any] = {"state": "dead", "limit": _PAGE} | ({"before": found[-1]} if found else {})
        page = client.call("GET", "/webhooks/deliveries", params=params)
        found += [each["id"] for each in page["data"]]
    return found


def _ended(client: AdminClient, delivery: Any) -> Any:
    """The delivery once it is over, or as it stands when that takes too long."""
    until = time.monotonic() + _LONGEST_TEST_S
    while delivery["state"] == State.QUEUED and time.monotonic() < until:
        time.sleep(_POLL_S)
        delivery = client.call("GET", _delivery_path(delivery["id"]))
    return delivery


def _tell_test(delivery: Any) -> None:
    match delivery["state"]:
        case State.DELIVERED:
            _say("It arrived.")
        case State.QUEUED:
            _say("No monitor has sent it yet; is one running? `ostler monitor` starts one.")
        case _:
            _say(f"It did not arrive: {delivery['error']}.")


def _tell_secret(made: Any, words: str) -> None:
    """The secret alone on standard output, so that a script can take it."""
    render.plain(made["secret"])
    webhook = made["webhook"]
    line = f"Webhook {webhook['id']} to {webhook['url']}. {words}"
    render.err.print(render.words(line), soft_wrap=True)


def _webhooks(answer: Any) -> None:
    rows = [
        (
            each["id"],
            f"off since {render.when(each['disabled_at'])}" if each["disabled_at"] else "on",
            tuple(
                line
                for line in (
                    each["url"],
                    "all events" if each["events"] is None else ", ".join(each["events"]),
                    None if each["adapters"] is None else "only of " + ", ".join(each["adapters"]),
                    _replaced(each),
                )
                if line is not None
            ),
        )
        for each in answer["data"]
    ]
    render.table(("ID", "STANDING", "ADDRESS AND EVENTS"), rows, "No webhooks.")


def _replaced(webhook: Any) -> str | None:
    until = webhook["previous_valid_until"]
    return until and f"the replaced secret signs, too, until {render.when(until)}"


def _deliveries(answer: Any) -> None:
    rows = [
        (each["id"], render.when(each["created_at"]), each["state"], each["event"], _what(each))
        for each in answer["data"]
    ]
    render.table(("ID", "WHEN", "STATE", "EVENT", "WHAT"), rows, "No deliveries.")
    if rows and answer["has_more"]:
        render.out.print(f"There are older ones: --before {rows[-1][0]}")


def _what(delivery: Any) -> tuple[str, ...]:
    """What it tells of, to whom, and how far it is."""
    data = delivery["body"]["data"]
    version = f" version {data['version']}" if data.get("version") else ""
    lines = [f"{data['adapter']}{version}"] if "adapter" in data else []
    lines.append(f"to {delivery['webhook']}")
    if delivery["error"]:
        lines.append(f"{delivery['error']}; attempts that failed: {delivery['attempts']}")
    if delivery["next_at"] and delivery["attempts"]:
        lines.append(f"next at {render.when(delivery['next_at'])}")
    return tuple(lines)


def _say(line: str) -> None:
    render.out.print(render.words(line))
