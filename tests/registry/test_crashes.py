"""A change that is broken off anywhere happened wholly or not at all, and holds up nobody after it."""

import asyncio
import contextlib
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine

from registry.artifacts import ArtifactStore
from registry.catalog import Canary
from registry.database import connect, migrate
from registry.deployments import Patch
from registry.registry import Registry
from tests.conftest import AdapterMaker
from tests.registry.faults import Crash, Fault, Faults
from tests.registry.lora_samples import BASE

STEPS = 16  # more than any of these calls takes


@pytest.fixture
async def two(registry: Registry, adapter_folder: AdapterMaker) -> Registry:
    """The adapter `support` in two versions, the first live."""
    for scale in (1.0, 2.0):
        await registry.push("support", adapter_folder(scale), actor="ann")
    await registry.promote("support", 1, actor="ann")
    return registry


@pytest.mark.parametrize("cancels", [False, True], ids=["error", "cancelled"])
async def test_a_change_broken_off_anywhere(two: Registry, database: AsyncEngine, cancels: bool) -> None:
    """Revision, counter and audit entry are all there or all not, and the next change finds no lock."""
    faults = Faults(database)
    broken = 0
    for step in range(1, STEPS):
        revisions, changes = len(await two.history("support")), await two.change_number()
        weight = step / 100
        faults.now = Fault(step, cancels)
        try:
            await asyncio.create_task(two.change("support", Patch(canary=Canary(2, weight)), actor="ann"))
        except (Crash, asyncio.CancelledError):
            broken += 1
        faults.now = None
        async with asyncio.timeout(5):
            await two.change("support", Patch(canary=Canary(2, weight)), actor="bob")
        rows = await two.history("support")
        assert (len(rows), rows[0].canary_weight) == (revisions + 1, weight)
        assert await two.change_number() == changes + 1
        assert (await two.audit(limit=1))[0].change == changes + 1
    assert 5 <= broken < STEPS - 1


async def test_a_cancelled_wait_for_the_lock_lets_it_go(two: Registry) -> None:
    """Those who gave up waiting are not in the way of those who wait."""
    patches = [Patch(stable=1 + index % 2) for index in range(12)]
    waiting = [asyncio.create_task(two.change("support", patch, actor="ann")) for patch in patches]
    await asyncio.sleep(0)
    for task in waiting[::2]:
        task.cancel()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(not isinstance(outcome, Exception) for outcome in outcomes)
    async with asyncio.timeout(5):
        await two.change("support", Patch(fallback=("base",)), actor="ann")


async def test_a_commit_that_fails_leaves_no_lock(tmp_path: Path, store: ArtifactStore) -> None:
    """A disk that is full, say: the call fails, nothing of it stays, and the same connection serves the next one."""
    engine = connect(f"sqlite:///{tmp_path / 'o.db'}")
    await migrate(engine)
    registry = Registry(engine, store, (BASE,))
    dialect = engine.sync_engine.dialect
    with pytest.MonkeyPatch.context() as patched:

        def fail(_connection: object) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        patched.setattr(dialect, "do_commit", fail)
        with pytest.raises(OperationalError, match="full"):
            await registry.acquire_lease("reconcile", "a", 60)
    with contextlib.closing(sqlite3.connect(tmp_path / "o.db", timeout=0)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.rollback()
    assert await registry.acquire_lease("reconcile", "b", 60)
    await engine.dispose()
