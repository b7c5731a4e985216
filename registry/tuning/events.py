"""What a job says of itself, oldest first, and the checkpoints that it made."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import BigInteger, cast, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from registry.database import writing
from registry.errors import NotFound
from registry.tuning.tables import TuningCheckpointRow, TuningEventRow

Level = Literal["info", "warn", "error"]
_EVENTS = TuningEventRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model
_CHECKPOINTS = TuningCheckpointRow.__table__  # type: ignore[attr-defined]
_PREFIX = "ftevent-"
_DIGITS = 18  # of numbers that a BIGINT holds


@dataclass(frozen=True, slots=True)
class NewEvent:
    """Something to be told; with `data` it is an event of metrics."""

    message: str
    level: Level = "info"
    data: Mapping[str, Any] | None = None
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))


async def add_event(connection: AsyncConnection, job: str, message: str, *, level: Level = "info") -> None:
    """Add an event in a transaction."""
    await add_events(connection, job, [NewEvent(message, level)])


def _row(job: str, event: NewEvent) -> dict[str, Any]:
    return {
        "job": job,
        "level": event.level,
        "type": "message" if event.data is None else "metrics",
        "message": event.message,
        "data": None if event.data is None else dict(event.data),
        "created_at": event.created_at,
    }


async def add_events(connection: AsyncConnection, job: str, events: Sequence[NewEvent]) -> None:
    """Add several in a transaction, in their order."""
    await connection.execute(insert(_EVENTS), [_row(job, event) for event in events])


@dataclass(frozen=True, slots=True)
class NewCheckpoint:
    """The weights after a step; `digest` is an artifact to go on from, None where its content was not kept."""

    step: int
    digest: str | None
    metrics: Mapping[str, Any]
    is_best: bool = False


async def add_checkpoint(connection: AsyncConnection, job: str, new: NewCheckpoint) -> list[str]:
    """Add a checkpoint in a transaction; the digests of what nothing goes on from any more.

    The newest and the best keep their content; a step that a resumed job reaches again is replaced.
    """
    insertion: Any = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    mine, step = _CHECKPOINTS.c.job == job, new.step
    replaced = select(_CHECKPOINTS.c.digest).where(mine, _CHECKPOINTS.c.step == step)
    unneeded = list((await connection.execute(replaced)).scalars())
    again = {"digest": new.digest, "is_best": new.is_best, "metrics": dict(new.metrics)}
    row = again | {
        "id": f"ftckpt-{secrets.token_hex(12)}",
        "job": job,
        "step": step,
        "created_at": datetime.now(UTC),
    }
    await connection.execute(
        insertion(_CHECKPOINTS).values(row).on_conflict_do_update(index_elements=["job", "step"], set_=again)
    )
    if new.is_best:
        await connection.execute(update(_CHECKPOINTS).where(mine, _CHECKPOINTS.c.step != step).values(is_best=False))
    if new.digest is not None:
        idle = (mine, _CHECKPOINTS.c.step != step, ~_CHECKPOINTS.c.is_best, _CHECKPOINTS.c.digest.is_not(None))
        unneeded += (await connection.execute(select(_CHECKPOINTS.c.digest).where(*idle))).scalars()
        await connection.execute(update(_CHECKPOINTS).where(*idle).values(digest=None))
    return [each for each in unneeded if each not in (None, new.digest)]


def event_id(event: TuningEventRow) -> str:
    """The event's id, as clients see it."""
    return f"{_PREFIX}{event.id:016d}"


def event_number(id: str) -> int | None:
    """The row's number in such an id; None if it is none."""
    digits = id.removeprefix(_PREFIX)
    is_number = id.startswith(_PREFIX) and digits.isascii() and digits.isdigit() and len(digits) <= _DIGITS
    return int(digits) if is_number else None


class Events:
    """The events and checkpoints of all jobs."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def listed(self, job: str, *, after: int | None = None, limit: int) -> list[TuningEventRow]:
        """The job's events, newest first, as OpenAI lists them; `after` goes on from an event's number."""
        query = select(_EVENTS).where(_EVENTS.c.job == job).order_by(_EVENTS.c.id.desc()).limit(limit)
        if after is not None:
            query = query.where(_EVENTS.c.id < after)
        async with self._engine.connect() as connection:
            rows = list(await connection.execute(query))
        return [TuningEventRow(**row._mapping) for row in rows]  # noqa: SLF001 - SQLAlchemy's public name for it

    async def metrics(self, job: str) -> list[dict[str, Any]]:
        """The data of the job's metrics events that are of a step, oldest first."""
        of_steps = (_EVENTS.c.type == "metrics", _EVENTS.c.data["step"].as_integer().is_not(None))
        query = select(_EVENTS.c.data).where(_EVENTS.c.job == job, *of_steps).order_by(_EVENTS.c.id)
        async with self._engine.connect() as connection:
            return list((await connection.execute(query)).scalars())

    async def tokens_at(self, job: str, step: int) -> int:
        """How many tokens the job was trained on up to a step, by what it told then."""
        tokens = cast(_EVENTS.c.data["tokens"].as_string(), BigInteger)
        until = _EVENTS.c.data["step"].as_integer() <= step
        query = select(func.max(tokens)).where(_EVENTS.c.job == job, _EVENTS.c.type == "metrics", until)
        async with self._engine.connect() as connection:
            return (await connection.execute(query)).scalar_one() or 0

    async def checkpoints(self, job: str, *, after: str | None = None, limit: int) -> list[TuningCheckpointRow]:
        """The job's checkpoints, newest first; `after` goes on from a checkpoint's id.

        Raises:
            NotFound: the job has no such checkpoint.
        """
        query = select(_CHECKPOINTS).where(_CHECKPOINTS.c.job == job).order_by(_CHECKPOINTS.c.step.desc()).limit(limit)
        async with self._engine.connect() as connection:
            if after is not None:
                mark = select(_CHECKPOINTS.c.step).where(_CHECKPOINTS.c.id == after, _CHECKPOINTS.c.job == job)
                step = (await connection.execute(mark)).scalar_one_or_none() if "\0" not in after else None
                if step is None:
                    raise NotFound(f"the job {job} has no checkpoint {after!r} to go on from", param="after")
                query = query.where(_CHECKPOINTS.c.step < step)
            rows = list(await connection.execute(query))
        return [TuningCheckpointRow(**row._mapping) for row in rows]  # noqa: SLF001

    async def kept_checkpoints(self, job: str) -> list[TuningCheckpointRow]:
        """The job's checkpoints whose content is kept, the newest last."""
        kept = (_CHECKPOINTS.c.job == job, _CHECKPOINTS.c.digest.is_not(None))
        query = select(_CHECKPOINTS).where(*kept).order_by(_CHECKPOINTS.c.step)
        async with self._engine.connect() as connection:
            rows = list(await connection.execute(query))
        return [TuningCheckpointRow(**row._mapping) for row in rows]  # noqa: SLF001

    async def drop_checkpoints(self, job: str) -> list[str]:
        """Forget the content of all checkpoints of a job that has ended; their digests."""
        mine = (_CHECKPOINTS.c.job == job, _CHECKPOINTS.c.digest.is_not(None))
        async with writing(self._engine) as connection:
            unneeded = list((await connection.execute(select(_CHECKPOINTS.c.digest).where(*mine))).scalars())
            await connection.execute(update(_CHECKPOINTS).where(*mine).values(digest=None))
        return unneeded
