"""API keys: made, changed, rotated, revoked, on SQLite and on PostgreSQL."""

import asyncio
import json
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from registry.catalog import HeldKey, KeyLimits, Scope
from registry.errors import Conflict, InvalidValue, NotFound
from registry.keys import hash_key
from registry.registry import Registry

ADMIN = frozenset({Scope.ADMIN})
CLIENT = frozenset({Scope.INFERENCE, Scope.FEEDBACK})
LIMITS = KeyLimits(requests_per_minute=60, tokens_per_minute=1000, concurrent_requests=4, monthly_budget=12.5)


async def held(registry: Registry, secret: str) -> HeldKey | None:
    """The key that a secret opens, as a gateway finds it."""
    return (await registry.catalog()).key(hash_key(secret))


async def test_a_key_is_known_by_its_hash_alone(registry: Registry) -> None:
    """The catalog finds it, with its rights; nothing stored gives it back."""
    expires = datetime.now(UTC) + timedelta(days=1)
    key, secret = await registry.create_key(
        "team", scopes=CLIENT, adapters=frozenset({"support"}), limits=LIMITS, expires_at=expires, actor="ann"
    )
    assert secret.startswith("sk-")
    found = await held(registry, secret)
    assert found is not None
    assert (found.key, found.until) == (key, None)
    assert (key.expires_at, key.limits, key.scopes) == (expires, LIMITS, CLIENT)
    assert key.may_use("support")
    assert not key.may_use("other")
    assert key.may(Scope.INFERENCE)
    assert not key.may(Scope.ADMIN)
    assert secret not in repr(await registry.list_keys())


async def test_a_secret_that_shares_only_its_index_opens_nothing(registry: Registry) -> None:
    """The whole hash is compared."""
    _, secret = await registry.create_key("team", scopes=CLIENT, actor="ann")
    found = hash_key(secret)
    assert (await registry.catalog()).key(found[:-1] + ("0" if found[-1] != "0" else "1")) is None


async def test_a_revoked_key_is_gone_from_the_catalog_and_stays_in_the_list(registry: Registry) -> None:
    """History keeps its actor; revoking twice is one revocation."""
    key, secret = await registry.create_key("team", scopes=CLIENT, actor="ann")
    first = await registry.revoke_key(key.id, actor="ann")
    again = await registry.revoke_key(key.id, actor="bob")
    assert await held(registry, secret) is None
    assert again.revoked_at == first.revoked_at
    assert [listed.id for listed in await registry.list_keys()] == [key.id]


async def test_an_update_changes_what_it_names(registry: Registry) -> None:
    """The secret, the id and all the rest stay."""
    key, secret = await registry.create_key("team", scopes=CLIENT, limits=LIMITS, actor="ann")
    expires = datetime.now(UTC) + timedelta(hours=1)
    changes: list[dict[str, Any]] = [
        {"adapters": frozenset({"support"})},
        {"scopes": frozenset({Scope.TUNING})},
        {"limits": KeyLimits(concurrent_requests=1)},
        {"expires_at": expires},
        {"name": "other"},
        {"adapters": None, "expires_at": None},
    ]
    expected = {"name": key.name, "scopes": key.scopes, "adapters": None, "limits": LIMITS, "expires_at": None}
    for change in changes:
        expected |= change
        updated = await registry.update_key(key.id, **change, actor="bob")
        assert {name: getattr(updated, name) for name in expected} == expected
        found = await held(registry, secret)
        assert found is not None
        assert found.key == updated


async def test_two_admins_who_change_limits_at_once_both_succeed(registry: Registry) -> None:
    """Limits that are named change and the others stay, however the two changes come together."""
    key, _ = await registry.create_key("team", scopes=CLIENT, limits=LIMITS, actor="ann")
    for count in range(1, 6):
        wanted = {"requests_per_minute": count, "tokens_per_minute": 10 * count, "concurrent_requests": None}
        changes = (registry.update_key(key.id, limits={name: value}, actor="ann") for name, value in wanted.items())
        await asyncio.gather(*changes)
        (found,) = await registry.list_keys()
        assert found.limits == KeyLimits(**wanted, monthly_budget=LIMITS.monthly_budget)


