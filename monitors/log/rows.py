"""Rows as the database's driver itself takes them: tuples in the order of the table's columns.

To turn a row's dict into what the driver takes, SQLAlchemy needs several times as long as SQLite needs to write it. So
it makes the statements, once, and no row passes through it.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Literal, TypeAlias

from sqlalchemy import Dialect, Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

Row: TypeAlias = tuple[Any, ...]
OnConflict: TypeAlias = Literal["fail", "add"]
"""What becomes of a row whose primary key is there: the transaction fails, or its other columns are added to it."""

_EPOCH = datetime.fromtimestamp(0, UTC).replace(tzinfo=None)


async def insert(connection: AsyncConnection, table: Table, rows: Sequence[Row], *, on_conflict: OnConflict) -> None:
    """Insert rows within the connection's transaction; columns that are moments as `moment` gives them."""
    if rows:
        await connection.exec_driver_sql(_statement(table, connection.dialect, on_conflict), rows)


def moment(seconds: float, dialect: Dialect) -> datetime | str:
    """A moment in seconds since the epoch as the driver takes it, the same that `UtcDateTime` stores."""
    if dialect.name == "postgresql":
        return datetime.fromtimestamp(seconds, UTC)
    # Without a zone; to spell one and cut it off again takes twice as long.
    return (_EPOCH + timedelta(0, seconds)).isoformat(" ", "microseconds")


@lru_cache(maxsize=16)
def _statement(table: Table, dialect: Dialect, on_conflict: OnConflict) -> str:
    statement: Any = (postgresql.insert if dialect.name == "postgresql" else sqlite.insert)(table)
    if on_conflict == "add":
        keys = {column.name for column in table.primary_key}
        added = {column.name: column + statement.excluded[column.name] for column in table.c if column.name not in keys}
        statement = statement.on_conflict_do_update(index_elements=sorted(keys), set_=added)
    return str(statement.compile(dialect=dialect))
