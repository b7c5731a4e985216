"""Webhooks as the admin API takes them: a secret is shown once, and what was not told can be told again."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.tables import DeliveryRow, WebhookRow
from monitors.webhooks.hooks import MOST
from tests.conftest import RunningGateway
from tests.gateway.answers import error_of
from tests.monitors.webhooks.rows import NOW, PROMOTES, decide

HOOKS = "/admin/v1/webhooks"
DELIVERIES = f"{HOOKS}/deliveries"
URL = "https://example.com/hooks/T0/secret-path"
_DELIVERIES = DeliveryRow.__table__  # type: ignore[attr-defined]
_WEBHOOKS = WebhookRow.__table__  # type: ignore[attr-defined]


async def made(gateway: RunningGateway, **wanted: Any) -> tuple[dict[str, Any], str]:
    """A new webhook, and its secret."""
    answer = await gateway.http.post(HOOKS, json={"url": URL, **wanted})
    assert answer.status_code == 201, answer.text
    assert answer.json().keys() == {"webhook", "secret"}
    return answer.json()["webhook"], answer.json()["secret"]


def database(gateway: RunningGateway) -> AsyncEngine:
    """The gateway's own."""
    found: AsyncEngine = gateway.app.state["database"]
    return found


async def told(gateway: RunningGateway, **params: Any) -> list[dict[str, Any]]:
    """Deliveries, newest first."""
    answer = await gateway.http.get(DELIVERIES, params=params)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["data"]
    return found


async def set_all(gateway: RunningGateway, **values: Any) -> None:
    """As after attempts of a monitor's."""
    async with database(gateway).begin() as connection:
        await connection.execute(update(_DELIVERIES).values(**values))


async def test_a_secret_is_shown_once(gateway: RunningGateway) -> None:
    """Where it is made, and where it is replaced; nowhere else, and no part of the address is in the audit log."""
    webhook, secret = await made(gateway, events=["promoted", "alarm"], adapters=["support"])
    assert secret.startswith("whsec_")
    assert webhook == {
        "id": webhook["id"],
        "url": URL,
        "events": ["alarm", "promoted"],
        "adapters": ["support"],
        "created_by": webhook["created_by"],
        "created_at": webhook["created_at"],
        "previous_valid_until": None,
        "disabled_at": None,
    }
    path = f"{HOOKS}/{webhook['id']}"
    replaced = (await gateway.http.post(f"{path}/rotate", json={"overlap_s": 60})).json()
    until = datetime.fromisoformat(replaced["webhook"]["previous_valid_until"])
    assert timedelta() < until - datetime.now(UTC) <= timedelta(minutes=1)
    assert replaced["secret"] != secret
    at_once = (await gateway.http.post(f"{path}/rotate", json={"overlap_s": 0})).json()
    assert at_once["webhook"]["previous_valid_until"] is None
    await gateway.http.patch(path, json={"enabled": False})
    answers = [(await gateway.http.get(each)).text for each in (HOOKS, path, "/admin/v1/audit")]
    answers.append((await gateway.http.delete(path)).text)
    answers.append((await gateway.http.get("/admin/v1/audit")).text)
    for each in (secret, replaced["secret"], at_once["secret"]):
        assert not any(each in text for text in answers)
    audit = json.loads(answers[-1])["data"]
    assert [entry["action"] for entry in audit if entry["subject"] == f"webhook:{webhook['id']}"] == [
        "delete_webhook",
        "disable_webhook",
        "rotate_webhook",
        "rotate_webhook",
        "create_webhook",
    ]
    assert "secret-path" not in answers[-1]
    async with database(gateway).connect() as connection:
        (row,) = await connection.execute(_WEBHOOKS.select())
    assert (row.secret, row.previous_secret) == ("", "")


@pytest.mark.parametrize(
    "url",
    [
        "example.com/hook",
        "ftp://example.com/hook",
        "file:///etc/passwd",
        "https://",
        "https:///hook",
        "https://user:word@example.com/hook",
        "https://example.com/hook#part",
        "https://example.com:99999/hook",
        "https://[::1/hook",
        "https://exämple.com/hook",
        "https://example.com/a hook",
        "https://example.com/\n",
        "http://169.254.169.254/latest/meta-data",
        "http://2852039166/",
        "http://[fe80::1]/hook",
        "http://[::ffff:169.254.169.254]/hook",
    ],
)
async def test_addresses_that_nothing_can_be_sent_to_are_refused(shared_gateway: RunningGateway, url: str) -> None:
    """Where they are said, and not days later."""
    refused = await shared_gateway.http.post(HOOKS, json={"url": url})
    assert (refused.status_code, error_of(refused)["param"]) == (422, "url")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"url": URL, "events": []},
        {"url": URL, "events": ["test"]},
        {"url": URL, "events": "alarm"},
        {"url": URL, "adapters": []},
        {"url": URL, "secret": "whsec_mine"},
        {"url": URL + "x" * 2000},
    ],
)
async def test_bodies_are_read_strictly(shared_gateway: RunningGateway, body: dict[str, Any]) -> None:
    """A misspelt event would never come."""
    assert (await shared_gateway.http.post(HOOKS, json=body)).status_code == 400