async def test_an_admin_key_is_not_limited_to_adapters(registry: Registry) -> None:
    """Whichever of the two comes second: together they would be a tenant who sees all."""
    only = frozenset({"support"})
    with pytest.raises(InvalidValue, match="admin"):
        await registry.create_key("team", scopes=ADMIN, adapters=only, actor="ann")
    admin, _ = await registry.create_key("boss", scopes=ADMIN, actor="ann")
    limited, _ = await registry.create_key("team", scopes=CLIENT, adapters=only, actor="ann")
    with pytest.raises(InvalidValue, match="admin"):
        await registry.update_key(admin.id, adapters=only, actor="ann")
    with pytest.raises(InvalidValue, match="admin"):
        await registry.update_key(limited.id, scopes=ADMIN, actor="ann")


def locking_out(registry: Registry, key_id: str) -> list[Awaitable[Any]]:
    """Each way to take an admin's key."""
    past = datetime.now(UTC) - timedelta(seconds=1)
    return [
        registry.revoke_key(key_id, actor="ann"),
        registry.rotate_key(key_id, overlap=timedelta(0), actor="ann"),
        registry.update_key(key_id, scopes=CLIENT, actor="ann"),
        registry.update_key(key_id, expires_at=past, actor="ann"),
    ]


async def test_the_last_admins_key_cannot_be_taken(registry: Registry) -> None:
    """While another one could get in it can; neither clients' keys nor revoked and expired ones count as that."""
    last, secret = await registry.create_key("last", scopes=ADMIN, actor="ann")
    await registry.create_key("team", scopes=CLIENT, actor="ann")
    expired = datetime.now(UTC) - timedelta(seconds=1)
    await registry.create_key("old", scopes=ADMIN, expires_at=expired, actor="ann")
    gone, _ = await registry.create_key("gone", scopes=ADMIN, actor="ann")
    await registry.revoke_key(gone.id, actor="ann")
    number = await registry.change_number()
    for taking in locking_out(registry, last.id):
        with pytest.raises(Conflict, match="another admin key first"):
            await taking
    found = await held(registry, secret)
    assert found is not None
    assert (found.key, await registry.change_number()) == (last, number)
    _, renewed = await registry.rotate_key(last.id, overlap=timedelta(hours=1), actor="ann")
    assert await held(registry, renewed) is not None
    await registry.create_key("next", scopes=ADMIN, actor="ann")
    assert (await registry.revoke_key(last.id, actor="ann")).revoked_at is not None


async def test_of_two_last_admins_one_stays(registry: Registry) -> None:
    """Though each is revoked in the same moment as the other."""
    made = [(await registry.create_key("boss", scopes=ADMIN, actor="ann"))[0] for _ in range(2)]
    revocations = (registry.revoke_key(key.id, actor="ann") for key in made)
    outcomes = await asyncio.gather(*revocations, return_exceptions=True)
    assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 1


async def test_an_update_that_changes_nothing_takes_no_number(registry: Registry) -> None:
    """So no gateway is woken by it."""
    key, _ = await registry.create_key("team", scopes=CLIENT, limits=LIMITS, actor="ann")
    number = await registry.change_number()
    await registry.update_key(key.id, scopes=CLIENT, limits=LIMITS, actor="ann")
    assert await registry.change_number() == number


async def test_a_rotated_key_has_two_secrets_for_a_while(registry: Registry) -> None:
    """The new one for good, the old one until its time; both are the same key."""
    key, old = await registry.create_key("team", scopes=CLIENT, limits=LIMITS, actor="ann")
    began = datetime.now(UTC)
    rotated, new = await registry.rotate_key(key.id, overlap=timedelta(hours=1), actor="ann")
    assert (rotated.id, rotated.limits, rotated.scopes) == (key.id, LIMITS, CLIENT)
    assert rotated.hint != key.hint
    by_old, by_new = await held(registry, old), await held(registry, new)
    assert by_old is not None
    assert by_new is not None
    assert by_old.key == by_new.key == rotated
    assert by_new.until is None
    assert by_old.until is not None
    assert began + timedelta(hours=1) <= by_old.until <= datetime.now(UTC) + timedelta(hours=1)
    assert (key.previous_valid_until, rotated.previous_valid_until) == (None, by_old.until)


async def test_rotating_again_drops_the_oldest_secret(registry: Registry) -> None:
    """There are two at most."""
    key, first = await registry.create_key("team", scopes=CLIENT, actor="ann")
    _, second = await registry.rotate_key(key.id, overlap=timedelta(hours=1), actor="ann")
    _, third = await registry.rotate_key(key.id, overlap=timedelta(hours=1), actor="ann")
    opened = [await held(registry, secret) is not None for secret in (first, second, third)]
    assert opened == [False, True, True]


