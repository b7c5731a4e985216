"""Changes of deployments through the admin API, before a fake engine: what is taken, refused, and looked back on."""

from datetime import UTC, datetime
from typing import Any

import pytest

from gateway.shapes import version_state
from registry.catalog import Canary, Deployment, Shadow, Version
from tests.conftest import RunningGateway
from tests.gateway.answers import adapters, error_of

CHANGE = "/admin/v1/adapters/support/deployment"
ROLLBACK = "/admin/v1/adapters/support/rollback"
NOTHING_ELSE = {"canary": None, "shadow": None, "fallback": None}


async def deployment(gateway: RunningGateway) -> Any:
    """What `support` means now."""
    return (await gateway.http.get("/admin/v1/adapters/support")).json()["deployment"]


@pytest.mark.parametrize(
    ("change", "after"),
    [
        ({"canary": {"version": 2, "weight": 0.25}}, {"canary": {"version": 2, "weight": 0.25, "holdback": False}}),
        ({"shadow": {"version": 2, "share": 1}}, {"shadow": {"version": 2, "share": 1.0}}),
        ({"shadow": {"version": "base", "share": 0}}, {"shadow": {"version": "base", "share": 0.0}}),
        ({"fallback": "base"}, {"fallback": "base"}),
        ({"fallback": ["previous"]}, {"fallback": "previous"}),
        ({"fallback": ["previous", "base"]}, {"fallback": ["previous", "base"]}),
        ({"stable": 2, "fallback": "base"}, {"stable": 2, "fallback": "base"}),
    ],
)
async def test_each_part_of_a_deployment_changes_by_itself(
    two: RunningGateway, change: dict[str, Any], after: dict[str, Any]
) -> None:
    """The answer, the adapter and the history say the same, what was left out stays, and null takes it away again."""
    answer = await two.http.patch(CHANGE, json=change)
    assert answer.status_code == 200, answer.text
    expected = {"revision": 2, "stable": 1, **NOTHING_ELSE, **after}
    assert answer.json()["deployment"] == expected
    assert await deployment(two) == expected
    (row, _) = (await two.http.get("/admin/v1/adapters/support/history")).json()["data"]
    assert {field: row[field] for field in expected} == expected
    off = {part: None for part in after if part != "stable"}
    assert (await two.http.patch(CHANGE, json=off)).json()["deployment"] == {
        **expected,
        **off,
        "revision": 3,
    }


async def test_what_a_change_leaves_out_stays(two: RunningGateway) -> None:
    """One after another; and a canary that is promoted is none any more."""
    await two.http.patch(CHANGE, json={"fallback": "base"})
    await two.http.patch(CHANGE, json={"canary": {"version": 2, "weight": 0.5}})
    answer = await two.http.patch(CHANGE, json={"shadow": {"version": "base", "share": 0.1}})
    assert answer.json()["deployment"] == {
        "revision": 4,
        "stable": 1,
        "canary": {"version": 2, "weight": 0.5, "holdback": False},
        "shadow": {"version": "base", "share": 0.1},
        "fallback": "base",
    }
    assert (await two.promote("support", 2)).json()["deployment"] == {
        "revision": 5,
        "stable": 2,
        "canary": None,
        "shadow": {"version": "base", "share": 0.1},
        "fallback": "base",
    }


async def test_a_rollback_restores_the_whole_deployment(two: RunningGateway) -> None:
    """Also by a revision's number."""
    await two.http.patch(CHANGE, json={"canary": {"version": 2, "weight": 0.5}, "fallback": "base"})
    rolled = (await two.http.post(ROLLBACK)).json()["deployment"]
    assert rolled == {"revision": 3, "stable": 1, **NOTHING_ELSE}
    restored = (await two.http.post(ROLLBACK, json={"to": 2})).json()["deployment"]
    assert restored == {
        "revision": 4,
        "stable": 1,
        "canary": {"version": 2, "weight": 0.5, "holdback": False},
        "shadow": None,
        "fallback": "base",
    }


