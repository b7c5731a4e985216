"""Versions that the tuner made: what of them is shown, and that none serves clients before its gate let it through."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from registry.database import connect
from registry.tuning.datasets import Datasets
from registry.tuning.tables import DatasetRow
from tests.conftest import RunningGateway, until
from tests.gateway.answers import error_of

REPORT = {"format": 1, "passed": False, "reason": "quality: no better than the incumbent", "parts": [], "page": None}
LINEAGE = {"dataset": "d" * 64, "seed": 7}
DEPLOYMENT = "/admin/v1/adapters/support/deployment"


@pytest.fixture
async def gated(two: RunningGateway) -> RunningGateway:
    """`support` with version 1 live, 2 pushed by hand, 3 at its gate, 4 rejected, 5 passed."""
    for scale in (3.0, 4.0, 5.0):
        await two.registry.push("support", two.adapter_folder(scale), actor="tuner", base="tiny", lineage=LINEAGE)
    await two.registry.judge("support", 4, passed=False, report=REPORT, actor="tuner")
    await two.registry.judge("support", 5, passed=True, report=await passed(two), actor="tuner")

    async def seen() -> bool:
        versions = (await two.http.get("/admin/v1/adapters/support")).json()["versions"]
        return [version["verdict"] for version in versions] == [None, None, "candidate", "rejected", "passed"]

    await until(seen)
    return two


async def passed(gateway: RunningGateway, against: int | None = 1) -> dict[str, Any]:
    """The report of a gate that held a version against that one, or against the base model, and let it through."""
    versions = (await gateway.registry.catalog()).adapters["support"].versions
    incumbent = None if against is None else versions[against].engine_name
    return REPORT | {"passed": True, "reason": "all parts passed", "incumbent": incumbent}


async def change(gateway: RunningGateway, **patch: Any) -> httpx.Response:
    """Change what `support` serves."""
    return await gateway.http.patch(DEPLOYMENT, json=patch)


async def deployment(gateway: RunningGateway) -> dict[str, Any]:
    """What `support` serves."""
    found: dict[str, Any] = (await gateway.http.get("/admin/v1/adapters/support")).json()["deployment"]
    return found


def canary(version: int) -> dict[str, Any]:
    """A canary with half of the sessions."""
    return {"version": version, "weight": 0.5}


async def test_models_lists_what_may_serve(gated: RunningGateway) -> None:
    """Pushed and passed; a candidate and a rejected version answer to their names, but are not offered."""
    listed = [model["id"] for model in (await gated.http.get("/v1/models")).json()["data"]]
    assert listed == ["support", "support@1", "support@2", "support@5", "tiny"]
    for number, status in ((3, 404), (4, 404), (5, 200)):
        assert (await gated.http.get(f"/v1/models/support@{number}")).status_code == status
        assert (await gated.chat(f"support@{number}")).status_code == 200


async def test_the_gate_is_not_passed_by_promoting(gated: RunningGateway) -> None:
    """Neither as stable nor as canary; nothing changes, nothing is loaded for it, and it is not worth trying again."""
    before = await deployment(gated)
    for number, words in ((3, "is still at its gate"), (4, "was rejected by its gate")):
        for patch in ({"stable": number}, {"canary": canary(number)}):
            response = await change(gated, **patch, reason="looks good")
            error = error_of(response)
            assert (response.status_code, error["code"], error["param"]) == (409, "not_let_through", "version")
            assert words in error["message"]
            assert response.headers["x-should-retry"] == "false"
        assert not any(name.startswith(f"support@{number}-") for name in gated.engine.loaded)
    assert await deployment(gated) == before


async def test_what_passed_or_was_pushed_is_promoted_as_ever(gated: RunningGateway) -> None:
    """Without force or reason."""
    for patch in ({"canary": canary(5)}, {"canary": canary(2)}, {"stable": 5}, {"stable": 2}):
        assert (await change(gated, **patch)).status_code == 200


async def test_a_shadow_needs_no_gate(gated: RunningGateway) -> None:
    """No client gets its answers."""
    assert (await change(gated, shadow={"version": 3, "share": 0.5})).status_code == 200


async def test_force_needs_a_reason(gated: RunningGateway) -> None:
    """Also where it would not be needed."""
    patches: list[dict[str, Any]] = [{"stable": 4}, {"canary": canary(3)}, {"stable": 5}, {"stable": 4, "reason": " "}]
    for patch in patches:
        response = await change(gated, **patch, force=True)
        assert (response.status_code, error_of(response)["param"]) == (422, "reason")
    assert (await deployment(gated))["stable"] == 1


async def test_a_forced_version_serves_and_history_says_why(gated: RunningGateway) -> None:
    """As stable and as canary."""
    assert (await change(gated, stable=4, force=True, reason="the holdout is wrong")).status_code == 200
    assert (await change(gated, canary=canary(3), force=True, reason="try it")).status_code == 200
    assert (await gated.chat("support")).status_code == 200
    history = (await gated.http.get("/admin/v1/adapters/support/history")).json()["data"]
    assert [(each["stable"], each["reason"]) for each in history[:2]] == [(4, "try it"), (4, "the holdout is wrong")]


async def test_history_and_audit_say_past_which_verdict_it_was_forced(gated: RunningGateway) -> None:
    """By whom, why, and what the gate had said; a change that needed no force says none, though force was asked for."""
    await change(gated, stable=4, force=True, reason="the holdout is wrong")
    await change(gated, canary=canary(3), force=True, reason="try it")
    await change(gated, stable=2, canary=None, force=True, reason="let through anyway")
    history = (await gated.http.get("/admin/v1/adapters/support/history")).json()["data"]
    told = [(each["forced"], each["reason"]) for each in history]
    assert told == [
        (None, "let through anyway"),
        ({"3": "candidate"}, "try it"),
        ({"4": "rejected"}, "the holdout is wrong"),
        (None, ""),
    ]
    assert all(each["actor"].startswith("test (key_") for each in history)
    audit = (await gated.http.get("/admin/v1/audit", params={"limit": 3})).json()["data"]
    assert [each["detail"].get("forced") for each in audit] == [None, {"3": "candidate"}, {"4": "rejected"}]
    assert audit[-1]["detail"]["reason"] == "the holdout is wrong"


async def test_what_was_forced_stays_while_other_parts_change(gated: RunningGateway) -> None:
    """Nobody has to force it again; but what is not let through and is new still has to be."""
    await change(gated, stable=4, force=True, reason="why")
    await change(gated, canary=canary(3), force=True, reason="why")
    for patch in ({"fallback": "base"}, {"canary": {"version": 3, "weight": 0.1}}, {"shadow": None}, {"canary": None}):
        assert (await change(gated, **patch)).status_code == 200, patch
    assert (await change(gated, canary=canary(3))).status_code == 409
    assert (await change(gated, stable=1)).status_code == 200
    assert (await change(gated, stable=4)).status_code == 409


async def test_a_forced_canary_becomes_stable_without_more_force(gated: RunningGateway) -> None:
    """Clients have its answers already, for the reason that history tells."""
    await change(gated, canary=canary(4), force=True, reason="why")
    assert (await change(gated, stable=4)).status_code == 200


async def test_a_rollback_restores_what_was_forced(gated: RunningGateway) -> None:
    """It goes back to what served, whatever a gate said of it."""
    await change(gated, stable=4, force=True, reason="why")
    assert (await change(gated, stable=2)).status_code == 200
    response = await gated.http.post("/admin/v1/adapters/support/rollback", json={})
    assert (response.status_code, response.json()["deployment"]["stable"]) == (200, 4)


async def test_a_verdict_opens_the_way(gated: RunningGateway) -> None:
    """As soon as the gate let it through; and it is not taken back by another report."""
    await gated.registry.judge("support", 3, passed=True, report=await passed(gated), actor="tuner")
    assert (await change(gated, stable=3)).status_code == 200
    await gated.registry.judge("support", 3, passed=False, report=REPORT, actor="tuner")
    assert (await version(gated, 3))["verdict"] == "passed"


async def test_a_verdict_holds_for_what_it_was_held_against(gated: RunningGateway) -> None:
    """Two that beat version 1: once the first is live, nobody knows whether the second is better than that."""
    await gated.registry.judge("support", 3, passed=True, report=await passed(gated), actor="tuner")
    assert (await change(gated, stable=5)).status_code == 200
    before = await deployment(gated)
    response = await change(gated, stable=3, reason="looks good")
    error = error_of(response)
    assert (response.status_code, error["code"], error["param"]) == (409, "not_let_through", "version")
    assert error["message"] == (
        "version 3 of 'support' was held against version 1, and version 5 is live: "
        "try it as a canary, or force it and say why"
    )
    assert await deployment(gated) == before
    assert (await change(gated, stable=1)).status_code == 200  # it served before
    assert (await change(gated, stable=3)).status_code == 200  # what it was held against is live again


async def test_an_outdated_verdict_is_made_up_for_as_a_canary(gated: RunningGateway) -> None:
    """There clients hold it against what is live; it may follow that then, and later again."""
    await gated.registry.judge("support", 3, passed=True, report=await passed(gated), actor="tuner")
    for patch in ({"stable": 5}, {"canary": canary(3)}, {"stable": 3}, {"stable": 5}, {"stable": 3}):
        assert (await change(gated, **patch)).status_code == 200, patch
    history = (await gated.http.get("/admin/v1/adapters/support/history")).json()["data"]
    assert [each["forced"] for each in history] == [None] * 6


async def test_an_outdated_verdict_is_passed_by_force(gated: RunningGateway) -> None:
    """History and audit say so."""
    await gated.registry.judge("support", 3, passed=True, report=await passed(gated), actor="tuner")
    assert (await change(gated, stable=5)).status_code == 200
    assert (await change(gated, stable=3, force=True, reason="a better holdout")).status_code == 200
    (newest,) = (await gated.http.get("/admin/v1/adapters/support/history", params={"limit": 1})).json()["data"]
    assert (newest["stable"], newest["forced"]) == (3, {"3": "outdated"})
    (audited,) = (await gated.http.get("/admin/v1/audit", params={"limit": 1})).json()["data"]
    assert audited["detail"]["forced"] == {"3": "outdated"}


async def test_a_passed_version_that_failed_against_what_is_live_does_not_follow_it(gated: RunningGateway) -> None:
    """As when another job came to the same weights; its verdict stays, and its newest report says so."""
    await gated.registry.judge("support", 3, passed=True, report=await passed(gated), actor="tuner")
    assert (await change(gated, stable=5)).status_code == 200
    failed = await passed(gated, 5) | {"passed": False}
    await gated.registry.judge("support", 3, passed=False, report=failed, actor="tuner")
    response = await change(gated, stable=3)
    assert response.status_code == 409
    assert "did not pass against version 5, and version 5 is live" in error_of(response)["message"]


async def test_who_beat_the_base_model_alone_does_not_follow_a_version(gated: RunningGateway) -> None:
    """As the second of two that were made before anything was live."""
    await gated.registry.judge("support", 3, passed=True, report=await passed(gated, None), actor="tuner")
    response = await change(gated, stable=3)
    assert response.status_code == 409
    assert "was held against the base model, and version 1 is live" in error_of(response)["message"]


async def test_the_first_version_follows_the_base_model_that_it_was_held_against(gateway: RunningGateway) -> None:
    """With nothing live there is nothing else to be held against."""
    await gateway.registry.push("support", gateway.adapter_folder(1.0), actor="tuner", base="tiny", lineage=LINEAGE)
    report = await passed(gateway, None)
    await gateway.registry.judge("support", 1, passed=True, report=report, actor="tuner")
    assert (await change(gateway, stable=1)).status_code == 200


async def version(gateway: RunningGateway, number: int) -> dict[str, Any]:
    """One version of `support`, with all that is kept of it."""
    response = await gateway.http.get(f"/admin/v1/adapters/support/versions/{number}")
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def test_a_version_shows_what_it_was_made_of_and_what_its_gate_saw(gated: RunningGateway) -> None:
    """Beside all that lists show of it; what was pushed by hand has neither."""
    listed = (await gated.http.get("/admin/v1/adapters/support")).json()["versions"]
    for number in range(1, 6):
        found = await version(gated, number)
        extra = {name: found.pop(name) for name in ("adapter", "lineage", "report")}
        assert found == listed[number - 1]
        report = {4: REPORT, 5: await passed(gated)}.get(number)
        assert extra == {"adapter": "support", "lineage": LINEAGE if number > 2 else None, "report": report}


async def test_a_verdict_is_seen_at_once(gated: RunningGateway) -> None:
    """Whatever the gateway's picture is as of: report and verdict are of one moment."""
    await gated.registry.judge("support", 3, passed=True, report=REPORT | {"passed": True}, actor="tuner")
    found = await version(gated, 3)
    assert (found["verdict"], found["report"]["passed"]) == ("passed", True)