async def test_rotating_without_overlap_ends_the_old_secret_at_once(registry: Registry) -> None:
    """For a secret that leaked."""
    key, first = await registry.create_key("team", scopes=CLIENT, actor="ann")
    _, second = await registry.rotate_key(key.id, overlap=timedelta(hours=1), actor="ann")
    _, third = await registry.rotate_key(key.id, overlap=timedelta(0), actor="ann")
    opened = [await held(registry, secret) is not None for secret in (first, second, third)]
    assert opened == [False, False, True]


async def test_revoking_ends_both_secrets(registry: Registry) -> None:
    """And a revoked key can be neither rotated nor changed."""
    key, old = await registry.create_key("team", scopes=CLIENT, actor="ann")
    _, new = await registry.rotate_key(key.id, overlap=timedelta(hours=1), actor="ann")
    await registry.revoke_key(key.id, actor="ann")
    assert (await registry.catalog()).keys == {}
    assert await held(registry, old) is await held(registry, new) is None
    with pytest.raises(Conflict, match="revoked"):
        await registry.rotate_key(key.id, overlap=timedelta(0), actor="ann")
    with pytest.raises(Conflict, match="revoked"):
        await registry.update_key(key.id, name="again", actor="ann")


async def test_rotations_at_once_leave_the_last_two_secrets(registry: Registry) -> None:
    """In whatever order they came; each answered secret was valid when it was answered."""
    key, _ = await registry.create_key("team", scopes=CLIENT, actor="ann")
    rotations = [registry.rotate_key(key.id, overlap=timedelta(hours=1), actor="ann") for _ in range(6)]
    secrets = [secret for _, secret in await asyncio.gather(*rotations)]
    opened = [await held(registry, secret) for secret in secrets]
    assert sum(found is not None and found.until is None for found in opened) == 1
    assert sum(found is not None and found.until is not None for found in opened) == 1


async def test_unknown_keys_are_not_found(registry: Registry) -> None:
    """Whatever the id looks like."""
    for key_id in ("key_0", "", "nul\0", "\ud800", "x" * 1000):
        with pytest.raises(NotFound):
            await registry.revoke_key(key_id, actor="ann")
        with pytest.raises(NotFound):
            await registry.rotate_key(key_id, overlap=timedelta(0), actor="ann")
        with pytest.raises(NotFound):
            await registry.update_key(key_id, name="x", actor="ann")


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"scopes": frozenset()}, "scopes"),
        ({"name": "x" * 121}, "name"),
        ({"name": "nul\0"}, "name"),
        ({"adapters": frozenset({"\ud800"})}, "adapters"),
        ({"expires_at": datetime(2030, 1, 1)}, "expires_at"),  # noqa: DTZ001 - naive on purpose
        ({"limits": KeyLimits(requests_per_minute=0)}, "requests_per_minute"),
        ({"limits": KeyLimits(tokens_per_minute=2**31)}, "tokens_per_minute"),
        ({"limits": KeyLimits(concurrent_requests=-1)}, "concurrent_requests"),
        ({"limits": KeyLimits(monthly_budget=float("nan"))}, "monthly_budget"),
        ({"limits": KeyLimits(monthly_budget=-0.01)}, "monthly_budget"),
    ],
)
async def test_values_outside_what_is_allowed_are_refused(
    registry: Registry, wrong: dict[str, Any], param: str
) -> None:
    """With the name of the one that is wrong, when a key is made and when it is changed."""
    with pytest.raises(InvalidValue) as refused:
        await registry.create_key(**({"name": "team", "scopes": CLIENT, "actor": "ann"} | wrong))
    assert refused.value.param == param
    key, _ = await registry.create_key("team", scopes=CLIENT, actor="ann")
    with pytest.raises(InvalidValue):
        await registry.update_key(key.id, **wrong, actor="ann")


@pytest.mark.parametrize("overlap", [timedelta(seconds=-1), timedelta(days=400), timedelta.max])
async def test_an_overlap_has_bounds(registry: Registry, overlap: timedelta) -> None:
    """Neither in the past nor for ever."""
    key, _ = await registry.create_key("team", scopes=CLIENT, actor="ann")
    with pytest.raises(InvalidValue, match="overlap"):
        await registry.rotate_key(key.id, overlap=overlap, actor="ann")


