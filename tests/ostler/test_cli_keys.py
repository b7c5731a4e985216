"""`ostler keys`: a secret is printed once, alone, and rights and limits are as they were asked for."""

import asyncio
import time
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import insert

from monitors.log.usage import month_of
from monitors.tables import SpendingRow
from tests.ostler.command import DONE, MISUSED, REFUSED, Cli

NO_LIMITS = {
    "requests_per_minute": None,
    "tokens_per_minute": None,
    "concurrent_requests": None,
    "monthly_budget": None,
}


async def test_keys_are_made_listed_and_revoked(two: Cli) -> None:
    """The secret alone on stdout, so that a script can take it; it works, within its limits, until it is revoked."""
    made = await two("keys", "create", "team [/x]", "--adapter", "support", "--days", "3")
    secret = made.out.strip()
    assert secret.startswith("sk-ostler-")
    assert secret not in made.err
    assert "team [/x]" in made.err
    (_, key) = (await two("keys", "list", "--json")).json["data"]
    assert (key["name"], key["scopes"], key["adapters"]) == ("team [/x]", ["feedback", "inference"], ["support"])
    assert timedelta(days=2) < datetime.fromisoformat(key["expires_at"]) - datetime.now(UTC) < timedelta(days=4)
    (await two("list", OSTLER_API_KEY=secret)).assert_failed(REFUSED, "scope 'admin'", "403 insufficient_permissions")
    listed = await two("keys", "list")
    assert key["id"] in listed.out
    assert "team [/x]" in listed.out
    assert secret not in listed.out
    assert "is revoked" in (await two("keys", "revoke", key["id"])).out
    way_out = "ostler keys create NAME --admin --local"
    (await two("list", OSTLER_API_KEY=secret)).assert_failed(REFUSED, "not valid", "401 invalid_api_key", way_out)
    assert (await two("keys", "revoke", key["id"], "--json")).json["revoked_at"]
    admin = (await two("keys", "create", "boss", "--admin", "--json")).json
    assert admin.keys() == {"secret", "key"}
    assert (await two("list", OSTLER_API_KEY=admin["secret"])).code == DONE


async def test_rights_and_limits_are_said_by_options(cli: Cli) -> None:
    """Each scope and each limit; a change touches only what is said, and 0 takes a limit away."""
    options = ("--rpm", "60", "--tpm", "9000", "--concurrent", "4", "--budget", "12.5")
    made = await cli("keys", "create", "team", "--scope", "inference", "--scope", "tuning", *options, "--json")
    key = made.json["key"]
    assert key["scopes"] == ["inference", "tuning"]
    assert key["limits"] == {
        "requests_per_minute": 60,
        "tokens_per_minute": 9000,
        "concurrent_requests": 4,
        "monthly_budget": 12.5,
    }
    shown = (await cli("keys", "list")).out
    for words in ("60 requests/min", "9000 tokens/min", "4 at once", "spent 0 of 12.5 a month", "inference, tuning"):
        assert words in shown
    fewer = ("--rpm", "0", "--concurrent", "2", "--scope", "inference", "--adapter", "a", "--adapter", "b")
    changed = (await cli("keys", "update", key["id"], *fewer, "--json")).json
    assert changed == key | {
        "scopes": ["inference"],
        "adapters": ["a", "b"],
        "limits": key["limits"] | {"requests_per_minute": None, "concurrent_requests": 2},
    }
    none = ("--tpm", "0", "--concurrent", "0", "--budget", "0", "--all-adapters", "--name", "crew", "--days", "2")
    changed = (await cli("keys", "update", key["id"], *none, "--json")).json
    assert (changed["name"], changed["adapters"], changed["limits"]) == ("crew", None, NO_LIMITS)
    assert changed["expires_at"]
    assert "crew" in (await cli("keys", "update", key["id"], "--no-expiry")).out
    assert (await cli("keys", "list", "--json")).json["data"][-1]["expires_at"] is None


