"""Pause, freeze, approve and reject, and changes that follow from a decision, as the admin API takes them."""

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.decisions import Decision, record_decision
from monitors.loop import approvals
from monitors.loop.state import LoopState, Rollout
from monitors.loop.store import Kept, save
from tests.conftest import RunningGateway
from tests.gateway.answers import error_of, new_key, stranger

SUPPORT = "/admin/v1/adapters/support"
FREEZE = "/admin/v1/freeze"
NOW = datetime(2026, 3, 1, tzinfo=UTC)
HOLDBACK = {"stable": 2, "canary": {"version": 1, "weight": 0.05, "holdback": True}}


async def decided(gateway: RunningGateway, adapter: str = "support", kind: str = "loop") -> int:
    """The id of a new decision."""
    decision = Decision(adapter, 2, kind, "promoted", "a rule", "it is better", {})
    database: AsyncEngine = gateway.app.state["database"]
    async with database.begin() as connection:
        return await record_decision(connection, decision, NOW)


async def asked(gateway: RunningGateway, wanted: str, cycle: int, state: LoopState) -> None:
    """The loop is there, and asked."""
    database: AsyncEngine = gateway.app.state["database"]
    async with database.begin() as connection:
        await save(connection, "support", Kept(state), NOW)
        await approvals.ask(connection, "support", cycle, wanted, 7, NOW)


async def newest(gateway: RunningGateway) -> Any:
    """The newest revision."""
    return (await gateway.http.get(f"{SUPPORT}/history", params={"limit": 1})).json()["data"][0]


