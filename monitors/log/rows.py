"""Rows as the database's driver itself takes them: tuples in the order of the table's columns.

To turn a row's dict into what the driver takes, SQLAlchemy needs several times as long as SQLite needs to write it. So
it makes the statements, once, and no row passes through it.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import chain
from typing import Any, Literal, TypeAlias

from sqlalchemy import Dialect, Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

Row: TypeAlias = tuple[Any, ...]
OnConflict: TypeAlias = Literal["fail", "add"]
"""What becomes of a row whose primary key is there: the transaction fails, or its other columns are added to it."""

_ROWS_A_STATEMENT = 100
"""Of up to 300 columns, as SQLite takes up to 32,766 values."""
_VALUES = re.compile(r"(?<=VALUES )(\([^()]*\))")
_EPOCH = datetime.fromtimestamp(0, UTC).replace(tzinfo=None)


async def insert(connection: AsyncConnection, table: Table, rows: Sequence[Row], *, on_conflict: OnConflict) -> None:
    """Insert rows within the connection's transaction; columns that are moments as `moment` gives them."""
    statement, rest = _statement(table, connection.dialect, on_conflict), 0
    if connection.dialect.name == "sqlite":
        # For each statement SQLite's thread lets go of Python and fetches it back, for which others are stopped.
        many, rest = _of_many_rows(statement), len(rows) - len(rows) % _ROWS_A_STATEMENT
        for start in range(0, rest, _ROWS_A_STATEMENT):
            values = tuple(chain.from_iterable(rows[start : start + _ROWS_A_STATEMENT]))
            await connection.exec_driver_sql(many, values)
    if rest < len(rows):
        await connection.exec_driver_sql(statement, rows[rest:])


def moment(seconds: float, dialect: Dialect) -> datetime | str:
    """A moment in seconds since the epoch as the driver takes it, the same that `UtcDateTime` stores."""
    if dialect.name == "postgresql":
        return datetime.fromtimestamp(seconds, UTC)
    # Without a zone; to spell one and cut it off again takes twice as long.
    return (_EPOCH + timedelta(0, seconds)).isoformat(" ", "microseconds")


@lru_cache(maxsize=16)
def _of_many_rows(statement: str) -> str:
    """A statement that inserts one row, for many."""
    head, values, rest = _VALUES.split(statement, 1)
    return head + ", ".join([values] * _ROWS_A_STATEMENT) + rest


@lru_cache(maxsize=16)
def _statement(table: Table, dialect: Dialect, on_conflict: OnConflict) -> str:
    statement: Any = (postgresql.insert if dialect.name == "postgresql" else sqlite.insert)(table)
    if on_conflict == "add":
        keys = {column.name for column in table.primary_key}
        added = {column.name: column + statement.excluded[column.name] for column in table.c if column.name not in keys}
        statement = statement.on_conflict_do_update(index_elements=sorted(keys), set_=added)
    return str(statement.compile(dialect=dialect))
