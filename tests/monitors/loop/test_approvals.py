"""What waits for a person's approval: asked once a cycle, answered once, and only while the loop would still act."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.loop import approvals
from monitors.loop.seen import Approval
from monitors.loop.state import LoopState, Phase
from monitors.loop.store import Kept, save
from registry.errors import InvalidValue, NotFound
from registry.transactions import Change, Transactions

NOW = datetime(2026, 3, 1, tzinfo=UTC)


async def ask(database: AsyncEngine, wanted: str, cycle: int, decision: int = 1) -> None:
    """A question."""
    async with database.begin() as connection:
        await approvals.ask(connection, "support", cycle, wanted, decision, NOW)


async def loop_is(database: AsyncEngine, phase: Phase, cycle: int) -> None:
    """Where the loop is with the adapter."""
    async with database.begin() as connection:
        await save(connection, "support", Kept(LoopState(phase=phase, cycle=cycle)), NOW)


async def waiting(database: AsyncEngine) -> tuple[str, int, int] | None:
    """The question that waits: what is wanted, in which cycle, by which decision."""
    async with database.connect() as connection:
        found = await approvals.waiting(connection, "support")
    return None if found is None else (found.wanted, found.cycle, found.decision)


async def answered(database: AsyncEngine) -> list[Approval]:
    """All that the loop reads."""
    async with database.connect() as connection:
        return await approvals.answers(connection, "support")


async def test_a_question_is_asked_once_in_a_cycle(database: AsyncEngine) -> None:
    """Asked again it stays as it was, also once it is answered; another cycle asks anew."""
    await ask(database, "retrain", 1, decision=5)
    await ask(database, "retrain", 1, decision=6)
    assert await waiting(database) == ("retrain", 1, 5)
    await approvals.answer(database, "support", "approved", actor="ann", reason="go", now=NOW + timedelta(hours=1))
    await ask(database, "retrain", 1, decision=7)
    assert await answered(database) == [Approval("retrain", 1, "approved", "ann", "go")]
    await ask(database, "retrain", 2, decision=8)
    assert [each.cycle for each in await answered(database)] == [2, 1]
    async with database.connect() as connection:
        assert await approvals.answers(connection, "billing") == []


async def test_only_what_the_loop_still_asks_waits(database: AsyncEngine) -> None:
    """A training until its cycle begins, a promotion while its version rolls out; what is over is answered by none."""
    await loop_is(database, "watching", 2)
    await ask(database, "retrain", 3)
    await ask(database, "promote", 2)
    assert await waiting(database) == ("retrain", 3, 1)
    await loop_is(database, "rolling_out", 3)
    assert await waiting(database) is None
    await ask(database, "promote", 3, decision=9)
    assert await waiting(database) == ("promote", 3, 9)
    await loop_is(database, "holding_back", 3)
    with pytest.raises(NotFound, match="nothing about 'support' waits"):
        await approvals.answer(database, "support", "approved", actor="ann", now=NOW)


async def test_of_two_answers_at_once_one_counts(database: AsyncEngine) -> None:
    """The other person is told that nothing waits any more."""
    await ask(database, "retrain", 1)
    outcomes = await asyncio.gather(
        approvals.answer(database, "support", "approved", actor="ann", now=NOW),
        approvals.answer(database, "support", "rejected", actor="bob", now=NOW),
        return_exceptions=True,
    )
    (first,) = [each for each in outcomes if isinstance(each, approvals.Question)]
    assert [type(each) for each in outcomes].count(NotFound) == 1
    assert await answered(database) == [Approval("retrain", 1, first.answer, first.actor, "")]
    assert (first.answered_at, first.asked_at) == (NOW, NOW)


async def test_a_reason_that_cannot_be_kept_answers_nothing(database: AsyncEngine) -> None:
    """It still waits."""
    await ask(database, "retrain", 1)
    with pytest.raises(InvalidValue):
        await approvals.answer(database, "support", "approved", actor="ann", reason="\0", now=NOW)
    assert await waiting(database) == ("retrain", 1, 1)


async def test_an_answer_is_kept_only_together_with_its_audit_entry(
    database: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who said yes is never lost: without the one there is not the other."""
    await ask(database, "retrain", 1)

    def full(*_arguments: object, **_detail: object) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(Change, "audit", full)
        with pytest.raises(OSError, match="full"):
            await approvals.answer(database, "support", "approved", actor="ann", now=NOW)
    assert await waiting(database) == ("retrain", 1, 1)
    await approvals.answer(database, "support", "rejected", actor="ann", reason="no", now=NOW)
    (entry,) = await Transactions(database).audit(limit=1)
    assert (entry.action, entry.subject, entry.actor) == ("reject", "adapter:support", "ann")
    assert entry.detail == {"wanted": "retrain", "decision": 1, "reason": "no"}
