"""What the tests know of an adapter's versions, read from their stored state, and what that means in plain words."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.judging.pairing import BASE, LEVEL
from monitors.judging.watched import watched_test
from monitors.tables import EvidenceRow
from registry.catalog import Adapter

LevelVerdict = Literal["not enough data", "as expected", "quality lost", "measured only"]
DifferenceVerdict = Literal["not enough data", "better", "worse", "no difference that matters", "better and worse"]

_EVIDENCE = EvidenceRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model


@dataclass(frozen=True, slots=True)
class StoredEvidence:
    """A test as it stands: `summary` has its numbers, `anew` when and why it last began anew."""

    version: int
    scorer: str
    against: str
    summary: Mapping[str, Any]
    anew: Mapping[str, str] | None
    updated_at: datetime

    @property
    def is_level(self) -> bool:
        """Whether it is of the version's own scores, not of a difference."""
        return self.against == LEVEL


async def stored_evidence(engine: AsyncEngine, adapter: str) -> list[StoredEvidence]:
    """All tests of an adapter, the newest version first."""
    columns = _EVIDENCE.c
    query = select(_EVIDENCE).where(columns.adapter == adapter)
    async with engine.connect() as connection:
        rows = await connection.execute(query.order_by(columns.version.desc(), columns.scorer, columns.against))
        return [
            StoredEvidence(
                row.version, row.scorer, row.against, row.state["summary"], row.state["anew"], row.updated_at
            )
            for row in rows
        ]


def watched_summary(adapter: Adapter, number: int, evidence: Iterable[StoredEvidence]) -> Mapping[str, Any] | None:
    """The numbers of the test that the quality rule watches for one of the adapter's versions; None if there is none.

    `evidence` is all that is stored of the adapter.
    """
    rule = adapter.monitoring.quality
    which = (number, rule.scorer, BASE if rule.against == "base" else LEVEL)
    if rule.against == "incumbent":
        test = watched_test(adapter, adapter.deployment)
        if test is None or adapter.deployment is None or adapter.deployment.stable != number:
            return None
        which = (test.version, test.scorer, test.against)
    return next((each.summary for each in evidence if (each.version, each.scorer, each.against) == which), None)


def level_verdict(summary: Mapping[str, Any]) -> LevelVerdict:
    """What a version's scores mean: only what the quality rule watches is held against a level."""
    watch = summary.get("watch")
    if watch is None or (watch["level"] is not None and not watch["tests"]):
        return "measured only"
    if watch["alarm"]:
        return "quality lost"
    return "not enough data" if watch["level"] is None or not summary["observations"] else "as expected"


def difference_verdict(summary: Mapping[str, Any], matters: float) -> DifferenceVerdict:
    """What a difference means; one of less than `matters` does not. `better and worse` was the one, then the other."""
    if summary["better"] or summary["worse"]:
        both = summary["better"] and summary["worse"]
        return "better and worse" if both else "better" if summary["better"] else "worse"
    if -matters <= summary["low"] and summary["high"] <= matters:
        return "no difference that matters"
    return "not enough data"
