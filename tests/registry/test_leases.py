"""Leases: one holder at a time, on SQLite and on PostgreSQL."""

import asyncio

from registry.registry import Registry


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


async def test_a_lease_is_no_change(registry: Registry) -> None:
    """No gateway is woken by it, and the audit log is silent about it."""
    before = await registry.change_number()
    await registry.acquire_lease("reconcile", "a", 60)
    await registry.release_lease("reconcile", "a")
    assert await registry.change_number() == before
    assert await registry.audit() == []