async def test_there_is_no_such_version(gated: RunningGateway) -> None:
    """404 for the version and for its report."""
    for version in ("support/versions/9", "support/versions/0", "support/versions/99999999999", "nobody/versions/1"):
        for part in ("", "/report"):
            response = await gated.http.get(f"/admin/v1/adapters/{version}{part}")
            assert (response.status_code, error_of(response)["code"]) == (404, "not_found")


async def test_a_report_that_goes_while_it_is_read_is_no_fault(
    gated: RunningGateway, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """503 in our words, as for whatever the store cannot give."""
    await gated.registry.judge("support", 3, passed=True, report=REPORT | {"page": "a" * 64}, actor="tuner")
    monkeypatch.setattr(gated.app.state.registry.store, "fetch", lambda _digest: tmp_path)
    response = await gated.http.get("/admin/v1/adapters/support/versions/3/report")
    assert (response.status_code, error_of(response)["code"]) == (503, "artifact_store_unavailable")
    assert str(tmp_path) not in response.text


async def test_a_report_is_a_page_in_which_nothing_runs(gated: RunningGateway) -> None:
    """From the store, closed to scripts and to the network; a version without one has none."""
    page = "<!doctype html><p>\u00e9".encode()
    stored = gated.registry.store.put_files({"report.html": page})
    await gated.registry.judge("support", 3, passed=True, report=REPORT | {"page": stored.digest}, actor="tuner")
    response = await gated.http.get("/admin/v1/adapters/support/versions/3/report")
    assert (response.status_code, response.content) == (200, page)
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    policy = response.headers["content-security-policy"]
    assert policy.startswith("sandbox; default-src 'none'")
    assert "script" not in policy
    for number in (1, 4):
        response = await gated.http.get(f"/admin/v1/adapters/support/versions/{number}/report")
        assert (response.status_code, error_of(response)["param"]) == (404, "number")


async def test_an_adapters_datasets_are_listed(gated: RunningGateway) -> None:
    """Newest first, page after page; another adapter's are not among them."""
    database = connect(gated.app.state.settings.database)
    for letter, adapter in (("a", "support"), ("b", "billing"), ("c", "support")):
        row = DatasetRow(
            adapter=adapter,
            digest=letter * 64,
            method="supervised",
            size_bytes=100,
            counts={"train": 8, "validation": 1, "holdout": 1},
            sources={"uploaded": 10},
            parents=["e" * 64],
            report={"bad_rows": 0},
            job="ftjob-1",
        )
        await Datasets(database).register(row)
    await database.dispose()
    path = "/admin/v1/adapters/support/datasets"
    page = (await gated.http.get(path, params={"limit": 1})).json()
    assert (page["has_more"], page["data"][0]["digest"][0]) == (True, "c")
    assert page["data"][0] == page["data"][0] | {"counts": row.counts, "sources": row.sources, "parents": row.parents}
    rest = (await gated.http.get(path, params={"before": page["data"][0]["id"]})).json()
    assert (rest["has_more"], [each["digest"][0] for each in rest["data"]]) == (False, ["a"])
    assert (await gated.http.get("/admin/v1/adapters/nobody/datasets")).status_code == 404
