"""The admin API of the request log: what was asked is listed and added up, and forgotten on demand."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from monitors.privacy.names import pseudonym
from monitors.tables import UsageRow
from registry.catalog import Scope
from registry.monitoring import Monitoring
from tests.conftest import RunningGateway, until


async def listed(gateway: RunningGateway, count: int, **params: Any) -> list[Any]:
    """The log, once it has so many requests."""
    found: list[Any] = []

    async def enough() -> bool:
        answer = await gateway.http.get("/admin/v1/requests", params=params)
        assert answer.status_code == 200, answer.text
        found[:] = answer.json()["data"]
        return len(found) >= count

    await until(enough)
    return found


@pytest.fixture
async def asked(gateway: RunningGateway) -> RunningGateway:
    """A gateway that has captured two chats of ann and one of bob."""
    await gateway.push("support", 1.0)
    await gateway.promote("support", 1)
    await gateway.registry.set_monitoring("support", Monitoring(capture=1.0), actor="test")
    await until(lambda: gateway.app.state.directory.catalog.adapters["support"].monitoring.capture == 1.0)
    for name in ("ann", "ann", "bob"):
        message = [{"role": "user", "content": f"I am {name}@example.com"}]
        headers = {"x-session-id": f"session of {name}"}
        body = {"model": "support", "messages": message, "user": name}
        assert (await gateway.http.post("/v1/chat/completions", json=body, headers=headers)).is_success
    await listed(gateway, 3)
    return gateway


async def test_requests_are_listed_with_their_text_only_when_asked(asked: RunningGateway) -> None:
    """Without personal data; sessions and users stand there as pseudonyms and are found by their names."""
    (newest, *_) = await listed(asked, 3)
    assert newest["status"] == 200
    assert newest["end_user"] == pseudonym("bob")
    assert "prompt" not in newest
    found = await listed(asked, 2, text="true", session="session of ann")
    assert [each["prompt"] for each in found] == [[{"role": "user", "content": "I am [EMAIL]"}]] * 2
    assert all(each["answer"].startswith("I am support@1") for each in found)
    assert [each["redactions"] for each in found] == [1, 1]
    assert len(await listed(asked, 1, user="bob", version=1, status=200, adapter="support")) == 1


async def test_a_page_tells_where_the_next_begins(asked: RunningGateway) -> None:
    """Until the end, where there is no next."""
    found, after = [], None
    while True:
        params = {"limit": "2", "order": "oldest"} | ({"after": after} if after else {})
        page = (await asked.http.get("/admin/v1/requests", params=params)).json()
        found += [each["id"] for each in page["data"]]
        after = page["next"]
        assert page["has_more"] == (after is not None)
        if after is None:
            break
    assert found == [each["id"] for each in await listed(asked, 3, order="oldest")]


async def test_whom_one_forgets_is_gone_and_the_audit_log_says_so_without_the_name(asked: RunningGateway) -> None:
    """Usage stays."""
    before = (await asked.http.get("/admin/v1/usage", params={"by": ["adapter", "variant"]})).json()
    answer = await asked.http.delete("/admin/v1/requests", params={"user": "ann"})
    assert answer.json() == {"requests": 2, "captures": 2, "feedback": 0, "scores": 0, "observations": 0}
    assert len(await listed(asked, 1)) == 1
    (entry, *_) = (await asked.http.get("/admin/v1/audit")).json()["data"]
    assert (entry["action"], entry["subject"]) == ("forget", f"end_user:{pseudonym('ann')}")
    assert entry["detail"]["requests"] == 2
    assert (await asked.http.get("/admin/v1/usage", params={"by": ["adapter", "variant"]})).json() == before


async def test_usage_is_told_apart_by_what_one_asks_and_page_by_page(asked: RunningGateway) -> None:
    """What was not asked for is null; the pages together are the whole."""
    parts = {"by": ["adapter", "version", "variant"], "per": "all"}
    whole = (await asked.http.get("/admin/v1/usage", params=parts)).json()
    (row,) = [each for each in whole["data"] if each["adapter"] == "support"]
    assert (row["version"], row["variant"], row["requests"], row["errors"]) == (1, "stable", 3, 0)
    assert (row["prompt_tokens"], row["completion_tokens"]) == (21, 9)
    assert row["key_id"] is row["pool"] is row["period"] is None
    for number in range(2):
        await asked.http.get("/v1/models", headers={"authorization": f"Bearer wrong-{number}"})
    paged: list[Any] = []
    after: dict[str, str] = {}
    params: dict[str, Any] = {"by": ["key_id", "adapter", "version"], "per": "hour", "limit": "1"}
    while True:
        page = (await asked.http.get("/admin/v1/usage", params=params | after)).json()
        paged += page["data"]
        if not page["has_more"]:
            break
        after = {"after": page["next"]}
    assert paged == (await asked.http.get("/admin/v1/usage", params=params | {"limit": "100"})).json()["data"]


async def test_usage_is_of_the_last_thirty_days_unless_one_says_since(gateway: RunningGateway) -> None:
    """Counted back from `until`, where that is given."""
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    table = UsageRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model
    rest = dict.fromkeys(("prompt_tokens", "completion_tokens", "duration_s", "cost", "errors"), 0)
    names = {"key_id": "old", "pool": "", "version": 1, "variant": "stable"}
    async with gateway.app.state.database.begin() as connection:
        for days in (10, 29, 31, 100):
            row = {"hour": now - timedelta(days=days), "adapter": f"{days}", "requests": days, **names, **rest}
            await connection.execute(table.insert(), row)

    async def shown(**params: str) -> set[str]:
        params |= {"by": "adapter", "per": "all", "key": "old"}
        page = (await gateway.http.get("/admin/v1/usage", params=params)).json()
        return {each["adapter"] for each in page["data"]}

    assert await shown() == {"10", "29"}
    assert await shown(until=(now - timedelta(days=20)).isoformat()) == {"29", "31"}
    assert await shown(since="2020-01-01T00:00:00Z") == {"10", "29", "31", "100"}


@pytest.mark.parametrize(
    ("path", "params", "param"),
    [
        ("requests", {"after": "1.zz"}, "after"),
        ("requests", {"after": "999999999999999999.aa"}, "after"),
        ("requests", {"since": "1999-01-01T00:00:00Z"}, "since"),
        ("requests", {"text": "true", "limit": "101"}, "limit"),
        ("usage", {"after": "bm8="}, "after"),
        ("usage", {"by": "password"}, "by"),
    ],
)
async def test_what_makes_no_sense_is_refused(
    shared_gateway: RunningGateway, path: str, params: Any, param: str
) -> None:
    """By the name of the parameter."""
    answer = await shared_gateway.http.get(f"/admin/v1/{path}", params=params)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


async def test_only_one_of_session_and_user_is_forgotten_at_once(gateway: RunningGateway) -> None:
    """Neither all nor both."""
    for params in ({}, {"session": "a", "user": "b"}):
        assert (await gateway.http.delete("/admin/v1/requests", params=params)).status_code == 400


@pytest.mark.parametrize(("method", "path"), [("GET", "requests"), ("DELETE", "requests?user=a"), ("GET", "usage")])
async def test_the_log_is_for_admins(gateway: RunningGateway, method: str, path: str) -> None:
    """A client's key gets nothing of it."""
    _, key = await gateway.registry.create_key("client", scopes=frozenset({Scope.INFERENCE}), actor="test")
    await gateway.app.state.directory.refresh()
    answer = await gateway.http.request(method, f"/admin/v1/{path}", headers={"authorization": f"Bearer {key}"})
    assert answer.status_code == 403
