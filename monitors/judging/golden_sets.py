"""The golden sets of each adapter: registered with their digests, numbered from 1, and never changed."""

import asyncio
from dataclasses import dataclass

import msgspec
from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlmodel import select

from monitors.judging.golden import CheckedSet
from monitors.tables import GoldenSetRow
from registry import repository
from registry.artifacts import ArtifactStore
from registry.errors import NotFound
from registry.names import check_text
from registry.transactions import Change, Transactions

LONGEST_NOTE = 1000
_SETS = GoldenSetRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model


@dataclass(frozen=True, slots=True)
class PushedSet:
    """The outcome of a push: the set, and whether it is new rather than one that the adapter had already."""

    row: GoldenSetRow
    created: bool


class GoldenSets(Transactions):
    """Registers golden sets, each in one transaction with its audit entry.

    Args:
        engine: the database, its schema up to date.
        store: where the sets' content is.
    """

    def __init__(self, engine: AsyncEngine, store: ArtifactStore) -> None:
        super().__init__(engine)
        self._store = store

    async def push(self, adapter: str, checked: CheckedSet, *, actor: str, note: str = "") -> PushedSet:
        """Freeze a set and register it as the adapter's next; the same set again is the one that it has.

        Raises:
            InvalidValue, NotFound, StoreFailure: nothing was registered.
        """
        check_text(note, "note", LONGEST_NOTE)
        artifact = await asyncio.to_thread(checked.freeze, self._store)
        async with self._change(actor) as change:
            if await repository.adapter_by_name(change.session, adapter) is None:
                raise NotFound(f"there is no adapter {adapter!r}", param="name")
            known = await _known(change, adapter, artifact.digest)
            if known is not None:
                return PushedSet(known, created=False)
            row = GoldenSetRow(
                adapter=adapter,
                number=await _last_number(change, adapter) + 1,
                digest=artifact.digest,
                rows=len(checked.lines),
                scorers=msgspec.to_builtins(checked.scorers),
                note=note,
                created_by=actor,
            )
            change.session.add(row)
            after = {"golden_set": row.number, "digest": row.digest, "rows": row.rows, "note": note}
            change.audit("push_golden_set", f"adapter:{adapter}", after=after)
            await change.session.flush()
            return PushedSet(row, created=True)

    async def listed(self, adapter: str, *, before: int | None = None, limit: int = 100) -> list[GoldenSetRow]:
        """The adapter's sets, newest first, with numbers below `before` where that is given."""
        query = select(GoldenSetRow).where(_SETS.c.adapter == adapter).order_by(_SETS.c.number.desc()).limit(limit)
        if before is not None:
            query = query.where(_SETS.c.number < before)
        async with self._sessions() as session:
            return list(await session.exec(query))


@dataclass(frozen=True, slots=True)
class SetEntry:
    """What a run must know of a set."""

    number: int
    digest: str


async def find_set(connection: AsyncConnection, adapter: str, number: int | None = None) -> SetEntry | None:
    """The adapter's set of that number, or its newest; None if there is none."""
    query = select(_SETS.c.number, _SETS.c.digest).where(_SETS.c.adapter == adapter)
    query = query.order_by(_SETS.c.number.desc()).limit(1)
    if number is not None:
        query = query.where(_SETS.c.number == number)
    found = (await connection.execute(query)).first()
    return SetEntry(found.number, found.digest) if found else None


async def newest_sets(connection: AsyncConnection) -> dict[str, SetEntry]:
    """Each adapter's newest set."""
    newest = select(_SETS.c.adapter, func.max(_SETS.c.number).label("number")).group_by(_SETS.c.adapter).subquery()
    same = (_SETS.c.adapter == newest.c.adapter) & (_SETS.c.number == newest.c.number)
    query = select(_SETS.c.adapter, _SETS.c.number, _SETS.c.digest).join(newest, same)
    return {row.adapter: SetEntry(row.number, row.digest) for row in await connection.execute(query)}


async def _known(change: Change, adapter: str, digest: str) -> GoldenSetRow | None:
    query = select(GoldenSetRow).where(_SETS.c.adapter == adapter, _SETS.c.digest == digest)
    return (await change.session.exec(query)).first()


async def _last_number(change: Change, adapter: str) -> int:
    query = select(func.max(_SETS.c.number)).where(_SETS.c.adapter == adapter)
    return (await change.session.exec(query)).one() or 0
