"""API keys through the admin API: made, changed, replaced, revoked, and what is kept of them."""

import hashlib
import sqlite3
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.conftest import RunningGateway, until
from tests.gateway.answers import error_of, new_key, stranger

NO_LIMITS = {
    "requests_per_minute": None,
    "tokens_per_minute": None,
    "concurrent_requests": None,
    "monthly_budget": None,
}
NEVER = "key_0000000000000000"


async def change(gateway: RunningGateway, key: dict[str, Any], body: Any) -> Any:
    """Change a key; what it is after that."""
    answer = await gateway.http.patch(f"/admin/v1/keys/{key['id']}", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json() == (await gateway.http.get(f"/admin/v1/keys/{key['id']}")).json()
    return answer.json()


async def test_a_keys_secret_is_shown_once_and_stored_as_a_hash(gateway: RunningGateway) -> None:
    """It stands in the answer, in no list and in no table; its SHA-256 does."""
    secret, key = await new_key(gateway)
    listed = await gateway.http.get("/admin/v1/keys")
    assert key in listed.json()["data"]
    assert secret not in listed.text
    with sqlite3.connect(gateway.app.state.settings.home / "ostler.db") as database:
        stored = "\n".join(database.iterdump())
    assert secret not in stored
    assert secret.removeprefix("sk-ostler-") not in stored
    assert hashlib.sha256(secret.encode()).hexdigest() in stored
    for file in gateway.app.state.settings.home.glob("ostler.db*"):
        assert secret.encode() not in file.read_bytes()


async def test_no_secret_comes_into_a_log(gateway: RunningGateway, caplog: pytest.LogCaptureFixture) -> None:
    """Ours at any level, other libraries' as the command sets them: keys made, replaced, used, refused, mistyped."""
    caplog.set_level("WARNING")
    for ours in ("gateway", "registry", "monitors", "uvicorn"):
        caplog.set_level("DEBUG", logger=ours)
    secret, key = await new_key(gateway)
    rotated = (await gateway.http.post(f"/admin/v1/keys/{key['id']}/rotate")).json()["secret"]
    for presented in (secret, rotated, rotated[:-1]):
        await stranger(gateway, presented)
        await stranger(gateway, presented, "GET", "/admin/v1/keys")
        await stranger(gateway, presented, "POST", "/v1/chat/completions", json={"model": "nobody"})
    await gateway.http.delete(f"/admin/v1/keys/{key['id']}")
    for shown in (secret, rotated, rotated[:-1], hashlib.sha256(secret.encode()).hexdigest(), gateway.key):
        assert shown not in caplog.text


async def test_a_revoked_key_is_refused_at_once(gateway: RunningGateway) -> None:
    """Revoking answers when it holds; the key stays in the list with the moment, and revoking again changes nothing."""
    secret, key = await new_key(gateway)
    assert (await stranger(gateway, secret)).status_code == 200
    revoked = await gateway.http.delete(f"/admin/v1/keys/{key['id']}")
    response = await stranger(gateway, secret)
    assert (response.status_code, error_of(response)["code"]) == (401, "invalid_api_key")
    assert revoked.json()["revoked_at"] is not None
    assert (await gateway.http.delete(f"/admin/v1/keys/{key['id']}")).json() == revoked.json()
    assert revoked.json() in (await gateway.http.get("/admin/v1/keys")).json()["data"]


async def test_a_key_ends_when_it_expires(gateway: RunningGateway) -> None:
    """Without anyone doing anything."""
    soon = datetime.now(UTC) + timedelta(seconds=0.4)
    secret, key = await new_key(gateway, expires_at=soon.isoformat())
    assert datetime.fromisoformat(key["expires_at"]) == soon

    async def expired() -> bool:
        return (await stranger(gateway, secret)).status_code == 401

    assert (await stranger(gateway, secret)).status_code == 200
    await until(expired)
    assert datetime.now(UTC) >= soon
    assert "expired" in error_of(await stranger(gateway, secret))["message"]


async def test_a_new_key_is_a_clients_unless_more_is_said(gateway: RunningGateway) -> None:
    """It may ask models and send feedback, everywhere and without limit."""
    _, key = await new_key(gateway)
    assert (key["scopes"], key["adapters"], key["limits"]) == (["feedback", "inference"], None, NO_LIMITS)
    limits = {"requests_per_minute": 60, "monthly_budget": 12.5}
    _, limited = await new_key(gateway, scopes=["tuning"], adapters=["b", "a", "not-yet"], limits=limits)
    assert (limited["scopes"], limited["adapters"]) == (["tuning"], ["a", "b", "not-yet"])
    assert limited["limits"] == NO_LIMITS | limits
    assert (await gateway.http.get(f"/admin/v1/keys/{limited['id']}")).json() == limited


async def test_what_a_change_of_a_key_leaves_out_stays(gateway: RunningGateway) -> None:
    """One limit among the limits, too; null takes away, and the secret stays the same."""
    secret, key = await new_key(gateway, limits={"requests_per_minute": 60, "tokens_per_minute": 1000})
    changed = await change(gateway, key, {"limits": {"tokens_per_minute": 500}})
    assert changed == key | {"limits": NO_LIMITS | {"requests_per_minute": 60, "tokens_per_minute": 500}}
    changed = await change(gateway, key, {"limits": {"requests_per_minute": None}, "adapters": ["support"]})
    assert changed["limits"] == NO_LIMITS | {"tokens_per_minute": 500}
    assert changed["adapters"] == ["support"]
    changed = await change(gateway, key, {"limits": None, "adapters": None, "name": "crew", "scopes": ["tuning"]})
    bare = key | {"limits": NO_LIMITS, "name": "crew", "scopes": ["tuning"]}
    assert changed == bare
    later = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    changed = await change(gateway, key, {"expires_at": later})
    assert datetime.fromisoformat(changed["expires_at"]) == datetime.fromisoformat(later)
    assert (await change(gateway, key, {"expires_at": None}))["expires_at"] is None
    assert await change(gateway, key, {}) == bare
    assert (await stranger(gateway, secret)).status_code == 200


async def test_a_change_of_a_key_holds_at_once(two: RunningGateway) -> None:
    """Rights that were taken are gone when the change is answered."""
    secret, key = await new_key(two)
    chat = {"model": "support", "messages": [{"role": "user", "content": "hello"}]}
    assert (await stranger(two, secret, "POST", "/v1/chat/completions", json=chat)).status_code == 200
    await change(two, key, {"scopes": ["feedback"]})
    refused = await stranger(two, secret, "POST", "/v1/chat/completions", json=chat)
    assert (refused.status_code, error_of(refused)["code"]) == (403, "insufficient_permissions")
    await change(two, key, {"scopes": ["inference"], "adapters": ["other"]})
    assert (await stranger(two, secret, "POST", "/v1/chat/completions", json=chat)).status_code == 404
    await change(two, key, {"scopes": ["admin"], "adapters": None})
    assert (await stranger(two, secret, "GET", "/admin/v1/keys")).status_code == 200


async def test_a_rotated_key_has_two_secrets_for_a_while(gateway: RunningGateway) -> None:
    """The new one at once, the old one until the overlap is over; id and rights stay, and a third ends the first."""
    first, key = await new_key(gateway, limits={"requests_per_minute": 1000})
    path = f"/admin/v1/keys/{key['id']}/rotate"
    answer = await gateway.http.post(path, json={"overlap_s": 3600})
    assert answer.status_code == 200
    second, rotated = answer.json()["secret"], answer.json()["key"]
    assert second != first
    until_when = datetime.fromisoformat(rotated["previous_valid_until"])
    assert timedelta(minutes=59) < until_when - datetime.now(UTC) <= timedelta(hours=1)
    assert rotated == key | {"hint": "..." + second[-4:], "previous_valid_until": rotated["previous_valid_until"]}
    assert rotated in (await gateway.http.get("/admin/v1/keys")).json()["data"]
    for secret in (first, second):
        assert (await stranger(gateway, secret)).status_code == 200
    third = (await gateway.http.post(path)).json()["secret"]
    assert [(await stranger(gateway, secret)).status_code for secret in (first, second, third)] == [401, 200, 200]
    fourth = (await gateway.http.post(path, json={"overlap_s": 0})).json()["secret"]
    assert [(await stranger(gateway, secret)).status_code for secret in (second, third, fourth)] == [401, 401, 200]
    fifth = (await gateway.http.post(path, json={"overlap_s": 1})).json()["secret"]

    async def old_ended() -> bool:
        return (await stranger(gateway, fourth)).status_code == 401

    await until(old_ended)
    assert (await stranger(gateway, fifth)).status_code == 200
    assert (await gateway.http.get(f"/admin/v1/keys/{key['id']}")).json()["previous_valid_until"] is None
    assert fifth not in (await gateway.http.get("/admin/v1/keys")).text


async def test_a_revoked_key_has_no_secret_left_and_stays_revoked(gateway: RunningGateway) -> None:
    """Not the one that it was rotated from either; it cannot be changed or rotated any more."""
    first, key = await new_key(gateway)
    path = f"/admin/v1/keys/{key['id']}"
    second = (await gateway.http.post(path + "/rotate", json={"overlap_s": 3600})).json()["secret"]
    await gateway.http.delete(path)
    for secret in (first, second):
        assert (await stranger(gateway, secret)).status_code == 401
    for call in (gateway.http.patch(path, json={"name": "again"}), gateway.http.post(path + "/rotate")):
        refused = await call
        assert (refused.status_code, error_of(refused)["code"]) == (409, "conflict")


WRONG_KEYS: list[tuple[dict[str, Any], str]] = [
    ({"name": ""}, "name"),
    ({"name": "x" * 81}, "name"),
    ({"name": "a\0b"}, "name"),
    ({"name": 5}, "name"),
    ({"scopes": ["king"]}, "scopes[0]"),
    ({"scopes": []}, "scopes"),
    ({"scopes": "admin"}, "scopes"),
    ({"scopes": ["admin"], "adapters": ["support"]}, "adapters"),
    ({"adapters": "support"}, "adapters"),
    ({"adapters": [5]}, "adapters[0]"),
    ({"limits": {"requests_per_minute": 0}}, "limits.requests_per_minute"),
    ({"limits": {"tokens_per_minute": -5}}, "limits.tokens_per_minute"),
    ({"limits": {"concurrent_requests": 1.5}}, "limits.concurrent_requests"),
    ({"limits": {"concurrent_requests": "5"}}, "limits.concurrent_requests"),
    ({"limits": {"requests_per_minute": 2**31}}, "limits.requests_per_minute"),
    ({"limits": {"monthly_budget": 0}}, "limits.monthly_budget"),
    ({"limits": {"monthly_budget": "1"}}, "limits.monthly_budget"),
    ({"limits": {"per_hour": 1}}, "limits.per_hour"),
    ({"expires_at": "tomorrow"}, "expires_at"),
    ({"expires_at": "2030-01-01T00:00:00"}, "expires_at"),
    ({"expires_at": "2020-01-01T00:00:00+00:00"}, "expires_at"),
    ({"expires_at": "9999-12-31T23:59:59-12:00"}, "expires_at"),
    ({"expires_at": "0001-01-01T00:00:00+12:00"}, "expires_at"),
    ({"expires_at": 4102444800}, "expires_at"),
    ({"roles": ["admin"]}, "roles"),
]


async def test_a_wrong_order_of_a_key_names_the_field(gateway: RunningGateway) -> None:
    """400 for a new key and for a change of one; no key is made or changed."""
    _, key = await new_key(gateway)
    for fields, param in WRONG_KEYS:
        response = await gateway.http.post("/admin/v1/keys", json={"name": "team", **fields})
        assert (response.status_code, error_of(response)["param"]) == (400, param), fields
        response = await gateway.http.patch(f"/admin/v1/keys/{key['id']}", json=fields)
        assert (response.status_code, error_of(response)["param"]) == (400, param), fields
    for content in (b'{"limits": {"monthly_budget": 1e999}}', b'{"limits": {"monthly_budget": NaN}}'):
        assert (await gateway.http.patch(f"/admin/v1/keys/{key['id']}", content=content)).status_code == 400
    listed = (await gateway.http.get("/admin/v1/keys")).json()["data"]
    assert [found for found in listed if found["name"] != "test"] == [key]


async def test_a_key_limited_to_adapters_cannot_become_an_admins(gateway: RunningGateway) -> None:
    """Nor the other way round: the two together would be a tenant who sees all."""
    _, limited = await new_key(gateway, adapters=["support"])
    _, admin = await new_key(gateway, scopes=["admin"])
    for key, body in ((limited, {"scopes": ["admin"]}), (admin, {"adapters": ["support"]})):
        response = await gateway.http.patch(f"/admin/v1/keys/{key['id']}", json=body)
        assert (response.status_code, error_of(response)["param"]) == (400, "adapters")


@pytest.mark.parametrize("order", [{"overlap_s": -1}, {"overlap_s": 10**9}, {"overlap_s": "60"}, {"days": 1}])
async def test_a_wrong_rotation_changes_nothing(gateway: RunningGateway, order: dict[str, Any]) -> None:
    """400, and the one secret goes on."""
    secret, key = await new_key(gateway)
    refused = await gateway.http.post(f"/admin/v1/keys/{key['id']}/rotate", json=order)
    assert (refused.status_code, error_of(refused)["param"]) == (400, next(iter(order)))
    assert (await gateway.http.get(f"/admin/v1/keys/{key['id']}")).json() == key
    assert (await stranger(gateway, secret)).status_code == 200


async def test_what_a_key_has_spent_this_month_is_shown(gateway: RunningGateway) -> None:
    """In the list and in every answer with the key, as this gateway's budgets know it; a new one has spent nothing."""
    _, key = await new_key(gateway, limits={"monthly_budget": 5})
    assert key["spent_this_month"] == 0
    gateway.app.state.budgets.add(key["id"], 1.25)
    path = f"/admin/v1/keys/{key['id']}"
    listed = (await gateway.http.get("/admin/v1/keys")).json()["data"]
    answers = [
        next(found for found in listed if found["id"] == key["id"]),
        (await gateway.http.get(path)).json(),
        (await gateway.http.patch(path, json={"name": "crew"})).json(),
        (await gateway.http.post(path + "/rotate")).json()["key"],
        (await gateway.http.delete(path)).json(),
    ]
    assert [answer["spent_this_month"] for answer in answers] == [1.25] * len(answers)


async def test_the_last_admins_key_cannot_be_revoked(gateway: RunningGateway) -> None:
    """409, in words that say what to do first; then it can."""
    (own,) = (await gateway.http.get("/admin/v1/keys")).json()["data"]
    path = f"/admin/v1/keys/{own['id']}"
    for refused in (
        await gateway.http.delete(path),
        await gateway.http.post(path + "/rotate", json={"overlap_s": 0}),
        await gateway.http.patch(path, json={"scopes": ["inference"]}),
    ):
        assert (refused.status_code, error_of(refused)["code"]) == (409, "conflict")
        assert "another admin key first" in error_of(refused)["message"]
    await new_key(gateway, scopes=["admin"])
    assert (await gateway.http.delete(path)).status_code == 200


async def test_a_key_that_does_not_exist_is_404(gateway: RunningGateway) -> None:
    """However it is asked for."""
    path = f"/admin/v1/keys/{NEVER}"
    for call in (
        gateway.http.get(path),
        gateway.http.patch(path, json={"name": "x"}),
        gateway.http.post(path + "/rotate"),
        gateway.http.delete(path),
    ):
        response = await call
        assert (response.status_code, error_of(response)["code"]) == (404, "not_found")
