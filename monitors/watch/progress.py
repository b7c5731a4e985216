"""How far the monitor is: windows that are done once, and cursors, each in the transaction of the work itself."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from monitors.tables import MonitorCursorRow, MonitorWindowRow

_WINDOWS = MonitorWindowRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model
_CURSORS = MonitorCursorRow.__table__  # type: ignore[attr-defined]


async def claim_window(connection: AsyncConnection, job: str, subject: str, window: str, outcome: str = "") -> bool:
    """Take a window for this transaction; False if it is taken already. What rolls back gives it free again."""
    values = {"job": job, "subject": subject, "window": window, "outcome": outcome, "created_at": datetime.now(UTC)}
    statement = _insert(connection)(_WINDOWS).values(**values).on_conflict_do_nothing()
    return bool((await connection.execute(statement)).rowcount)


async def cursor(connection: AsyncConnection, job: str, subject: str) -> str | None:
    """How far the job is with the subject; None if it has not begun."""
    query = select(_CURSORS.c.position).where(_CURSORS.c.job == job, _CURSORS.c.subject == subject)
    return (await connection.execute(query)).scalar_one_or_none()


async def move_cursor(connection: AsyncConnection, job: str, subject: str, position: str) -> None:
    """Note how far the job is."""
    values = {"position": position, "updated_at": datetime.now(UTC)}
    statement = _insert(connection)(_CURSORS).values(job=job, subject=subject, **values)
    await connection.execute(statement.on_conflict_do_update(index_elements=["job", "subject"], set_=values))


def _insert(connection: AsyncConnection) -> Any:
    return postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
