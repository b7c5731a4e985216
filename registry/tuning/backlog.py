"""Which tuning jobs wait for a tuner, and since when."""

from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from registry.tuning.jobs import AT_WORK
from registry.tuning.tables import TuningJobRow

_JOBS = TuningJobRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model


async def waits_since(engine: AsyncEngine) -> datetime | None:
    """When the oldest of the queued jobs was asked for that a tuner could begin now; None if there is none.

    A job that waits for another of its adapter is none of those. One that was paused counts from when it was asked for.
    """
    busy = select(_JOBS.c.adapter).where(_JOBS.c.state.in_(AT_WORK))
    query = select(func.min(_JOBS.c.created_at)).where(
        _JOBS.c.state == "queued", _JOBS.c.wanted == "run", _JOBS.c.adapter.not_in(busy)
    )
    async with engine.connect() as connection:
        oldest: datetime | None = (await connection.execute(query)).scalar_one_or_none()
    return oldest
