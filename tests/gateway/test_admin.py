"""What holds for the whole admin API: who may use it, what does not exist, and what fails below it."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.settings import GatewaySettings
from tests.conftest import RunningGateway, tar_of, until
from tests.gateway.answers import adapters, error_of, new_key, stranger


async def test_what_does_not_exist_is_404(two: RunningGateway) -> None:
    """Adapter, version, revision, key and path, each named."""
    change = "/admin/v1/adapters/{}/deployment"
    for call, code, says in (
        (two.http.get("/admin/v1/adapters/nobody"), "not_found", "'nobody'"),
        (two.http.get("/admin/v1/adapters/nobody/history"), "not_found", "'nobody'"),
        (two.http.patch(change.format("nobody"), json={"stable": 1}), "not_found", "'nobody'"),
        (two.http.patch(change.format("support"), json={"stable": 9}), "not_found", "9"),
        (two.http.post("/admin/v1/adapters/support/rollback", json={"to": 9}), "not_found", "9"),
        (two.http.post("/admin/v1/adapters/support/versions/9/verify"), "not_found", "9"),
        (two.http.delete("/admin/v1/keys/key_0"), "not_found", "key"),
        (two.http.get("/admin/v1/nothing"), "path_not_found", "/admin/v1/nothing"),
        (two.http.post("/admin/v1/adapters/support/versions/x/verify"), "path_not_found", "x/verify"),
        (two.http.get("/admin/v1/adapters/a%2Fb"), "path_not_found", "a/b"),
        (two.http.get("/admin/v1/adapters/%00/history"), "path_not_found", "NUL"),
    ):
        response = await call
        error = error_of(response)
        assert (response.status_code, error["code"]) == (404, code), response.request.url
        assert says in error["message"]


async def test_no_admin_path_is_open_to_clients(two: RunningGateway) -> None:
    """Every one that the schema names: 403 with a client's key, 401 without any, and nothing happened."""
    client, _ = await new_key(two)
    paths = (await two.http.get("/schema")).json()["paths"]
    calls = [(method, path) for path in paths if path.startswith("/admin/") for method in paths[path]]
    assert len(calls) >= 16
    before = await adapters(two), (await two.http.get("/admin/v1/keys")).json()
    for method, path in calls:
        ids = {"key_id": "key_0", "evaluation_id": "run_0", "drift_id": "run_0", "replica_id": "engine-0"}
        ids |= {"webhook_id": "hook_0", "delivery_id": "told_0"}
        filled = path.format(name="support", number=1, **ids)
        refused = await stranger(two, client, method, filled)
        assert (refused.status_code, error_of(refused)["code"]) == (403, "insufficient_permissions"), path
        assert "'admin'" in error_of(refused)["message"]
        nobody = await httpx.AsyncClient().request(method, two.url + filled)
        assert (nobody.status_code, error_of(nobody)["code"]) == (401, "missing_api_key"), path
    assert (await adapters(two), (await two.http.get("/admin/v1/keys")).json()) == before


