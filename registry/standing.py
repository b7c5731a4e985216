"""What an adapter's name means, who made it so, and what may change it, read in a transaction of somebody else's."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, Select, and_, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from registry import mapping
from registry.catalog import Deployment
from registry.monitoring import stored_monitoring
from registry.policies import Policy, policy_number, stored_policy
from registry.stops import EVERYTHING, Stop
from registry.tables import AdapterRow, RevisionRow, StopRow

_ADAPTERS = AdapterRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model
_REVISIONS = RevisionRow.__table__  # type: ignore[attr-defined]
_STOPS = StopRow.__table__  # type: ignore[attr-defined]
_MOST_BACK = 100


@dataclass(frozen=True, slots=True)
class Standing:
    """How a deployment stands.

    Attributes:
        deployment: what the name means; None before the first promote.
        changed_by: who made the newest revision, if it was a person; None if it followed from a decision.
        taken_away: whether people went back from a version that a decision had made stable.
    """

    deployment: Deployment | None
    changed_by: str | None = None
    taken_away: bool = False


async def standing(connection: AsyncConnection, adapter: str, since: int = 0) -> Standing:
    """How the adapter's deployment stands; what was `taken_away` is looked for in revisions after `since`."""
    newest = (await connection.execute(_revisions(adapter).limit(1))).first()
    if newest is None:
        return Standing(None)
    numbers = [number for number in (newest.number - 1, newest.undo_revision) if number is not None]
    others = await connection.execute(_revisions(adapter).where(_REVISIONS.c.number.in_(numbers)))
    rows: dict[int, Row[Any]] = {row.number: row for row in others}
    deployment = mapping.to_deployment(newest, rows.get(newest.number - 1), rows.get(newest.undo_revision))
    if newest.decision is not None:
        return Standing(deployment)
    return Standing(deployment, newest.actor, await _taken_away(connection, adapter, since, newest.stable))


async def standing_stops(connection: AsyncConnection, adapter: str | None = None) -> Mapping[str, Stop]:
    """What is stopped, by the adapter's name, and the freeze; of one adapter and the freeze where one is named."""
    query = select(_STOPS)
    if adapter is not None:
        query = query.where(_STOPS.c.adapter.in_((EVERYTHING, adapter)))
    return {row.adapter: Stop(row.actor, row.reason, row.created_at) for row in await connection.execute(query)}


async def standing_policy(connection: AsyncConnection, adapter: str) -> tuple[Policy, int]:
    """The adapter's policy and its number; the defaults and 0 where none was ever set."""
    query = select(_ADAPTERS.c.policy, _ADAPTERS.c.monitoring).where(_ADAPTERS.c.name == adapter)
    row = (await connection.execute(query)).first()
    if row is None:
        return Policy(), 0
    return stored_policy(row.policy, stored_monitoring(row.monitoring).quality), policy_number(row.policy)


async def _taken_away(connection: AsyncConnection, adapter: str, since: int, stable: int) -> bool:
    """Whether a person, in a revision after `since`, went back from a version that a decision had made stable.

    What serves again by now was not taken away, and neither was what a newer version replaced.
    """
    columns = _REVISIONS.c
    back = or_(columns.action == "rollback", columns.stable < columns.previous_stable)
    gone = and_(columns.previous_stable != columns.stable, columns.previous_stable != stable)
    theirs = _revisions(adapter).where(columns.number > since, columns.decision.is_(None), back, gone)
    for row in await connection.execute(theirs.limit(_MOST_BACK)):
        if await _is_made_by_decision(connection, adapter, row):
            return True
    return False


async def _is_made_by_decision(connection: AsyncConnection, adapter: str, back: Row[Any]) -> bool:
    """Whether the version that a revision went back from had become stable by a decision, the last time it did."""
    columns, gone = _REVISIONS.c, back.previous_stable
    came = or_(columns.previous_stable.is_(None), columns.previous_stable != gone)
    made = _revisions(adapter).where(columns.number < back.number, columns.stable == gone, came).limit(1)
    row = (await connection.execute(made)).first()
    return row is not None and row.decision is not None


def _revisions(adapter: str) -> Select[Any]:
    """The adapter's revisions, the newest first."""
    theirs = select(_ADAPTERS.c.id).where(_ADAPTERS.c.name == adapter).scalar_subquery()
    return select(_REVISIONS).where(_REVISIONS.c.adapter_id == theirs).order_by(_REVISIONS.c.number.desc())
