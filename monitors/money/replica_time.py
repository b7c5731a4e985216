"""How long replicas were ready, hour by hour: what engines that are paid by the hour cost.

The monitor looks every few seconds. The time between two looks counts for a replica that was ready at both, so what
is wrong is at most the pause between two looks for each start and each stop. A longer gap, when no monitor ran or no
gateway answered, counts in the same way; after a day without a look nothing is known, and nothing is counted.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from monitors.privacy.names import pseudonym
from monitors.tables import MonitorCursorRow, ReplicaHourRow
from monitors.watch.progress import cursor, move_cursor
from registry.database import writing

HOUR = timedelta(hours=1)
LONGEST_GAP = timedelta(days=1)

_JOB = "replica_time"
_LAST_LOOK = ""
_HOURS = ReplicaHourRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model
_CURSORS = MonitorCursorRow.__table__  # type: ignore[attr-defined]

Replica = tuple[str, str]
"""Its pool, and its id."""


def hour_of(moment: datetime) -> datetime:
    """The beginning of the hour (UTC)."""
    return moment.replace(minute=0, second=0, microsecond=0)


async def looked_until(connection: AsyncConnection) -> datetime | None:
    """When the replicas were looked at last; None if never."""
    position = await cursor(connection, _JOB, _LAST_LOOK)
    return None if position is None else datetime.fromisoformat(position)


async def add_look(engine: AsyncEngine, ready: Iterable[Replica], now: datetime) -> None:
    """Note which replicas are ready now, and count the time since the last look for those that were ready then, too.

    One transaction. A second monitor's look in between only divides the time differently.
    """
    async with writing(engine) as connection:
        # A write at first: SQLite then waits for its lock here, and two monitors take turns.
        await connection.execute(update(_CURSORS).where(_CURSORS.c.job == _JOB).values(updated_at=now))
        last = await looked_until(connection)
        if last is not None and now <= last:
            return
        ready = sorted(set(ready))
        if last is not None and now - last <= LONGEST_GAP:
            before = await _ready_at(connection, last)
            await _add(connection, [one for one in ready if _subject(one) in before], last, now)
        await _remember(connection, ready, now)


async def _ready_at(connection: AsyncConnection, look: datetime) -> set[str]:
    columns = _CURSORS.c
    query = select(columns.subject).where(columns.job == _JOB, columns.position == look.isoformat())
    return set((await connection.execute(query)).scalars())


async def _remember(connection: AsyncConnection, ready: Iterable[Replica], now: datetime) -> None:
    for subject in (_LAST_LOOK, *map(_subject, ready)):
        await move_cursor(connection, _JOB, subject, now.isoformat())
    gone = (_CURSORS.c.job == _JOB) & (_CURSORS.c.position != now.isoformat())
    await connection.execute(delete(_CURSORS).where(gone))


async def _add(connection: AsyncConnection, replicas: Iterable[Replica], start: datetime, end: datetime) -> None:
    rows = [
        {"hour": hour, "pool": pool, "replica": replica, "ready_s": seconds}
        for pool, replica in replicas
        for hour, seconds in split_by_hour(start, end)
    ]
    if not rows:
        return
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement: Any = insert(_HOURS)
    added = {"ready_s": _HOURS.c.ready_s + statement.excluded.ready_s}
    await connection.execute(
        statement.on_conflict_do_update(index_elements=["hour", "pool", "replica"], set_=added), rows
    )


def split_by_hour(start: datetime, end: datetime) -> Iterator[tuple[datetime, float]]:
    """The seconds from `start` to `end` in each hour."""
    while start < end:
        hour = hour_of(start)
        stop = min(end, hour + HOUR)
        yield hour, (stop - start).total_seconds()
        start = stop


def _subject(replica: Replica) -> str:
    """A replica in a cursor's name, which is shorter than names of models may be."""
    return pseudonym("\0".join(replica))
