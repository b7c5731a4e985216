"""Leases have one holder at a time, and gateways see each other's use, on SQLite and on PostgreSQL."""

import asyncio
from datetime import UTC, datetime, timedelta

from sqlalchemy import text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from registry.registry import Registry
from registry.tables import GatewayUseRow


async def test_a_lease_has_one_holder(registry: Registry) -> None:
    """Who has it may renew it; others may not until it is given back, and only its holder gives it back."""
    assert await registry.acquire_lease("reconcile", "a", 60)
    assert await registry.acquire_lease("reconcile", "a", 60)
    assert not await registry.acquire_lease("reconcile", "b", 60)
    await registry.release_lease("reconcile", "b")
    assert not await registry.acquire_lease("reconcile", "b", 60)
    await registry.release_lease("reconcile", "a")
    assert await registry.acquire_lease("reconcile", "b", 60)


async def test_leases_are_apart_by_name(registry: Registry) -> None:
    """Each name has its holder."""
    assert await registry.acquire_lease("one", "a", 60)
    assert await registry.acquire_lease("two", "b", 60)


async def test_a_lease_that_ran_out_is_taken_over(registry: Registry) -> None:
    """So that a holder that died does not hold it for ever; from then on the old one is refused."""
    assert await registry.acquire_lease("reconcile", "a", 0)
    assert await registry.acquire_lease("reconcile", "b", 60)
    assert not await registry.acquire_lease("reconcile", "a", 60)


async def test_renewing_prolongs(registry: Registry) -> None:
    """A holder that renews keeps it."""
    assert await registry.acquire_lease("reconcile", "a", 0)
    assert await registry.acquire_lease("reconcile", "a", 60)
    assert not await registry.acquire_lease("reconcile", "b", 60)


async def test_of_many_that_race_one_wins(registry: Registry) -> None:
    """When it is free, and when it ran out."""
    for ended in (False, True):
        name = f"race-{ended}"
        if ended:
            await registry.acquire_lease(name, "old", 0)
        won = await asyncio.gather(*(registry.acquire_lease(name, f"h{index}", 60) for index in range(8)))
        assert sum(won) == 1


async def test_a_lease_beside_others_leaves_one_free(registry: Registry) -> None:
    """Whatever is held elsewhere; renewing it, and taking it once another is free again, is fine."""
    assert await registry.acquire_lease("elsewhere", "a", 60)
    assert await registry.acquire_lease_beside("one", "a", 60, others=["two", "three"])
    assert await registry.acquire_lease_beside("one", "a", 60, others=["two", "three"])
    assert not await registry.acquire_lease_beside("one", "b", 60, others=["two", "three"])
    assert await registry.acquire_lease_beside("two", "a", 60, others=["one", "three"])
    assert not await registry.acquire_lease_beside("three", "a", 60, others=["one", "two"])
    await registry.release_lease("one", "a")
    assert await registry.acquire_lease_beside("three", "a", 60, others=["one", "two"])
    assert not await registry.acquire_lease_beside("four", "a", 60, others=[])


async def test_of_a_group_that_is_taken_at_once_one_stays_free(registry: Registry) -> None:
    """Each looks at the others' leases, and none does so before another has taken its own."""
    group = [f"member-{index}" for index in range(8)]
    for _ in range(5):
        won = await asyncio.gather(
            *(registry.acquire_lease_beside(one, one, 60, others=set(group) - {one}) for one in group)
        )
        assert sum(won) == len(group) - 1
        for one in group:
            await registry.release_lease(one, one)


async def test_a_lease_is_no_change(registry: Registry) -> None:
    """No gateway is woken by it, and the audit log is silent about it."""
    before = await registry.change_number()
    await registry.acquire_lease("reconcile", "a", 60)
    await registry.release_lease("reconcile", "a")
    assert await registry.change_number() == before
    assert await registry.audit() == []


async def age(database: AsyncEngine, gateway: str, seconds: float) -> None:
    """Have the gateway have told its use so long ago."""
    table = GatewayUseRow.__table__  # type: ignore[attr-defined]
    told = datetime.now(UTC) - timedelta(seconds=seconds)
    async with database.begin() as connection:
        await connection.execute(update(table).where(table.c.gateway == gateway).values(seen_at=told))


async def test_gateways_see_the_sum_of_what_others_use(registry: Registry) -> None:
    """Never their own share, and of each other one only what it told last."""
    await registry.share_use("a", {"old@1-x": 9.0})
    await registry.share_use("a", {"one@1-x": 1.0, "two@1-x": 2.0})
    await registry.share_use("b", {"two@1-x": 3.0})
    await registry.share_use("c", {"two@1-x": 0.5})
    assert await registry.others_use("c", 60) == {"one@1-x": 1.0, "two@1-x": 5.0}
    assert await registry.others_use("a", 60) == {"two@1-x": 3.5}
    assert await registry.others_use("new", 60) == {"one@1-x": 1.0, "two@1-x": 5.5}


async def test_use_that_was_told_too_long_ago_does_not_count(registry: Registry, database: AsyncEngine) -> None:
    """A gateway that is gone uses nothing; one that tells again counts again."""
    await registry.share_use("a", {"one@1-x": 1.0})
    await age(database, "a", 100)
    assert await registry.others_use("b", 60) == {}
    assert await registry.others_use("b", 200) == {"one@1-x": 1.0}
    await registry.share_use("a", {"one@1-x": 4.0})
    assert await registry.others_use("b", 60) == {"one@1-x": 4.0}


async def test_gateways_silent_for_a_day_are_forgotten(registry: Registry, database: AsyncEngine) -> None:
    """So that the table does not grow with every gateway there ever was."""
    for gateway, hours in (("gone", 25), ("quiet", 23)):
        await registry.share_use(gateway, {})
        await age(database, gateway, hours * 3600)
    await registry.share_use("a", {})
    async with database.connect() as connection:
        kept = await connection.execute(text("SELECT gateway FROM gateway_use ORDER BY gateway"))
        assert list(kept.scalars()) == ["a", "quiet"]


async def test_of_very_many_names_the_most_used_are_shared(registry: Registry) -> None:
    """A gateway's row stays small."""
    await registry.share_use("a", {f"n@{number}-x": float(number) for number in range(1500)})
    seen = await registry.others_use("b", 60)
    assert seen == {f"n@{number}-x": float(number) for number in range(500, 1500)}


async def test_many_gateways_share_their_use_at_once(registry: Registry) -> None:
    """None waits for another or is refused, whether it told something before or not."""
    for _ in range(2):
        await asyncio.gather(*(registry.share_use(f"g{index}", {"one@1-x": 1.0}) for index in range(8)))
    assert await registry.others_use("g0", 60) == {"one@1-x": 7.0}


async def test_shared_use_is_no_change(registry: Registry) -> None:
    """It is told every few seconds, and must not wake every gateway each time."""
    before = await registry.change_number()
    await registry.share_use("a", {"one@1-x": 1.0})
    assert await registry.change_number() == before
    assert await registry.audit() == []
