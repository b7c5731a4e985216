"""What the tests know of an adapter's versions, read from their stored state, and what that means in plain words."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.judging.pairing import LEVEL
from monitors.tables import EvidenceRow

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


def level_verdict(summary: Mapping[str, Any]) -> LevelVerdict:
    """What a version's own scores mean: only the scorer that the quality rule names is held against a level."""
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
