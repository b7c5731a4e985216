"""What the loop keeps of an adapter, on both databases."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.loop.state import LoopState, Rollout
from monitors.loop.store import Kept, Pending, load, save
from monitors.loop.verdicts import Verdict
from monitors.tables import DecisionRow
from registry.artifacts import ArtifactStore
from registry.database import writing
from registry.policies import Policy
from registry.registry import Registry
from tests.conftest import AdapterMaker
from tests.monitors.loop.stories import World

NOW = datetime(2026, 11, 20, 12, 0, 0, 123456, tzinfo=UTC)
ROLLOUT = Rollout(2, 1, began_at=NOW, step_began_at=NOW)
STATE = LoopState(phase="rolling_out", cycle=3, since=NOW, revision=7, job="ftjob-1", rollout=ROLLOUT)
VERDICT = Verdict("next_step", "step", "by steps", "It does well.", "Nothing.", {"n": 3}, 2, 0.5)
PENDING = Pending(
    VERDICT, 17, STATE, 7, NOW, order={"model": "support@1"}, until=NOW, file="file-1", tries=2, next_at=NOW
)


async def test_everything_is_kept_as_it_was(database: AsyncEngine) -> None:
    """To the microsecond; an adapter that nobody looked at has nothing."""
    kept = Kept(STATE, {"a": [1.5]}, {"b": 2}, PENDING, {"act": "wait"}, NOW)
    async with writing(database) as connection:
        assert await load(connection, "support") == Kept()
        await save(connection, "support", kept, NOW)
    async with database.connect() as connection:
        assert await load(connection, "support") == kept
        assert await load(connection, "other") == Kept()
    later = Kept(STATE, saved_at=NOW + timedelta(seconds=1))
    async with writing(database) as connection:
        await save(connection, "support", later, NOW + timedelta(seconds=1))
        assert await load(connection, "support") == later


async def test_two_who_write_come_one_after_the_other(database: AsyncEngine) -> None:
    """Also where there was nothing before."""

    async def count() -> None:
        async with writing(database) as connection:
            kept = await load(connection, "support", locked=True)
            await asyncio.sleep(0.01)
            await save(connection, "support", Kept(LoopState(cycle=kept.state.cycle + 1)), NOW)

    await asyncio.gather(*(count() for _ in range(5)))
    async with database.connect() as connection:
        assert (await load(connection, "support")).state.cycle == 5


async def test_two_monitors_at_once_decide_once(
    database: AsyncEngine, registry: Registry, store: ArtifactStore, adapter_folder: AdapterMaker, tmp_path: Path
) -> None:
    """Though each has looked before the other one wrote."""
    await registry.push("support", adapter_folder(1.0), actor="ann")
    await registry.promote("support", 1, actor="ann")
    await registry.change_policy("support", lambda _: Policy(mode="advise"), actor="ann")
    world = World("http://127.0.0.1:9", "", database, store, tmp_path)
    await asyncio.gather(*(world.turn("support", world.job()) for _ in range(4)))
    async with database.connect() as connection:
        assert (await connection.execute(select(func.count()).select_from(DecisionRow))).scalar_one() == 1
