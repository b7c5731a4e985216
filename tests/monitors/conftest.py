"""What the recorder's tests share: recorders, and what they have written."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.log.recorder import Recorder
from monitors.metrics import Metrics

RecorderMaker = Callable[..., Recorder]


@pytest.fixture
def new_recorder(database: AsyncEngine) -> RecorderMaker:
    """Makes recorders before the database, quick enough for tests."""

    def make(**settings: object) -> Recorder:
        return Recorder(database, Metrics(), **{"size": 1000, "batch_s": 0.01, **settings})  # type: ignore[arg-type]

    return make


@contextlib.asynccontextmanager
async def running(recorder: Recorder) -> AsyncIterator[None]:
    """Have the recorder write for as long as the block lasts."""
    task = asyncio.create_task(recorder.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def written(engine: AsyncEngine) -> list[str]:
    """The request ids in the log, in the order of their rows' ids."""
    async with engine.connect() as connection:
        return list((await connection.execute(text("SELECT request_id FROM request_log ORDER BY id"))).scalars())


async def sums(engine: AsyncEngine) -> list[tuple[object, ...]]:
    """The table of spending."""
    async with engine.connect() as connection:
        return [tuple(row) for row in await connection.execute(text("SELECT * FROM spending ORDER BY 1, 2"))]


def count(registry: CollectorRegistry, name: str, **labels: str) -> float:
    """A metric's value; 0 if there is none yet."""
    return registry.get_sample_value(name, labels) or 0.0