WRONG_CHANGES: list[tuple[Any, str | None, str]] = [
    ({"stabel": 2}, "stabel", "there is no field"),
    ({"stable": 2, "canary": {"version": 1}}, "canary.weight", "missing"),
    ({"reason": "why"}, None, "say what shall change"),
    ({}, None, "say what shall change"),
    ({"stable": "2"}, "stable", "a whole number"),
    ({"stable": 2.5}, "stable", "a whole number"),
    ({"stable": True}, "stable", "a whole number"),
    ({"stable": None}, "stable", "a whole number"),
    ({"stable": 0}, "stable", "from 1 to 2147483647"),
    ({"stable": 10**30}, "stable", "from 1 to 2147483647"),
    ({"stable": 2, "reason": 5}, "reason", "a text"),
    ({"stable": 2, "reason": "x" * 1001}, "reason", "1000"),
    ({"stable": 2, "reason": "a\0b"}, "reason", "without the character NUL"),
    ({"canary": 2}, "canary", "an object or null"),
    ({"canary": {"version": "base", "weight": 0.5}}, "canary.version", "a whole number"),
    ({"canary": {"version": 2, "weight": "0.5"}}, "canary.weight", "a number"),
    ({"canary": {"version": 2, "weight": 1.01}}, "canary.weight", "from 0 to 1"),
    ({"canary": {"version": 2, "weight": -0.1}}, "canary.weight", "from 0 to 1"),
    ({"canary": {"version": 2, "weight": 0.5, "sticky": True}}, "canary.sticky", "there is no field"),
    ({"shadow": {"version": "all", "share": 0.5}}, "shadow.version", "a whole number"),
    ({"shadow": {"version": 2, "share": 2}}, "shadow.share", "from 0 to 1"),
    ({"fallback": "stable"}, "fallback", "must be "),
    ({"fallback": ["base", "base", "base"]}, "fallback", "at most 2 items"),
    ({"fallback": {"to": "base"}}, "fallback", "must be "),
    ([2], None, "an object"),
    ("stable", None, "an object"),
    (None, None, "must be a JSON object"),
]


async def test_a_wrong_change_names_the_field(two: RunningGateway) -> None:
    """400 with the field in `param`, in the client's words for it, and nothing changed."""
    before = await adapters(two)
    for body, field, says in WRONG_CHANGES:
        response = await two.http.patch(CHANGE, json=body)
        error = error_of(response)
        assert (response.status_code, error["param"], error["code"]) == (400, field, "invalid_request"), body
        assert says in error["message"], error["message"]
    assert await adapters(two) == before


async def test_a_change_that_makes_no_sense_is_refused(two: RunningGateway) -> None:
    """422 or 409 by what is wrong with it, and nothing changed."""
    await two.push("new", 3.0)
    before = await adapters(two)
    for name, body, status, says in (
        ("support", {"canary": {"version": 1, "weight": 0.5}}, 422, "another version"),
        ("support", {"fallback": ["base", "base"]}, 422, "once"),
        ("new", {"canary": {"version": 1, "weight": 0.5}}, 409, "promote"),
        ("new", {"fallback": "base"}, 409, "promote"),
        ("support", {"canary": {"version": 9, "weight": 0.5}}, 404, "9"),
        ("support", {"shadow": {"version": 9, "share": 0.5}}, 404, "9"),
    ):
        response = await two.http.patch(f"/admin/v1/adapters/{name}/deployment", json=body)
        assert response.status_code == status, response.text
        assert says in error_of(response)["message"]
    assert await adapters(two) == before


async def test_a_change_that_is_no_json_is_refused(two: RunningGateway) -> None:
    """With the same code as on the inference endpoints."""
    for content in (b'{"stable": 2', b"\xff", b"stable=2"):
        response = await two.http.patch(CHANGE, content=content)
        assert (response.status_code, error_of(response)["code"]) == (400, "invalid_json"), content[:20]
    response = await two.http.patch(CHANGE)
    assert (response.status_code, "missing" in error_of(response)["message"]) == (400, True)


