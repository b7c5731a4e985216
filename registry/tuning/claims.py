"""Who is at work on a job: tuners claim it, hold it by a lease, and write what became of it.

A tuner claims a job by one conditional UPDATE and renews its lease; a job whose lease is over may be claimed by
another, which goes on from the last checkpoint. What the holder writes is fenced: it fails with `JobLost` once somebody
else holds the job, or it has ended.
"""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, case, exists, func, literal, or_, select, tuple_, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from registry.database import writing
from registry.tables import UtcDateTime
from registry.transactions import Guard
from registry.tuning.events import NewCheckpoint, NewEvent, add_checkpoint, add_event, add_events
from registry.tuning.states import AT_WORK, ENDED, ended, let_go, settled
from registry.tuning.tables import TuningCheckpointRow, TuningJobRow

MOST_ATTEMPTS = 3
"""Tuners that may lose a job, with no new checkpoint between, before it is given up: it might kill them for ever."""
_SETTLED = {
    "run": "The job had stopped already when it was asked to resume; it goes on",
    "pause": "The job is paused",
    "cancel": "The job was cancelled",
}
_JOBS = TuningJobRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model
_CHECKPOINTS = TuningCheckpointRow.__table__  # type: ignore[attr-defined]


class JobLost(Exception):
    """Somebody else holds the job now, or it has ended; whoever held it must stop at once."""


class Claims:
    """What tuners do with jobs.

    Args:
        engine: the database, its schema up to date.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def claim(
        self, worker: str, *, bases: Collection[str], lease_s: float, job_id: str | None = None
    ) -> TuningJobRow | None:
        """Take the job that waits longest, or one whose tuner was lost; None if there is none for these bases.

        With `job_id` it is that job or none. One that was claimed too often since its newest checkpoint has failed. A
        lost tuner is told of in the events.
        """
        now = datetime.now(UTC)
        claimable = claimable_by(now, bases)
        if job_id is not None:
            claimable &= _JOBS.c.id == job_id
        oldest = select(_JOBS).where(claimable).order_by(_JOBS.c.created_at, _JOBS.c.id).limit(1)
        oldest = oldest.with_for_update(skip_locked=True)  # another tuner is just taking that one
        taking = (
            update(_JOBS)
            .where(claimable)
            .values(
                worker=worker,
                lease_until=now + timedelta(seconds=lease_s),
                attempt=_JOBS.c.attempt + 1,
                state=case((_JOBS.c.dataset.is_(None), "validating_files"), else_="running"),
                started_at=func.coalesce(_JOBS.c.started_at, literal(now, UtcDateTime())),
                estimated_finish=None,
            )
            .returning(_JOBS)
        )
        try:
            async with writing(self._engine) as connection:
                await settle_the_lost(connection, now)
                found = (await connection.execute(oldest)).first()
                if found is None:
                    return None
                row = (await connection.execute(taking.where(_JOBS.c.id == found.id))).first()
                if row is not None and found.state in AT_WORK:
                    await add_event(connection, row.id, _taken_over(as_job(found), worker), level="warn")
        except IntegrityError:  # another tuner has just begun another job of the same adapter
            return None
        return None if row is None else as_job(row)

    async def wanted(self, job_id: str, worker: str) -> str:
        """What is wanted of a job that the worker holds: ``run``, ``pause`` or ``cancel``.

        Raises:
            JobLost
        """
        async with self._engine.connect() as connection:
            found = await connection.execute(select(_JOBS.c.wanted).where(_held(job_id, worker)))
            return _wanted(found.scalar_one_or_none())

    async def renew(self, job_id: str, worker: str, *, lease_s: float) -> str:
        """Hold the job longer; what is wanted of it, see `wanted`.

        Raises:
            JobLost
        """
        until = datetime.now(UTC) + timedelta(seconds=lease_s)
        renewing = update(_JOBS).where(_held(job_id, worker)).values(lease_until=until).returning(_JOBS.c.wanted)
        async with writing(self._engine) as connection:
            return _wanted((await connection.execute(renewing)).scalar_one_or_none())

    async def note(self, job_id: str, worker: str, **values: Any) -> None:
        """Write what became of a job: columns by name.

        Raises:
            JobLost
        """
        async with writing(self._engine) as connection:
            await _write(connection, job_id, worker, values)

    async def tell_all(self, job_id: str, worker: str, events: Sequence[NewEvent]) -> None:
        """Add events of a job, in their order.

        Raises:
            JobLost
        """
        async with writing(self._engine) as connection:
            await _require_held(connection, job_id, worker)
            await add_events(connection, job_id, events)

    def guard(self, job_id: str, worker: str) -> Guard:
        """What fences a change of the registry in the same way: it raises `JobLost` unless the worker holds the job."""

        async def require_held(connection: AsyncConnection) -> None:
            await _require_held(connection, job_id, worker)

        return require_held

    async def keep_checkpoint(self, job_id: str, worker: str, new: NewCheckpoint) -> list[str]:
        """Add a checkpoint, from which the job goes on; the digests of what nothing goes on from any more.

        Attempts are counted anew from there: a long job may lose many tuners and get somewhere all the same.

        Raises:
            JobLost: the checkpoints are as whoever holds the job has left them.
        """
        async with writing(self._engine) as connection:
            await _require_held(connection, job_id, worker)
            if new.digest is not None:
                await _write(connection, job_id, worker, {"checkpoint": new.digest, "attempt": 1})
            return await add_checkpoint(connection, job_id, new)

    async def end(self, job_id: str, worker: str, state: str, message: str, **values: Any) -> str:
        """Have the job end in a state, or be paused or queued again, with its last event; the state that it is in.

        One that is queued again waits until `claimable_from`, where that is among the values.

        That is another one where somebody wished so meanwhile, and its event is that one's: a job that is queued again
        while it is to be cancelled is cancelled, for nobody would claim it any more.

        Raises:
            JobLost
        """
        columns = ended(state) if state in ENDED else let_go(state)
        if state == "queued":
            del columns["worker"]  # who gave it back is known until it changes again
        async with writing(self._engine) as connection:
            await _write(connection, job_id, worker, columns | values)
            job = as_job((await connection.execute(select(_JOBS).where(_JOBS.c.id == job_id))).one())
            wished = {} if state in ENDED else settled(job, job.wanted)
            if wished:
                await connection.execute(update(_JOBS).where(_JOBS.c.id == job_id).values(**wished))
                message = _SETTLED[job.wanted]
            await add_event(connection, job_id, message, level="error" if state == "failed" else "info")
            return str(wished.get("state", state))

    async def unswept(self) -> list[TuningJobRow]:
        """Jobs that have ended with nobody at work on them, so that the content of their checkpoints is still there."""
        kept = exists().where(_CHECKPOINTS.c.job == _JOBS.c.id, _CHECKPOINTS.c.digest.is_not(None))
        query = select(_JOBS).where(_JOBS.c.state.in_(ENDED), kept)
        async with self._engine.connect() as connection:
            return [as_job(row) for row in await connection.execute(query)]


def claimable_by(now: datetime, bases: Collection[str]) -> ColumnElement[bool]:
    """What waits for a tuner of these bases and is its adapter's next, or was lost."""
    other = _JOBS.alias()
    place, mine = tuple_(other.c.created_at, other.c.id), tuple_(_JOBS.c.created_at, _JOBS.c.id)
    is_ahead = and_(other.c.state == "queued", other.c.wanted == "run", place < mine)
    blocks = and_(other.c.adapter == _JOBS.c.adapter, or_(other.c.state.in_(AT_WORK), is_ahead))
    is_time = or_(_JOBS.c.claimable_from.is_(None), _JOBS.c.claimable_from <= now)
    waits = and_(_JOBS.c.state == "queued", is_time, ~exists(select(other.c.id).where(blocks)))
    return and_(_JOBS.c.wanted == "run", _JOBS.c.base.in_(sorted(bases)), or_(waits, _is_lost(now)))


