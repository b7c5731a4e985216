"""Changes are told of at once on PostgreSQL, and looked for on SQLite; a lost connection is no more than a delay."""

import asyncio
import os
from collections.abc import AsyncIterator
from signal import SIGCONT, SIGSTOP

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from registry import notifications
from registry.artifacts import ArtifactStore
from registry.catalog import Scope
from registry.database import connect, migrate
from registry.errors import NotFound
from registry.notifications import ChangeSignal
from registry.registry import Registry
from tests.conftest import until
from tests.registry.lora_samples import BASE

LONG_S = 60.0  # longer than any test may take, so that a wait that ends was told to
SCOPES = frozenset({Scope.ADMIN})
LISTENERS = (
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'ostler changes'"
)


@pytest.fixture
async def other(postgres_url: str, store: ArtifactStore) -> AsyncIterator[Registry]:
    """Another gateway's registry, on PostgreSQL."""
    engine = connect(postgres_url)
    await migrate(engine)
    yield Registry(engine, store, (BASE,))
    await engine.dispose()


@pytest.fixture
async def own(postgres_url: str, other: Registry) -> AsyncIterator[AsyncEngine]:
    """This gateway's engine, on the same database."""
    engine = connect(postgres_url)
    yield engine
    await engine.dispose()


@pytest.fixture
async def signal(own: AsyncEngine) -> AsyncIterator[ChangeSignal]:
    """A signal that listens already."""
    made = ChangeSignal(own)
    await told(made)
    yield made
    await made.aclose()


async def told(signal: ChangeSignal) -> None:
    """Wait until the signal was told something, not until its time is over."""
    async with asyncio.timeout(20):
        await signal.wait(LONG_S)


async def listeners(engine: AsyncEngine) -> list[int]:
    """The server's processes that listen."""
    async with engine.connect() as connection:
        return [row.pid for row in await connection.execute(text(LISTENERS))]


async def test_a_change_of_another_gateway_is_told(signal: ChangeSignal, other: Registry) -> None:
    """Each one, whether it comes before the wait or during it."""
    for _ in range(5):
        waiting = asyncio.create_task(told(signal))
        await asyncio.sleep(0)
        await other.create_key("team", scopes=SCOPES, actor="ann")
        await waiting
        await other.create_key("team", scopes=SCOPES, actor="ann")
        await told(signal)


async def test_without_a_change_a_wait_takes_its_time(signal: ChangeSignal, other: Registry) -> None:
    """Also when a change was refused, and when a lease was taken."""
    with pytest.raises(NotFound):
        await other.promote("nobody", 1, actor="ann")
    await other.acquire_lease("reconcile", "a", 60)
    before = asyncio.get_running_loop().time()
    await signal.wait(0.3)
    assert asyncio.get_running_loop().time() - before >= 0.29


async def test_a_lost_connection_comes_back(
    signal: ChangeSignal, own: AsyncEngine, other: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wait ends without an error; once connected again it is worth looking at once, and changes are told again."""
    monkeypatch.setattr(notifications, "_RECONNECT_PAUSE_S", 0.05)
    (first,) = await listeners(own)
    async with own.connect() as connection:
        await connection.execute(text(f"SELECT pg_terminate_backend({first})"))
    await told(signal)
    (second,) = await listeners(own)
    assert second != first
    waiting = asyncio.create_task(told(signal))
    await other.create_key("team", scopes=SCOPES, actor="ann")
    await waiting


async def test_a_connection_that_fell_silent_is_replaced(
    own: AsyncEngine, other: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked now and then whether it is alive, for a server can vanish without ending its connections."""
    monkeypatch.setattr(notifications, "_RECONNECT_PAUSE_S", 0.05)
    monkeypatch.setattr(notifications, "_CHECK_EVERY_S", 0.05)
    monkeypatch.setattr(notifications, "_CHECK_TIMEOUT_S", 0.5)
    signal = ChangeSignal(own)
    await told(signal)
    (first,) = await listeners(own)
    os.kill(first, SIGSTOP)
    try:
        await told(signal)
        assert [pid for pid in await listeners(own) if pid != first]
        waiting = asyncio.create_task(told(signal))
        await other.create_key("team", scopes=SCOPES, actor="ann")
        await waiting
    finally:
        os.kill(first, SIGCONT)
        await signal.aclose()


async def test_a_database_that_is_away_is_only_waited_out() -> None:
    """No error, and the whole of the time; closing does not hang."""
    away = connect("postgresql://nobody@127.0.0.1:1/none")
    signal = ChangeSignal(away)
    before = asyncio.get_running_loop().time()
    await signal.wait(0.2)
    await signal.wait(0.2)
    assert asyncio.get_running_loop().time() - before >= 0.39
    await signal.aclose()


async def test_closing_ends_the_connection(signal: ChangeSignal, own: AsyncEngine) -> None:
    """Nothing is left behind on the server."""
    assert len(await listeners(own)) == 1
    await signal.aclose()

    async def gone() -> bool:
        return await listeners(own) == []

    await until(gone)


async def test_on_sqlite_a_wait_is_a_short_pause() -> None:
    """There is nobody to tell of a change, so a look comes soon, however long the wait could be."""
    signal = ChangeSignal(connect("sqlite://"))
    async with asyncio.timeout(20):
        await signal.wait(LONG_S)
        await signal.wait(0)
    await signal.aclose()
