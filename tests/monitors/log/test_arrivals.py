"""The request log read in the order in which it is written."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.log.arrivals import Position, arrived, newest, position_at
from tests.monitors.judging.rows import NOW
from tests.monitors.loop.traffic import RECORDER, log, request, row_id

OTHER = "ffffffffffffffff"


async def read(database: AsyncEngine, position: Position, limit: int = 100) -> tuple[list[str], Position]:
    """The ids of what is behind the position, of the new version 3 and the old one 2."""
    async with database.connect() as connection:
        found = await arrived(connection, position, await newest(connection), "support", 3, 2, limit=limit)
        return [row.id for row in found.rows], found.position


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


async def test_what_answered_in_a_versions_place_is_read(database: AsyncEngine) -> None:
    """Also the base model, and from the moment on."""
    instead: dict[str, Any] = {"variant": "fallback", "version": None}
    rows = [request(n) | instead | {"intended": intended} for n, intended in enumerate((2, 3, 4, None))]
    await log(database, rows)
    async with database.connect() as connection:
        position = await position_at(connection, "support", (2, 3), NOW)
    assert (await read(database, position))[0] == [row_id(0), row_id(1)]


async def test_all_of_the_new_version_is_read_and_of_the_old_one_some_of_the_whole_time(
    database: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By their ids alone, so that nothing depends on how they went."""
    monkeypatch.setattr("monitors.log.arrivals._AT_LEAST", 16)
    await log(database, [request(n, 3 if n % 512 == 7 else 2) for n in range(1024)])
    ids, position = await read(database, {}, limit=4)
    assert position == {RECORDER: row_id(1023)}
    old = [each for each in ids if each not in (row_id(7), row_id(519))]
    assert len(old) == len(ids) - 2 == 16
    quarters = [sum(row_id(n) <= each < row_id(n + 256) for each in old) for n in range(0, 1024, 256)]
    assert quarters == [4, 4, 4, 4]
