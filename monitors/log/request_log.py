"""The request log as people use it: read page by page, and all that belongs to a session or an end user deleted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Row,
    String,
    Table,
    and_,
    cast,
    delete,
    func,
    or_,
    select,
    union,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from monitors.judging.pairing import subject_of
from monitors.tables import CaptureRow, FeedbackRow, ObservationRow, RequestRow, ScoreRow
from registry.database import writing

ROWS_AT_ONCE = 500
"""Of a deletion, in one transaction: SQLite has one writer, and the gateways are others."""

_REQUESTS: Table = RequestRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model
_CAPTURES: Table = CaptureRow.__table__  # type: ignore[attr-defined]
_FEEDBACK: Table = FeedbackRow.__table__  # type: ignore[attr-defined]
_SCORES: Table = ScoreRow.__table__  # type: ignore[attr-defined]
_OBSERVATIONS: Table = ObservationRow.__table__  # type: ignore[attr-defined]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page ends: the moment and id of its last row."""

    started_at: datetime
    id: str

    def __str__(self) -> str:
        """In a form that `place_of` reads."""
        return f"{(self.started_at - _EPOCH) // timedelta(microseconds=1)}.{self.id}"


def place_of(cursor: str) -> Place:
    """The place that a cursor of the form ``microseconds.id`` names.

    Raises:
        ValueError: it has another form, or lies outside the calendar.
    """
    microseconds, _, id_ = cursor.partition(".")
    try:
        return Place(_EPOCH + timedelta(microseconds=int(microseconds)), id_)
    except OverflowError:
        raise ValueError("outside the calendar") from None


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which requests: those for which all of this holds; None asks for nothing.

    Attributes:
        session, end_user: pseudonyms.
        since, until: of the requests' arrival; `until` itself is out.
    """

    adapter: str | None = None
    version: int | None = None
    variant: str | None = None
    key_id: str | None = None
    status: int | None = None
    session: str | None = None
    end_user: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """The same in SQL."""
        columns = _REQUESTS.c
        equal = ("adapter", "version", "variant", "key_id", "status", "session", "end_user")
        found = [columns[name] == getattr(self, name) for name in equal if getattr(self, name) is not None]
        if self.since is not None:
            found.append(columns.started_at >= self.since)
        if self.until is not None:
            found.append(columns.started_at < self.until)
        return found


async def requests(
    engine: AsyncEngine, wanted: Wanted, *, after: Place | None = None, limit: int = 100, oldest_first: bool = False
) -> Sequence[Row[Any]]:
    """Up to `limit` rows of the log, by their time of arrival, newest first unless said otherwise.

    A request is written when it has ended, so one that took long can appear before a page that was read already.
    """
    at, id_ = _REQUESTS.c.started_at, _REQUESTS.c.id
    conditions = wanted.conditions()
    if after is not None and oldest_first:
        conditions += [at >= after.started_at, or_(at > after.started_at, id_ > after.id)]
    elif after is not None:
        conditions += [at <= after.started_at, or_(at < after.started_at, id_ < after.id)]
    order = (at, id_) if oldest_first else (at.desc(), id_.desc())
    async with engine.connect() as connection:
        found = await connection.execute(select(_REQUESTS).where(*conditions).order_by(*order).limit(limit))
        return found.all()


async def captures(engine: AsyncEngine, ids: Sequence[str]) -> Mapping[str, Row[Any]]:
    """What was said in these requests, by id; those that were not captured are left out."""
    async with engine.connect() as connection:
        found = await connection.execute(select(_CAPTURES).where(_CAPTURES.c.id.in_(ids)))
        return {row.id: row for row in found}


@dataclass(frozen=True, slots=True)
class Forgotten:
    """How many rows were deleted."""

    requests: int = 0
    captures: int = 0
    feedback: int = 0
    scores: int = 0
    observations: int = 0

    def __add__(self, other: "Forgotten") -> "Forgotten":
        return Forgotten(
            self.requests + other.requests,
            self.captures + other.captures,
            self.feedback + other.feedback,
            self.scores + other.scores,
            self.observations + other.observations,
        )


async def forget(engine: AsyncEngine, *, session: str | None = None, end_user: str | None = None) -> Forgotten:
    """Delete everything of a session or of an end user, by pseudonym: requests, text, feedback, scores, observations.

    Sums stay: usage, spending, and what tests have made of observations. It goes by some hundred rows at a time, so
    that nobody waits long, and can be done again from the start if it breaks off. What gateways have not written yet
    comes later; their recorders write every second.
    """
    assert (session is None) != (end_user is None), "one of them"
    column, name = ("end_user", end_user) if session is None else ("session", session)
    total = Forgotten()
    while True:
        async with writing(engine) as connection:
            ids = (await connection.execute(_records_of(column, name))).scalars().all()
            if not ids:
                break
            total += await _forget_records(connection, ids)
    if session is not None:
        total += await _forget_numbers(engine, session)
    return total


def _records_of(column: str, name: str | None) -> CompoundSelect[Any]:
    """Some of the requests that it is about; their own rows may be gone while feedback or text is still there."""
    return union(
        select(_REQUESTS.c.id).where(_REQUESTS.c[column] == name).limit(ROWS_AT_ONCE).subquery().select(),
        select(_CAPTURES.c.id).where(_CAPTURES.c[column] == name).limit(ROWS_AT_ONCE).subquery().select(),
        select(_FEEDBACK.c.record_id).where(_FEEDBACK.c[column] == name).limit(ROWS_AT_ONCE).subquery().select(),
    ).limit(ROWS_AT_ONCE)


async def _forget_records(connection: AsyncConnection, ids: Sequence[str]) -> Forgotten:
    """Delete requests with all that belongs to them. A request without a session stands in tests under its own id."""
    found = select(_REQUESTS.c.session, _REQUESTS.c.request_id).where(_REQUESTS.c.id.in_(ids))
    names = {subject_of(row.session, row.request_id) for row in await connection.execute(found)}
    scored = select(_SCORES.c.session, _SCORES.c.request_id).where(_SCORES.c.record_id.in_(ids))
    names |= {subject_of(row.session, row.request_id) for row in await connection.execute(scored)}
    return Forgotten(
        requests=await _delete(connection, _REQUESTS, _REQUESTS.c.id.in_(ids)),
        captures=await _delete(connection, _CAPTURES, _CAPTURES.c.id.in_(ids)),
        feedback=await _delete(connection, _FEEDBACK, _FEEDBACK.c.record_id.in_(ids)),
        scores=await _delete(connection, _SCORES, _SCORES.c.record_id.in_(ids)),
        observations=await forget_observations(connection, _OBSERVATIONS.c.session.in_(names)),
    )


async def _forget_numbers(engine: AsyncEngine, session: str) -> Forgotten:
    """Delete the scores and observations of a session whose requests are gone."""
    async with writing(engine) as connection:
        return Forgotten(
            scores=await _delete(connection, _SCORES, _SCORES.c.session == session),
            observations=await forget_observations(connection, _OBSERVATIONS.c.session == session),
        )


async def forget_observations(connection: AsyncConnection, which: ColumnElement[bool]) -> int:
    """Delete observations; their number.

    Of the newest of all only the session's name goes: SQLite would give its id to the next one, which the tests would
    then take for one that they have seen.
    """
    columns = _OBSERVATIONS.c
    newest = (await connection.execute(select(func.coalesce(func.max(columns.id), 0)))).scalar_one()
    nobody = "forgotten " + cast(columns.id, String)
    renamed = update(_OBSERVATIONS).where(which, columns.id == newest, columns.session != nobody).values(session=nobody)
    count = (await connection.execute(renamed)).rowcount
    return count + await _delete(connection, _OBSERVATIONS, and_(which, columns.id < newest))


async def _delete(connection: AsyncConnection, table: Table, condition: ColumnElement[bool]) -> int:
    return (await connection.execute(delete(table).where(condition))).rowcount