async def test_unexpected_failures_tell_nothing(two: RunningGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """500 in the envelope with the request's id; no words of the exception, no stack, no path."""

    async def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError(f"password 1234 in {__file__}")

    registry = two.app.state.registry
    for name in ("history", "preview_rollback", "list_keys", "create_key", "revoke_key", "push", "preview", "audit"):
        monkeypatch.setattr(registry, name, broken)
    for call in (
        two.http.get("/admin/v1/adapters/support/history"),
        two.http.post("/admin/v1/adapters/support/rollback"),
        two.http.get("/admin/v1/keys"),
        two.http.post("/admin/v1/keys", json={"name": "team"}),
        two.http.delete("/admin/v1/keys/key_0"),
        two.http.get("/admin/v1/audit"),
        two.http.post("/admin/v1/adapters/support/versions", content=tar_of(two.adapter_folder(3.0))),
        two.promote("support", 2),
    ):
        response = await call
        error = error_of(response)
        assert (response.status_code, error["code"], error["type"]) == (500, "internal_error", "server_error")
        assert not any(word in response.text for word in ("password", "RuntimeError", "Traceback", ".py", "/"))
    assert list((two.app.state.settings.cache / "uploads").iterdir()) == []


async def test_a_database_that_is_away_stops_changes_and_nothing_else(two: RunningGateway) -> None:
    """Requests are served from memory; changes are 503 in the envelope, and possible again when it is back."""
    home: Path = two.app.state.settings.home
    registry = two.app.state.registry
    # The gateway opens its database anew, and finds a folder in its place: in one step, both ways, as SQLite makes a
    # file that is missing.
    await registry._sessions.kw["bind"].dispose()
    database, away, folder = home / "ostler.db", home / "away.db", home / "folder"
    away.hardlink_to(database)
    folder.symlink_to(home)
    folder.replace(database)
    await registry._sessions.kw["bind"].dispose()  # what was opened again in between
    await until(lambda: not two.app.state.directory.reachable)

    for model in ("support", "support@2", "tiny"):
        assert (await two.chat(model)).status_code == 200
    assert (await two.http.get("/readyz")).status_code == 200
    assert (await two.http.get("/v1/models")).status_code == 200
    assert (await adapters(two))[0]["deployment"]["stable"] == 1
    for call in (
        two.promote("support", 2),
        two.http.post("/admin/v1/adapters/support/rollback"),
        two.http.post("/admin/v1/keys", json={"name": "team"}),
        two.http.get("/admin/v1/keys"),
        two.http.get("/admin/v1/audit"),
        two.http.patch("/admin/v1/adapters/support/versions/2", json={"archived": True}),
        two.http.post("/admin/v1/adapters/support/versions", content=tar_of(two.adapter_folder(3.0))),
    ):
        response = await call
        assert (response.status_code, error_of(response)["code"]) == (503, "database_unavailable")
        assert response.headers["x-should-retry"] == "true"
        assert not any(word in response.text for word in ("sqlite", str(home), "SELECT", "UPDATE"))
    assert (await two.chat("support")).headers["x-ostler-version"] == "1"

    away.replace(database)
    await until(lambda: two.app.state.directory.reachable)
    assert (await two.promote("support", 2)).status_code == 200
    assert (await two.chat("support")).headers["x-ostler-version"] == "2"


async def test_a_body_nested_beyond_reading_is_refused(gateway: RunningGateway) -> None:
    """It is the client's mistake, not ours."""
    response = await gateway.http.post("/admin/v1/keys", content=b'{"name":' + b"[" * 5000)
    assert (response.status_code, response.json()["error"]["type"]) == (400, "invalid_request_error")


async def test_the_audit_log_tells_who_did_what(two: RunningGateway) -> None:
    """Every change newest first, in pages, with actor, before and after; never a secret or a hash."""
    secret, key = await new_key(two, limits={"requests_per_minute": 60})
    await two.http.patch("/admin/v1/adapters/support/deployment", json={"canary": {"version": 2, "weight": 0.5}})
    await two.http.patch(f"/admin/v1/keys/{key['id']}", json={"limits": None})
    rotated = (await two.http.post(f"/admin/v1/keys/{key['id']}/rotate")).json()["secret"]
    page = (await two.http.get("/admin/v1/audit")).json()
    entries = page["data"]
    assert page["has_more"] is False
    assert [entry["action"] for entry in entries[:4]] == ["rotate_key", "update_key", "canary", "create_key"]
    assert all(entry["actor"].startswith("test (key_") for entry in entries[:4])
    canary = entries[2]
    assert canary["subject"] == "adapter:support"
    assert (canary["before"]["canary"], canary["after"]["canary"]) == (None, {"version": 2, "weight": 0.5})
    limits = entries[1]
    assert limits["subject"] == f"key:{key['id']}"
    assert limits["before"]["limits"]["requests_per_minute"] == 60
    assert limits["after"]["limits"]["requests_per_minute"] is None
    first = (await two.http.get("/admin/v1/audit", params={"limit": 2})).json()
    rest = (await two.http.get("/admin/v1/audit", params={"before": first["data"][-1]["id"]})).json()
    assert (first["has_more"], first["data"] + rest["data"]) == (True, entries)
    text = (await two.http.get("/admin/v1/audit")).text
    for word in (secret, rotated, "hash"):
        assert word not in text


async def test_replicas_are_shown_with_their_load(two: RunningGateway) -> None:
    """Address, state, breaker and residents of each engine, and when it is away, that and why."""
    (replica,) = (await two.http.get("/admin/v1/replicas")).json()["data"]
    assert replica.keys() == {
        *("id", "pool", "state", "breaker", "retry_in_s", "in_flight", "idle_s", "running"),
        *("waiting", "kv_cache_usage", "resident", "loading", "problem", "url"),
    }
    assert replica["url"] == two.engine.url
    assert (replica["pool"], replica["state"], replica["breaker"], replica["problem"]) == (
        *("tiny", "ready", "closed"),
        None,
    )
    live = (await two.http.get("/admin/v1/adapters/support")).json()["versions"][0]["engine_name"]
    assert live in replica["resident"]
    await two.engine.stop()

    async def down() -> bool:
        (found,) = (await two.http.get("/admin/v1/replicas")).json()["data"]
        return bool(found["state"] == "down" and found["resident"] == [])

    await until(down)
    (away,) = (await two.http.get("/admin/v1/replicas")).json()["data"]
    assert away["problem"]
    assert "127.0.0.1" not in away["problem"]


async def test_a_path_below_the_schema_is_404(gateway: RunningGateway) -> None:
    """In the envelope, as every other; and a method that a path does not take is told which it takes."""
    for path in ("/schema/anything", "/schema/a/b", "/schema/openapi.yaml", "/nothing"):
        response = await gateway.http.get(path)
        assert (response.status_code, error_of(response)["code"]) == (404, "path_not_found")
    wrong = await gateway.http.delete("/admin/v1/keys")
    assert (wrong.status_code, error_of(wrong)["code"]) == (405, "method_not_allowed")
    assert {"GET", "POST"} <= {method.strip() for method in wrong.headers["allow"].split(",")}


class TestOnPostgreSQL:
    """What only the other database could trip over."""

    @pytest.fixture
    def gateway_settings(self, gateway_settings: GatewaySettings, postgres_url: str) -> GatewaySettings:
        """The same gateway on PostgreSQL."""
        return gateway_settings.model_copy(update={"database_url": postgres_url})

    async def test_texts_and_numbers_that_it_cannot_hold_are_refused(self, two: RunningGateway) -> None:
        """NUL and numbers beyond its integers are 4xx, never 500."""
        rollback = "/admin/v1/adapters/{}/rollback"
        for call in (
            two.http.post(rollback.format("support"), json={"to": 2**31}),
            two.http.post(rollback.format("support"), json={"reason": "\0"}),
            two.http.post(rollback.format("%00")),
            two.http.get("/admin/v1/adapters/support/history", params={"before": 2**31}),
            two.http.get("/admin/v1/adapters/%00/history"),
            two.http.get("/admin/v1/audit", params={"before": 2**31}),
            two.http.delete("/admin/v1/keys/%00"),
            two.http.post("/admin/v1/keys", json={"name": "x", "adapters": ["\0"]}),
            two.http.patch("/admin/v1/adapters/support/versions/99999999999", json={"archived": True}),
            two.http.post("/admin/v1/keys", json={"name": "\0"}),
            two.http.post(
                "/admin/v1/adapters/x/versions", params={"note": "\0"}, content=tar_of(two.adapter_folder(3.0))
            ),
            two.http.patch("/admin/v1/adapters/support/deployment", json={"stable": 2**31}),
        ):
            response = await call
            assert response.status_code in (400, 404), response.text
            assert error_of(response)["type"] == "invalid_request_error"
        assert (await two.http.delete("/admin/v1/keys/" + "x" * 5000)).status_code == 404
        assert (await two.http.get("/admin/v1/adapters/support/history")).json()["data"][0]["revision"] == 1
