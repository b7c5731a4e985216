"""Tuning jobs: asked for by clients, worked on by one tuner at a time, and kept.

queued --claim--> validating_files --> running --> succeeded | failed | cancelled
   ^                     |                |
   +------ resume ---- paused <-----------+

A tuner claims a job by one conditional UPDATE and holds it by a lease that it renews; a job whose lease is over may be
claimed by another, which goes on from the last checkpoint. What the holder writes is fenced: it fails with `JobLost`
once somebody else holds the job. Cancelling and pausing a job that somebody is at work on are wishes, which the holder
carries out within a step.
"""

import hashlib
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, and_, case, exists, func, insert, or_, select, tuple_, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from registry.artifacts import canonical_json
from registry.database import writing
from registry.errors import Conflict, InvalidValue, NotFound
from registry.tuning.events import add_event
from registry.tuning.orders import TuningOrder
from registry.tuning.tables import TuningJobRow

AT_WORK = ("validating_files", "running")
OPEN = ("queued", *AT_WORK, "paused")
ENDED = ("succeeded", "failed", "cancelled")
STATES = (*OPEN, *ENDED)
MOST_ATTEMPTS = 3
"""Tuners that may lose a job before it is given up: one that kills its tuner again and again will do so for ever."""
LONGEST_IDEMPOTENCY_KEY = 255
_JOBS = TuningJobRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model


