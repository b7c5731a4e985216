"""What a rollout's traffic leaves in the database: requests, observations, revisions and jobs."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.tables import ObservationRow, RequestRow
from registry.tables import AdapterRow, RevisionRow
from registry.tuning.tables import TuningJobRow
from tests.monitors.judging.rows import NOW

RECORDER = "aaaaaaaaaaaaaaaa"
_MODELS: tuple[Any, ...] = (AdapterRow, RevisionRow, RequestRow, ObservationRow, TuningJobRow)
_TABLES: Any = {model: model.__table__ for model in _MODELS}


def row_id(number: int, recorder: str = RECORDER) -> str:
    """The id of a recorder's row."""
    return f"{recorder}{number:016x}"


def request(number: int, version: int = 2, recorder: str = RECORDER, **fields: Any) -> dict[str, Any]:
    """A request of a session of its own that went well, but for what `fields` say."""
    usual = {
        "id": row_id(number, recorder),
        "request_id": f"req-{recorder[0]}{number}",
        "path": "/v1/chat/completions",
        "key_id": "key-1",
        "adapter": "support",
        "version": version,
        "variant": "stable" if version == 2 else "canary",
        "status": 200,
        "error": None,
        "started_at": NOW + timedelta(seconds=number),
        "duration_s": 0.5,
        "streamed": False,
        "completion_tokens": 5,
        "retries": 0,
        "queue_s": 0.0,
        "cost": 0.5,
        "session": f"s{recorder[0]}{number}",
        "first_byte_s": None,
        "replica": "engine-0",
        "intended": None,
    }
    return usual | fields


async def log(database: AsyncEngine, rows: Iterable[dict[str, Any]]) -> None:
    """Write requests."""
    async with database.begin() as connection:
        await connection.execute(_TABLES[RequestRow].insert(), list(rows))


async def observe(
    database: AsyncEngine,
    session: str,
    value: float,
    version: int = 2,
    against: str = "level",
    at: datetime = NOW + timedelta(hours=1),
    **fields: Any,
) -> None:
    """Write an observation."""
    usual = {"adapter": "support", "scorer": "feedback", "version": version, "against": against, "created_at": at}
    async with database.begin() as connection:
        values = usual | {"session": session, "value": value} | fields
        await connection.execute(_TABLES[ObservationRow].insert().values(**values))


async def scored(database: AsyncEngine, number: int, version: int, value: float, **fields: Any) -> None:
    """A request of a session of its own, and its score."""
    row = request(number, version, **fields)
    await log(database, [row])
    await observe(database, row["session"], value, version, at=row["started_at"] + timedelta(minutes=1))


async def ask_for(database: AsyncEngine, number: int, **fields: Any) -> None:
    """A tuning job that the loop asked for."""
    usual = {
        "id": f"job-{number}",
        "key_id": "key-1",
        "adapter": "support",
        "base": "tiny",
        "model": "support@2",
        "order": {},
        "state": "succeeded",
        "stage": "done",
        "wanted": "run",
        "asked": "",
        "attempt": 0,
        "created_by": "ostler",
        "idempotency_key": f"loop-support-{number}",
        "created_at": NOW,
    }
    async with database.begin() as connection:
        await connection.execute(insert(_TABLES[TuningJobRow]).values(usual | fields))


async def revise(database: AsyncEngine, number: int, stable: int, **fields: Any) -> None:
    """Write a revision of `support`; the first brings the adapter, too."""
    adapters, revisions = _TABLES[AdapterRow], _TABLES[RevisionRow]
    async with database.begin() as connection:
        if await connection.scalar(select(adapters.c.id)) is None:
            await connection.execute(insert(adapters).values(name="support", base="tiny", created_at=NOW))
        usual = {"number": number, "stable": stable, "action": "change", "fallback": [], "actor": "eve", "reason": ""}
        values = usual | {"adapter_id": await connection.scalar(select(adapters.c.id)), "created_at": NOW} | fields
        await connection.execute(insert(revisions).values(is_holdback=values.pop("is_holdback", False), **values))
