"""Decisions: what was concluded, by which rule, from what. They are only ever added."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from monitors.tables import DecisionRow

_DECISIONS = DecisionRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model


@dataclass(frozen=True, slots=True)
class Decision:
    """One conclusion.

    Attributes:
        adapter, version: what it is about; version 0 is all of the adapter.
        kind: the rule's field: `quality`, `drift`, `golden`, `loop`.
        outcome: what was concluded, in a word, such as `alarm`.
        rule: the rule, with its numbers.
        reason: why it was concluded, for people.
        inputs: the values that the rule was applied to.
    """

    adapter: str
    version: int
    kind: str
    outcome: str
    rule: str
    reason: str
    inputs: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StoredDecision(Decision):
    """A decision as it stands in the database."""

    id: int
    created_at: datetime


async def record_decision(connection: AsyncConnection, decision: Decision, now: datetime) -> int:
    """Add a decision, in the transaction of what it follows from; its id."""
    adding = _DECISIONS.insert().values(**asdict(decision), created_at=now).returning(_DECISIONS.c.id)
    number: int = (await connection.execute(adding)).scalar_one()
    return number


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which decisions; None is any.

    Attributes:
        before: those with a smaller id.
        since, until: from the one moment on, and before the other.
        acted: those that something followed from: what the loop did by itself, what it took up of a person's changes,
            and alarms of lost quality.
    """

    adapter: str | None = None
    kind: str | None = None
    outcome: str | None = None
    before: int | None = None
    since: datetime | None = None
    until: datetime | None = None
    acted: bool = False


ACTS = ("retrain", "begin_rollout", "next_step", "promote", "end_holdback", "roll_back", "end_cycle", "stand_back")
"""What the loop does: the act in the inputs of its decisions. Where it only says what it would do, nothing is done."""
_TOLD = ("take_up", "watch_canary")
"""Acts that follow a person's."""
WOULD = "would_"
"""How the outcomes begin of what the loop only says that it would do."""


async def decisions(
    engine: AsyncEngine, *, adapter: str | None = None, before: int | None = None, limit: int = 100
) -> list[StoredDecision]:
    """Up to `limit` decisions, newest first, of one adapter or all, with ids below `before` where that is given."""
    async with engine.connect() as connection:
        return await newest_decisions(connection, Wanted(adapter=adapter, before=before), limit=limit)


async def newest_decisions(connection: AsyncConnection, wanted: Wanted, *, limit: int) -> list[StoredDecision]:
    """Up to `limit` decisions, newest first."""
    query = select(_DECISIONS).where(*_conditions(wanted)).order_by(_DECISIONS.c.id.desc()).limit(limit)
    return [StoredDecision(**row) for row in (await connection.execute(query)).mappings()]


def _conditions(wanted: Wanted) -> Iterator[ColumnElement[bool]]:
    columns = _DECISIONS.c
    for name in ("adapter", "kind", "outcome"):
        if (value := getattr(wanted, name)) is not None:
            yield columns[name] == value
    if wanted.before is not None:
        yield columns.id < wanted.before
    if wanted.since is not None:
        yield columns.created_at >= wanted.since
    if wanted.until is not None:
        yield columns.created_at < wanted.until
    if wanted.acted:
        yield or_(_is_alarm(), _did())


def _is_alarm() -> ColumnElement[bool]:
    return and_(_DECISIONS.c.kind == "quality", _DECISIONS.c.outcome == "alarm")


def _did() -> ColumnElement[bool]:
    """Whether a decision is of the loop, and to do something."""
    does = _DECISIONS.c.inputs["act"].as_string().in_(ACTS + _TOLD)
    return and_(_DECISIONS.c.kind == "loop", does, ~_DECISIONS.c.outcome.startswith(WOULD, autoescape=True))


async def is_decision(engine: AsyncEngine, id: int, *, adapter: str, kind: str) -> bool:
    """Whether that was decided: by that id, about that adapter, by a rule of that kind."""
    same = (_DECISIONS.c.id == id) & (_DECISIONS.c.adapter == adapter) & (_DECISIONS.c.kind == kind)
    async with engine.connect() as connection:
        return (await connection.execute(select(_DECISIONS.c.id).where(same))).first() is not None