class JobLost(Exception):
    """Somebody else holds the job now, or it has ended; whoever held it must stop at once."""


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks for a job: an API key's id, how history shows it, and the client's idempotency key if it sent one."""

    key_id: str
    actor: str
    idempotency_key: str | None = None


def order_of(job: TuningJobRow) -> TuningOrder:
    """The order as it was stored."""
    return msgspec.convert(job.order, TuningOrder)


class Jobs:
    """Every job.

    Args:
        engine: the database, its schema up to date.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    # What clients ask for

    async def create(self, order: TuningOrder, model: str, asker: Asker) -> tuple[TuningJobRow, bool]:
        """Queue a job; whether it is new, rather than one that this idempotency key made before.

        `model` is what the client called the model to train.

        Raises:
            InvalidValue: the idempotency key is too long, or was sent with another order.
        """
        order.check()
        stored = msgspec.to_builtins(order)
        asked = hashlib.sha256(canonical_json([model, stored])).hexdigest()
        row = {
            "id": f"ftjob-{secrets.token_hex(12)}",
            "key_id": asker.key_id,
            "adapter": order.adapter,
            "base": order.base,
            "model": model,
            "order": stored,
            "state": "queued",
            "stage": "waiting",
            "wanted": "run",
            "idempotency_key": asker.idempotency_key,
            "asked": asked,
            "attempt": 0,
            "created_by": asker.actor,
            "created_at": datetime.now(UTC),
        }
        async with writing(self._engine) as connection:
            known = await _by_idempotency_key(connection, asker)
            if known is not None:
                _require_same(known, asked)
                return known, False
            await connection.execute(insert(_JOBS).values(row))
            await add_event(connection, str(row["id"]), f"Created fine-tuning job: {row['id']}")
            return await _required(connection, str(row["id"])), True

    async def find(self, job_id: str) -> TuningJobRow:
        """One job.

        Raises:
            NotFound
        """
        async with self._engine.connect() as connection:
            return await _required(connection, job_id)

    async def listed(
        self, *, adapters: Collection[str] | None = None, after: str | None = None, limit: int
    ) -> list[TuningJobRow]:
        """Jobs, newest first, of some adapters or of all; `after` goes on from a job's id."""
        query = select(_JOBS).order_by(_JOBS.c.created_at.desc(), _JOBS.c.id.desc()).limit(limit)
        if adapters is not None:
            query = query.where(_JOBS.c.adapter.in_(sorted(adapters)))
        if after is not None:
            mark = select(_JOBS.c.created_at, _JOBS.c.id).where(_JOBS.c.id == after)
            query = query.where(tuple_(_JOBS.c.created_at, _JOBS.c.id) < mark.scalar_subquery())
        async with self._engine.connect() as connection:
            return [_job(row) for row in await connection.execute(query)]

    async def wish(self, job_id: str, wanted: str, *, actor: str) -> TuningJobRow:
        """Have a job run, paused or cancelled (`wanted` is ``run``, ``pause`` or ``cancel``).

        What nobody is at work on changes at once; what is at work ends within a step. A wish that is granted already
        changes nothing.

        Raises:
            NotFound: there is no such job.
            Conflict: it has ended, or was cancelled.
        """
        async with writing(self._engine) as connection:
            job = await _required(connection, job_id)
            if job.state == "cancelled" and wanted == "cancel":
                return job
            if job.state in ENDED or (job.wanted == "cancel" and wanted != "cancel"):
                ended = job.state if job.state in ENDED else "being cancelled"
                raise Conflict(
                    f"the job {job_id} is {ended}; it cannot be changed any more", param="fine_tuning_job_id"
                )
            if job.wanted != wanted:
                said = {"run": "resumed", "pause": "paused", "cancel": "cancelled"}[wanted]
                await add_event(connection, job_id, f"The job was {said} by {actor}")
            settled = _settled(job, wanted) if _is_free(job, datetime.now(UTC)) else {}
            await connection.execute(update(_JOBS).where(_JOBS.c.id == job_id).values(wanted=wanted, **settled))
            return await _required(connection, job_id)

    async def file_users(self, file_id: str) -> list[str]:
        """The ids of jobs that have not ended and need that file."""
        async with self._engine.connect() as connection:
            rows = await connection.execute(select(_JOBS).where(_JOBS.c.state.in_(OPEN)))
            return [job.id for job in map(_job, rows) if file_id in _files_of(order_of(job))]

    async def counts(self) -> dict[str, int]:
        """How many jobs there are in each state; states without any are there with 0."""
        async with self._engine.connect() as connection:
            rows = await connection.execute(select(_JOBS.c.state, func.count()).group_by(_JOBS.c.state))
            return dict.fromkeys(STATES, 0) | {state: count for state, count in rows}  # noqa: C416 - rows are no pairs

    # What tuners do

    async def claim(self, worker: str, *, bases: Collection[str], lease_s: float) -> TuningJobRow | None:
        """Take the job that waits longest, or one whose tuner was lost; None if there is none for these bases.

        One that is claimed too often has failed.
        """
        now = datetime.now(UTC)
        claimable = _claimable(now) & _JOBS.c.base.in_(sorted(bases))
        oldest = select(_JOBS.c.id).where(claimable).order_by(_JOBS.c.created_at, _JOBS.c.id).limit(1)
        taking = (
            update(_JOBS)
            .where(_JOBS.c.id == oldest.scalar_subquery(), claimable)
            .values(
                worker=worker,
                lease_until=now + timedelta(seconds=lease_s),
                attempt=_JOBS.c.attempt + 1,
                state=case((_JOBS.c.dataset.is_(None), "validating_files"), else_="running"),
                started_at=func.coalesce(_JOBS.c.started_at, now),
            )
            .returning(_JOBS)
        )
        try:
            async with writing(self._engine) as connection:
                await _settle_the_lost(connection, now)
                row = (await connection.execute(taking)).first()
        except IntegrityError:  # another tuner has just begun another job of the same adapter
            return None
        return None if row is None else _job(row)

    async def renew(self, job_id: str, worker: str, *, lease_s: float) -> str:
        """Hold the job longer; what is wanted of it: ``run``, ``pause`` or ``cancel``.

        Raises:
            JobLost
        """
        until = datetime.now(UTC) + timedelta(seconds=lease_s)
        renewing = update(_JOBS).where(_held(job_id, worker)).values(lease_until=until).returning(_JOBS.c.wanted)
        async with writing(self._engine) as connection:
            wanted = (await connection.execute(renewing)).scalar_one_or_none()
        if wanted is None:
            raise JobLost
        return str(wanted)

    async def note(self, job_id: str, worker: str, **values: Any) -> None:
        """Write what became of a job: columns by name.

        Raises:
            JobLost
        """
        async with writing(self._engine) as connection:
            await _write(connection, job_id, worker, values)

    async def end(self, job_id: str, worker: str, state: str, message: str, **values: Any) -> None:
        """Have the job end in a state, or be paused or queued again, with its last event.

        Raises:
            JobLost
        """
        ended: dict[str, Any] = {"state": state, "worker": None, "lease_until": None, "estimated_finish": None}
        if state in ENDED:
            ended |= {"finished_at": datetime.now(UTC), "stage": "done"}
        async with writing(self._engine) as connection:
            await _write(connection, job_id, worker, ended | values)
            await add_event(connection, job_id, message, level="error" if state == "failed" else "info")


