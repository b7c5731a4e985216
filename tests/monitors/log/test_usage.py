"""Usage by the hour: it counts every request exactly once, also those whose row was dropped or never meant to be."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.log.recorder import Recorder
from monitors.log.usage_report import usage
from monitors.metrics import Metrics
from registry.database import connect, migrate
from tests.conftest import until
from tests.monitors.conftest import RecorderMaker, count, running, sums, written
from tests.monitors.log.test_exactly_once import breaking_commits
from tests.monitors.records import NOVEMBER, record

NOON = datetime(2026, 11, 3, 12, tzinfo=UTC)


async def totals(engine: AsyncEngine) -> Any:
    """All of usage in one row."""
    (row,) = await usage(engine, by=(), per="all")
    return row


async def marks(engine: AsyncEngine) -> int:
    """How many rows there are by which batches without a row are found."""
    async with engine.connect() as connection:
        return int((await connection.execute(text("SELECT count(*) FROM monitor_windows"))).scalar_one())


async def test_usage_adds_up_by_hour_key_adapter_version_and_variant(
    new_recorder: RecorderMaker, database: AsyncEngine
) -> None:
    """Within a batch and over several; errors, tokens, time and cost with them."""
    recorder = new_recorder(batch_rows=3)
    for number in range(7):
        recorder(record(status=500 if number == 0 else 200, error="broken" if number == 1 else None, pool="tiny"))
    recorder(record(started_at=NOVEMBER + 3600, pool="tiny"))
    recorder(record("shadow", key_id=None, variant="shadow", version=None, cost=None, prompt_tokens=None))
    assert await recorder.drain(5) == 0
    rows = await usage(database, by=("key_id", "pool", "adapter", "version", "variant"), per="hour")
    assert [tuple(row) for row in rows] == [
        (NOON, "", "", "support", 0, "shadow", 1, 0, 0, 5, 0.5, 0.0),
        (NOON, "key-1", "tiny", "support", 2, "stable", 7, 2, 70, 35, 3.5, 3.5),
        (NOON + timedelta(hours=1), "key-1", "tiny", "support", 2, "stable", 1, 0, 10, 5, 0.5, 0.5),
    ]


async def test_dropped_requests_count_in_usage_and_spending(new_recorder: RecorderMaker, database: AsyncEngine) -> None:
    """Their rows are lost, their sums are not."""
    recorder = new_recorder(size=10, batch_rows=4)
    for number in range(25):
        recorder(record(f"{number:02}"))
    assert await recorder.drain(5) == 0
    assert len(await written(database)) == 10
    assert (await totals(database)).requests == 25
    assert [row[3] for row in await sums(database)] == [25]


async def test_strangers_count_in_usage_alone(new_recorder: RecorderMaker, database: AsyncEngine) -> None:
    """Without rows of their own, so that nobody can fill the disk: one sum an hour, and one mark to find it by."""
    recorder = new_recorder()
    for _ in range(3):
        for _ in range(10):
            recorder(record(key_id=None, adapter=None, version=None, variant=None, status=401, error="no", cost=None))
        assert await recorder.drain(5) == 0
    assert await written(database) == []
    assert await sums(database) == []
    row = await totals(database)
    assert (row.requests, row.errors) == (30, 30)
    assert await marks(database) == 1


@pytest.mark.parametrize("faults", [["after"], ["before", "after"], ["after", "before", "after", "after"]])
async def test_sums_without_a_row_are_written_once_however_often_the_commit_breaks(
    new_recorder: RecorderMaker, database: AsyncEngine, faults: Sequence[str]
) -> None:
    """Alone, and beside rows."""
    recorder = new_recorder(size=5, batch_rows=5)
    with breaking_commits(database, [*faults]):
        recorder(record(key_id=None, variant=None, status=401))
        assert await recorder.drain(20) == 0
    with breaking_commits(database, [*faults]):
        for _ in range(8):
            recorder(record())
        assert await recorder.drain(20) == 0
    assert (await totals(database)).requests == 9
    assert len(await written(database)) == 5


async def test_while_the_recorder_runs_sums_go_along_and_wait_for_nothing(
    new_recorder: RecorderMaker, database: AsyncEngine
) -> None:
    """Also when no row comes to carry them."""
    recorder = new_recorder()
    async with running(recorder):
        recorder(record(key_id=None, variant=None, status=401))
        await until(lambda: marks(database))
    assert (await totals(database)).requests == 1


async def test_usage_outlives_a_database_that_is_away(database_url: str) -> None:
    """What was dropped meanwhile is in the sums once it is back."""
    engine = connect(database_url)
    recorder = Recorder(engine, Metrics(), size=20, batch_rows=10, batch_s=0.01)
    async with running(recorder):
        for _ in range(100):
            recorder(record())
        await until(lambda: recorder._pause_s > 0)
        await migrate(engine)
        await until(lambda: count(recorder.metrics.registry, "ostler_records_written_total") == 20)
    await recorder.drain(5)
    assert (await totals(engine)).requests == 100
    assert [row[3] for row in await sums(engine)] == [100]
    await engine.dispose()


async def test_the_sums_that_wait_are_bounded(
    new_recorder: RecorderMaker, database: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past the bound a request of a new hour is lost and counted; those of known hours still count."""
    monkeypatch.setattr("monitors.log.recorder.MOST_SUMS", 3)
    recorder = new_recorder(size=1)
    recorder._owed = type(recorder._owed)(most=3)
    recorder(record())
    for number in range(5):
        recorder(record(started_at=NOVEMBER + 3600 * number))
    recorder(record())
    assert count(recorder.metrics.registry, "ostler_records_dropped_total", reason="usage_full") == 2
    assert await recorder.drain(5) == 0
    assert (await totals(database)).requests == 5


