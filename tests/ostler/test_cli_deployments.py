"""The commands that change what an adapter serves, and those that look at engines and at what was done."""

import asyncio
from datetime import datetime
from typing import Any

import pytest

from tests.ostler.command import DONE, MISUSED, REFUSED, Cli, as_process


async def deployment(cli: Cli) -> Any:
    """What `support` means now."""
    return (await cli("show", "support", "--json")).json["deployment"]


async def test_each_part_is_set_shown_and_taken_away(two: Cli) -> None:
    """Canary, shadow and fallback, in words, and as they stand in the deployment."""
    canary = await two("canary", "support", "2", "--weight", "0.1", "-m", "try it")
    assert canary.out == "support serves version 1 (revision 2). Canary version 2 for 10% of sessions.\n"
    shadow = await two("shadow", "support", "base", "--share", "0.25")
    assert "Canary version 2 for 10% of sessions; shadow base model for 25% of requests." in shadow.out
    fallback = await two("fallback", "support", "previous", "base", "--json")
    assert fallback.json["deployment"] == {
        "revision": 4,
        "stable": 1,
        "canary": {"version": 2, "weight": 0.1, "holdback": False},
        "shadow": {"version": "base", "share": 0.25},
        "fallback": ["previous", "base"],
    }
    shown = (await two("show", "support")).out
    assert "serves version 1 since revision 4" in shown
    assert "fallback previous, then base" in shown
    assert "2 at 10%" in (await two("list")).out
    history = (await two("history", "support")).out
    assert "try it" in history
    assert "shadow base model for 25% of requests" in history
    for part in ("canary", "shadow", "fallback"):
        assert (await two(part, "support", "--off")).code == DONE
    assert await deployment(two) == {"revision": 7, "stable": 1, "canary": None, "shadow": None, "fallback": None}
    assert (await two("shadow", "support", "2", "--share", "1")).code == DONE
    assert (await deployment(two))["shadow"] == {"version": 2, "share": 1.0}
    assert (await two("rollback", "support", "--to", "4")).code == DONE
    assert (await deployment(two))["fallback"] == ["previous", "base"]


MISSAID = [
    ("canary", "support"),
    ("canary", "support", "2"),
    ("canary", "support", "--weight", "0.5"),
    ("canary", "support", "2", "--weight", "0.5", "--off"),
    ("shadow", "support", "base"),
    ("shadow", "support", "all", "--share", "0.5"),
    ("shadow", "support", "--share", "0.5", "--off"),
    ("fallback", "support"),
    ("fallback", "support", "base", "--off"),
]


async def test_a_change_must_be_said_whole(cli: Cli) -> None:
    """Exit code 2 in one line, without asking the gateway."""
    away = "http://127.0.0.1:1"
    for ran in await asyncio.gather(*(cli(*arguments, OSTLER_URL=away) for arguments in MISSAID)):
        ran.assert_failed(MISUSED)
    unknown = await cli("fallback", "support", "nonsense", OSTLER_URL=away)
    assert (unknown.code, unknown.out) == (MISUSED, "")
    for words in ("nonsense", "previous", "base"):
        assert words in unknown.err


@pytest.mark.parametrize("weight", ["1.5", "-0.1", "half"])
async def test_a_weight_is_a_share(cli: Cli, weight: str) -> None:
    """Between 0 and 1."""
    ran = await cli("canary", "support", "2", f"--weight={weight}", OSTLER_URL="http://127.0.0.1:1")
    assert (ran.code, ran.out) == (MISUSED, "")


async def test_a_change_can_depend_on_the_revision(two: Cli) -> None:
    """Every command that changes a deployment is refused when somebody else was quicker."""
    assert (await two("promote", "support", "2", "--if-revision", "1")).code == DONE
    for arguments in (
        ("promote", "support", "1"),
        ("canary", "support", "1", "--weight", "0.5"),
        ("shadow", "support", "base", "--share", "0.5"),
        ("fallback", "support", "base"),
        ("rollback", "support"),
    ):
        late = await two(*arguments, "--if-revision", "1")
        late.assert_failed(REFUSED, "revision 2", "412 revision_mismatch")
    assert (await deployment(two))["revision"] == 2
    assert (await two("rollback", "support", "--if-revision", "2")).code == DONE


async def test_wrong_changes_are_refused_in_the_gateways_words(two: Cli) -> None:
    """With its status and code."""
    (await two("canary", "support", "1", "--weight", "0.5")).assert_failed(REFUSED, "another version", "422")
    (await two("fallback", "support", "base", "base")).assert_failed(REFUSED, "fallback", "422")
    (await two("shadow", "support", "9", "--share", "0.5")).assert_failed(REFUSED, "no version 9", "404")


async def test_a_version_is_archived_and_brought_back(two: Cli) -> None:
    """What is in use stays."""
    assert "support version 2 is archived." in (await two("archive", "support", "2")).out
    assert "archived" in (await two("show", "support")).out
    (await two("promote", "support", "2")).assert_failed(REFUSED, "archive", "409")
    assert (await two("archive", "support", "2", "--undo", "--json")).json["archived"] is False
    assert (await two("promote", "support", "2")).code == DONE
    (await two("archive", "support", "2")).assert_failed(REFUSED, "409 conflict")


async def test_verify_says_whether_a_version_acts(two: Cli) -> None:
    """Exit code 1 where an engine says no, so that a script can stop there."""
    acts = await two("verify", "support", "2")
    assert (acts.code, "acts" in acts.out, "the base model" in acts.out) == (DONE, True, True)
    (verdict,) = (await two("verify", "support", "2", "--json")).json["data"]
    assert verdict["ok"] is True
    name = (await two("show", "support", "--json")).json["versions"][1]["engine_name"]
    two.gateway.engine.idle.add(name)
    refused = await two("verify", "support", "2")
    assert (refused.code, "refused" in refused.out) == (REFUSED, True)
    assert "nothing" in refused.out
    assert "DISTANCE   the largest difference from the log probabilities stored with it" in refused.out
    (await two("verify", "support", "9")).assert_failed(REFUSED, "no version 9", "404")