async def test_a_promotion_may_hold_some_sessions_back(two: RunningGateway) -> None:
    """On the version of before; all of it is shown, and a plain rollback takes the new one away."""
    decision = await decided(two)
    await two.let_act("support")
    answer = await two.http.patch(f"{SUPPORT}/deployment", json=HOLDBACK | {"decision": decision, "reason": "better"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["deployment"]["canary"] == HOLDBACK["canary"]
    row = await newest(two)
    assert (row["action"], row["canary"], row["decision"]) == ("promote", HOLDBACK["canary"], decision)
    back = await two.http.post(f"{SUPPORT}/rollback", json={"decision": decision})
    assert (back.json()["deployment"]["stable"], back.json()["deployment"]["canary"]) == (1, None)
    assert (await newest(two))["decision"] == decision
    refused = await two.http.patch(
        f"{SUPPORT}/deployment", json={"canary": {"version": 2, "weight": 0.05, "holdback": True}}
    )
    assert (refused.status_code, error_of(refused)["param"]) == (422, "canary.holdback")


async def test_an_automatic_change_follows_from_a_stored_decision(two: RunningGateway) -> None:
    """One about the adapter, of the loop's kind; without one the change is a person's."""
    for number in (
        99,
        2**53,
        await decided(two, adapter="other"),
        await decided(two, kind="quality"),
    ):
        for call in (
            two.http.patch(f"{SUPPORT}/deployment", json={"fallback": "base", "decision": number}),
            two.http.post(f"{SUPPORT}/rollback", json={"decision": number}),
        ):
            refused = await call
            assert (refused.status_code, error_of(refused)["param"]) == (422, "decision"), refused.text
    assert (await two.http.patch(f"{SUPPORT}/deployment", json={"fallback": "base"})).is_success
    assert (await newest(two))["decision"] is None


@pytest.mark.parametrize(
    ("method", "path", "undo"),
    [("POST", f"{SUPPORT}/pause", ("POST", f"{SUPPORT}/resume")), ("PUT", FREEZE, ("DELETE", FREEZE))],
    ids=["pause", "freeze"],
)
async def test_a_stop_holds_at_once(two: RunningGateway, method: str, path: str, undo: tuple[str, str]) -> None:
    """Automatic changes are refused with a code of their own, before an engine is asked; a person's are made."""
    decision = await decided(two)
    await two.let_act("support")
    assert (await two.http.request(method, path, json={"reason": "looks odd"})).status_code == 200
    again = await two.http.request(method, path, json={"reason": "again"})
    assert "looks odd" in again.text
    assert "again" not in again.text
    for call in (
        two.http.patch(f"{SUPPORT}/deployment", json={"stable": 2, "decision": decision}),
        two.http.post(f"{SUPPORT}/rollback", json={"decision": decision}),
    ):
        refused = await call
        assert (refused.status_code, error_of(refused)["code"]) == (409, "stopped")
        assert "looks odd" in error_of(refused)["message"]
    assert (await two.promote("support", 2)).is_success
    gone = await two.http.request(*undo)
    assert gone.status_code == 200
    assert "looks odd" not in gone.text
    assert (await two.http.post(f"{SUPPORT}/rollback", json={"decision": decision})).is_success


@pytest.mark.parametrize("mode", ["off", "advise"])
async def test_a_mode_that_is_not_to_act_holds_at_once(two: RunningGateway, mode: str) -> None:
    """As a stop does: changes that follow from a decision are refused, a person's are made."""
    decision = await decided(two)
    await two.let_act("support")
    assert (await two.http.patch(f"{SUPPORT}/policy", json={"mode": mode})).is_success
    for call in (
        two.http.patch(f"{SUPPORT}/deployment", json={"stable": 2, "decision": decision}),
        two.http.post(f"{SUPPORT}/rollback", json={"decision": decision}),
    ):
        refused = await call
        assert (refused.status_code, error_of(refused)["code"]) == (409, "stopped")
        assert f"is {mode}" in error_of(refused)["message"]
    assert (await two.promote("support", 2)).is_success


async def test_what_is_stopped_is_shown(two: RunningGateway) -> None:
    """The freeze and each pause, with who, why and when; ending the freeze leaves the pauses."""
    assert (await two.http.get(FREEZE)).json() == {"frozen": None, "paused": {}}
    assert (await two.http.put(FREEZE)).json()["frozen"]["reason"] == ""
    paused = (await two.http.post(f"{SUPPORT}/pause", json={"reason": "looks odd"})).json()
    assert paused["adapter"] == "support"
    assert paused["frozen"]["actor"] == paused["paused"]["actor"]
    assert (await two.http.delete(FREEZE)).json() == {"frozen": None, "paused": {"support": paused["paused"]}}
    assert (await two.http.post(f"{SUPPORT}/resume")).json() == {"adapter": "support", "paused": None, "frozen": None}
    entries = (await two.http.get("/admin/v1/audit", params={"limit": 4})).json()["data"]
    assert [entry["action"] for entry in entries] == ["resume", "unfreeze", "pause", "freeze"]


@pytest.mark.parametrize(("word", "answer"), [("approve", "approved"), ("reject", "rejected")])
async def test_an_answer_is_kept_with_who_gave_it(two: RunningGateway, word: str, answer: str) -> None:
    """Once: then nothing waits. The loop reads it, and the audit log has it."""
    state = LoopState(phase="rolling_out", cycle=3, rollout=Rollout(2, 1, NOW, NOW))
    await asked(two, "promote", 3, state)
    found = await two.http.post(f"{SUPPORT}/{word}", json={"reason": "I looked"})
    assert found.status_code == 200, found.text
    assert {name: found.json()[name] for name in ("adapter", "wanted", "decision", "answer", "reason")} == {
        "adapter": "support",
        "wanted": "promote",
        "decision": 7,
        "answer": answer,
        "reason": "I looked",
    }
    for other in ("approve", "reject"):
        late = await two.http.post(f"{SUPPORT}/{other}")
        assert (late.status_code, error_of(late)["code"]) == (404, "not_found")
    async with two.app.state["database"].connect() as connection:
        (stored,) = await approvals.answers(connection, "support")
    assert (stored.answer, stored.reason, stored.actor) == (answer, "I looked", found.json()["actor"])
    (entry,) = (await two.http.get("/admin/v1/audit", params={"limit": 1})).json()["data"]
    assert (entry["action"], entry["detail"]["wanted"], entry["detail"]["decision"]) == (word, "promote", 7)


@pytest.mark.parametrize("word", ["pause", "resume", "approve", "reject"])
async def test_only_admins_say_it_and_only_of_what_exists(two: RunningGateway, word: str) -> None:
    """Another key is refused, also for an adapter of its own; an unknown adapter is not found."""
    secret, _ = await new_key(two, adapters=["support"])
    assert (await stranger(two, secret, "POST", f"{SUPPORT}/{word}")).status_code == 403
    unknown = await two.http.post(f"/admin/v1/adapters/never/{word}")
    assert (unknown.status_code, error_of(unknown)["code"]) == (404, "not_found")
    assert (await two.http.post(f"{SUPPORT}/{word}", json={"why": "x"})).status_code == 400


async def test_an_answer_may_name_its_question(two: RunningGateway) -> None:
    """One that comes late for another question is refused, and what waits still waits."""
    await asked(two, "promote", 3, LoopState(phase="rolling_out", cycle=3, rollout=Rollout(2, 1, NOW, NOW)))
    for word in ("approve", "reject"):
        late = await two.http.post(f"{SUPPORT}/{word}", json={"decision": 6})
        assert (late.status_code, error_of(late)["param"]) == (409, "decision")
        assert "what waits is decision 7, about a promotion" in error_of(late)["message"]
    found = await two.http.post(f"{SUPPORT}/approve", json={"decision": 7})
    assert (found.status_code, found.json()["decision"]) == (200, 7), found.text