async def test_the_audit_log_tells_of_keys_and_holds_no_secret(registry: Registry, database: AsyncEngine) -> None:
    """Who did what to which key, before and after; neither a secret nor a hash of one."""
    key, first = await registry.create_key("team", scopes=CLIENT, actor="ann")
    await registry.update_key(key.id, limits=LIMITS, actor="bob")
    _, second = await registry.rotate_key(key.id, overlap=timedelta(hours=1), actor="ann")
    await registry.revoke_key(key.id, actor="ann")
    rows = await registry.audit()
    assert [row.action for row in rows] == ["revoke_key", "rotate_key", "update_key", "create_key"]
    assert {row.subject for row in rows} == {f"key:{key.id}"}
    update = rows[2]
    assert update.actor == "bob"
    assert update.before is not None
    assert update.after is not None
    assert update.before["limits"]["monthly_budget"] is None
    assert update.after["limits"]["monthly_budget"] == 12.5
    async with database.connect() as connection:
        whole = json.dumps([list(row) for row in await connection.execute(text("SELECT * FROM audit"))], default=str)
    for secret in (first, second):
        assert secret not in whole
        assert hash_key(secret) not in whole


MADE_ELSEWHERE = "x7Kq-" + "0123456789abcdef" * 2


async def test_a_secret_made_elsewhere_opens_an_admin_key(registry: Registry) -> None:
    """Made once, and audited once, however often it is ensured."""
    key, is_new = await registry.ensure_key("install", MADE_ELSEWHERE, scopes=ADMIN, actor="local")
    assert (key.name, key.scopes, key.adapters, is_new) == ("install", ADMIN, None, True)
    assert await registry.ensure_key("other", MADE_ELSEWHERE, scopes=ADMIN, actor="local") == (key, False)
    found = await held(registry, MADE_ELSEWHERE)
    assert found is not None
    assert found.key == key
    assert [(row.action, row.actor) for row in await registry.audit()] == [("create_key", "local")]
    assert MADE_ELSEWHERE not in repr(await registry.audit())


async def test_two_that_ensure_a_secret_at_once_make_one_key(registry: Registry) -> None:
    """As two jobs of one installation may."""
    ensuring = [registry.ensure_key("install", MADE_ELSEWHERE, scopes=ADMIN, actor="local") for _ in range(6)]
    ensured = await asyncio.gather(*ensuring)
    assert sum(is_new for _, is_new in ensured) == 1
    assert len({key.id for key, _ in ensured}) == len(await registry.list_keys()) == 1


async def test_a_key_of_a_generated_secret_is_there_already(registry: Registry) -> None:
    """What `create_key` made need not be made again."""
    key, secret = await registry.create_key("boss", scopes=ADMIN, actor="ann")
    assert await registry.ensure_key("install", secret, scopes=ADMIN, actor="local") == (key, False)


@pytest.mark.parametrize(
    "secret", ["", "hunter2", "x" * 64, MADE_ELSEWHERE + " ", MADE_ELSEWHERE + "\n", MADE_ELSEWHERE + "é", "ab" * 400]
)
async def test_secrets_that_can_be_guessed_or_not_be_sent_are_refused(registry: Registry, secret: str) -> None:
    """In words that do not repeat them."""
    with pytest.raises(InvalidValue, match="the secret") as refused:
        await registry.ensure_key("install", secret, scopes=ADMIN, actor="local")
    assert refused.value.param == "secret"
    assert not secret.strip() or secret.strip() not in str(refused.value)
    assert await registry.list_keys() == []


async def test_a_secret_whose_rights_were_taken_is_not_made_a_key_again(registry: Registry) -> None:
    """It may have leaked: revoked, rotated away with and without an overlap, expired, or with fewer rights."""
    await registry.create_key("boss", scopes=ADMIN, actor="ann")
    past = datetime.now(UTC) - timedelta(seconds=1)
    _, client = await registry.create_key("team", scopes=CLIENT, actor="ann")
    _, expired = await registry.create_key("old", scopes=ADMIN, expires_at=past, actor="ann")
    taken = {client: "other rights", expired: "expired"}
    for overlap in (timedelta(0), timedelta(hours=1)):
        key, rotated = await registry.create_key("leaked", scopes=ADMIN, actor="ann")
        _, revoked = await registry.rotate_key(key.id, overlap=overlap, actor="ann")
        with pytest.raises(Conflict, match="rotation"):
            await registry.ensure_key("install", rotated, scopes=ADMIN, actor="local")
        await registry.revoke_key(key.id, actor="ann")
        taken |= {rotated: "revoked", revoked: "revoked"}
    number = await registry.change_number()
    for secret, words in taken.items():
        with pytest.raises(Conflict, match=words):
            await registry.ensure_key("install", secret, scopes=ADMIN, actor="local")
    assert await registry.change_number() == number