async def test_a_rotated_key_is_printed_once(cli: Cli) -> None:
    """The new secret alone on stdout, how long the old one works on stderr."""
    made = (await cli("keys", "create", "boss", "--admin", "--json")).json
    old, key_id = made["secret"], made["key"]["id"]
    rotated = await cli("keys", "rotate", key_id, "--overlap", "15m")
    new = rotated.out.strip()
    assert new.startswith("sk-ostler-")
    assert new != old
    assert "15m" in rotated.err
    assert new not in rotated.err
    for secret in (old, new):
        assert (await cli("list", OSTLER_API_KEY=secret)).code == DONE
    (listed,) = [key for key in (await cli("keys", "list", "--json")).json["data"] if key["id"] == key_id]
    until = datetime.fromisoformat(listed["previous_valid_until"]).astimezone()
    assert f"the replaced secret works until {until:%Y-%m-%d %H:%M:%S}" in (await cli("keys", "list")).out
    assert "at once" in (await cli("keys", "rotate", key_id, "--overlap", "0")).err
    for secret in (old, new):
        (await cli("list", OSTLER_API_KEY=secret)).assert_failed(REFUSED, "401")


async def test_wrong_options_of_keys_are_refused(cli: Cli) -> None:
    """2 where the command line is wrong, 1 where the gateway says no."""
    misused = (
        ("rotate", "key_0", "--overlap", "soon"),
        ("rotate", "key_0", "--overlap", "-1h"),
        ("update", "key_0"),
        ("update", "key_0", "--adapter", "a", "--all-adapters"),
        ("update", "key_0", "--days", "1", "--no-expiry"),
    )
    for ran in await asyncio.gather(*(cli("keys", *arguments) for arguments in misused)):
        ran.assert_failed(MISUSED)
    for arguments in (("create", "x"), ("update", "key_0")):
        ran = await cli("keys", *arguments, "--scope", "king", OSTLER_URL="http://127.0.0.1:1")
        assert (ran.code, ran.out) == (MISUSED, "")
        for words in ("king", "inference", "feedback", "tuning", "admin"):
            assert words in ran.err
    (await cli("keys", "create", "x", "--admin", "--adapter", "a")).assert_failed(REFUSED, "admin", "400")
    (own,) = (await cli("keys", "list", "--json")).json["data"]
    refused = await cli("keys", "rotate", own["id"], "--overlap", "800d")
    refused.assert_failed(REFUSED, "error: `overlap_s` must be ", "400")
    assert "body" not in refused.err
    (await cli("keys", "rotate", "key_0")).assert_failed(REFUSED, "404")
    assert (await cli("keys", "list", "--json")).json["data"] == [own]


async def test_a_key_for_what_does_not_exist_is_made_with_a_warning(two: Cli) -> None:
    """It may come later; adapters and base models that are there are not warned of."""
    names = ("--adapter", "support", "--adapter", "tiny", "--adapter", "suport")
    made = await two("keys", "create", "team", *names)
    assert made.code == DONE
    assert made.out.startswith("sk-ostler-")
    assert [line for line in made.err.splitlines() if "warning" in line] == [
        "warning: there is no adapter 'suport' yet"
    ]
    key = (await two("keys", "list", "--json")).json["data"][-1]
    assert key["adapters"] == ["suport", "support", "tiny"]
    assert "warning: there is no adapter 'x' yet" in (await two("keys", "update", key["id"], "--adapter", "x")).err


async def test_what_a_key_has_spent_is_listed(cli: Cli) -> None:
    """Beside its budget, or alone where it has none."""
    for name, budget in (("team", ("--budget", "12.5")), ("crew", ())):
        made = (await cli("keys", "create", name, *budget, "--json")).json["key"]
        async with cli.gateway.app.state.database.begin() as connection:
            spent = SpendingRow(key_id=made["id"], month=month_of(time.time()), cost=3.25)
            await connection.execute(insert(SpendingRow).values(spent.model_dump()))
    await cli.gateway.app.state.budgets.refresh()
    listed = (await cli("keys", "list")).out
    assert "spent 3.25 of 12.5 a month" in listed
    assert "spent 3.25 this month" in listed


async def test_the_key_of_this_machine_stays_in_its_file_when_it_is_rotated(cli: Cli) -> None:
    """Only that key's new secret is put there, and nobody else can read it; the commands go on working."""
    file = cli.folder / "cli-home" / "admin.key"
    file.parent.mkdir()
    made = [(await cli("keys", "create", name, "--admin", "--json")).json for name in ("here", "other")]
    here, other = made
    file.write_text(here["secret"] + "\n")
    await cli("keys", "rotate", other["key"]["id"])
    assert file.read_text() == here["secret"] + "\n"
    rotated = await cli("keys", "rotate", here["key"]["id"], "--overlap", "0", OSTLER_API_KEY="")
    assert (file.read_text(), file.stat().st_mode & 0o777) == (rotated.out, 0o600)
    assert rotated.out.strip() not in rotated.err
    assert [kept.name for kept in file.parent.iterdir()] == ["admin.key"]
    assert (await cli("list", OSTLER_API_KEY="")).code == DONE


