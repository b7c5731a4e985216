"""What an error of the database tells of it."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine

from registry.outages import is_outage, problem_of

MIGRATE = "the database's schema is older than this program: run `ostler migrate`"


@pytest.mark.parametrize(
    "statement",
    ["SELECT newest FROM adapters", "SELECT * FROM newest", "INSERT INTO adapters (newest) VALUES (1)"],
)
async def test_a_schema_that_is_too_old_is_told(database: AsyncEngine, statement: str) -> None:
    """By its own words rather than as a database that is away, on a database of each kind; it may be migrated later."""
    with pytest.raises(DBAPIError) as failed:
        async with database.connect() as connection:
            await connection.execute(text(statement))
    assert is_outage(failed.value)
    assert problem_of(failed.value) == MIGRATE


def test_a_database_that_is_away_is_told() -> None:
    """As one that does not answer."""
    for error in (OperationalError("SELECT", {}, OSError("refused")), ConnectionError(), TimeoutError()):
        assert is_outage(error)
        assert problem_of(error) == "the database does not answer"


def test_what_was_asked_wrongly_is_no_outage() -> None:
    """Another try would fail as well."""
    assert not is_outage(IntegrityError("INSERT", {}, Exception("UNIQUE constraint failed")))
    assert not is_outage(ValueError())
