"""What is to be told: queued in the transaction of the decision, so that both are there or neither."""

import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from monitors.decisions import Decision
from monitors.tables import DeliveryRow, WebhookRow
from monitors.webhooks.events import TEST, Told, body_of, told_of, trial_body

_DELIVERIES = DeliveryRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model
_WEBHOOKS = WebhookRow.__table__  # type: ignore[attr-defined]
_IS_ON = _WEBHOOKS.c.deleted_at.is_(None) & _WEBHOOKS.c.disabled_at.is_(None)


@dataclass(frozen=True, slots=True)
class Due:
    """One attempt that is to be made.

    Attributes:
        id: the delivery's, the same at each attempt.
        body: what is sent, as JSON's objects.
        attempts: how many have failed.
    """

    id: str
    webhook: str
    event: str
    body: dict[str, Any]
    attempts: int


@dataclass(frozen=True, slots=True)
class Standing:
    """How many deliveries wait, how many were given up, and since when the oldest that waits does; tests apart.

    What a webhook that is switched off was not told is not among them, for nobody wants to be told.
    """

    queued: int
    dead: int
    oldest: datetime | None


async def enqueue(connection: AsyncConnection, decision_id: int, decision: Decision, now: datetime) -> None:
    """Queue what webhooks are told of a decision, in its own transaction; what is queued already stays as it is."""
    told = told_of(decision_id, decision)
    if not told:
        return
    listening = select(_WEBHOOKS).where(_IS_ON)
    rows = [
        _row(webhook.id, each.event, each.source, body_of(each, decision_id, decision, now), now, held=each.once_done)
        for webhook in await connection.execute(listening)
        for each in told
        if _listens(webhook, each, decision.adapter)
    ]
    if rows:
        insert: Any = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
        adding = insert(_DELIVERIES).values(rows)
        await connection.execute(adding.on_conflict_do_nothing(index_elements=["webhook", "source"]))


async def enqueue_test(connection: AsyncConnection, webhook: str, now: datetime) -> Row[Any]:
    """Queue a test of a webhook; its row."""
    row = _row(webhook, TEST, f"{TEST}-{secrets.token_hex(8)}", trial_body(webhook, now), now)
    added = await connection.execute(_DELIVERIES.insert().values(**row).returning(_DELIVERIES))
    return added.one()


async def webhooks_due(connection: AsyncConnection, now: datetime) -> set[str]:
    """The webhooks that something is due for."""
    query = select(_DELIVERIES.c.webhook).where(_is_due(now)).distinct()
    return set((await connection.execute(query)).scalars())


async def due(connection: AsyncConnection, webhook: str, now: datetime, limit: int) -> list[Due]:
    """Up to `limit` attempts that are due for a webhook, what has waited longest first."""
    query = select(_DELIVERIES).where(_DELIVERIES.c.webhook == webhook, _is_due(now))
    query = query.order_by(_DELIVERIES.c.next_at, _DELIVERIES.c.created_at, _DELIVERIES.c.id).limit(limit)
    return [Due(row.id, row.webhook, row.event, row.body, row.attempts) for row in await connection.execute(query)]


async def mark_delivered(connection: AsyncConnection, done: Due, now: datetime) -> None:
    """Note that it arrived."""
    await _mark(connection, done, state="delivered", delivered_at=now, error=None)


async def mark_failed(connection: AsyncConnection, failed: Due, error: str, next_at: datetime | None) -> None:
    """Note why it did not arrive, and when it is tried again; None gives it up."""
    tried: dict[str, Any] = {"attempts": failed.attempts + 1, "error": error}
    if next_at is None:
        await _mark(connection, failed, state="dead", **tried)
    else:
        await _mark(connection, failed, next_at=next_at, **tried)


async def give_up(connection: AsyncConnection, webhook: str, error: str) -> None:
    """Give up whatever is queued for a webhook that takes nothing any more."""
    waits = (_DELIVERIES.c.webhook == webhook) & (_DELIVERIES.c.state == "queued")
    await connection.execute(update(_DELIVERIES).where(waits).values(state="dead", error=error))


async def standing(engine: AsyncEngine) -> Standing:
    """How the queue stands."""
    state = _DELIVERIES.c.state
    query = select(state, func.count().label("number"), func.min(_DELIVERIES.c.created_at).label("oldest"))
    enabled = select(_WEBHOOKS.c.id).where(_IS_ON)
    counted = (state.in_(("queued", "dead")), _DELIVERIES.c.event != TEST, _DELIVERIES.c.webhook.in_(enabled))
    query = query.where(*counted).group_by(state)
    async with engine.connect() as connection:
        found = {row.state: row for row in await connection.execute(query)}
    queued, dead = found.get("queued"), found.get("dead")
    return Standing(
        queued=0 if queued is None else queued.number,
        dead=0 if dead is None else dead.number,
        oldest=None if queued is None else queued.oldest,
    )


def _is_due(now: datetime) -> Any:
    return (_DELIVERIES.c.state == "queued") & (_DELIVERIES.c.next_at <= now)


async def _mark(connection: AsyncConnection, tried: Due, **values: Any) -> None:
    """Only if it stands as it was when it was tried: a person, or another monitor, may have been here since."""
    columns = _DELIVERIES.c
    same = (columns.id == tried.id) & (columns.state == "queued") & (columns.attempts == tried.attempts)
    await connection.execute(update(_DELIVERIES).where(same).values(**values))


def _listens(webhook: Row[Any], told: Told, adapter: str) -> bool:
    return _is_in(told.event, webhook.events) and _is_in(adapter, webhook.adapters)


def _is_in(name: str, wanted: Collection[str] | None) -> bool:
    return wanted is None or name in wanted


def _row(
    webhook: str, event: str, source: str, body: dict[str, Any], now: datetime, *, held: bool = False
) -> dict[str, Any]:
    return {
        "id": secrets.token_hex(16),
        "webhook": webhook,
        "source": source,
        "event": event,
        "body": body,
        "state": "held" if held else "queued",
        "attempts": 0,
        "next_at": now,
        "created_at": now,
    }
