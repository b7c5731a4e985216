"""What was told and what was not, for admins; the dead letters among them can be told again, or dropped."""

from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from monitors.tables import DeliveryRow
from monitors.webhooks.hooks import find_target
from registry.database import writing
from registry.errors import Conflict, NotFound

_DELIVERIES = DeliveryRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model


async def list_deliveries(
    connection: AsyncConnection, *, state: str | None, webhook: str | None, before: str | None, limit: int
) -> list[Row[Any]]:
    """Up to `limit` deliveries, newest first; `before` goes on from a delivery's id."""
    columns = _DELIVERIES.c
    query = select(_DELIVERIES).order_by(columns.created_at.desc(), columns.id.desc()).limit(limit)
    if state is not None:
        query = query.where(columns.state == state)
    if webhook is not None:
        query = query.where(columns.webhook == webhook)
    if before is not None:
        mark = select(columns.created_at, columns.id).where(columns.id == before)
        query = query.where(tuple_(columns.created_at, columns.id) < mark.scalar_subquery())
    return list(await connection.execute(query))


async def find_delivery(connection: AsyncConnection, id: str) -> Row[Any]:
    """One delivery.

    Raises:
        NotFound
    """
    row = (await connection.execute(select(_DELIVERIES).where(_DELIVERIES.c.id == id))).first()
    if row is None:
        raise NotFound("there is no delivery of this id", param="id")
    return row


async def send_again(engine: AsyncEngine, id: str, now: datetime) -> Row[Any]:
    """Queue a delivery once more, from its first attempt, under the same id; one that is queued is sent now.

    Raises:
        NotFound
        Conflict: its webhook is gone or switched off, or what it tells of is not done yet.
    """
    async with writing(engine) as connection:
        row = await find_delivery(connection, id)
        if row.state == "held":
            raise Conflict(f"what it tells webhook {row.webhook} is not carried out yet; it is sent once it is")
        if await find_target(connection, row.webhook, now) is None:
            raise Conflict(f"webhook {row.webhook} is switched off, or deleted; switch it on first")
        again = {"state": "queued", "attempts": 0, "next_at": now, "delivered_at": None}
        changed = update(_DELIVERIES).where(_DELIVERIES.c.id == id).values(**again).returning(_DELIVERIES)
        sent: Row[Any] = (await connection.execute(changed)).one()
        return sent


async def drop(engine: AsyncEngine, id: str) -> Row[Any]:
    """Delete a dead letter.

    Raises:
        NotFound
        Conflict: it is none.
    """
    async with writing(engine) as connection:
        row = await find_delivery(connection, id)
        if row.state != "dead":
            raise Conflict(f"only what was given up can be dropped, and this, to webhook {row.webhook}, is {row.state}")
        await connection.execute(delete(_DELIVERIES).where(_DELIVERIES.c.id == id))
        return row
