"""The recorder: what it writes, when, and what it drops."""

import asyncio
import logging
import ssl
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession

from monitors.log.recorder import Recorder
from monitors.log.usage import month_of, spending
from monitors.log.usage_report import usage
from monitors.metrics import Metrics
from monitors.tables import RequestRow
from registry.database import connect, migrate
from tests.conftest import until
from tests.monitors.conftest import RecorderMaker, count, running, sums, written
from tests.monitors.records import NOVEMBER, record

DECEMBER = datetime(2026, 12, 1, 0, 0, tzinfo=UTC).timestamp()


async def test_a_request_is_written_with_every_field(new_recorder: RecorderMaker, database: AsyncEngine) -> None:
    """As the record says, the moment as an aware datetime."""
    recorder = new_recorder()
    recorder(record())
    assert await recorder.drain(5) == 0
    async with AsyncSession(database) as session:
        row = (await session.exec(select(RequestRow))).one()
    assert row.started_at == datetime.fromtimestamp(NOVEMBER, UTC)
    expected = record()
    same = set(RequestRow.model_fields) - {"id", "started_at"}
    assert {name: getattr(row, name) for name in same} == {name: getattr(expected, name) for name in same}


async def test_what_is_not_known_stays_unknown(new_recorder: RecorderMaker, database: AsyncEngine) -> None:
    """A request without an answer has a row."""
    unknown = ("adapter", "model", "version", "variant", "first_byte_s", "replica", "cost")
    nothing: dict[str, Any] = dict.fromkeys(unknown)
    recorder = new_recorder()
    recorder(record(**nothing, status=404, error="model_not_found", prompt_tokens=None, completion_tokens=None))
    await recorder.drain(5)
    async with AsyncSession(database) as session:
        row = (await session.exec(select(RequestRow))).one()
    assert all(getattr(row, name) is None for name in (*unknown, "prompt_tokens", "completion_tokens"))


async def test_requests_of_strangers_are_not_written(new_recorder: RecorderMaker, database: AsyncEngine) -> None:
    """Nor do they take room from others in the buffer; a shadow has no key and is written, and nobody pays for it."""
    recorder = new_recorder(size=2)
    for _ in range(10):
        recorder(record("stranger", key_id=None, adapter=None, variant=None, status=401, error="invalid_api_key"))
    recorder(record("shadow", key_id=None, variant="shadow"))
    recorder(record("known", adapter=None, variant=None, status=404))
    assert await recorder.drain(5) == 0
    assert await written(database) == ["shadow", "known"]
    assert [row[0] for row in await sums(database)] == ["key-1"]
    assert count(recorder.metrics.registry, "ostler_records_dropped_total", reason="buffer_full") == 0


async def test_spending_adds_up_by_key_and_month(new_recorder: RecorderMaker, database: AsyncEngine) -> None:
    """Within a batch and over several, by the month in which a request began."""
    recorder = new_recorder(batch_rows=3)
    for number in range(7):
        recorder(record(f"req-{number}"))
    recorder(record(key_id="key-2", cost=None, prompt_tokens=None))
    recorder(record(started_at=DECEMBER))
    await recorder.drain(5)
    assert await sums(database) == [
        ("key-1", "2026-11", 3.5, 7, 70, 35),
        ("key-1", "2026-12", 0.5, 1, 10, 5),
        ("key-2", "2026-11", 0.0, 1, 0, 5),
    ]
    assert await spending(database, "2026-11") == {"key-1": 3.5, "key-2": 0.0}
    assert await spending(database, "2026-10") == {}