async def test_many_recorders_at_once_lose_nothing_and_never_cross(
    new_recorder: RecorderMaker, database: AsyncEngine
) -> None:
    """Each has the same sums in another order; a deadlock would show as a broken batch."""
    recorders = [new_recorder(batch_rows=20) for _ in range(4)]
    for turn, recorder in enumerate(recorders):
        for number in range(200):
            recorder(record(key_id=f"key-{(number * 7 + turn * 3) % 10}", adapter=f"a{(number * 3 + turn) % 10}"))
    assert await asyncio.gather(*(recorder.drain(60) for recorder in recorders)) == [0, 0, 0, 0]
    assert all(recorder._pause_s == 0 for recorder in recorders)
    assert (await totals(database)).requests == 800


async def test_usage_is_read_by_any_period_and_parts_page_by_page(
    new_recorder: RecorderMaker, database: AsyncEngine
) -> None:
    """Days and months are those of UTC, and pages go on where the last one ended."""
    recorder = new_recorder()
    start = datetime(2026, 10, 31, 22, tzinfo=UTC)
    for hour in range(4):
        for key in ("key-1", "key-2"):
            recorder(record(key_id=key, started_at=(start + timedelta(hours=hour)).timestamp()))
    await recorder.drain(5)
    months = await usage(database, by=(), per="month")
    assert [(row.period, row.requests) for row in months] == [
        (datetime(2026, 10, 1, tzinfo=UTC), 4),
        (datetime(2026, 11, 1, tzinfo=UTC), 4),
    ]
    days = await usage(database, by=("key_id",), per="day")
    assert [(row.period.day, row.key_id, row.requests) for row in days] == [
        (31, "key-1", 2),
        (31, "key-2", 2),
        (1, "key-1", 2),
        (1, "key-2", 2),
    ]
    after: Sequence[Any] = ()
    paged: list[Any] = []
    while rows := await usage(database, by=("key_id",), per="day", after=after, limit=1):
        paged += rows
        after = (rows[-1].period, rows[-1].key_id)
    assert paged == days
    (row,) = await usage(
        database, by=("key_id",), per="all", key_id="key-2", since=start + timedelta(hours=1, minutes=30)
    )
    assert (row.key_id, row.requests) == ("key-2", 3)
    assert await usage(database, by=(), per="all", until=start) == []
