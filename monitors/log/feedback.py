"""Feedback: what clients and people say of answers, kept beside the request that it is about.

It outlives the request's own row, and may come as late as that row is kept.
"""

import secrets
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal, Protocol

from sqlalchemy import ColumnElement, Select, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.tables import FeedbackRow, RequestRow
from registry.database import writing

Thumb = Literal["up", "down"]

_FEEDBACK = FeedbackRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model
_REQUESTS = RequestRow.__table__  # type: ignore[attr-defined]
_NOBODYS = ("shadow", "evaluation")
"""Variants that no client has seen the answer of."""
_FIRST_ERROR = 400
_THUMBS = {"up": 1.0, "down": 0.0}


class Opinion(Protocol):
    """The part of a feedback that can be a number."""

    @property
    def thumb(self) -> str | None:
        """`up` or `down`."""
        ...

    @property
    def score(self) -> float | None:
        """In [0, 1]."""
        ...


def value_of(feedback: Opinion) -> float | None:
    """The score in [0, 1] that a feedback gives: its own, else 1 for a thumb up and 0 for one down, else None."""
    return feedback.score if feedback.score is not None else _THUMBS.get(feedback.thumb or "")


@dataclass(frozen=True, slots=True)
class Reference:
    """Which answer is meant, by the request's id or by the answer's own; only requests of `key_id`, if that is said."""

    request_id: str | None = None
    completion_id: str | None = None
    key_id: str | None = None


@dataclass(frozen=True, slots=True)
class Said:
    """What is said of an answer; texts have been redacted. `client_id` is the client's own id for it."""

    thumb: Thumb | None = None
    score: float | None = None
    comment: str | None = None
    correction: str | None = None
    client_id: str | None = None


@dataclass(frozen=True, slots=True)
class Answered:
    """A request that was answered, as far as feedback needs it; `base` is the base model whose engines served it."""

    id: str
    request_id: str
    adapter: str | None
    base: str | None
    version: int | None
    variant: str | None
    session: str | None
    end_user: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFeedback(Said):
    """A feedback as it stands in the database, with what it is about."""

    id: str
    record_id: str
    request_id: str
    key_id: str
    adapter: str | None
    version: int | None
    variant: str | None
    session: str | None
    end_user: str | None
    created_at: datetime

    @property
    def said(self) -> Said:
        """What the client said."""
        return Said(self.thumb, self.score, self.comment, self.correction, self.client_id)


async def find_answered(engine: AsyncEngine, reference: Reference) -> Answered | None:
    """The newest request that is meant; clients may give several the same id.

    Only what somebody was answered: neither a refused request, nor a shadow, nor the monitor's own.
    """
    columns = _REQUESTS.c
    query = select(
        *(columns.id, columns.request_id, columns.adapter, columns.pool.label("base"), columns.version),
        *(columns.variant, columns.session, columns.end_user),
    )
    answered = query.where(_is(reference), columns.status < _FIRST_ERROR, columns.variant.not_in(_NOBODYS))
    newest = answered.order_by(columns.started_at.desc(), columns.id.desc()).limit(1)
    async with engine.connect() as connection:
        row = (await connection.execute(newest)).mappings().first()
    return None if row is None else Answered(**row)


def _is(reference: Reference) -> ColumnElement[bool]:
    columns = _REQUESTS.c
    found: ColumnElement[bool] = (
        columns.request_id == reference.request_id
        if reference.completion_id is None
        else columns.completion_id == reference.completion_id
    )
    return found if reference.key_id is None else found & (columns.key_id == reference.key_id)


async def feedback_of_client(engine: AsyncEngine, key_id: str, client_id: str) -> StoredFeedback | None:
    """The feedback that a key has given under its own id for it."""
    query = select(_FEEDBACK).where(_FEEDBACK.c.key_id == key_id, _FEEDBACK.c.client_id == client_id)
    return next(iter(await _read(engine, query)), None)


async def add_feedback(
    engine: AsyncEngine, answered: Answered, said: Said, *, key_id: str, now: datetime
) -> StoredFeedback | None:
    """Store what is said of an answer; None if the key has given one under the same client's id before."""
    values = asdict(answered) | asdict(said)
    values |= {"id": _new_id(now), "record_id": answered.id, "key_id": key_id, "created_at": now}
    del values["base"]
    insert = postgresql.insert if engine.dialect.name == "postgresql" else sqlite.insert
    statement = insert(_FEEDBACK).values(**values)
    same = statement.on_conflict_do_nothing(index_elements=["key_id", "client_id"])
    async with writing(engine) as connection:
        stored = bool((await connection.execute(same)).rowcount)
    return StoredFeedback(**values) if stored else None


async def list_feedback(
    engine: AsyncEngine,
    *,
    adapter: str | None = None,
    version: int | None = None,
    since: datetime | None = None,
    before: str | None = None,
    limit: int = 100,
) -> list[StoredFeedback]:
    """Up to `limit` feedbacks, newest first, of an adapter, a version and since a moment, with ids below `before`."""
    columns = _FEEDBACK.c
    query = select(_FEEDBACK).order_by(columns.id.desc()).limit(limit)
    if adapter is not None:
        query = query.where(columns.adapter == adapter)
    if version is not None:
        query = query.where(columns.version == version)
    if since is not None:
        query = query.where(columns.created_at >= since)
    if before is not None:
        query = query.where(columns.id < before)
    return await _read(engine, query)


async def _read(engine: AsyncEngine, query: Select[Any]) -> list[StoredFeedback]:
    async with engine.connect() as connection:
        return [StoredFeedback(**row) for row in (await connection.execute(query)).mappings()]


def _new_id(now: datetime) -> str:
    """Later ones are greater: a list goes on from one, whatever was added meanwhile."""
    return f"fb-{int(now.timestamp() * 1000):012x}-{secrets.token_hex(8)}"
