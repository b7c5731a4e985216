"""Which tuning jobs wait for a tuner, and since when."""

from datetime import UTC, datetime

from sqlalchemy import and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncEngine

from registry.tuning.states import AT_WORK
from registry.tuning.tables import TuningJobRow

_JOBS = TuningJobRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model


async def waits_since(engine: AsyncEngine) -> datetime | None:
    """Since when the job has waited that has waited longest of those that a tuner could begin now; None without one.

    A job waits from when it was asked for, was resumed, was let go of by its tuner or may be tried again, or its
    adapter's job before it had ended; one whose tuner was lost, from the end of the lease. One that waits for another
    of its adapter, which is at work, is none of those.
    """
    now = datetime.now(UTC)
    at_work = _JOBS.c.state.in_(AT_WORK)
    lost = and_(at_work, _JOBS.c.lease_until < now)
    busy = select(_JOBS.c.adapter).where(at_work, or_(_JOBS.c.lease_until.is_(None), ~lost))
    other = _JOBS.alias()
    before = (other.c.adapter == _JOBS.c.adapter, other.c.id != _JOBS.c.id, other.c.started_at.is_not(None))
    freed = select(func.max(func.coalesce(other.c.finished_at, other.c.lease_until))).where(*before).scalar_subquery()
    queued = select(_JOBS.c.created_at, _JOBS.c.claimable_from, freed.label("freed")).where(
        _JOBS.c.state == "queued", _JOBS.c.wanted == "run", _JOBS.c.adapter.not_in(busy)
    )
    async with engine.connect() as connection:
        waiting = [max(moment for moment in row if moment is not None) for row in await connection.execute(queued)]
        ends = select(_JOBS.c.lease_until).where(lost, _JOBS.c.wanted == "run")
        waiting += (await connection.execute(ends)).scalars()
    return min(waiting, default=None)
