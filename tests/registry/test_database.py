"""Migrations and the database itself, on SQLite and on PostgreSQL."""

import asyncio
import contextlib
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlmodel import SQLModel

import monitors.tables  # noqa: F401 - the recorder's tables come by the same migrations
import registry.database
from registry.database import SCHEMA_VERSION, SchemaMismatch, check_schema, connect, migrate, migrate_to, writing
from tests.registry.written import statements


def test_the_schema_version_is_the_newest_migration() -> None:
    """The gateway checks a constant; this holds it to the migrations."""
    config = Config()
    config.set_main_option("script_location", str(Path(registry.database.__file__).parent / "migrations"))
    assert ScriptDirectory.from_config(config).get_current_head() == SCHEMA_VERSION


async def test_migrations_make_the_tables_that_the_code_has(database: AsyncEngine) -> None:
    """Nothing is left that Alembic would want to change."""

    def differences(connection: Connection) -> list[Any]:
        found: list[Any] = compare_metadata(MigrationContext.configure(connection), SQLModel.metadata)
        return found

    async with database.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_migrating_again_changes_nothing(database: AsyncEngine) -> None:
    """So every start may do it."""
    async with database.connect() as connection:
        before = (await connection.execute(text("SELECT value FROM change_counter"))).all()
    await migrate(database)
    await check_schema(database)
    async with database.connect() as connection:
        assert (await connection.execute(text("SELECT value FROM change_counter"))).all() == before == [(0,)]


@pytest.fixture
async def dangling(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    """SQLite with rows that refer to none, as a program that does not ask for foreign keys may leave it."""
    engine = connect(f"sqlite:///{tmp_path / 'o.db'}")
    await migrate(engine)
    with contextlib.closing(sqlite3.connect(tmp_path / "o.db")) as careless, careless:
        for statement in [*statements(SCHEMA_VERSION), "DELETE FROM adapters"]:
            careless.execute(statement)
    yield engine
    await engine.dispose()


async def test_rows_that_referred_to_none_before_stop_no_migration(dangling: AsyncEngine) -> None:
    """Neither where there is nothing to migrate, nor on a way that leaves them as they are."""
    await migrate(dangling)
    await migrate_to(dangling, "0005", may_lose=True)
    await migrate(dangling)
    await check_schema(dangling)
    async with dangling.connect() as connection:
        assert (await connection.execute(text("PRAGMA foreign_key_check"))).all()


async def test_a_migration_that_would_leave_such_rows_changes_nothing(
    dangling: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names their table."""
    found = [Counter[str](), Counter({"revisions": 1})]
    monkeypatch.setattr("registry.migrations.moving._dangling", lambda _: found.pop(0))
    with pytest.raises(SchemaMismatch, match="leave rows of revisions that refer to none; nothing was changed"):
        await migrate_to(dangling, "0005", may_lose=True)
    await check_schema(dangling)


async def test_a_database_without_schema_is_told_apart(database_url: str) -> None:
    """And the message says what to run."""
    engine = connect(database_url)
    with pytest.raises(SchemaMismatch, match="ostler migrate"):
        await check_schema(engine)
    await engine.dispose()


async def test_a_database_of_another_version_is_refused(database: AsyncEngine) -> None:
    """A newer one, too: an old gateway must not write into it."""
    async with database.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SchemaMismatch, match="9999"):
        await check_schema(database)


@pytest.mark.parametrize("url", ["mysql://x/y", "not a url", "", "oracle://u:p@h/d"])
def test_other_databases_are_refused_in_words(url: str) -> None:
    """Without repeating a password that the URL may hold."""
    with pytest.raises(ValueError, match="database URL") as refused:
        connect(url)
    assert "u:p" not in str(refused.value)


async def test_sqlite_writes_ahead_and_durably(tmp_path: Path) -> None:
    """WAL, so that readers never wait for a writer; FULL, so that an answered change survives a loss of power."""
    engine = connect(f"sqlite:///{tmp_path / 'o.db'}")
    async with engine.connect() as connection:
        assert (await connection.execute(text("PRAGMA journal_mode"))).scalar() == "wal"
        assert (await connection.execute(text("PRAGMA synchronous"))).scalar() == 2
        assert (await connection.execute(text("PRAGMA foreign_keys"))).scalar() == 1
    await engine.dispose()


async def test_transactions_that_read_before_they_write_do_not_fail_each_other(database: AsyncEngine) -> None:
    """On SQLite each waits for its turn before it reads, instead of failing where it writes."""

    async def raise_it() -> None:
        async with writing(database) as connection:
            value = (await connection.execute(text("SELECT value FROM change_counter"))).scalar_one()
            await asyncio.sleep(0.01)
            await connection.execute(text("UPDATE change_counter SET value = value + 1"))
            assert value >= 0

    await asyncio.gather(*(raise_it() for _ in range(8)))
    async with database.connect() as connection:
        assert (await connection.execute(text("SELECT value FROM change_counter"))).scalar_one() == 8
