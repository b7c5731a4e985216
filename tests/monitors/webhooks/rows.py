"""What tests of webhooks put into the database, and look at there."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.decisions import Decision, record_decision
from monitors.tables import DeliveryRow
from monitors.webhooks.queue import enqueue

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
ALARM = Decision("support", 7, "quality", "alarm", "e-CUSUM", "Quality was lost.", {"scorer": "feedback"})
PROMOTES = Decision("support", 8, "loop", "promoted", "by steps", "It is not worse.", {"act": "promote", "cycle": 1})
_DELIVERIES = DeliveryRow.__table__  # type: ignore[attr-defined]


def loop_decision(act: str, outcome: str, **inputs: Any) -> Decision:
    """A decision of the loop."""
    return replace(PROMOTES, outcome=outcome, inputs={"act": act, "phase": "watching", "cycle": 1, **inputs})


async def decide(database: AsyncEngine, decision: Decision = ALARM, now: datetime = NOW) -> int:
    """Record a decision and queue what is told of it, as jobs do; its id."""
    async with database.begin() as connection:
        number = await record_decision(connection, decision, now)
        await enqueue(connection, number, decision, now)
    return number


async def deliveries(database: AsyncEngine) -> list[Any]:
    """All deliveries, in the order of their events' names."""
    async with database.connect() as connection:
        return list(await connection.execute(select(_DELIVERIES).order_by(_DELIVERIES.c.event, _DELIVERIES.c.webhook)))


async def states(database: AsyncEngine) -> dict[str, str]:
    """The state of each event's delivery; each event is there once."""
    rows = await deliveries(database)
    found = {row.event: row.state for row in rows}
    assert len(found) == len(rows)
    return found