async def test_engines_are_listed(two: Cli) -> None:
    """With their state and what is loaded in them."""
    (replica,) = (await two("replicas", "--json")).json["data"]
    shown = (await two("replicas")).out
    assert replica["id"] in shown
    assert "ready" in shown
    assert replica["resident"][0] in shown
    assert replica["url"] == two.gateway.engine.url
    assert replica["url"] in shown
    assert "requests in the engine" in shown


async def test_the_audit_log_is_listed(two: Cli) -> None:
    """Who did what to what, with before and after; more of it by an option."""
    await two("canary", "support", "2", "--weight", "0.5")
    shown = (await two("audit")).out
    assert "canary version 2 weight 0.5" in shown
    assert "adapter:support" in shown
    assert "test (key_" in shown
    first = await two("audit", "--limit", "1")
    newest = (await two("audit", "--limit", "1", "--json")).json["data"][0]["id"]
    assert f"--before {newest}" in first.out
    older = (await two("audit", "--before", str(newest), "--json")).json["data"]
    assert older[0]["id"] == newest - 1


async def test_the_audit_log_tells_why(two: Cli) -> None:
    """Reasons, what a rollback restored, until when a replaced secret works; digests by their first characters."""
    await two("promote", "support", "2", "-m", "it answers better")
    await two("rollback", "support", "-m", "it does not")
    await two("shadow", "support", "base", "--share", "0.5")
    (own,) = (await two("keys", "list", "--json")).json["data"]
    await two("keys", "rotate", own["id"])
    until = (await two("keys", "list", "--json")).json["data"][0]["previous_valid_until"]
    shown = (await as_process(two)("audit", COLUMNS="80")).out
    for words in ("because: it answers better", "because: it does not", "restores revision 1"):
        assert words in shown
    whole = " ".join((await two("audit")).out.split())
    assert "shadow version base share 0.5" in whole
    assert f"works until {datetime.fromisoformat(until).astimezone():%Y-%m-%d %H:%M:%S}" in whole
    digest = (await two("show", "support", "--json")).json["versions"][0]["digest"]
    assert f"digest {digest[:12]}" in shown
    assert digest[:13] not in shown
    assert max(map(len, shown.splitlines())) <= 80


async def test_a_rollback_says_what_it_did(two: Cli) -> None:
    """Which revision came back, what has become of the rest, and what it took out of the archive."""
    await two("promote", "support", "2")
    await two("archive", "support", "1")
    await two("canary", "support", "2", "--off")
    await two("shadow", "support", "base", "--share", "0.5")
    await two("fallback", "support", "base")
    first = await two("rollback", "support", "--to", "1")
    assert first.out.splitlines() == [
        "support serves version 1 (revision 5).",
        "Restored revision 1: version 1; shadow and fallback are gone; version 1 came back from the archive.",
    ]
    again = await two("rollback", "support", "--to", "1")
    assert again.out.splitlines()[1] == "That is what it served already; nothing has changed."
    await two("shadow", "support", "base", "--share", "0.1")
    other = await two("rollback", "support", "--to", "4")
    assert other.out.splitlines()[1] == "Restored revision 4: version 2; fallback is back; shadow is changed."
    assert (await two("rollback", "support", "--to", "1", "--json")).json["deployment"]["stable"] == 1


async def test_a_version_that_fails_on_the_engines_is_told(two: Cli) -> None:
    """By the admin API and in the table, as long as its breaker is open."""
    name = (await two("show", "support", "--json")).json["versions"][0]["engine_name"]
    breakers = two.gateway.app.state.fleet.breakers
    breakers.failed(name, certain=True)
    shown = await two("show", "support")
    assert "live, failing" in shown.out
    assert [v["failing"] for v in (await two("show", "support", "--json")).json["versions"]] == [True, False]
    breakers.succeeded(name)
    assert "failing" not in (await two("show", "support")).out


async def test_tables_are_as_wide_as_columns_says(two: Cli) -> None:
    """In 80 columns names of versions are not broken; without COLUMNS, piped, there is room for all."""
    await two("promote", "support", "2")
    names = [version["engine_name"] for version in (await two("show", "support", "--json")).json["versions"]]
    for command in (
        ("show", "support"),
        ("list",),
        ("replicas",),
        ("keys", "list"),
        ("audit",),
        ("verify", "support", "2"),
    ):
        shown = (await as_process(two)(*command, COLUMNS="80")).out
        assert max(map(len, shown.splitlines())) <= 80, command
        if command[0] in ("show", "replicas"):
            assert all(name in shown for name in names), command
    await two("push", two.adapter(3.0), "--adapter", "support", "--note", "n" * 150)
    assert "n" * 150 in (await as_process(two)("show", "support")).out


async def test_all_pages_of_adapters_are_listed(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many adapters there are."""
    from ostler import client

    monkeypatch.setattr(client, "_PAGE", 2)
    names = ["a", "b", "c", "d", "e"]
    for index, name in enumerate(names):
        await cli.gateway.push(name, 1.0 + index)

    def every() -> Any:
        return client.AdminClient(cli.gateway.url, cli.gateway.key).adapters()

    listed = await asyncio.to_thread(every)
    assert [adapter["name"] for adapter in listed["data"]] == names
    assert listed["has_more"] is False
