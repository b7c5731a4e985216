"""What is known of an adapter's jobs, read in a transaction of somebody else's."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from registry.tables import AdapterRow, VersionRow
from registry.tuning.claims import as_job
from registry.tuning.states import OPEN
from registry.tuning.tables import TuningJobRow

_JOBS = TuningJobRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model
_ADAPTERS = AdapterRow.__table__  # type: ignore[attr-defined]
_VERSIONS = VersionRow.__table__  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class JobTime:
    """How long a job has been at work.

    Attributes:
        base: the base model's name.
        started_at: None while it waits.
        ended_at: None while it is open.
        amount: what its training cost, by its version's lineage; None if that does not say.
    """

    base: str
    started_at: datetime | None
    ended_at: datetime | None
    amount: float | None


async def open_jobs(connection: AsyncConnection, adapter: str, job: str | None = None) -> list[TuningJobRow]:
    """The adapter's open jobs, oldest first, and the one with that id, open or not."""
    is_open = and_(_JOBS.c.adapter == adapter, _JOBS.c.state.in_(OPEN))
    which = is_open if job is None else or_(is_open, _JOBS.c.id == job)
    query = select(_JOBS).where(which).order_by(_JOBS.c.created_at, _JOBS.c.id)
    return [as_job(row) for row in await connection.execute(query)]


async def jobs_asked_for(connection: AsyncConnection, adapter: str, idempotency_key: str) -> list[TuningJobRow]:
    """The adapter's jobs that were asked for with that idempotency key, which each API key may use for itself."""
    query = select(_JOBS).where(_JOBS.c.adapter == adapter, _JOBS.c.idempotency_key == idempotency_key)
    return [as_job(row) for row in await connection.execute(query)]


async def times_of(
    connection: AsyncConnection, adapter: str, *, idempotency_prefix: str, since: datetime
) -> Sequence[JobTime]:
    """The adapter's jobs with an idempotency key that begins so: those that began since then, wait, or are at work."""
    columns = _JOBS.c
    amount = _VERSIONS.c.lineage[("cost", "amount")].as_float().label("amount")
    made = and_(
        _VERSIONS.c.number == columns.version,
        _VERSIONS.c.adapter_id == select(_ADAPTERS.c.id).where(_ADAPTERS.c.name == adapter).scalar_subquery(),
    )
    key = func.substr(columns.idempotency_key, 1, len(idempotency_prefix))
    is_recent = or_(func.coalesce(columns.started_at, columns.created_at) >= since, columns.state.in_(OPEN))
    query = (
        select(columns.base, columns.started_at, columns.finished_at, amount)
        .select_from(_JOBS.outerjoin(_VERSIONS, made))
        .where(columns.adapter == adapter, is_recent, key == idempotency_prefix)
    )
    return [JobTime(*row) for row in await connection.execute(query)]
