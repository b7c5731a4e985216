"""What is held until it is done, while it is being done."""

from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.loop.state import LoopState
from monitors.loop.store import Kept, Pending, save
from monitors.loop.verdicts import Verdict
from monitors.webhooks import holding
from monitors.webhooks.hooks import Webhooks
from monitors.webhooks.queue import due, mark_delivered
from registry.database import writing
from tests.monitors.loop.traffic import revise
from tests.monitors.webhooks.rows import NOW, PROMOTES, decide, deliveries, states

URL = "https://example.com/hook"
PROMOTED = Verdict("promote", "promoted", "by steps", "It is not worse.", "Nothing.", {}, 8)


async def keep(database: AsyncEngine, pending: Pending | None) -> None:
    """Keep what is being carried out for `support`."""
    async with writing(database) as connection:
        await save(connection, PROMOTES.adapter, Kept(pending=pending), NOW)


@pytest.mark.parametrize("after_read", ["_pending", "_effects"])
async def test_what_is_carried_out_meanwhile_is_told(
    database: AsyncEngine, monkeypatch: pytest.MonkeyPatch, after_read: str
) -> None:
    """Whatever was read before: what has an effect by now is never forgotten, at the latest it is told next time."""
    await Webhooks(database).add(URL, actor="ann")
    number = await decide(database, PROMOTES)
    await keep(database, Pending(PROMOTED, number, LoopState(), 1, NOW))
    await holding.release(database, NOW)
    assert await states(database) == {"promoted": "held"}
    read = getattr(holding, after_read)

    async def carried_out_after(*arguments: Any) -> Any:
        found = await read(*arguments)
        await revise(database, 2, 8, decision=number)
        await keep(database, None)
        return found

    with monkeypatch.context() as patched:
        patched.setattr(holding, after_read, carried_out_after)
        await holding.release(database, NOW)
    await holding.release(database, NOW)
    (row,) = await deliveries(database)
    assert (row.state, row.body["data"]["revision"]) == ("queued", 2)


@pytest.mark.parametrize("is_carried_out", [True, False])
async def test_what_another_monitor_has_queued_is_not_queued_again(
    database: AsyncEngine, monkeypatch: pytest.MonkeyPatch, is_carried_out: bool
) -> None:
    """Nor forgotten: by the time that one has found out what becomes of it the other may have delivered it."""
    made, _ = await Webhooks(database).add(URL, actor="ann")
    number = await decide(database, PROMOTES)
    fates = holding._fates

    async def overtaken(*arguments: Any) -> Any:
        if is_carried_out:
            await revise(database, 2, 8, decision=number)
        found = await fates(*arguments)
        if not is_carried_out:
            await revise(database, 2, 8, decision=number)
        with monkeypatch.context() as patched:
            patched.setattr(holding, "_fates", fates)
            await holding.release(database, NOW)
        async with database.begin() as connection:
            (queued,) = await due(connection, made.id, NOW, 10)
            await mark_delivered(connection, queued, NOW)
        return found

    monkeypatch.setattr(holding, "_fates", overtaken)
    await holding.release(database, NOW)
    assert await states(database) == {"promoted": "delivered"}
