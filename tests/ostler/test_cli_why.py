"""`ostler why`, `ostler decisions` and `ostler policy check`, as people read them."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from rich.console import Console
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from monitors.decisions import Decision, record_decision
from monitors.loop import approvals
from monitors.loop.decide import decide as find
from monitors.loop.evidence import Beside
from monitors.loop.recording import shown
from monitors.loop.seen import Labels
from monitors.loop.state import LoopState, Rollout
from monitors.loop.store import Kept, save
from monitors.loop.trial import Sides, Trial
from monitors.loop.verdicts import Verdict
from monitors.loop.why import explain
from monitors.tables import EvidenceRow
from monitors.watch.loop import LEASE
from ostler import render
from ostler.commands.why import _screen
from ostler.replays import ENDED, replay
from registry.leases import Leases
from registry.policies import RolloutRule
from tests.monitors.loop import cases
from tests.ostler.command import DONE, MISUSED, REFUSED, Cli, as_process

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
BEGAN = NOW - timedelta(hours=1)


def said(outcome: str, reason: str, **inputs: Any) -> dict[str, Any]:
    """A verdict as the loop keeps it."""
    verdict = Verdict("wait", outcome, "a rule", reason, "Something else happens.", inputs)
    return {**msgspec.to_builtins(verdict), "at": NOW.isoformat(), "decision": None}


async def decide(connection: AsyncConnection, act: str, outcome: str, reason: str = "it is better") -> int:
    """A decision of the loop."""
    found = Decision("support", 2, "loop", outcome, "a rule", reason, {"act": act, "cycle": 0})
    return await record_decision(connection, found, NOW)


def rolling() -> Kept:
    """A rollout with some evidence, at its second step."""
    rollout = Rollout(2, 1, BEGAN, BEGAN, step=1, sessions_before=10)
    sides = Sides("support", 2, 1, "support@2-x", "support@1-x", BEGAN, "feedback")
    incumbent, base = (Beside.begin(drop=0.05, alpha=0.05) for _ in range(2))
    trial = Trial(sides, incumbent, base, 0, {})
    trial.follow(RolloutRule())
    for _ in range(40):
        trial.incumbent.update(0.1)
        assert trial.errors is not None
        trial.errors.take("new", failed=0.0)
    state = LoopState("rolling_out", 1, NOW, rollout=rollout)
    return Kept(state, trial.tests(), trial.cursors(), verdict=said("gathers", "30 of 50 sessions at this step."))


async def test_why_is_one_screen(two: Cli) -> None:
    """Of 80 columns and 40 lines at most: what was seen, the rule, what was done, what would change it."""
    database: AsyncEngine = two.gateway.app.state["database"]
    async with database.begin() as connection:
        for number in range(8):
            await decide(connection, "roll_back", "errors", f"{number} of its requests failed, " + "far too many " * 8)
        asked = await decide(connection, "ask", "asked")
        await save(connection, "support", rolling(), NOW)
        await approvals.ask(connection, "support", 1, "promote", asked, NOW)
    shown = await as_process(two)("why", "support", COLUMNS="80")
    assert shown.code == DONE
    lines = shown.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 40, shown.out
    text = " ".join(shown.out.split())
    for words in (
        "support: Ostler advises, and changes nothing; it rolls version 2 out",
        "30 of 50 sessions at this step",
        "Something else happens.",
        "version 2 beside 1, step 2 of 3",
        "beside version 1: +0.100",
        "over 40 sessions; not worse",
        "failed: 0.0%",
        f"ostler approve support --decision {asked}",
        "the defaults: a fall by 0.05 matters",
        "rolls out by 5%, 25%, 50%",
        "roll back 2",
    ):
        assert words in text, shown.out
    assert sum("its requests" in line for line in lines) == 5, "the newest five, a line each"
    found = (await two("why", "support", "--json")).json
    assert (found["rollout"]["version"], len(found["done"])) == (2, 5)


async def test_why_tells_what_a_training_waits_for(two: Cli) -> None:
    """Labels with their sources and the heaviest key, and each condition; who stopped it comes first."""
    labels = Labels(rows=120, found=300, by_source={"correction": 120}, heaviest_key="key_1", heaviest_share=0.8)
    conditions = {"enough_rows": "120 of 200 new labelled rows are there."}
    verdict = said("no_enough_rows", "Quality was lost.", labels=msgspec.to_builtins(labels), conditions=conditions)
    database: AsyncEngine = two.gateway.app.state["database"]
    async with database.begin() as connection:
        await save(connection, "support", Kept(verdict=verdict), NOW)
    shown = " ".join((await two("why", "support")).out.split())
    assert "120 new ones (120 correction), of 300 found; 80% by key_1" in shown
    assert "enough rows: 120 of 200" in shown
    await two("pause", "support", "-m", "the holidays")
    stopped = " ".join((await two("why", "support")).out.split())
    assert "paused by" in stopped
    assert "the holidays" in stopped
    assert "`ostler resume support`" in stopped


async def screen(cli: Cli, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> list[str]:
    """The lines of `ostler why support` in a terminal of 80 columns."""
    state = cli.gateway.app.state
    async with state["database"].connect() as connection:
        found = await explain(connection, state["directory"].catalog.adapters["support"], datetime.now(UTC))
    monkeypatch.setattr(render, "out", Console(width=80, highlight=False, emoji=False))
    capsys.readouterr()
    _screen(msgspec.json.decode(msgspec.json.encode(found)))
    shown: str = capsys.readouterr().out
    return shown.splitlines()


async def test_an_alarm_that_waits_for_labels_is_one_screen_too(
    two: Cli, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Each missing condition once, what is met in one line, and commands that can be copied whole."""
    key = "key_ff34ac0577ff4d21"
    labels = Labels(found=900, heaviest_key=key, heaviest_share=1.0, lone_voice=key, without_prompt=5000, repeated=7)
    seen = cases.watched(labels=labels, has_price=False)
    policy = cases.with_retrain(budget=50.0, trusted_keys=("key_aa",))
    kept = shown(Kept(), find(seen, LoopState(), policy), NOW, None)
    summary = {"observations": 900, "low": 0.6, "high": 0.8, "recent": 0.7}
    evidence = {"adapter": "support", "version": 1, "scorer": "feedback", "against": "level"}
    counts = {"observations": 900, "last_observation": 1, "state": {"summary": summary}, "updated_at": NOW}
    async with two.gateway.app.state["database"].begin() as connection:
        await connection.execute(insert(EvidenceRow).values(**evidence, **counts))
        for number in range(8):
            await decide(connection, "roll_back", "errors", f"{number} of its requests failed, " + "far too many " * 8)
        await save(connection, "support", kept, NOW)
    lines = await screen(two, monkeypatch, capsys)
    assert len(lines) <= 40, "\n".join(lines)
    assert max(map(len, lines)) <= 80
    text = " ".join(" ".join(lines).split())
    for words in (
        "0 of 200 new labelled rows",
        f"Without the key {key} nothing speaks",
        "5000 have no captured prompt",
        "No price per GPU hour is set",
        "met: canary, other job, cool down, hours",
        "at any hour",
        "goes back if worse, or over 5% more failed requests, 2 times the time for a token, 2 times the cost",
        "days ago",
        "no monitor is active",
    ):
        assert text.count(words) == 1, f"{words}\n" + "\n".join(lines)
    whole = [line.strip() for line in lines]
    assert "ostler monitoring support --capture 1" in whole
    assert f"ostler policy set support retrain.trusted_keys=key_aa,{key}" in whole