async def test_the_last_admins_key_is_not_taken(cli: Cli) -> None:
    """The refusal says what to do first."""
    (own,) = (await cli("keys", "list", "--json")).json["data"]
    for taking in (("revoke", own["id"]), ("rotate", own["id"], "--overlap", "0")):
        (await cli("keys", *taking)).assert_failed(REFUSED, "another admin key first", "409 conflict")


async def test_a_wrong_key_made_without_a_gateway_is_refused_in_one_line(cli: Cli) -> None:
    """As a gateway would refuse it; a right one works there."""
    local = {"OSTLER_HOME": str(cli.gateway.app.state.settings.home)}
    wrong = await cli("keys", "create", "x", "--admin", "--adapter", "a", "--local", **local)
    wrong.assert_failed(REFUSED, "admin key cannot be limited")
    made = await cli("keys", "create", "x", "--scope", "admin", "--local", **local)
    await cli.gateway.app.state.directory.refresh()
    assert (await cli("keys", "list", OSTLER_API_KEY=made.out.strip())).code == DONE


@pytest.mark.parametrize("said", ["--rpm=-1", "--budget=-0.5", "--concurrent=x", "--days=0"])
async def test_numbers_of_keys_are_checked(cli: Cli, said: str) -> None:
    """Before the gateway is asked."""
    ran = await cli("keys", "create", "x", said, OSTLER_URL="http://127.0.0.1:1")
    assert (ran.code, ran.out) == (MISUSED, "")


async def test_a_secret_made_elsewhere_is_ensured(cli: Cli) -> None:
    """It opens the admin API from then on, is never printed, and doing it again changes nothing."""
    secret = "0123456789abcdefghij" * 2
    local = {"OSTLER_HOME": str(cli.gateway.app.state.settings.home), "OSTLER_API_KEY": secret}
    words = ("keys", "ensure", "install", "--admin", "--local")
    first, again = await cli(*words, **local), await cli(*words, **local)
    assert "(install, ...ghij) is made." in first.out
    assert "(install, ...ghij) is there." in again.out
    assert secret not in first.out + first.err
    await cli.gateway.app.state.directory.refresh()
    assert len((await cli("keys", "list", "--json", OSTLER_API_KEY=secret)).json["data"]) == 2


async def test_what_cannot_be_ensured_is_refused_in_one_line(cli: Cli) -> None:
    """Without a secret, or without saying that it is an admin's and where; and a secret that can be guessed."""
    local = {"OSTLER_HOME": str(cli.gateway.app.state.settings.home)}
    words = ("keys", "ensure", "install", "--admin")
    (await cli(*words, **local)).assert_failed(MISUSED, "--admin --local")
    (await cli(*words, "--local", **local | {"OSTLER_API_KEY": ""})).assert_failed(MISUSED, "OSTLER_API_KEY")
    weak = await cli(*words, "--local", **local | {"OSTLER_API_KEY": "password"})
    weak.assert_failed(REFUSED, "can be guessed")
    assert "password" not in weak.err
    rightless = await cli("keys", "ensure", "install", "--local", **local)
    rightless.assert_failed(MISUSED, "--scope")


async def test_a_key_for_metrics_is_ensured_from_a_variable_of_its_own(cli: Cli) -> None:
    """It opens the metrics and not the admin API; the variable is named where it is missing."""
    secret = "0123456789abcdefghij" * 2
    local = {"OSTLER_HOME": str(cli.gateway.app.state.settings.home)}
    words = ("keys", "ensure", "prometheus", "--scope", "metrics", "--secret-variable", "METRICS_KEY", "--local")
    (await cli(*words, **local)).assert_failed(MISUSED, "METRICS_KEY")
    assert "(prometheus, ...ghij) is made." in (await cli(*words, **local, METRICS_KEY=secret)).out
    await cli.gateway.app.state.directory.refresh()
    (await cli("keys", "list", OSTLER_API_KEY=secret)).assert_failed(REFUSED, "'admin'")
    headers = {"authorization": f"Bearer {secret}"}
    assert (await cli.gateway.http.get("/metrics", headers=headers)).status_code == 200
