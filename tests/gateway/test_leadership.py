"""The lease that makes one of several gateways the one that tidies up, on both databases."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator

import pytest
from sqlalchemy.exc import OperationalError

from gateway.engines.heat import Heat
from gateway.leadership import LEASE, Leadership
from registry.artifacts import ArtifactStore
from registry.database import connect
from registry.registry import Registry
from tests.conftest import until


@contextlib.asynccontextmanager
async def following(leadership: Leadership) -> AsyncIterator[asyncio.Task[None]]:
    """A gateway that keeps claiming."""
    task = asyncio.create_task(leadership.follow(Heat()))
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def counted(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the leases that are claimed from now on."""
    claims: list[str] = []
    acquire = registry.acquire_lease

    async def counting(name: str, holder: str, ttl_s: float) -> bool:
        claims.append(name)
        return await acquire(name, holder, ttl_s)

    monkeypatch.setattr(registry, "acquire_lease", counting)
    return claims


async def test_one_of_several_holds_it(registry: Registry) -> None:
    """The one that came first, as long as it claims; nobody before the first claim."""
    first, second = Leadership(registry), Leadership(registry)
    assert not first.holds
    for _ in range(3):
        await first.claim()
        await second.claim()
        assert (first.holds, second.holds) == (True, False)


async def test_who_resigns_lets_another_have_it_at_once(registry: Registry) -> None:
    """Without waiting for the lease to run out."""
    first, second = Leadership(registry), Leadership(registry)
    await first.claim()
    await first.resign()
    assert not first.holds
    await second.claim()
    assert second.holds


async def test_who_does_not_hold_it_cannot_give_it_away(registry: Registry) -> None:
    """A standby that stops leaves the lease where it is."""
    first, second = Leadership(registry), Leadership(registry)
    await first.claim()
    await second.claim()
    await second.resign()
    await second.claim()
    assert (first.holds, second.holds) == (True, False)


async def test_a_lease_that_runs_out_is_taken_over(registry: Registry) -> None:
    """By a gateway that follows, once the one that had it is gone without a word; which believes in it no longer."""
    gone, other = Leadership(registry, 0.5), Leadership(registry, 3.0)
    await gone.claim()
    async with following(other):
        await until(lambda: other.holds)
        assert not gone.holds
        await gone.claim()
        assert (gone.holds, other.holds) == (False, True)


async def test_who_is_refused_stops_believing_at_once(registry: Registry) -> None:
    """Even if by its own clock the lease would go on."""
    first, second = Leadership(registry), Leadership(registry)
    await first.claim()
    await registry.release_lease(LEASE, first._holder)
    await second.claim()
    await first.claim()
    assert (first.holds, second.holds) == (False, True)


async def test_following_keeps_it(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond its time, so that a standby never gets it."""
    first, second = Leadership(registry, 2.0), Leadership(registry, 2.0)
    await first.claim()
    claims = counted(registry, monkeypatch)
    async with following(first):
        await until(lambda: len(claims) == 4)  # they are 2/3 s apart
        await second.claim()
        assert (first.holds, second.holds) == (True, False)


async def test_nobody_believes_longer_than_the_database(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time that the call takes is part of the lease's, as the database may have counted from its beginning."""
    leadership = Leadership(registry, 0.2)

    async def slow(name: str, holder: str, ttl_s: float) -> bool:
        await asyncio.sleep(0.2)
        return (name, ttl_s) == (LEASE, 0.2) and holder != ""

    monkeypatch.setattr(registry, "acquire_lease", slow)
    await leadership.claim()
    assert not leadership.holds


async def test_without_the_database_it_ends_by_itself(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not before its time, as nobody else can take it meanwhile; the first to claim after the outage has it again."""
    leadership = Leadership(registry, 1.5)
    errors = itertools.cycle([OSError("gone"), TimeoutError(), OperationalError("select", {}, Exception("gone"))])

    async def away(*_: object) -> bool:
        raise next(errors)

    await leadership.claim()
    with monkeypatch.context() as outage:
        outage.setattr(registry, "acquire_lease", away)
        for _ in range(3):
            await leadership.claim()
            assert leadership.holds
        async with following(leadership):
            await until(lambda: not leadership.holds)
    await leadership.claim()
    assert leadership.holds


async def test_resigning_without_the_database_is_no_error(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway that stops meanwhile stops all the same, and does not believe in the lease any more."""
    leadership = Leadership(registry)
    await leadership.claim()

    async def away(*_: object) -> None:
        raise ConnectionRefusedError

    monkeypatch.setattr(registry, "release_lease", away)
    await leadership.resign()
    assert not leadership.holds


async def test_a_database_that_nobody_listens_for_is_no_error(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the driver's own errors, too: the gateway goes on without the lease, and goes on claiming."""
    nowhere = connect("postgresql://nobody@127.0.0.1:1/ostler")
    registry = Registry(nowhere, store, ())
    leadership = Leadership(registry, 0.05)
    claims = counted(registry, monkeypatch)
    async with following(leadership) as task:
        await until(lambda: len(claims) == 3 or task.done())
        assert not task.done()
        assert not leadership.holds
    await nowhere.dispose()
