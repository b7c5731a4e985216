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
    training = {_key(each): each.id for each in loops if (each.inputs or {}).get("act") == "retrain"}
    found: dict[int, Followed] = {}
    if changing:
        query = select(_REVISIONS.c.decision, _REVISIONS.c.number).where(_REVISIONS.c.decision.in_(changing))
        found |= {row.decision: Followed(revision=row.number) for row in await connection.execute(query)}
    if training:
        asked = select(_JOBS.c.id, _JOBS.c.idempotency_key, _JOBS.c.order)
        for row in await connection.execute(asked.where(_JOBS.c.idempotency_key.in_(training))):
            decision = training[row.idempotency_key]
            if (row.order.get("metadata") or {}).get("decision") == str(decision):  # anybody may use such a key
                found[decision] = Followed(job=row.id)
    return found


def _key(decision: StoredDecision) -> str:
    """The idempotency key of the job that the decision asks for: it begins the next cycle."""
    return f"loop-{decision.adapter}-{int(decision.inputs.get('cycle', 0)) + 1}"