async def test_several_recorders_add_to_the_same_sums(new_recorder: RecorderMaker, database: AsyncEngine) -> None:
    """As several processes do, at once, without losing a request or waiting for one another for ever."""
    recorders = [new_recorder(batch_rows=5) for _ in range(4)]
    for recorder in recorders:
        for number in range(50):
            recorder(record(key_id=f"key-{number % 3}"))
    assert await asyncio.gather(*(recorder.drain(20) for recorder in recorders)) == [0, 0, 0, 0]
    assert [row[:4] for row in await sums(database)] == [
        ("key-0", "2026-11", 34.0, 68),
        ("key-1", "2026-11", 34.0, 68),
        ("key-2", "2026-11", 32.0, 64),
    ]


async def test_a_full_batch_is_written_at_once(new_recorder: RecorderMaker, database: AsyncEngine) -> None:
    """Without waiting for the time to pass."""
    recorder = new_recorder(batch_rows=5, batch_s=3600)
    async with running(recorder):
        for number in range(5):
            recorder(record(str(number)))
        await until(lambda: recorder.metrics.registry.get_sample_value("ostler_records_written_total") == 5)
    assert await written(database) == ["0", "1", "2", "3", "4"]


async def test_a_few_requests_are_written_after_a_while(new_recorder: RecorderMaker, database: AsyncEngine) -> None:
    """However few they are."""
    recorder = new_recorder()
    async with running(recorder):
        recorder(record("only"))
        await until(lambda: count(recorder.metrics.registry, "ostler_records_written_total") == 1)
    assert await written(database) == ["only"]
    assert count(recorder.metrics.registry, "ostler_records_buffered") == 0


async def test_a_full_buffer_drops_what_comes_and_keeps_what_it_has(
    new_recorder: RecorderMaker, database: AsyncEngine
) -> None:
    """Each drop is counted, and there is room again once something is written."""
    recorder = new_recorder(size=10, batch_rows=4)
    for number in range(15):
        recorder(record(f"{number:02}"))
    assert count(recorder.metrics.registry, "ostler_records_dropped_total", reason="buffer_full") == 5
    await recorder.drain(5)
    recorder(record("later"))
    await recorder.drain(5)
    assert await written(database) == [f"{number:02}" for number in range(10)] + ["later"]
    assert count(recorder.metrics.registry, "ostler_records_written_total") == 11


