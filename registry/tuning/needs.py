"""Which files jobs need: such a file stays, and a job begins with files that are there.

An open job needs all of its files. One that failed at its gate and may be resumed needs those of its gate alone: its
dataset is frozen.

Whoever makes a job locks its files' rows until its transaction ends, and whoever deletes a file looks for jobs once he
has that lock; so of two who do this at once, one sees what the other has done. (SQLite has one writer anyway.)
"""

from typing import Any

from sqlalchemy import ColumnElement, and_, exists, func, insert, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from registry.errors import Conflict, NotFound
from registry.tuning.orders import TuningOrder
from registry.tuning.states import OPEN
from registry.tuning.tables import FileRow, TuningJobFileRow, TuningJobRow

_MOST_NAMED = 5
_FILES = FileRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model
_JOBS = TuningJobRow.__table__  # type: ignore[attr-defined]
_NEEDS = TuningJobFileRow.__table__  # type: ignore[attr-defined]
_OF_ITS_GATE = or_(
    *(_JOBS.c.order["gate", name].as_string() == _NEEDS.c.file for name in ("retention_file", "refusal_file"))
)
_MAY_BE_RESUMED = and_(  # as `states.can_be_judged_again` has it
    _JOBS.c.state == "failed",
    _JOBS.c.version.is_not(None),
    func.coalesce(_JOBS.c.error["code"].as_string(), "") != "rejected_by_gate",
)
_BY_ITS_JOB = (_NEEDS.c.job == _JOBS.c.id, or_(_JOBS.c.state.in_(OPEN), and_(_MAY_BE_RESUMED, _OF_ITS_GATE)))


def is_needed() -> ColumnElement[bool]:
    """Of a row of files: whether a job needs it that has not ended, or may be resumed."""
    return exists().where(_NEEDS.c.file == _FILES.c.id, *_BY_ITS_JOB).correlate(_FILES)


async def users(connection: AsyncConnection, file_id: str) -> list[str]:
    """The ids of jobs that need that file and have not ended, or may be resumed, the oldest first."""
    query = select(_JOBS.c.id).where(_NEEDS.c.file == file_id, *_BY_ITS_JOB)
    return list((await connection.execute(query.order_by(_JOBS.c.created_at, _JOBS.c.id))).scalars())


async def require_unneeded(connection: AsyncConnection, file_id: str) -> None:
    """Refuse what would take a file from a job; the file's row is locked.

    Raises:
        Conflict: a job that has not ended, or may be resumed, needs it.
    """
    if jobs := await users(connection, file_id):
        more = f" and {len(jobs) - _MOST_NAMED} more" if len(jobs) > _MOST_NAMED else ""
        raise Conflict(
            f"the file {file_id} is needed by {', '.join(jobs[:_MOST_NAMED])}{more}; cancel that, or wait for its end "
            "(one that failed at its gate can be cancelled once it was resumed)",
            param="file_id",
        )


async def add_needs(connection: AsyncConnection, job_id: str, order: TuningOrder) -> None:
    """Note what a new job needs, in the transaction that makes it.

    Raises:
        NotFound: one of its files was deleted since it was looked at.
    """
    named = _files_of(order)
    locked = select(_FILES.c.id, _FILES.c.deleted_at).where(_FILES.c.id.in_(named)).order_by(_FILES.c.id)
    for file in await connection.execute(locked.with_for_update(read=True)):
        if file.deleted_at is not None:
            raise NotFound(f"there is no file {file.id!r}", param=named[file.id])
    rows: list[dict[str, Any]] = [{"job": job_id, "file": file_id} for file_id in named]
    await connection.execute(insert(_NEEDS), rows)


def _files_of(order: TuningOrder) -> dict[str, str]:
    """The files that an order names, each with the field that names it."""
    gate = order.gate
    named = {
        "ostler.gate.refusal_file": gate.refusal_file,
        "ostler.gate.retention_file": gate.retention_file,
        "validation_file": order.validation_file,
        "training_file": order.training_file,
    }
    return {file_id: field for field, file_id in named.items() if file_id is not None}