async def test_two_admins_cannot_overwrite_each_other_unseen(two: RunningGateway) -> None:
    """Each answer has its revision as `etag`; a change made on another one than the present is 412 and not made."""
    path = "/admin/v1/adapters/support"
    await two.push("new", 3.0)
    assert (await two.http.get("/admin/v1/adapters/new")).headers["etag"] == '"0"'
    seen = (await two.http.get(path)).headers["etag"]
    assert seen == '"1"'
    first = await two.http.patch(CHANGE, json={"stable": 2}, headers={"if-match": seen})
    assert (first.status_code, first.headers["etag"]) == (200, '"2"')
    for call in (
        two.http.patch(CHANGE, json={"stable": 1}, headers={"if-match": seen}),
        two.http.post(ROLLBACK, headers={"if-match": "1"}),
        two.http.patch(CHANGE, json={"fallback": "base"}, headers={"if-match": '"3"'}),
    ):
        late = await call
        assert (late.status_code, error_of(late)["code"]) == (412, "revision_mismatch")
        assert "2" in error_of(late)["message"]
    assert (await deployment(two))["revision"] == 2
    rolled = await two.http.post(ROLLBACK, headers={"if-match": first.headers["etag"]})
    assert (rolled.status_code, rolled.headers["etag"]) == (200, '"3"')
    assert (await two.http.patch(CHANGE, json={"stable": 2}, headers={"if-match": "*"})).status_code == 200


@pytest.mark.parametrize("header", ['"x"', "x", '"1', "-1", '1"', '"1", "2"', "", 'W/"1"', "1e3", '"99999999999"'])
async def test_an_unreadable_if_match_is_refused(shared_two: RunningGateway, header: str) -> None:
    """400, rather than a change that was meant to depend on something."""
    for call in (
        shared_two.http.patch(CHANGE, json={"stable": 2}, headers={"if-match": header}),
        shared_two.http.post(ROLLBACK, headers={"if-match": header}),
    ):
        response = await call
        assert (response.status_code, error_of(response)["param"]) == (400, "if-match")
    assert (await deployment(shared_two))["revision"] == 1


async def test_history_comes_in_pages(two: RunningGateway) -> None:
    """Newest first, each revision once, with who and why; `before` goes on where a page ended."""
    for number in (2, 1, 2, 1):
        await two.http.patch("/admin/v1/adapters/support/deployment", json={"stable": number, "reason": f"to {number}"})
    path = "/admin/v1/adapters/support/history"
    found: list[Any] = []
    before: dict[str, int] = {}
    for _ in range(3):
        page = (await two.http.get(path, params={"limit": 2, **before})).json()
        found += page["data"]
        before = {"before": found[-1]["revision"]}
        assert page["has_more"] is (found[-1]["revision"] > 1)
    assert [row["revision"] for row in found] == [5, 4, 3, 2, 1]
    assert [row["stable"] for row in found] == [1, 2, 1, 2, 1]
    assert [row["previous_stable"] for row in found] == [2, 1, 2, 1, None]
    assert found[0]["reason"] == "to 1"
    assert found[0]["actor"].startswith("test (key_")
    assert (await two.http.get(path, params={"limit": 5})).json() == {"data": found, "has_more": False}
    wrong: list[dict[str, Any]] = [{"limit": 0}, {"limit": 1001}, {"before": 0}, {"before": 10**20}, {"limit": "x"}]
    for params in wrong:
        refused = await two.http.get(path, params=params)
        assert (refused.status_code, error_of(refused)["param"]) == (400, next(iter(params)))