async def test_a_database_that_is_not_ready_is_waited_for(database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Everything is written in order once it is; the log tells of both, and of no address."""
    caplog.set_level(logging.INFO, "monitors")
    engine = connect(database_url)
    recorder = Recorder(engine, Metrics(), size=100, batch_rows=4, batch_s=0.01)
    async with running(recorder):
        for number in range(10):
            recorder(record(str(number)))
        await until(lambda: caplog.messages)
        assert count(recorder.metrics.registry, "ostler_records_buffered") == 10
        await migrate(engine)
        await until(lambda: count(recorder.metrics.registry, "ostler_records_written_total") == 10)
    assert await written(engine) == [str(number) for number in range(10)]
    assert "does not take request records" in caplog.messages[0]
    assert "takes request records again" in caplog.messages[-1]
    assert len(caplog.messages) == 2
    assert "request_log" not in caplog.text
    await engine.dispose()


async def test_what_cannot_be_written_at_the_end_is_counted(database_url: str) -> None:
    """Draining comes back when its time is over, and says how many were lost."""
    engine = connect(database_url)
    recorder = Recorder(engine, Metrics(), size=100, batch_rows=4)
    for _ in range(10):
        recorder(record())
    assert await recorder.drain(0.3) == 10
    assert count(recorder.metrics.registry, "ostler_records_dropped_total", reason="shutdown") == 10
    assert count(recorder.metrics.registry, "ostler_records_buffered") == 0
    await engine.dispose()


@pytest.mark.parametrize("wrong", [{"prompt_tokens": 1 << 70}, {"version": 1 << 70}], ids=["tokens", "version"])
async def test_a_record_that_no_row_can_hold_is_dropped_alone(
    new_recorder: RecorderMaker, database: AsyncEngine, wrong: dict[str, int]
) -> None:
    """The others of its batch are written, in order, and their spending is right."""
    recorder = new_recorder(batch_rows=8)
    for number in range(11):
        recorder(record(f"{number:02}", **(wrong if number == 5 else {})))
    assert await recorder.drain(5) == 0
    assert await written(database) == [f"{number:02}" for number in range(11) if number != 5]
    assert [row[3] for row in await sums(database)] == [10]
    assert count(recorder.metrics.registry, "ostler_records_dropped_total", reason="refused") == 1


async def test_of_a_record_that_is_refused_the_usage_stays(new_recorder: RecorderMaker, database: AsyncEngine) -> None:
    """As of every request without a row, unless it is what is refused."""
    recorder = new_recorder(batch_rows=4)
    for number in range(6):
        recorder(record(str(number), **({"retries": 1 << 70} if number == 2 else {})))
    recorder(record("strange", key_id=None, variant=None, status=401))
    recorder(record("stranger", key_id=None, variant=None, status=401, prompt_tokens=1 << 70, adapter="other"))
    assert await recorder.drain(5) == 0
    assert await written(database) == [str(number) for number in range(6) if number != 2]
    assert [row[3] for row in await sums(database)] == [6]
    (row,) = await usage(database, by=(), per="all")
    assert row.requests == 7
    dropped = {
        reason: count(recorder.metrics.registry, "ostler_records_dropped_total", reason=reason)
        for reason in ("refused", "usage_refused")
    }
    assert dropped == {"refused": 1, "usage_refused": 1}


async def test_a_character_that_the_database_refuses_stops_nothing(
    new_recorder: RecorderMaker, database: AsyncEngine
) -> None:
    """PostgreSQL takes no NUL in text; the records around it are written."""
    recorder = new_recorder()
    for text_ in ("before", "nul\0", "after"):
        recorder(record(text_))
    assert await recorder.drain(5) == 0
    assert [name for name in await written(database) if "\0" not in name] == ["before", "after"]


async def test_a_certificate_that_ran_out_is_no_fault_of_the_records(database_url: str) -> None:
    """Its error is a ValueError, too, but nothing is dropped for it: the next connection may be better."""
    engine = connect(database_url)
    await migrate(engine)
    await engine.dispose()
    faults = [ssl.SSLCertVerificationError("certificate has expired")] * 2

    @event.listens_for(engine.sync_engine, "do_connect")
    def refuse(*_arguments: object) -> None:
        if faults:
            raise faults.pop()

    recorder = Recorder(engine, Metrics(), size=100)
    recorder(record("kept"))
    assert await recorder.drain(5) == 0
    assert faults == []
    assert await written(engine) == ["kept"]
    await engine.dispose()


async def test_other_work_goes_on_while_many_records_are_written(
    new_recorder: RecorderMaker, database: AsyncEngine
) -> None:
    """Between two batches at the latest, another task has its turn."""
    recorder = new_recorder(size=1000, batch_rows=100)
    for _ in range(1000):
        recorder(record())
    loop = asyncio.get_running_loop()
    turns = []

    @event.listens_for(database.sync_engine, "commit")
    def note(_connection: object) -> None:
        """Ask for a turn at each commit; those asked for before must have come."""
        turns.append(0)
        assert turns[:-1] == [1] * (len(turns) - 1)
        loop.call_soon(turns.__setitem__, len(turns) - 1, 1)

    assert await recorder.drain(60) == 0
    assert turns == [1] * 10
    async with database.connect() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM request_log"))).scalar() == 1000


@pytest.mark.parametrize("zone", ["UTC", "America/Los_Angeles", "Asia/Tokyo"])
def test_a_month_is_that_of_utc(monkeypatch: pytest.MonkeyPatch, zone: str) -> None:
    """Whatever the machine's own time zone."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert [month_of(DECEMBER - 1), month_of(DECEMBER)] == ["2026-11", "2026-12"]
    finally:
        monkeypatch.undo()
        time.tzset()
