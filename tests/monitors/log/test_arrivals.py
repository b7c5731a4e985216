"""The request log read in the order in which it is written."""

from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.log.arrivals import Position, arrived, newest, position_at
from tests.monitors.judging.rows import NOW
from tests.monitors.loop.traffic import RECORDER, log, request, row_id

OTHER = "ffffffffffffffff"


async def read(database: AsyncEngine, position: Position, limit: int = 100) -> tuple[list[str], Position]:
    """The ids of what is behind the position, of versions 2 and 3."""
    async with database.connect() as connection:
        rows, after = await arrived(connection, position, await newest(connection), "support", (2, 3), limit=limit)
        return [row.id for row in rows], after


async def test_each_row_is_read_once(database: AsyncEngine) -> None:
    """However many recorders write, in whatever pieces it is read, and though rows come behind those of others."""
    await log(database, [request(n, 2 + n % 2, name) for name in (OTHER, RECORDER) for n in range(5)])
    position: Position = {}
    found: list[str] = []
    for _ in range(9):
        ids, position = await read(database, position, limit=2)
        found += ids
    assert sorted(found) == sorted(row_id(n, name) for name in (RECORDER, OTHER) for n in range(5))
    late = "0123456789abcdef"
    await log(database, [request(5), request(0, recorder=late)])
    assert sorted((await read(database, position))[0]) == [row_id(0, late), row_id(5)]


async def test_other_requests_are_passed_over(database: AsyncEngine) -> None:
    """And not looked at again."""
    await log(database, [request(1, adapter="other"), request(2, version=7), request(3, variant="shadow")])
    ids, position = await read(database, {})
    assert ids == [row_id(3)]
    assert position == {RECORDER: row_id(3)}
    await log(database, [request(4, adapter="other")])
    assert await read(database, position) == ([], {RECORDER: row_id(4)})


async def test_reading_begins_at_a_moment(database: AsyncEngine) -> None:
    """What came before, of the same versions or of others, is not read again, but for a few rows."""
    moment = NOW + timedelta(seconds=32)
    await log(database, [request(n, adapter="support" if n % 2 else "other") for n in range(40)])
    await log(database, [request(n, recorder=OTHER, adapter="other") for n in range(3)])
    async with database.connect() as connection:
        position = await position_at(connection, "support", (2, 3), moment)
    assert position[OTHER] == row_id(2, OTHER)
    assert (await read(database, position))[0] == [row_id(n) for n in (33, 35, 37, 39)]


async def test_an_empty_log_has_no_recorders(database: AsyncEngine) -> None:
    """And nothing to read."""
    assert await read(database, {}) == ([], {})