def _claimable(now: datetime) -> ColumnElement[bool]:
    other = _JOBS.alias()
    is_busy = exists(select(other.c.id).where(other.c.adapter == _JOBS.c.adapter, other.c.state.in_(AT_WORK)))
    waits = and_(_JOBS.c.state == "queued", ~is_busy)
    lost = and_(_JOBS.c.state.in_(AT_WORK), _JOBS.c.lease_until < now)
    return and_(_JOBS.c.wanted == "run", or_(waits, lost))


async def _settle_the_lost(connection: AsyncConnection, now: datetime) -> None:
    """Carry out what was wanted of jobs whose tuner is gone, and give up those that lost too many."""
    lost = select(_JOBS).where(_JOBS.c.state.in_(AT_WORK), _JOBS.c.lease_until < now)
    for job in map(_job, list(await connection.execute(lost))):
        if job.wanted != "run":
            settled = _settled(job, job.wanted)
        elif job.attempt >= MOST_ATTEMPTS:
            message = f"{job.attempt} tuners were lost while they worked on it"
            settled = _ended("failed") | {"error": {"code": "worker_lost", "message": message, "param": None}}
            await add_event(connection, job.id, message, level="error")
        else:
            continue
        await connection.execute(update(_JOBS).where(_JOBS.c.id == job.id).values(**settled))


def _settled(job: TuningJobRow, wanted: str) -> dict[str, Any]:
    """What becomes of a job that nobody is at work on, by what is wanted of it."""
    if wanted == "cancel":
        return _ended("cancelled")
    if wanted == "pause":
        return {"state": "paused", "worker": None, "lease_until": None}
    return {"state": "queued"} if job.state == "paused" else {}


def _ended(state: str) -> dict[str, Any]:
    return {"state": state, "stage": "done", "worker": None, "lease_until": None, "finished_at": datetime.now(UTC)}


def _is_free(job: TuningJobRow, now: datetime) -> bool:
    return job.state not in AT_WORK or job.lease_until is None or job.lease_until < now


def _held(job_id: str, worker: str) -> ColumnElement[bool]:
    return and_(_JOBS.c.id == job_id, _JOBS.c.worker == worker, _JOBS.c.state.in_(AT_WORK))


async def _write(connection: AsyncConnection, job_id: str, worker: str, values: dict[str, Any]) -> None:
    written = await connection.execute(update(_JOBS).where(_held(job_id, worker)).values(**values))
    if not written.rowcount:
        raise JobLost


async def _required(connection: AsyncConnection, job_id: str) -> TuningJobRow:
    row = (await connection.execute(select(_JOBS).where(_JOBS.c.id == job_id))).first() if "\0" not in job_id else None
    if row is None:
        raise NotFound(f"there is no fine-tuning job {job_id!r}", param="fine_tuning_job_id")
    return _job(row)


async def _by_idempotency_key(connection: AsyncConnection, asker: Asker) -> TuningJobRow | None:
    if asker.idempotency_key is None:
        return None
    if not 0 < len(asker.idempotency_key) <= LONGEST_IDEMPOTENCY_KEY:
        raise InvalidValue(
            f"an idempotency key may have 1 to {LONGEST_IDEMPOTENCY_KEY} characters", param="idempotency-key"
        )
    same = (_JOBS.c.key_id == asker.key_id, _JOBS.c.idempotency_key == asker.idempotency_key)
    row = (await connection.execute(select(_JOBS).where(*same))).first()
    return None if row is None else _job(row)


def _require_same(known: TuningJobRow, asked: str) -> None:
    if known.asked != asked:
        raise InvalidValue(
            f"this idempotency key made the job {known.id} from another request; use a new one", param="idempotency-key"
        )


def _files_of(order: TuningOrder) -> set[str | None]:
    gate = order.gate
    return {order.training_file, order.validation_file, gate.retention_file, gate.refusal_file}


def _job(row: Any) -> TuningJobRow:
    return TuningJobRow(**row._mapping)  # noqa: SLF001 - SQLAlchemy's public name for it