async def test_what_waits_while_it_is_stopped_is_shown(two: Cli, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Beside who stopped it, and whether any monitor looks meanwhile."""
    seen = cases.watched(paused="ann")
    database: AsyncEngine = two.gateway.app.state["database"]
    async with database.begin() as connection:
        await save(connection, "support", shown(Kept(), find(seen, LoopState(), cases.POLICY), NOW, None), NOW)
    await two.gateway.registry.stop("support", actor="ann", reason="the holidays")
    await Leases(database).acquire_lease(LEASE, "somebody", 60)
    text = " ".join(" ".join(await screen(two, monkeypatch, capsys)).split())
    for words in (
        "now It is paused",
        "waits retrain. Quality was lost",
        "; a monitor is active",
        "ostler resume support",
    ):
        assert words in text


async def test_why_of_an_adapter_that_nobody_looked_at(two: Cli) -> None:
    """Says so; one that there is not is refused."""
    shown = await two("why", "support")
    assert "the loop has not looked at it yet; no monitor is active" in shown.out
    assert "Nothing was done by itself so far." in shown.out
    assert (await two("why", "nobody")).code == REFUSED


async def test_decisions_are_chosen_and_linked(two: Cli) -> None:
    """By kind and outcome, all of them where that is asked for; each with the revision that followed."""
    database: AsyncEngine = two.gateway.app.state["database"]
    async with database.begin() as connection:
        for number in range(3):
            await decide(connection, "wait", "gathers", f"reason {number}")
        promoted = await decide(connection, "promote", "promoted", "not worse")
    body = {"stable": 2, "decision": promoted}
    await two.gateway.let_act("support")
    assert (await two.gateway.http.patch("/admin/v1/adapters/support/deployment", json=body)).is_success
    shown = await two("decisions", "support", "--acted")
    assert "revision 2" in shown.out
    assert "reason 1" not in shown.out
    assert len((await two("decisions", "--outcome", "gathers", "--json")).json["data"]) == 3
    assert (await two("decisions", "--kind", "drift")).out == "Nothing was concluded yet.\n"
    few = (await two("decisions", "--limit", "1", "--json")).json
    assert (len(few["data"]), few["has_more"]) == (1, True)
    assert len((await two("decisions", "--all", "--limit", "1", "--json")).json["data"]) == 4


async def test_a_policy_is_tried(two: Cli) -> None:
    """On days without traffic: nothing is changed, and it says that there was nothing."""
    shown = await two("policy", "check", "support", "mode=act", "quality.drop=0.1", "--days", "2")
    assert shown.code == DONE
    assert "0 scored sessions" in shown.out
    assert "No alarm of lost quality" in shown.out
    assert "Note: Nothing was scored" in shown.out
    assert (await two("policy", "show", "support", "--json")).json["number"] == 0
    assert (await two("policy", "check", "support", "quality.drop=7")).code in (REFUSED, MISUSED)


def test_a_dry_run_is_a_table(capsys: Any) -> None:
    """Alarms and what followed by their time, each canary with what was done and what would have been."""
    moment = {"at": "2026-03-01T12:00:00Z", "act": "retrain", "outcome": "begun", "version": 2, "reason": "60 rows."}
    waits = moment | {"act": "wait", "outcome": "gathers", "reason": "3 of 50 sessions."}
    alarm = {"at": "2026-03-01T11:00:00Z", "version": 2, "recent": 0.5, "level": 0.9}
    canary = {"version": 3, "incumbent": 2, "by_person": True, "since": NOW.isoformat(), "until": NOW.isoformat()}
    answer = {
        "adapter": "support",
        "since": "2026-02-22T12:00:00Z",
        "until": NOW.isoformat(),
        "observations": 80,
        "observed_until": NOW.isoformat(),
        "labels": 60,
        "requests": 12,
        "alarms": [alarm],
        "decisions": [moment],
        "canaries": [canary | {"ended": each, "moments": [], "waits": waits} for each in ENDED],
        "notes": ["Keep this in mind."],
    }
    replay(answer)
    shown = capsys.readouterr().out
    assert f"80 scored sessions (the last one of {render.when(NOW.isoformat())[:16]}), 60 labels" in shown
    assert shown.index("alarm") < shown.index("retrain")
    assert "version 2 scores 0.500, 0.900 is expected" in shown
    assert shown.count("waits: gathers") == len(ENDED)
    assert "was taken away by a person" in shown
    assert "Note: Keep this in mind." in shown
