"""What an adapter's name meant when, and which canaries there were, by the revisions of its deployment."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from registry.catalog import Deployment
from registry.mapping import to_deployment
from registry.tables import AdapterRow, RevisionRow

MOST_REVISIONS = 10_000
"""So many of the newest are looked at."""
Ended = Literal["promoted", "rolled_back", "withdrawn", "replaced", "serves"]
"""What became of a canary: ``rolled_back`` by the loop, ``withdrawn`` by a person, or it ``serves`` its share still."""
_ADAPTERS = AdapterRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model
_REVISIONS = RevisionRow.__table__  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class Era:
    """What the name meant from a moment on; `decision` is what that followed from, None where a person made it so."""

    since: datetime
    deployment: Deployment
    decision: int | None


@dataclass(frozen=True, slots=True)
class PastCanary:
    """A version that served a share of the sessions beside the stable one, on trial.

    Attributes:
        paired: whether one of the two answered the other's requests in shadow, when it began.
        by_person: whether a person set it.
        until: when that ended; the end of what is looked at if it `serves` still.
    """

    version: int
    incumbent: int
    paired: bool
    by_person: bool
    since: datetime
    until: datetime
    ended: Ended


async def eras(connection: AsyncConnection, adapter: str) -> list[Era]:
    """What the name meant when, the oldest first."""
    theirs = select(_ADAPTERS.c.id).where(_ADAPTERS.c.name == adapter).scalar_subquery()
    newest = select(_REVISIONS).where(_REVISIONS.c.adapter_id == theirs).order_by(_REVISIONS.c.number.desc())
    rows = {row.number: row for row in await connection.execute(newest.limit(MOST_REVISIONS))}
    return [
        Era(row.created_at, to_deployment(row, rows.get(number - 1), rows.get(row.undo_revision)), row.decision)
        for number, row in sorted(rows.items())
    ]


def era_at(found: Sequence[Era], moment: datetime) -> Era | None:
    """What the name meant at a moment; None before the first promote."""
    index = bisect_right(found, moment, key=lambda era: era.since)
    return found[index - 1] if index else None


def canaries(found: Sequence[Era], since: datetime, until: datetime) -> list[PastCanary]:
    """The canaries that began from `since` on and before `until`."""
    runs: list[PastCanary] = []
    begun: Era | None = None
    for era in found:
        if begun is not None and _trial(begun) != _trial(era):
            runs.append(_run(begun, era.since, _ended(begun, era)))
            begun = None
        if begun is None and _trial(era) is not None:
            begun = era
    if begun is not None:
        runs.append(_run(begun, until, "serves"))
    return [run for run in runs if since <= run.since < until]


def _trial(era: Era) -> tuple[int, int] | None:
    """The version on trial and the one that it is held against; a version that is held back is not on trial."""
    canary = era.deployment.canary
    return None if canary is None or canary.holdback else (canary.version, era.deployment.stable)


def _run(begun: Era, until: datetime, ended: Ended) -> PastCanary:
    trial, shadow = _trial(begun), begun.deployment.shadow
    assert trial is not None, "a run begins with a canary"
    paired = shadow is not None and shadow.version in trial
    return PastCanary(*trial, paired, begun.decision is None, begun.since, until, ended)


def _ended(begun: Era, after: Era) -> Ended:
    trial = _trial(begun)
    assert trial is not None, "a run begins with a canary"
    if after.deployment.stable == trial[0]:
        return "promoted"
    if _trial(after) is not None or after.deployment.stable != trial[1]:
        return "replaced"
    return "withdrawn" if after.decision is None else "rolled_back"
