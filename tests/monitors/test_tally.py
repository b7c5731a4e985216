"""Decisions that are read once each."""

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from monitors import tally
from monitors.tables import DecisionRow
from monitors.tally import NewDecisions

NOW = datetime(2026, 3, 1, tzinfo=UTC)


async def decide(database: AsyncEngine, *numbers: int, **inputs: Any) -> None:
    """Decisions with these ids."""
    usual = {"adapter": "support", "version": 0, "kind": "loop", "outcome": "begun", "rule": "", "reason": ""}
    rows = [usual | {"id": number, "inputs": inputs or None, "created_at": NOW} for number in numbers]
    async with database.begin() as connection:
        await connection.execute(insert(DecisionRow.__table__), rows)  # type: ignore[attr-defined]


async def read(database: AsyncEngine, new: NewDecisions) -> list[list[int]]:
    """The ids of each page."""
    async with database.connect() as connection:
        return [[row.id for row in page] async for page in new.pages(connection)]


async def test_each_is_read_once_a_page_at_a_time(database: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """All there are at first, then what came since."""
    monkeypatch.setattr(tally, "PAGE", 3)
    monkeypatch.setattr(tally, "LATE", 2)
    await decide(database, *range(1, 8))
    new = NewDecisions()
    assert await read(database, new) == [[1, 2, 3], [4, 5, 6], [7]]
    assert await read(database, new) == [[]]
    await decide(database, 8)
    assert await read(database, new) == [[8]]


async def test_one_that_appears_behind_later_ones_is_read(database: AsyncEngine) -> None:
    """Its transaction ended after theirs."""
    await decide(database, *range(1, 5), 6, 7)
    new = NewDecisions()
    assert await read(database, new) == [[1, 2, 3, 4, 6, 7]]
    await decide(database, 5, 8)
    assert await read(database, new) == [[5, 8]]
    assert await read(database, new) == [[]]


async def test_what_they_were_about_is_read_too(database: AsyncEngine) -> None:
    """As text; of those that say nothing of it, nothing."""
    await decide(database, 1, act="retrain", cycle=3)
    await decide(database, 2)
    async with database.connect() as connection:
        (page,) = [page async for page in NewDecisions().pages(connection)]
    assert [(row.act, None if row.cycle is None else int(row.cycle)) for row in page] == [("retrain", 3), (None, None)]
