"""Errors are logged by kind and place, and never with what somebody said."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.watch.errors import place_of


def test_an_error_is_told_by_its_kind_and_place() -> None:
    """The calls that led to it, the innermost last; its message is left out."""

    def fail() -> None:
        raise ValueError("what somebody said")

    with pytest.raises(ValueError, match="said") as raised:
        fail()
    told = place_of(raised.value)
    assert told.startswith("ValueError in test_an_error_is_told_by_its_kind_and_place (test_errors.py:")
    assert " > fail (test_errors.py:" in told
    assert "said" not in told


async def test_an_error_of_the_database_does_not_quote_the_values_of_its_statement(database: AsyncEngine) -> None:
    """They hold prompts and answers."""
    async with database.connect() as connection:
        with pytest.raises(SQLAlchemyError) as raised:
            await connection.execute(text("SELECT * FROM nowhere WHERE a = :a"), {"a": "what somebody said"})
    assert "nowhere" in str(raised.value)
    assert "said" not in str(raised.value)
