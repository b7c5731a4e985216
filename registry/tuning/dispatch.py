"""What a dispatcher does with jobs: it works on none, but has tuners started elsewhere, one for each job that waits.

A dispatcher keeps nothing of its own. What it writes of a job is conditional on what it has read of it, so two of them,
or one that was started anew, write it once.
"""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, exists, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from registry.database import writing
from registry.tuning.claims import MOST_ATTEMPTS, as_job, claimable_by, settle_the_lost
from registry.tuning.events import Level, add_event
from registry.tuning.states import OPEN, ended, let_go
from registry.tuning.tables import TuningEventRow, TuningJobRow

_JOBS = TuningJobRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model
_EVENTS = TuningEventRow.__table__  # type: ignore[attr-defined]
_HOLDERS = ("state", "worker", "lease_until", "claimable_from", "attempt")
"""The columns that change whenever somebody takes a job, holds it longer or lets go of it."""


class Dispatch:
    """The jobs as a dispatcher sees them.

    Args:
        engine: the database, its schema up to date.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def waiting(self, bases: Collection[str]) -> list[TuningJobRow]:
        """The jobs that a tuner of these bases could claim now, in their order.

        What was wanted of jobs whose tuner is gone is carried out first, and those that lost too many have failed.
        """
        now = datetime.now(UTC)
        query = select(_JOBS).where(claimable_by(now, bases)).order_by(_JOBS.c.created_at, _JOBS.c.id)
        async with writing(self._engine) as connection:
            await settle_the_lost(connection, now)
            return [as_job(row) for row in await connection.execute(query)]

    async def named(self, job_ids: Collection[str]) -> dict[str, TuningJobRow]:
        """Jobs by their ids; those that are not there are left out."""
        query = select(_JOBS).where(_JOBS.c.id.in_(sorted(job_ids)))
        async with self._engine.connect() as connection:
            return {row.id: as_job(row) for row in await connection.execute(query)}

    async def tell_once(self, job_id: str, messages: Sequence[str], level: Level = "info") -> None:
        """Add events of a job that has not ended, but for those that it has said in the same words before."""
        async with writing(self._engine) as connection:
            is_open = select(_JOBS.c.id).where(_JOBS.c.id == job_id, _JOBS.c.state.in_(OPEN))
            if (await connection.execute(is_open.with_for_update())).first() is None:
                return
            for message in messages:
                said = exists().where(_EVENTS.c.job == job_id, _EVENTS.c.message == message)
                if not (await connection.execute(select(said))).scalar_one():
                    await add_event(connection, job_id, message, level=level)

    async def has_told(self, job_id: str, messages: Collection[str]) -> bool:
        """Whether a job has said one of these, whoever told it."""
        said = exists().where(_EVENTS.c.job == job_id, _EVENTS.c.message.in_(messages))
        async with self._engine.connect() as connection:
            return bool((await connection.execute(select(said))).scalar_one())

    async def is_as_read(self, job: TuningJobRow) -> bool:
        """Whether nobody has taken a job, held it longer or let go of it since it was read as `job`."""
        async with self._engine.connect() as connection:
            return (await connection.execute(select(_JOBS.c.id).where(_same_holder(job)))).first() is not None

    async def miss(self, job: TuningJobRow, why: str, *, pause_s: float, counts: bool = True) -> str | None:
        """Give up a tuner that was started for a job and has not claimed that; the state that the job is in.

        It waits again, as another turn, from `pause_s` on. Where that `counts` as an attempt, it has failed if it was
        one too many. None says that somebody else has changed it since it was read as `job`.
        """
        attempt = job.attempt + counts
        if counts and attempt >= MOST_ATTEMPTS:
            message = f"{attempt} tuners ended before they had begun with it or were lost, the last one so: {why}"
            return await self._change(job, _failed("worker_lost", message), f"The job failed: {message}", "error")
        later = datetime.now(UTC) + timedelta(seconds=pause_s)
        columns = let_go("queued") | {"attempt": attempt, "claimable_from": later}
        return await self._change(job, columns, f"The job is tried again: {why}", "warn")

    async def fail(self, job: TuningJobRow, code: str, message: str) -> str | None:
        """Have a job fail; None says that somebody else has changed it since it was read as `job`."""
        return await self._change(job, _failed(code, message), f"The job failed: {message}", "error")

    async def _change(self, job: TuningJobRow, columns: dict[str, Any], message: str, level: Level) -> str | None:
        changing = update(_JOBS).where(_is_as_read(job)).values(**columns)
        async with writing(self._engine) as connection:
            if not (await connection.execute(changing)).rowcount:
                return None
            await add_event(connection, job.id, message, level=level)
        return str(columns["state"])


def _failed(code: str, message: str) -> dict[str, Any]:
    return ended("failed") | {"error": {"code": code, "message": message, "param": None}}


def _is_as_read(job: TuningJobRow) -> ColumnElement[bool]:
    return and_(_same_holder(job), _JOBS.c.wanted == "run")


def _same_holder(job: TuningJobRow) -> ColumnElement[bool]:
    same = (_JOBS.c[name].is_not_distinct_from(getattr(job, name)) for name in _HOLDERS)
    return and_(_JOBS.c.id == job.id, *same)
