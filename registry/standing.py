"""What an adapter's name means and who made it so, read in a transaction of somebody else's."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, Select, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from registry import mapping
from registry.catalog import Deployment
from registry.stops import EVERYTHING, Stop
from registry.tables import AdapterRow, RevisionRow, StopRow

_ADAPTERS = AdapterRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model
_REVISIONS = RevisionRow.__table__  # type: ignore[attr-defined]
_STOPS = StopRow.__table__  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class Standing:
    """How a deployment stands.

    Attributes:
        deployment: what the name means; None before the first promote.
        changed_by: who made the newest revision, if it was a person; None if it followed from a decision.
        taken_away: whether that person's revision took away a version that a decision had made stable.
    """

    deployment: Deployment | None
    changed_by: str | None = None
    taken_away: bool = False


async def standing(connection: AsyncConnection, adapter: str) -> Standing:
    """How the adapter's deployment stands, by its newest revisions."""
    newest = (await connection.execute(_revisions(adapter).limit(1))).first()
    if newest is None:
        return Standing(None)
    numbers = [number for number in (newest.number - 1, newest.undo_revision) if number is not None]
    others = await connection.execute(_revisions(adapter).where(_REVISIONS.c.number.in_(numbers)))
    rows: dict[int, Row[Any]] = {row.number: row for row in others}
    deployment = mapping.to_deployment(newest, rows.get(newest.number - 1), rows.get(newest.undo_revision))
    if newest.decision is not None:
        return Standing(deployment)
    return Standing(deployment, newest.actor, await _took_away(connection, adapter, newest))


async def standing_stops(connection: AsyncConnection, adapter: str | None = None) -> Mapping[str, Stop]:
    """What is stopped, by the adapter's name, and the freeze; of one adapter and the freeze where one is named."""
    query = select(_STOPS)
    if adapter is not None:
        query = query.where(_STOPS.c.adapter.in_((EVERYTHING, adapter)))
    return {row.adapter: Stop(row.actor, row.reason, row.created_at) for row in await connection.execute(query)}


async def _took_away(connection: AsyncConnection, adapter: str, newest: Row[Any]) -> bool:
    gone = newest.previous_stable
    if gone is None or gone == newest.stable:
        return False
    columns = _REVISIONS.c
    came = or_(columns.previous_stable.is_(None), columns.previous_stable != gone)
    made = _revisions(adapter).where(columns.number < newest.number, columns.stable == gone, came).limit(1)
    row = (await connection.execute(made)).first()
    return row is not None and row.decision is not None


def _revisions(adapter: str) -> Select[Any]:
    """The adapter's revisions, the newest first."""
    theirs = select(_ADAPTERS.c.id).where(_ADAPTERS.c.name == adapter).scalar_subquery()
    return select(_REVISIONS).where(_REVISIONS.c.adapter_id == theirs).order_by(_REVISIONS.c.number.desc())
