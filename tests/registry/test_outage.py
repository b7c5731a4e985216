"""PostgreSQL that stops and comes back: calls fail at once with what callers expect, and work again after it."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from registry.artifacts import ArtifactStore
from registry.catalog import Scope
from registry.database import connect, migrate
from registry.notifications import ChangeSignal
from registry.registry import Registry
from tests.conftest import until
from tests.postgres import StoppablePostgres
from tests.registry.lora_samples import BASE

AWAY = (SQLAlchemyError, OSError)


@pytest.fixture
def server() -> Iterator[StoppablePostgres]:
    """A server of one's own."""
    with StoppablePostgres() as made:
        yield made


@pytest.fixture
async def own(server: StoppablePostgres) -> AsyncIterator[AsyncEngine]:
    """An engine on it, with the schema."""
    engine = connect(server.url)
    await migrate(engine)
    yield engine
    await engine.dispose()


async def answers(registry: Registry) -> bool:
    """Whether the database answers."""
    try:
        await registry.change_number()
    except AWAY:
        return False
    return True


async def test_calls_fail_while_it_is_stopped_and_work_afterwards(
    own: AsyncEngine, server: StoppablePostgres, store: ArtifactStore
) -> None:
    """Reads and changes, on connections from before and on new ones; what was there still is."""
    registry = Registry(own, store, (BASE,))
    signal = ChangeSignal(own)
    await signal.wait(20)
    key, _ = await registry.create_key("team", scopes=frozenset({Scope.INFERENCE}), actor="ann")
    await asyncio.to_thread(server.stop)
    async with asyncio.timeout(20):
        for call in (registry.change_number, registry.catalog, registry.list_keys, registry.change_number):
            with pytest.raises(AWAY):
                await call()
        with pytest.raises(AWAY):
            await registry.revoke_key(key.id, actor="ann")
        with pytest.raises(AWAY):
            await registry.acquire_lease("reconcile", "a", 60)
        await signal.wait(0.1)
    await asyncio.to_thread(server.start)
    await until(lambda: answers(registry))
    assert [found.revoked_at for found in await registry.list_keys()] == [None]
    await signal.wait(0.1)  # what was left from the outage
    async with asyncio.timeout(20):
        waiting = asyncio.create_task(signal.wait(60))
        await registry.revoke_key(key.id, actor="ann")
        await waiting
    await signal.aclose()


async def test_a_database_that_lets_nobody_in_is_away(postgres_url: str, store: ArtifactStore) -> None:
    """The driver's own errors do not reach callers, who would not know them; nor is the name of anything told."""
    engine = connect(postgres_url.replace("/test_", "/none_"))
    with pytest.raises(ConnectionError, match="lets nobody in") as refused:
        await Registry(engine, store, (BASE,)).change_number()
    assert "none_" not in str(refused.value)
    await engine.dispose()