async def test_an_archived_version_is_kept_but_not_served(two: RunningGateway) -> None:
    """Its names are gone for clients and it cannot go live, until it is brought back; one in use stays in use."""
    path = "/admin/v1/adapters/support/versions/2"
    archived = await two.http.patch(path, json={"archived": True})
    assert (archived.status_code, archived.json()["archived"], archived.json()["state"]) == (200, True, "archived")
    assert (await two.chat("support@2")).status_code == 404
    assert "support@2" not in (await two.http.get("/v1/models")).text
    refused = await two.promote("support", 2)
    assert (refused.status_code, "archive" in error_of(refused)["message"]) == (409, True)
    assert (await two.http.patch(path, json={"archived": True})).json() == archived.json()
    back = await two.http.patch(path, json={"archived": False})
    assert (back.json()["archived"], back.json()["number"]) == (False, 2)
    assert (await two.chat("support@2")).status_code == 200
    in_use = await two.http.patch("/admin/v1/adapters/support/versions/1", json={"archived": True})
    assert (in_use.status_code, error_of(in_use)["code"]) == (409, "conflict")
    for number in ("9", "0", "99999999999"):
        missing = await two.http.patch(f"/admin/v1/adapters/support/versions/{number}", json={"archived": True})
        assert (missing.status_code, error_of(missing)["code"]) == (404, "not_found")
    assert (await two.http.patch(path, json={"archived": "true"})).status_code == 400


async def test_verify_tells_each_replicas_verdict(two: RunningGateway) -> None:
    """What it was held against and how far apart they are; a version that does nothing is told so."""
    page = (await two.http.post("/admin/v1/adapters/support/versions/2/verify")).json()
    assert page["has_more"] is False
    (verdict,) = page["data"]
    assert (verdict["ok"], verdict["kind"], verdict["problem"]) == (True, "base", None)
    assert verdict["difference"] > 0
    name = (await two.http.get("/admin/v1/adapters/support")).json()["versions"][1]["engine_name"]
    two.engine.refuse_probe.add(name)
    (refused,) = (await two.http.post("/admin/v1/adapters/support/versions/2/verify")).json()["data"]
    assert refused["ok"] is False
    assert refused["problem"]
    for missing in ("support/versions/9", "nobody/versions/1", "support/versions/0"):
        assert (await two.http.post(f"/admin/v1/adapters/{missing}/verify")).status_code == 404


def _version(number: int, *, archived: bool = False) -> Version:
    return Version("x", number, f"x@{number}-0", "0", 1, 1.0, 1, 1, "", "me", datetime.now(UTC), archived)


@pytest.mark.parametrize(
    ("version", "deployed", "expected"),
    [
        (_version(1), True, "live"),
        (_version(2), True, "canary"),
        (_version(3), True, "shadow"),
        (_version(4), True, "resident"),
        (_version(5), True, "registered"),
        (_version(1), False, "registered"),
        (_version(4, archived=True), True, "archived"),
    ],
)
def test_a_versions_state_is_its_weightiest_use(version: Version, deployed: bool, expected: str) -> None:
    """In the words of the admin API."""
    made = Deployment(1, 1, Canary(2, 0.1), Shadow(3, 0.1)) if deployed else None
    assert version_state(version, made, frozenset({"x@2-0", "x@4-0"})) == expected


async def test_adapters_come_in_pages_by_name(gateway: RunningGateway) -> None:
    """Each once, whatever is pushed meanwhile; `after` goes on from a name."""
    for index, name in enumerate(("c", "a", "b")):
        await gateway.push(name, 1.0 + index)
    first = (await gateway.http.get("/admin/v1/adapters", params={"limit": 2})).json()
    assert [adapter["name"] for adapter in first["data"]] == ["a", "b"]
    assert first["has_more"] is True
    rest = (await gateway.http.get("/admin/v1/adapters", params={"limit": 2, "after": "b"})).json()
    assert ([adapter["name"] for adapter in rest["data"]], rest["has_more"]) == (["c"], False)
    assert (await gateway.http.get("/admin/v1/adapters", params={"after": "c"})).json()["data"] == []
    for params in ({"limit": 0}, {"limit": 1001}, {"limit": "many"}):
        refused = await gateway.http.get("/admin/v1/adapters", params=params)
        assert (refused.status_code, error_of(refused)["param"]) == (400, "limit")
