"""The recorder's tables and the migration that makes them."""

import re
from typing import Any

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlmodel import SQLModel

from monitors.log.usage import Used
from monitors.record import RequestRecord
from monitors.tables import RequestRow, UsageRow


async def test_the_migration_makes_the_tables_that_the_code_has(database: AsyncEngine) -> None:
    """Alembic would change nothing about them."""

    def differences(connection: Connection) -> list[Any]:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        changes: list[Any] = compare_metadata(context, SQLModel.metadata)
        return [change for change in changes if re.search("request_log|spending", repr(change))]

    async with database.connect() as connection:
        assert await connection.run_sync(differences) == []


def test_the_log_keeps_every_field_of_a_record() -> None:
    """In the same order, as rows are made from records; the text, which comes last, has a table of its own."""
    assert [*RequestRow.model_fields] == ["id", *RequestRecord.__struct_fields__[:-1]]
    assert RequestRecord.__struct_fields__[-1] == "text"


def test_usage_keeps_every_sum() -> None:
    """Behind its key, in the same order, as rows are made from sums."""
    assert [*UsageRow.model_fields][-len(Used.__struct_fields__) :] == [*Used.__struct_fields__]
