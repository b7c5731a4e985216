"""`ostler keys`: a secret is printed once, alone, and rights and limits are as they were asked for."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

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
    (await two("list", OSTLER_API_KEY=secret)).assert_failed(REFUSED, "not valid", "401 invalid_api_key")
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
    for words in ("60 requests/min", "9000 tokens/min", "4 at once", "12.5 a month", "inference, tuning"):
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
    (await cli("keys", "create", "x", "--scope", "king")).assert_failed(REFUSED, "king", "400")
    (await cli("keys", "create", "x", "--admin", "--adapter", "a")).assert_failed(REFUSED, "admin", "400")
    (await cli("keys", "rotate", "key_0", "--overlap", "800d")).assert_failed(REFUSED, "overlap_s", "400")
    assert len((await cli("keys", "list", "--json")).json["data"]) == 1


@pytest.mark.parametrize("said", ["--rpm=-1", "--budget=-0.5", "--concurrent=x", "--days=0"])
async def test_numbers_of_keys_are_checked(cli: Cli, said: str) -> None:
    """Before the gateway is asked."""
    ran = await cli("keys", "create", "x", said, OSTLER_URL="http://127.0.0.1:1")
    assert (ran.code, ran.out) == (MISUSED, "")
