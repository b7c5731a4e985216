"""Which rows of a table that others write have not been worked on yet.

Several gateways write, each in its own transactions and by its own clock, so a row may appear behind rows that were
seen already. The cursor in the database is therefore a moment, and each look goes back some minutes before it; which
of those rows are done is known from memory. After a restart those minutes are done again, so what is written for a row
must bear being written twice.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Row, select
from sqlalchemy.ext.asyncio import AsyncConnection

from monitors.watch.progress import cursor, move_cursor

OVERLAP = timedelta(minutes=5)
"""How much later than its own `created_at` a row may appear: a batch that is tried again, and clocks that differ."""


class Backlog:
    """The rows of one table, oldest first, each handed out until it is done.

    Args:
        job: whose work it is; the cursor stands under this name and the table's.
        table: a table with the columns `id` and `created_at`.
        only: a condition on the rows.
        longest: how far back the work reaches at most; None is to the first row.
    """

    def __init__(
        self, job: str, table: Any, *, only: ColumnElement[bool] | None = None, longest: timedelta | None = None
    ) -> None:
        self._job = job
        self._table = table
        self._only = only
        self._longest = longest
        self._done: dict[str, datetime] = {}

    async def take(self, connection: AsyncConnection, rows: int, now: datetime) -> list[Row[Any]]:
        """Up to so many rows that are not done, oldest first. What this look does not go back to, no later one does."""
        columns = self._table.c
        query = select(columns.id).order_by(columns.created_at, columns.id)
        if (since := await self._since(connection, now)) is not None:
            query = query.where(columns.created_at >= since)
            self._done = {row_id: at for row_id, at in self._done.items() if at >= since}
        if self._only is not None:
            query = query.where(self._only)
        found = await connection.execute(query.limit(rows + len(self._done)))
        new = [row_id for row_id in found.scalars() if row_id not in self._done][:rows]
        whole = select(self._table).where(columns.id.in_(new)).order_by(columns.created_at, columns.id)
        return list(await connection.execute(whole)) if new else []

    async def move(self, connection: AsyncConnection, rows: Sequence[Row[Any]], now: datetime) -> None:
        """Note in this transaction that the rows are done; `confirm` them once it is committed.

        A row of a clock that is ahead does not take the cursor along: others have yet to write what comes before it.
        """
        if not rows:
            return
        newest = max(row.created_at for row in rows)
        before = await self._position(connection)
        position = min(newest if before is None else max(before, newest), now)
        await move_cursor(connection, self._job, self._table.name, position.isoformat())

    def confirm(self, rows: Sequence[Row[Any]]) -> None:
        """Hand these out no more."""
        self._done |= {row.id: row.created_at for row in rows}

    async def _since(self, connection: AsyncConnection, now: datetime) -> datetime | None:
        position = await self._position(connection)
        starts = [min(position, now) - OVERLAP] if position is not None else []
        starts += [now - self._longest] if self._longest is not None else []
        return max(starts, default=None)

    async def _position(self, connection: AsyncConnection) -> datetime | None:
        found = await cursor(connection, self._job, self._table.name)
        return None if found is None else datetime.fromisoformat(found)
