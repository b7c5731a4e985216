"""What is told only once a decision is carried out: then it is queued, and where it never is, it is forgotten.

A decision to change something is stored before it is carried out, and a person, a stop or something more urgent may
come first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from monitors.decisions import StoredDecision
from monitors.loop.followed import Followed, followed
from monitors.tables import DecisionRow, DeliveryRow, LoopRow
from monitors.webhooks.events import with_job, with_revision
from registry.database import writing

_DECISIONS = DecisionRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model
_DELIVERIES = DeliveryRow.__table__  # type: ignore[attr-defined]
_LOOPS = LoopRow.__table__  # type: ignore[attr-defined]
_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class _Fate:
    """What becomes of a delivery: it is told with this body, or not at all."""

    id: str
    body: dict[str, Any] | None


async def release(engine: AsyncEngine, now: datetime) -> None:
    """Queue what was held and is carried out by now; forget what never will be."""
    async with engine.connect() as connection:
        held = select(_DELIVERIES).where(_DELIVERIES.c.state == "held").order_by(_DELIVERIES.c.created_at)
        rows = list(await connection.execute(held.limit(_AT_ONCE)))
        fates = await _fates(connection, rows) if rows else []
    for fate in fates:  # one at a time, so that nobody who deletes several waits for this while this waits for them
        async with writing(engine) as connection:
            await _meet(connection, fate, now)


async def _fates(connection: AsyncConnection, rows: Sequence[Row[Any]]) -> list[_Fate]:
    """Of those that are decided by now."""
    pending = await _pending(connection, {row.body["data"]["adapter"] for row in rows})
    # After what is pending was read: what is not pending any more has had its effect by then, if it has any.
    effects = await _effects(connection, {row.body["data"]["decision"] for row in rows})
    fates = []
    for row in rows:
        decision = row.body["data"]["decision"]
        if (effect := effects.get(decision)) is not None:
            fates.append(_Fate(row.id, _filled(row.body, effect)))
        elif decision not in pending:
            fates.append(_Fate(row.id, None))
    return fates


async def _pending(connection: AsyncConnection, adapters: set[str]) -> set[int]:
    """The decisions that are being carried out."""
    query = select(_LOOPS.c.pending).where(_LOOPS.c.adapter.in_(adapters))
    return {pending["decision"] for pending in (await connection.execute(query)).scalars() if pending}


async def _effects(connection: AsyncConnection, numbers: set[int]) -> Mapping[int, Followed]:
    """What followed from decisions, where anything did."""
    query = select(_DECISIONS).where(_DECISIONS.c.id.in_(numbers))
    return await followed(connection, [StoredDecision(**row) for row in (await connection.execute(query)).mappings()])


def _filled(body: Mapping[str, Any], effect: Followed) -> dict[str, Any]:
    return with_job(with_revision(body, effect.revision), effect.job)


async def _meet(connection: AsyncConnection, fate: _Fate, now: datetime) -> None:
    is_held = (_DELIVERIES.c.id == fate.id) & (_DELIVERIES.c.state == "held")
    if fate.body is None:
        await connection.execute(delete(_DELIVERIES).where(is_held))
    else:
        told = {"state": "queued", "next_at": now, "body": fate.body}
        await connection.execute(update(_DELIVERIES).where(is_held).values(**told))
