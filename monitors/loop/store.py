"""What the loop keeps of an adapter, in one row: where it is, its tests, and a decision that is being carried out."""

from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import Row, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from monitors.loop.state import LoopState
from monitors.loop.verdicts import Verdict
from monitors.tables import LoopRow

_LOOPS = LoopRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model


class Pending(msgspec.Struct, frozen=True):
    """A decision that may have been carried out or not.

    Attributes:
        verdict: what was decided.
        decision: its id.
        then: where the loop is once it is carried out, but for what only the carrying out can tell.
        revision: the deployment's revision that it was decided on; 0 before the first.
        decided_at: when.
        policy: the number of the policy that it was decided by.
        order: of ``retrain``: the body that asks for the job, but for its file.
        until: of ``retrain``: labels up to here are its data, from `since` on.
        since: see `until`; None is from the beginning.
        file: of ``retrain``: the uploaded data, once it is there.
        tries: how often it could not be done.
        next_at: when it is tried again; None is at once.
        trouble: why it could not be done last, for people.
    """

    verdict: Verdict
    decision: int
    then: LoopState
    revision: int
    decided_at: datetime
    policy: int = 0
    order: dict[str, Any] | None = None
    since: datetime | None = None
    until: datetime | None = None
    file: str | None = None
    tries: int = 0
    next_at: datetime | None = None
    trouble: str = ""


class Kept(msgspec.Struct, frozen=True):
    """All of it.

    Attributes:
        state: where the loop is.
        tests, cursors: of the rollout under way, and how far they have read; JSON of `monitors.loop.reading`.
        pending: None when nothing is being carried out.
        verdict: the newest one, also where it is to wait: `Verdict` as JSON, with ``at`` and ``decision``.
        saved_at: when this was written; None for a new one.
    """

    state: LoopState = LoopState()
    tests: dict[str, Any] = {}
    cursors: dict[str, Any] = {}
    pending: Pending | None = None
    verdict: dict[str, Any] | None = None
    saved_at: datetime | None = None


async def load(connection: AsyncConnection, adapter: str, *, locked: bool = False) -> Kept:
    """What is kept; empty for an adapter that the loop never looked at.

    With `locked`, in a transaction that will write, nobody else changes it until that is over.
    """
    if locked:
        await connection.execute(_inserting(connection, adapter, Kept(), datetime.now(UTC), renews=False))
    query = select(_LOOPS).where(_LOOPS.c.adapter == adapter)
    row = (await connection.execute(query.with_for_update() if locked else query)).first()
    return Kept() if row is None else _kept(row)


async def save(connection: AsyncConnection, adapter: str, kept: Kept, now: datetime) -> None:
    """Keep all of it."""
    await connection.execute(_inserting(connection, adapter, kept, now, renews=True))


def _inserting(connection: AsyncConnection, adapter: str, kept: Kept, now: datetime, *, renews: bool) -> Any:
    values: dict[str, Any] = msgspec.to_builtins(kept)
    values = {name: values[name] for name in ("state", "tests", "cursors", "pending", "verdict")} | {"updated_at": now}
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = insert(_LOOPS).values(adapter=adapter, **values)
    if renews:
        return statement.on_conflict_do_update(index_elements=["adapter"], set_=values)
    return statement.on_conflict_do_nothing()


def _kept(row: Row[Any]) -> Kept:
    return Kept(
        state=msgspec.convert(row.state or {}, LoopState),
        tests=row.tests or {},
        cursors=row.cursors or {},
        pending=None if row.pending is None else msgspec.convert(row.pending, Pending),
        verdict=row.verdict,
        saved_at=row.updated_at,
    )
