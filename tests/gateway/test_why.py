"""Why an adapter is as it is, and what was decided, as the admin API tells it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from monitors.decisions import Decision, record_decision
from monitors.loop import approvals
from monitors.loop.evidence import Beside
from monitors.loop.seen import Labels
from monitors.loop.state import LoopState, Rollout
from monitors.loop.store import Kept, Pending, save
from monitors.loop.trial import Sides, Trial
from monitors.loop.verdicts import Verdict
from registry.policies import RolloutRule
from tests.conftest import RunningGateway

WHY = "/admin/v1/adapters/support/why"
DECISIONS = "/admin/v1/decisions"
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
WAITS = Verdict("wait", "no_enough_rows", "retrain after an alarm", "Quality was lost.", "40 more rows arrive.")


def shown(verdict: Verdict, decision: int | None = None) -> dict[str, Any]:
    """A verdict as the loop keeps it."""
    said: dict[str, Any] = msgspec.to_builtins(verdict)
    return said | {"at": NOW.isoformat(), "decision": decision}


async def keep(gateway: RunningGateway, kept: Kept) -> None:
    """The loop has looked."""
    database: AsyncEngine = gateway.app.state["database"]
    async with database.begin() as connection:
        await save(connection, "support", kept, NOW)


async def decide(connection: AsyncConnection, act: str, outcome: str, *, kind: str = "loop", cycle: int = 0) -> int:
    """A decision of the loop."""
    inputs = {"act": act, "cycle": cycle} if kind == "loop" else {}
    found = Decision("support", 2, kind, outcome, "a rule", f"because of {outcome}", inputs)
    return await record_decision(connection, found, NOW)


async def why(gateway: RunningGateway) -> Any:
    """What the gateway says."""
    response = await gateway.http.get(WHY)
    assert response.status_code == 200, response.text
    return response.json()


async def test_an_adapter_that_nobody_looked_at_is_explained_too(two: RunningGateway) -> None:
    """By its policy, with nothing seen; one that there is not is not found."""
    found = await why(two)
    assert (found["adapter"], found["phase"], found["stable"]) == ("support", "watching", 1)
    assert (found["policy"]["number"], found["policy"]["mode"]) == (0, "advise")
    nothing = ("verdict", "waits_for", "under_way", "quality", "labels", "rollout", "job")
    assert {name: found[name] for name in nothing} == dict.fromkeys(nothing)
    assert (found["stopped"], found["done"], found["conditions"]) == ([], [], {})
    assert (await two.http.get(WHY.replace("support", "nobody"))).status_code == 404


async def test_what_a_training_waits_for_is_told(two: RunningGateway) -> None:
    """The labels with their sources, each condition, and what would change it."""
    labels = Labels(rows=160, found=400, by_source={"correction": 160}, heaviest_key="key_1", heaviest_share=0.9)
    inputs = {"labels": msgspec.to_builtins(labels), "conditions": {"enough_rows": "160 of 200"}}
    await keep(two, Kept(verdict=shown(_with(inputs))))
    found = await why(two)
    assert found["verdict"]["would_change"] == "40 more rows arrive."
    assert found["verdict"]["decided_at"] == "2026-03-01T12:00:00Z"
    assert (found["labels"]["rows"], found["labels"]["heaviest_key"]) == (160, "key_1")
    assert found["conditions"] == {"enough_rows": "160 of 200"}


def _with(inputs: dict[str, Any]) -> Verdict:
    return Verdict(WAITS.act, WAITS.outcome, WAITS.rule, WAITS.reason, WAITS.would_change, inputs)


async def test_a_stop_comes_before_what_was_decided(two: RunningGateway) -> None:
    """Who it was and why, and what takes it away; the older verdict is not told as if it held."""
    await keep(two, Kept(verdict=shown(WAITS)))
    await two.http.post("/admin/v1/adapters/support/pause", json={"reason": "holidays"})
    found = await why(two)
    assert [(each["by"], each["reason"]) for each in found["stopped"]] == [("pause", "holidays")]
    assert (found["verdict"]["outcome"], found["verdict"]["would_change"]) == ("paused", "`ostler resume NAME`.")
    await two.http.put("/admin/v1/freeze", json={})
    found = await why(two)
    assert ([each["by"] for each in found["stopped"]], found["verdict"]["outcome"]) == (["freeze", "pause"], "frozen")


async def test_a_rollout_is_shown_with_its_numbers(two: RunningGateway) -> None:
    """As the loop last saw them; those of an earlier rollout are not shown as this one's."""
    began = NOW - timedelta(hours=1)
    rollout = Rollout(2, 1, began, began, step=1, sessions_before=10)
    sides = Sides("support", 2, 1, "support@2-x", "support@1-x", began, "feedback")
    beside = Beside.begin(drop=0.05, alpha=0.05)
    trial = Trial(sides, beside, Beside.begin(drop=0.05, alpha=0.05), 0, {})
    trial.follow(RolloutRule())
    for _ in range(40):
        beside.update(0.1)
    kept = Kept(LoopState("rolling_out", 3, NOW, rollout=rollout), trial.tests(), trial.cursors(), verdict=shown(WAITS))
    await keep(two, kept)
    found = (await why(two))["rollout"]
    assert (found["version"], found["incumbent"], found["step"], found["sessions"]) == (2, 1, 2, 30)
    compared = found["comparison"]
    assert (compared["incumbent"]["n"], compared["incumbent"]["worse"], compared["base"]) == (40, False, None)
    assert compared["incumbent"]["low"] < 0.1 < compared["incumbent"]["high"]
    assert compared["errors"]["n"] == 0
    later = msgspec.structs.replace(rollout, began_at=NOW)
    state = msgspec.structs.replace(kept.state, rollout=later)
    await keep(two, msgspec.structs.replace(kept, state=state))
    assert (await why(two))["rollout"]["comparison"] is None


