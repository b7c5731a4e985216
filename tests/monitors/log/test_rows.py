"""Rows that go straight to the driver: the same bytes in the database as if SQLAlchemy had written them."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import asdict
from sqlalchemy import Table, make_url, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from monitors.log.recorder import row
from monitors.log.rows import insert, moment
from monitors.log.usage import Sums
from monitors.record import RequestRecord
from monitors.tables import RequestRow, UsageRow
from tests.monitors.records import record

REQUESTS: Table = RequestRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model
USAGE: Table = UsageRow.__table__  # type: ignore[attr-defined]
NOTHING: dict[str, Any] = dict.fromkeys(("key_id", "adapter", "version", "cost", "prompt_tokens", "first_byte_s"))
RECORDS = [
    record("whole", pool="tiny", session="a" * 32, end_user="b" * 32, completion_id="c", overhead_s=0.0003, intended=7),
    record("bare", **NOTHING, status=404, error="model_not_found", streamed=False),
    record("whole second", started_at=1764000000.0, duration_s=1.0, cost=3.0),
    record("rounded up", started_at=1764000000.9999997, session="Zoë ✓ 'quoted'"),
]


@pytest.mark.parametrize("driver", ["sqlite+aiosqlite", "postgresql+asyncpg"])
@given(seconds=st.floats(0, 4e9))
@example(seconds=1764000000.0)
@example(seconds=1764000000.9999997)
@example(seconds=0.0000005)
def test_a_moment_is_what_its_column_would_store(driver: str, seconds: float) -> None:
    """To the microsecond, and rounded alike."""
    dialect = make_url(f"{driver}://").get_dialect()()
    convert = REQUESTS.c.started_at.type.dialect_impl(dialect).bind_processor(dialect)
    expected = datetime.fromtimestamp(seconds, UTC)
    assert moment(seconds, dialect) == (convert(expected) if convert else expected)


async def stored(connection: AsyncConnection, table: str, columns: list[str]) -> list[tuple[Any, ...]]:
    """The rows as the database itself spells them, with their types."""
    spelt = "quote({0}) || typeof({0})" if connection.dialect.name == "sqlite" else "CAST({0} AS text)"
    query = f"SELECT {', '.join(spelt.format(name) for name in columns)} FROM {table} ORDER BY {', '.join(columns)}"
    return [tuple(found) for found in await connection.execute(text(query))]


@pytest.mark.parametrize("told", RECORDS, ids=[each.request_id for each in RECORDS])
async def test_a_request_is_stored_as_sqlalchemy_would_store_it(database: AsyncEngine, told: RequestRecord) -> None:
    """Every column, with its type."""
    usual = {**asdict(told), "id": "1", "started_at": datetime.fromtimestamp(told.started_at, UTC)}
    del usual["text"]
    async with database.begin() as connection:
        await connection.execute(REQUESTS.insert(), [usual])
        await insert(connection, REQUESTS, [row("2", told, connection.dialect)], on_conflict="fail")
        one, other = await stored(
            connection, "request_log", [column.name for column in REQUESTS.c if column.name != "id"]
        )
    assert one == other


@pytest.mark.parametrize("count", [0, 1, 99, 100, 101, 250])
async def test_however_many_rows_there_are_each_is_stored(database: AsyncEngine, count: int) -> None:
    """As if each had been written alone, in both ways of meeting one that is there."""
    async with database.begin() as connection:
        told = [record(f"req-{number}", duration_s=float(number)) for number in range(count)]
        rows = [row(f"{number:04}", each, connection.dialect) for number, each in enumerate(told)]
        await insert(connection, REQUESTS, rows, on_conflict="fail")
        found = await stored(connection, "request_log", ["id", "request_id", "duration_s"])
        assert len(found) == count
        await connection.execute(REQUESTS.delete())
        for each in rows:
            await insert(connection, REQUESTS, [each], on_conflict="fail")
        assert await stored(connection, "request_log", ["id", "request_id", "duration_s"]) == found
        hours = [(hour, "k", "p", "a", 1, "v", 1, 0, 2, 3, 0.5, 0.25) for hour in _hours(count, connection)]
        for _ in range(2):
            await insert(connection, USAGE, hours, on_conflict="add")
        sums = await connection.execute(text("SELECT count(*), sum(requests), sum(cost) FROM usage_hours"))
    assert sums.one() == ((count, 2 * count, count / 2) if count else (0, None, None))


def _hours(count: int, connection: AsyncConnection) -> list[Any]:
    return [moment(3600.0 * number, connection.dialect) for number in range(count)]


async def test_sums_are_stored_as_sqlalchemy_would_store_them(database: AsyncEngine) -> None:
    """Their hour, too; what is added to a row that is there leaves one row."""
    columns = [column.name for column in USAGE.c]
    async with database.begin() as connection:
        for _ in range(2):
            await Sums(RECORDS).write(connection)
        written = await stored(connection, "usage_hours", columns)
        found = [dict(each._mapping) for each in await connection.execute(USAGE.select())]
        await connection.execute(USAGE.delete())
        await connection.execute(USAGE.insert(), found)
        assert await stored(connection, "usage_hours", columns) == written
    assert sum(each["requests"] for each in found) == 2 * len(RECORDS)


async def test_a_row_that_is_there_fails_the_whole_transaction(database: AsyncEngine) -> None:
    """Unless its numbers are to be added."""
    with pytest.raises(IntegrityError):  # noqa: PT012 - the transaction ends with the error
        async with database.begin() as connection:
            rows = [row(each, record(), connection.dialect) for each in ("1", "2", "1")]
            await insert(connection, REQUESTS, rows, on_conflict="fail")
    async with database.connect() as connection:
        assert await stored(connection, "request_log", ["id"]) == []
