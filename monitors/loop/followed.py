"""What followed from decisions of the loop: the deployment's revision, or the tuning job."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from monitors.decisions import StoredDecision
from registry.tables import RevisionRow
from registry.tuning.tables import TuningJobRow

_JOBS = TuningJobRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model
_REVISIONS = RevisionRow.__table__  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class Followed:
    """The number of the revision that was made, and the id of the job that was asked for; None if there is none."""

    revision: int | None = None
    job: str | None = None


async def followed(connection: AsyncConnection, decisions: Sequence[StoredDecision]) -> Mapping[int, Followed]:
    """What followed from each of these decisions, by its id; those that nothing followed from are left out."""
    loops = [each for each in decisions if each.kind == "loop"]
    changing = [each.id for each in loops]
    training = [each for each in loops if (each.inputs or {}).get("act") == "retrain"]
    found: dict[int, Followed] = {}
    if changing:
        query = select(_REVISIONS.c.decision, _REVISIONS.c.number).where(_REVISIONS.c.decision.in_(changing))
        found |= {row.decision: Followed(revision=row.number) for row in await connection.execute(query)}
    if training:
        found |= await _jobs(connection, training)
    return found


async def _jobs(connection: AsyncConnection, training: Sequence[StoredDecision]) -> Mapping[int, Followed]:
    """A job has the key of its cycle, which anybody may use, and which a decision that was dropped had too."""
    said = {(_key(each), str(each.id)): each.id for each in training}
    query = select(_JOBS.c.id, _JOBS.c.idempotency_key, _JOBS.c.order)
    rows = await connection.execute(query.where(_JOBS.c.idempotency_key.in_({key for key, _ in said})))
    named = (((row.idempotency_key, (row.order.get("metadata") or {}).get("decision")), row.id) for row in rows)
    return {said[which]: Followed(job=job) for which, job in named if which in said}


def _key(decision: StoredDecision) -> str:
    """The idempotency key of the job that the decision asks for: it begins the next cycle."""
    return f"loop-{decision.adapter}-{int(decision.inputs.get('cycle', 0)) + 1}"