def _is_lost(now: datetime) -> ColumnElement[bool]:
    return and_(_JOBS.c.state.in_(AT_WORK), _JOBS.c.lease_until < now)


async def settle_the_lost(connection: AsyncConnection, now: datetime) -> None:
    """Carry out what was wanted of jobs whose tuner is gone, and give up those that lost too many."""
    lost = select(_JOBS).where(_is_lost(now), or_(_JOBS.c.wanted != "run", _JOBS.c.attempt >= MOST_ATTEMPTS))
    for job in map(as_job, list(await connection.execute(lost.with_for_update(skip_locked=True)))):
        if job.wanted != "run":
            columns = settled(job, job.wanted)
            await add_event(connection, job.id, _SETTLED[job.wanted])
        else:
            message = f"{job.attempt} tuners were lost while they worked on it"
            columns = ended("failed") | {"error": {"code": "worker_lost", "message": message, "param": None}}
            await add_event(connection, job.id, f"The job failed: {message}", level="error")
        await connection.execute(update(_JOBS).where(_JOBS.c.id == job.id).values(**columns))


def _taken_over(job: TuningJobRow, worker: str) -> str:
    """What clients read when a tuner goes on with another's job; a worker's name begins with its machine's."""
    lost, successor = ((name or "").rpartition("-")[2] for name in (job.worker, worker))
    return (
        f"The tuner {lost} was not heard of, and its hold on the job ended at {job.lease_until:%Y-%m-%dT%H:%M:%SZ}; "
        f"the tuner {successor} goes on with the job"
    )


def _held(job_id: str, worker: str) -> ColumnElement[bool]:
    return and_(_JOBS.c.id == job_id, _JOBS.c.worker == worker, _JOBS.c.state.in_(AT_WORK))


async def _require_held(connection: AsyncConnection, job_id: str, worker: str) -> None:
    """Have nobody else come to hold the job until the transaction is over (SQLite has one writer anyway)."""
    held = select(_JOBS.c.id).where(_held(job_id, worker)).with_for_update()
    if (await connection.execute(held)).first() is None:
        raise JobLost


def _wanted(found: str | None) -> str:
    if found is None:
        raise JobLost
    return found


async def _write(connection: AsyncConnection, job_id: str, worker: str, values: dict[str, Any]) -> None:
    written = await connection.execute(update(_JOBS).where(_held(job_id, worker)).values(**values))
    if not written.rowcount:
        raise JobLost


def as_job(row: Any) -> TuningJobRow:
    """A row of the table as such."""
    return TuningJobRow(**row._mapping)  # noqa: SLF001 - SQLAlchemy's public name for it
