"""Captured text comes into the database once, with its request; trouble with it never costs the request its row."""

from typing import Any

import pytest
from sqlalchemy import event, select
from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.log.usage_report import usage
from monitors.record import Text
from monitors.tables import CaptureRow
from tests.monitors.conftest import RecorderMaker, count, written
from tests.monitors.log.test_exactly_once import breaking_commits
from tests.monitors.privacy.test_redaction import captured
from tests.monitors.records import record


async def rows(engine: AsyncEngine) -> list[Any]:
    """All that was captured, in the order of the requests."""
    table = CaptureRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model
    async with engine.connect() as connection:
        return list((await connection.execute(select(table).order_by(table.c.id))).all())


async def test_text_is_written_once_however_often_the_commit_breaks(
    new_recorder: RecorderMaker, database: AsyncEngine
) -> None:
    """Beside its request, under the same id."""
    recorder = new_recorder(batch_rows=4)
    for number in range(6):
        recorder(record(str(number), session="s", text=captured(f"hello {number}") if number % 2 else None))
    with breaking_commits(database, ["before", "after", "after"]):
        assert await recorder.drain(20) == 0
    assert await written(database) == [str(number) for number in range(6)]
    found = await rows(database)
    assert [row.request_id for row in found] == ["1", "3", "5"]
    assert found[0].answer == "You said: hello 1"
    assert (found[0].adapter, found[0].version, found[0].variant, found[0].session) == ("support", 2, "stable", "s")
    assert count(recorder.metrics.registry, "ostler_captures_written_total") == 3


async def test_text_that_cannot_be_read_is_counted(new_recorder: RecorderMaker, database: AsyncEngine) -> None:
    """The request is written without it."""
    recorder = new_recorder()
    recorder(record("odd", text=Text(b"\x00", b"")))
    recorder(record("nul", text=captured("a\0b")))
    assert await recorder.drain(5) == 0
    assert await written(database) == ["odd", "nul"]
    assert [row.answer for row in await rows(database)] == ["You said: a\ufffdb"]
    assert count(recorder.metrics.registry, "ostler_captures_dropped_total", reason="unreadable") == 1


async def test_text_that_the_database_refuses_is_left_out(new_recorder: RecorderMaker, database: AsyncEngine) -> None:
    """Of that request alone; its row and the others with their text are written."""
    recorder = new_recorder()
    for number in range(5):
        recorder(record(str(number), text=captured("hello")))
    batch = recorder._next_batch()
    batch.captured = await recorder._capture(batch)
    batch.captured.rows[2]["redactions"] = 1 << 70
    assert await recorder.drain(5) == 0
    assert await written(database) == ["0", "1", "2", "3", "4"]
    assert [row.request_id for row in await rows(database)] == ["0", "1", "3", "4"]
    assert count(recorder.metrics.registry, "ostler_captures_dropped_total", reason="refused") == 1
    assert count(recorder.metrics.registry, "ostler_captures_written_total") == 4


async def test_much_text_is_written_in_pieces(new_recorder: RecorderMaker, database: AsyncEngine) -> None:
    """The driver makes JSON of a piece while nothing else runs; each has a bound, and all of it comes in order."""
    recorder = new_recorder()
    long = captured("a" * 40_000)
    for number in range(20):
        recorder(record(f"{number:02}", text=long if number % 2 else captured("hello")))
    pieces: list[int] = []

    @event.listens_for(database.sync_engine, "before_cursor_execute")
    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith("INSERT INTO captures"):
            pieces.append(len(repr(parameters)))

    assert await recorder.drain(20) == 0
    assert len(pieces) > 2
    assert max(pieces) < 300_000
    assert [row.request_id for row in await rows(database)] == [f"{number:02}" for number in range(20)]


async def test_text_that_waits_is_bounded(new_recorder: RecorderMaker, database: AsyncEngine) -> None:
    """Requests past it are recorded without theirs, until some has been written."""
    one = captured("hello")
    recorder = new_recorder(text_bytes=2 * (len(one.prompt) + len(one.answer)))
    for number in range(4):
        recorder(record(str(number), text=one))
    assert await recorder.drain(5) == 0
    recorder(record("later", text=one))
    assert await recorder.drain(5) == 0
    assert len(await written(database)) == 5
    assert [row.request_id for row in await rows(database)] == ["0", "1", "later"]
    assert count(recorder.metrics.registry, "ostler_captures_dropped_total", reason="buffer_full") == 2


@pytest.mark.parametrize("kind", ["sums", "rows"])
async def test_a_refused_record_takes_neither_sums_nor_others_with_it(
    new_recorder: RecorderMaker, database: AsyncEngine, kind: str
) -> None:
    """Sums that wait beside it are written by themselves."""
    recorder = new_recorder(size=3)
    for number in range(5):
        recorder(record(str(number), **({"version": 1 << 70} if number == 1 and kind == "rows" else {})))
    assert await recorder.drain(5) == 0
    assert await written(database) == (["0", "2"] if kind == "rows" else ["0", "1", "2"])
    (row,) = await usage(database, by=(), per="all")
    assert row.requests == (4 if kind == "rows" else 5)
