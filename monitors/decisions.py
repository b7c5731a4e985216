"""Decisions: what was concluded, by which rule, from what. They are only ever added."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from monitors.tables import DecisionRow

_DECISIONS = DecisionRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model


@dataclass(frozen=True, slots=True)
class Decision:
    """One conclusion.

    Attributes:
        adapter, version: what it is about; version 0 is all of the adapter.
        kind: the rule's field: `quality`, `drift`, `golden`.
        outcome: what was concluded, in a word, such as `alarm`.
        rule: the rule, with its numbers.
        reason: why it was concluded, for people.
        inputs: the values that the rule was applied to.
    """

    adapter: str
    version: int
    kind: str
    outcome: str
    rule: str
    reason: str
    inputs: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StoredDecision(Decision):
    """A decision as it stands in the database."""

    id: int
    created_at: datetime


async def record_decision(connection: AsyncConnection, decision: Decision, now: datetime) -> None:
    """Add a decision, in the transaction of what it follows from."""
    await connection.execute(_DECISIONS.insert().values(**asdict(decision), created_at=now))


async def decisions(
    engine: AsyncEngine, *, adapter: str | None = None, before: int | None = None, limit: int = 100
) -> list[StoredDecision]:
    """Up to `limit` decisions, newest first, of one adapter or all, with ids below `before` where that is given."""
    query = select(_DECISIONS).order_by(_DECISIONS.c.id.desc()).limit(limit)
    if adapter is not None:
        query = query.where(_DECISIONS.c.adapter == adapter)
    if before is not None:
        query = query.where(_DECISIONS.c.id < before)
    async with engine.connect() as connection:
        return [StoredDecision(**row) for row in (await connection.execute(query)).mappings()]


async def decision_counts(engine: AsyncEngine) -> dict[tuple[str, str, str], int]:
    """How many decisions there are by adapter, kind and outcome."""
    names = (_DECISIONS.c.adapter, _DECISIONS.c.kind, _DECISIONS.c.outcome)
    async with engine.connect() as connection:
        found = await connection.execute(select(*names, func.count()).group_by(*names))
        return {(row[0], row[1], row[2]): row[3] for row in found}