async def test_there_are_not_too_many(gateway: RunningGateway) -> None:
    """Each costs the monitor something at every event."""
    rows = [
        {"id": f"hook_{number}", "url": URL, "secret": "", "previous_secret": "", "created_by": "x", "created_at": NOW}
        for number in range(MOST)
    ]
    async with database(gateway).begin() as connection:
        await connection.execute(_WEBHOOKS.insert(), rows)
    assert (await gateway.http.post(HOOKS, json={"url": URL})).status_code == 409
    assert (await gateway.http.delete(f"{HOOKS}/hook_1")).status_code == 200
    await made(gateway)


async def test_what_is_not_there_is_not_found(gateway: RunningGateway) -> None:
    """Or is no more."""
    webhook, _ = await made(gateway)
    assert (await gateway.http.delete(f"{HOOKS}/{webhook['id']}")).status_code == 200
    assert (await gateway.http.get(HOOKS)).json()["data"] == []
    for number in ("nobody", webhook["id"]):
        for method, path, body in (
            ("GET", "", None),
            ("PATCH", "", {"enabled": True}),
            ("DELETE", "", None),
            ("POST", "/rotate", {}),
            ("POST", "/test", None),
        ):
            answer = await gateway.http.request(method, f"{HOOKS}/{number}{path}", json=body)
            assert answer.status_code == 404, (method, path)
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/retry")):
        assert (await gateway.http.request(method, f"{DELIVERIES}/nobody{path}")).status_code == 404


async def test_a_test_is_queued(gateway: RunningGateway) -> None:
    """Not for one that is switched off."""
    webhook, _ = await made(gateway, events=["promoted"])
    path = f"{HOOKS}/{webhook['id']}"
    answer = await gateway.http.post(f"{path}/test")
    assert answer.status_code == 202, answer.text
    queued = answer.json()
    assert (queued["event"], queued["state"], queued["attempts"]) == ("test", "queued", 0)
    assert queued["body"]["type"] == "ostler.test"
    assert (await gateway.http.get(f"{DELIVERIES}/{queued['id']}")).json() == queued
    off = await gateway.http.patch(path, json={"enabled": False})
    assert off.json()["disabled_at"] is not None
    assert (await gateway.http.post(f"{path}/test")).status_code == 409
    on = await gateway.http.patch(path, json={"enabled": True})
    assert on.json()["disabled_at"] is None
    assert (await gateway.http.post(f"{path}/test")).status_code == 202


async def test_deliveries_are_listed_by_pages_and_states(gateway: RunningGateway) -> None:
    """Newest first."""
    first, _ = await made(gateway)
    for minutes in range(3):
        await decide(database(gateway), now=NOW + timedelta(minutes=minutes))
    second, _ = await made(gateway, events=["promoted"])
    await decide(database(gateway), PROMOTES, NOW + timedelta(hours=1))
    assert [each["state"] for each in await told(gateway, webhook=second["id"])] == ["held"]
    assert len(await told(gateway, state="held")) == 2
    alarms = await told(gateway, state="queued", webhook=first["id"])
    assert [each["created_at"] for each in alarms] == sorted((each["created_at"] for each in alarms), reverse=True)
    page = (await gateway.http.get(DELIVERIES, params={"state": "queued", "limit": 2})).json()
    assert (page["data"], page["has_more"]) == (alarms[:2], True)
    rest = (await gateway.http.get(DELIVERIES, params={"state": "queued", "before": alarms[1]["id"]})).json()
    assert (rest["data"], rest["has_more"]) == (alarms[2:], False)
    assert (await gateway.http.get(DELIVERIES, params={"state": "lost"})).status_code == 400


async def test_dead_letters_are_sent_again_or_dropped(gateway: RunningGateway) -> None:
    """Sent again they begin anew; only what was given up can be dropped."""
    webhook, _ = await made(gateway)
    await decide(database(gateway))
    (queued,) = await told(gateway)
    path = f"{DELIVERIES}/{queued['id']}"
    assert (await gateway.http.delete(path)).status_code == 409
    await set_all(gateway, state="dead", attempts=10, error="status 500")
    (dead,) = await told(gateway, state="dead")
    assert (dead["attempts"], dead["error"], dead["next_at"]) == (10, "status 500", None)
    again = await gateway.http.post(f"{path}/retry")
    assert again.status_code == 202, again.text
    assert (again.json()["state"], again.json()["attempts"]) == ("queued", 0)
    assert again.json()["next_at"] is not None
    await set_all(gateway, state="dead")
    await gateway.http.patch(f"{HOOKS}/{webhook['id']}", json={"enabled": False})
    assert (await gateway.http.post(f"{path}/retry")).status_code == 409
    assert (await gateway.http.delete(path)).status_code == 200
    assert await told(gateway) == []


async def test_what_is_held_is_not_sent_by_hand(gateway: RunningGateway) -> None:
    """It may never come true."""
    await made(gateway)
    await decide(database(gateway), PROMOTES)
    (held,) = await told(gateway)
    assert (await gateway.http.post(f"{DELIVERIES}/{held['id']}/retry")).status_code == 409


async def test_a_deleted_webhook_takes_what_it_was_not_told_with_it(gateway: RunningGateway) -> None:
    """What it was told stays listed."""
    webhook, _ = await made(gateway)
    await decide(database(gateway))
    await set_all(gateway, state="delivered", delivered_at=NOW)
    await decide(database(gateway))
    await gateway.http.delete(f"{HOOKS}/{webhook['id']}")
    assert [each["state"] for each in await told(gateway)] == ["delivered"]
