"""`ostler policy`, and the commands that stop the loop and answer it."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.decisions import Decision, record_decision
from monitors.loop import approvals
from ostler.client import CommandFailed
from ostler.policies import MEANS, order
from registry.policies import Policy
from tests.ostler.command import MISUSED, REFUSED, Cli

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def test_every_setting_is_explained() -> None:
    """And nothing that is none."""
    parts: dict[str, Any] = msgspec.to_builtins(Policy())
    fields = [f"{part}.{field}" for part in ("quality", "retrain", "rollout") for field in parts[part]]
    assert list(MEANS) == ["mode", *fields]


def test_the_page_has_every_setting_as_it_is() -> None:
    """With its default and its meaning, in the order of `ostler policy show`; a default is written as it is said."""
    parts: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(Policy()))
    page = (Path(__file__).parents[2] / "docs" / "policies.md").read_text()
    rows = re.findall(r"^\| `([a-z_.]+)` \| (.*?) \| (.*) \|$", page, flags=re.MULTILINE)
    settings = [row for row in rows if row[0] in MEANS]
    assert [(key, means) for key, _, means in settings] == list(MEANS.items())
    said = order([f"{key}={value}" for key, value, _ in settings])
    assert said == parts


@pytest.mark.parametrize(
    ("settings", "asked"),
    [
        (["mode=off"], {"mode": "off"}),
        (["rollout.steps=0.1,0.5", "rollout.errors=none"], {"rollout": {"steps": [0.1, 0.5], "errors": None}}),
        (["rollout.steps=[0.1]", "mode=act"], {"rollout": {"steps": [0.1]}, "mode": "act"}),
        (["retrain.sources=correction"], {"retrain": {"sources": ["correction"]}}),
        (["retrain.trusted_keys=none", "retrain.hours=22,6"], {"retrain": {"trusted_keys": [], "hours": [22, 6]}}),
        (
            ["retrain.approval=true", 'retrain.job={"ostler": {}}'],
            {"retrain": {"approval": True, "job": {"ostler": {}}}},
        ),
        (["quality.level=none", "quality.scorer=judge"], {"quality": {"level": None, "scorer": "judge"}}),
        (["quality.drop=NaN", "quality.alpha=1e999"], {"quality": {"drop": "NaN", "alpha": "1e999"}}),
    ],
)
def test_settings_are_json_or_plain_words(settings: list[str], asked: dict[str, Any]) -> None:
    """With `none` for null, and commas in lists; what is no number goes as a word, which the gateway refuses."""
    assert order(settings) == asked


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("rollout.step=0.1", "rollout.steps"),
        ("steps=0.1", "rollout.steps"),
        ("rollout=1", "rollout."),
        ("rollout.zzzzzz=1", "rollout.steps"),
        ("mode", "KEY=VALUE"),
        ("mode=act mode=off", "twice"),
    ],
)
def test_a_wrong_setting_is_told_what_there_is(setting: str, says: str) -> None:
    """By its name, without asking a gateway."""
    with pytest.raises(CommandFailed, match=says) as failed:
        order(setting.split())
    assert failed.value.exit_code == MISUSED


async def test_a_policy_is_shown_changed_and_looked_back_on(two: Cli) -> None:
    """Each setting with its meaning; the history says what changed, from the defaults on."""
    shown = (await two("policy", "show", "support")).out
    for words in ("advises, and changes nothing", "the defaults", "rollout.steps", "0.05,0.25,0.5", "retrain.budget"):
        assert words in shown
    done = (await two("policy", "set", "support", "mode=act", "rollout.errors=none", "-m", "we trust it")).out
    for words in ("retrains and rolls out by itself (policy 1)", "rollout.errors", "none", "Warning: No prompt"):
        assert words in done
    assert "retrain.budget" not in done
    found = (await two("policy", "set", "support", "retrain.hours=22,6", "--json")).json
    assert (found["number"], found["mode"], found["retrain"]["hours"]) == (2, "act", [22, 6])
    past = (await two("policy", "history", "support")).out
    for words in ("mode advise to act", "rollout.errors 0.05 to none", "we trust it", "retrain.hours none to 22,6"):
        assert words in past
    last = (await two("policy", "history", "support", "--limit", "1")).out
    assert "retrain.hours none to 22,6" in last
    assert "we trust it" not in last
    assert "--before 2" in last
    both = (await two("policy", "history", "support", "--limit", "1", "--json")).json
    assert ([each["number"] for each in both["data"]], both["has_more"]) == ([2], True)


async def test_what_makes_no_sense_is_one_line(two: Cli) -> None:
    """That says what would be right."""
    (await two("policy", "set", "support")).assert_failed(MISUSED, "mode=act")
    (await two("policy", "set", "support", "rollout.step=1")).assert_failed(MISUSED, "rollout.steps")
    (await two("policy", "set", "support", "rollout.steps=0.5,0.1")).assert_failed(REFUSED, "larger than the last")
    (await two("policy", "set", "support", "mode=maybe")).assert_failed(
        REFUSED, "`mode` must be 'act', 'advise' or 'off'"
    )
    (await two("policy", "show", "nobody")).assert_failed(REFUSED, "there is no adapter 'nobody'")


async def test_the_loop_is_stopped_and_goes_on(two: Cli) -> None:
    """Each says how it stands; `show` has it beside what is served."""
    assert "advises, and changes nothing" in (await two("show", "support")).out
    paused = (await two("pause", "support", "-m", "looks odd")).out
    assert paused.startswith("support is paused, by ")
    assert "looks odd" in paused
    assert "frozen, by " in (await two("freeze", "--reason", "a fair")).out
    shown = (await two("show", "support")).out
    assert "frozen: all adapters, by " in shown
    assert "paused, by " in shown
    assert "Paused stay: support." in (await two("unfreeze")).out
    assert "is not paused" in (await two("resume", "support")).out
    assert "looks odd" not in (await two("show", "support")).out
    assert (await two("freeze", "--json")).json["frozen"]["reason"] == ""
    assert "not paused, but all automatic change is frozen" in (await two("resume", "support")).out


async def test_what_waits_is_answered(two: Cli) -> None:
    """Once; then there is nothing to answer."""
    (await two("approve", "support")).assert_failed(REFUSED, "nothing about 'support' waits")
    database: AsyncEngine = two.gateway.app.state["database"]
    async with database.begin() as connection:
        await approvals.ask(connection, "support", 1, "retrain", 7, NOW)
    (await two("approve", "support", "--decision", "6")).assert_failed(REFUSED, "decision 6", "decision 7")
    no = ("reject", "support", "--decision", "7", "-m", "not now")
    assert "refused the training of support (decision 7)" in (await two(*no)).out
    (await two("approve", "support")).assert_failed(REFUSED, "nothing about 'support' waits")


async def test_history_tells_what_followed_from_a_decision(two: Cli) -> None:
    """And what is held back is called so."""
    database: AsyncEngine = two.gateway.app.state["database"]
    async with database.begin() as connection:
        number = await record_decision(connection, Decision("support", 2, "loop", "promoted", "r", "w", {}), NOW)
    canary = {"version": 1, "weight": 0.05, "holdback": True}
    change = {"stable": 2, "canary": canary, "decision": number}
    await two.gateway.let_act("support")
    assert (await two.gateway.http.patch("/admin/v1/adapters/support/deployment", json=change)).is_success
    assert f"following decision {number}" in (await two("history", "support")).out
    assert "version 1 held back for 5% of sessions" in (await two("show", "support")).out
    assert "1 at 5%, held back" in (await two("list")).out