async def test_what_waits_and_what_was_done_is_told(two: RunningGateway) -> None:
    """The question with its decision, what is not carried out with its trouble, and the newest decisions that acted."""
    database: AsyncEngine = two.app.state["database"]
    async with database.begin() as connection:
        alarm = await decide(connection, "", "alarm", kind="quality")
        promoted = await decide(connection, "promote", "promoted")
        await decide(connection, "wait", "not_shown")
        await decide(connection, "promote", "would_promote")
        asked = await decide(connection, "ask", "asked")
        pending = Pending(Verdict("promote", "promoted", "", "", ""), promoted, LoopState(), 1, NOW, trouble="full")
        state = LoopState("rolling_out", 1, rollout=Rollout(2, 1, NOW, NOW))
        await save(connection, "support", Kept(state, pending=pending, verdict=shown(WAITS)), NOW)
        await approvals.ask(connection, "support", 1, "promote", asked, NOW)
    await two.let_act("support")
    await two.http.patch("/admin/v1/adapters/support/deployment", json={"stable": 2, "decision": promoted})
    found = await why(two)
    assert (found["waits_for"]["wanted"], found["waits_for"]["decision"]) == ("promote", asked)
    assert (found["under_way"]["decision"], found["under_way"]["trouble"]) == (promoted, "full")
    done = [(each["id"], each["act"], each["revision"]) for each in found["done"]]
    assert done == [(promoted, "promote", 2), (alarm, "alarm", None)]


async def test_decisions_are_found_by_what_they_are(two: RunningGateway) -> None:
    """Kind, outcome, time, and whether anything was done; each with the revision that followed."""
    database: AsyncEngine = two.app.state["database"]
    async with database.begin() as connection:
        drift = await decide(connection, "", "drift", kind="drift")
        waits = await decide(connection, "wait", "tuning")
        promoted = await decide(connection, "promote", "promoted")
    await two.let_act("support")
    await two.http.patch("/admin/v1/adapters/support/deployment", json={"stable": 2, "decision": promoted})

    async def ids(**params: Any) -> list[int]:
        response = await two.http.get(DECISIONS, params=params)
        assert response.status_code == 200, response.text
        return [each["id"] for each in response.json()["data"]]

    assert await ids(kind="loop") == [promoted, waits]
    assert await ids(kind="loop", outcome="tuning") == [waits]
    assert await ids(acted="true") == [promoted]
    assert await ids(until="2026-03-01T12:00:00") == []
    assert await ids(since="2026-03-01T12:00:00") == [promoted, waits, drift]
    assert await ids(limit=1, before=promoted) == [waits]
    (found, *_) = (await two.http.get(DECISIONS)).json()["data"]
    assert (found["revision"], found["job"]) == (2, None)
    assert (await two.http.get(DECISIONS, params={"kind": "\0"})).status_code == 400