async def test_no_number_of_rotations_makes_a_secret_new(registry: Registry) -> None:
    """One that had leaked may still stand where secrets are kept, and be ensured again by the next upgrade."""
    key, _ = await registry.ensure_key("install", MADE_ELSEWHERE, scopes=ADMIN, actor="local")
    for _ in range(3):
        await registry.rotate_key(key.id, overlap=timedelta(hours=1), actor="ann")
        with pytest.raises(Conflict, match=f"the key '{key.id}', which has another secret since a rotation"):
            await registry.ensure_key("install", MADE_ELSEWHERE, scopes=ADMIN, actor="local")
    assert await held(registry, MADE_ELSEWHERE) is None
    assert len(await registry.list_keys()) == 1


async def test_a_secret_whose_key_is_limited_is_refused(registry: Registry) -> None:
    """It would open less than whoever ensures it was told: a tenant's, given by mistake, fails at once."""
    adapters = frozenset({"support"})
    _, bound = await registry.create_key("team", scopes=CLIENT, adapters=adapters, actor="ann")
    _, slow = await registry.create_key("team", scopes=CLIENT, limits=KeyLimits(requests_per_minute=1), actor="ann")
    _, poor = await registry.create_key("boss", scopes=ADMIN, limits=KeyLimits(monthly_budget=0), actor="ann")
    with pytest.raises(Conflict, match="which is limited to some adapters; take another secret"):
        await registry.ensure_key("x", bound, scopes=CLIENT, actor="local")
    for secret, scopes in ((slow, CLIENT), (poor, ADMIN)):
        with pytest.raises(Conflict, match=r"has limits of its own; remove its limits, or take another secret$"):
            await registry.ensure_key("x", secret, scopes=scopes, actor="local")


async def test_a_scope_of_the_next_program_opens_nothing_here_and_stays(
    registry: Registry, database: AsyncEngine
) -> None:
    """The database may be migrated, and such a key made, while this program runs on; it still sees all changes."""
    key, secret = await registry.create_key("team", scopes=CLIENT, actor="ann")
    async with database.begin() as connection:
        await connection.execute(text('UPDATE api_keys SET scopes = \'["feedback", "inference", "next"]\''))
    found = await held(registry, secret)
    assert found is not None
    assert found.key.scopes == CLIENT
    assert (await registry.update_key(key.id, name="crew", actor="ann")).scopes == CLIENT
    async with database.connect() as connection:
        (scopes,) = (await connection.execute(text("SELECT scopes FROM api_keys"))).one()
    assert "next" in str(scopes)
    assert (await registry.update_key(key.id, scopes=ADMIN, actor="ann")).scopes == ADMIN
    await registry.revoke_key((await registry.create_key("boss", scopes=ADMIN, actor="ann"))[0].id, actor="ann")


async def test_a_secret_made_elsewhere_may_open_less(registry: Registry) -> None:
    """As Prometheus' key does: to the metrics alone. An admin's secret is refused for that."""
    metrics = frozenset({Scope.METRICS})
    key, is_new = await registry.ensure_key("prometheus", MADE_ELSEWHERE, scopes=metrics, actor="local")
    assert (key.scopes, is_new) == (metrics, True)
    assert await registry.ensure_key("prometheus", MADE_ELSEWHERE, scopes=metrics, actor="local") == (key, False)
    _, admins = await registry.create_key("boss", scopes=ADMIN, actor="ann")
    for secret, scopes in ((admins, metrics), (MADE_ELSEWHERE, ADMIN), (MADE_ELSEWHERE, CLIENT)):
        with pytest.raises(Conflict, match="other rights"):
            await registry.ensure_key("install", secret, scopes=scopes, actor="local")
    with pytest.raises(InvalidValue, match="metrics are of all adapters"):
        await registry.create_key("x", scopes=metrics, adapters=frozenset({"support"}), actor="ann")
