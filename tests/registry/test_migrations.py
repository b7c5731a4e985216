"""A database of each earlier schema, with data that its own program wrote, goes forward and back and loses nothing."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, MetaData, Table, select, text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlmodel import SQLModel

import monitors.tables  # noqa: F401 - its tables come by the same migrations
import registry.database
from registry.artifacts import ArtifactStore
from registry.catalog import Scope
from registry.database import SCHEMA_VERSION, SchemaMismatch, WouldLose, check_schema, connect, migrate, migrate_to
from registry.registry import Registry
from tests.registry.lora_samples import BASE
from tests.registry.written import statements

Rows = dict[str, list[dict[str, Any]]]
SCHEMAS = sorted(
    file.name[:4] for file in (Path(registry.database.__file__).parent / "migrations" / "versions").glob("[0-9]*.py")
)
FIRST_ADDITIVE = "0003"
"""From this one on a migration only adds, so that processes of the version before run on beside it."""


@pytest.fixture
async def empty(database_url: str) -> AsyncIterator[AsyncEngine]:
    """A database of each kind without a schema."""
    engine = connect(database_url)
    yield engine
    await engine.dispose()


async def write(engine: AsyncEngine, version: str) -> None:
    """Put in what the program of that schema wrote."""
    async with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            await connection.exec_driver_sql("SET LOCAL TIME ZONE 'UTC'")
        for statement in statements(version):
            await connection.exec_driver_sql(statement)
        if engine.dialect.name == "postgresql":
            await connection.run_sync(_raise_sequences)


def _raise_sequences(connection: Connection) -> None:
    """Ids that were written do not raise PostgreSQL's sequences."""
    for table in _tables(connection):
        name = connection.execute(text(f"SELECT to_regclass('{table.name}_id_seq')")).scalar()
        if name is not None:
            connection.execute(text(f"SELECT setval('{name}', (SELECT coalesce(max(id), 1) FROM {table.name}))"))


def _tables(connection: Connection) -> list[Table]:
    found = MetaData()
    found.reflect(connection)
    return [table for table in found.sorted_tables if table.name != "alembic_version"]


async def rows_of(engine: AsyncEngine) -> Rows:
    """Everything that is in a database."""

    def read(connection: Connection) -> Rows:
        return {
            table.name: [dict(row) for row in connection.execute(_ordered(table)).mappings()]
            for table in _tables(connection)
        }

    async with engine.connect() as connection:
        return await connection.run_sync(read)


def _ordered(table: Table) -> Any:
    return select(table).order_by(*table.primary_key.columns)


def said_in(old: Rows, new: Rows) -> Rows:
    """What `new` says in the tables and columns of `old`."""
    return {
        table: [
            {name: row[name] for name in before if name in row} for before, row in zip(rows, new[table], strict=True)
        ]
        for table, rows in old.items()
    }


def test_every_schema_has_data_of_its_own_program() -> None:
    """Whoever adds a migration first writes down the data of the schema before it, and then of the new one."""
    assert SCHEMAS[-1] == SCHEMA_VERSION
    for version in SCHEMAS:
        assert statements(version), f"run python -m tests.registry.written at schema {version}"


@pytest.mark.parametrize("version", SCHEMAS[:-1])
async def test_data_goes_forward_and_back(empty: AsyncEngine, version: str) -> None:
    """Every row is there in today's schema, is read by today's code, and is as it was after the way back."""
    await migrate_to(empty, version)
    await write(empty, version)
    before = await rows_of(empty)
    assert all(before.values()), "a table without a row proves nothing"
    await migrate(empty)
    await check_schema(empty)
    after = await rows_of(empty)
    kept = said_in(before, after)
    assert kept == {table: [without(row, lost(table)) for row in rows] for table, rows in before.items()}
    await assert_read_by_todays_classes(empty, after)
    await migrate_to(empty, version, may_lose=True)
    assert await rows_of(empty) == before


def lost(table: str) -> set[str]:
    """Columns that a later schema says in another way."""
    return {"role"} if table == "api_keys" else set()


def without(row: dict[str, Any], columns: set[str]) -> dict[str, Any]:
    """A row without some of its columns."""
    return {name: value for name, value in row.items() if name not in columns}


async def assert_read_by_todays_classes(engine: AsyncEngine, rows: Rows) -> None:
    """The tables' own types take every value."""
    async with engine.connect() as connection:
        for table in SQLModel.metadata.sorted_tables:
            found = (await connection.execute(select(table))).all()
            assert len(found) == len(rows[table.name]), table.name


async def test_one_schema_back_and_forward_again_is_the_same_schema(empty: AsyncEngine) -> None:
    """What the older schema has no place for is lost, all else stays; the tables are those that the code has.

    Keys are said in another way: `test_older_programs` looks at them.
    """
    await migrate(empty)
    await write(empty, SCHEMA_VERSION)
    before = await rows_of(empty)
    await migrate_to(empty, SCHEMAS[-2], may_lose=True)
    older = await rows_of(empty)
    keys = older.pop("api_keys")
    assert {row["id"] for row in keys} > {row["id"] for row in before["api_keys"]}
    assert said_in(older, before) == older
    await migrate(empty)
    assert said_in(older, await rows_of(empty)) == older

    def differences(connection: Connection) -> list[Any]:
        found: list[Any] = compare_metadata(MigrationContext.configure(connection), SQLModel.metadata)
        return found

    async with empty.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_a_way_back_that_loses_rows_is_refused_until_they_may_go(empty: AsyncEngine) -> None:
    """It says how many of each table, and of each column that says something; nothing is changed before."""
    await migrate(empty)
    await write(empty, SCHEMA_VERSION)
    async with empty.begin() as connection:
        await connection.execute(text("UPDATE revisions SET is_holdback = true WHERE id = 1"))
    before = await rows_of(empty)
    with pytest.raises(WouldLose, match=rf"from schema {SCHEMA_VERSION} to 0005 would lose .*nothing was changed$"):
        await migrate_to(empty, "0005")
    await check_schema(empty)
    assert await rows_of(empty) == before
    done = await migrate_to(empty, "0005", may_lose=True)
    after = await rows_of(empty)
    tables = {name: len(rows) for name, rows in before.items() if name not in after and name != "retired_secrets"}
    assert (done.before, done.after) == (SCHEMA_VERSION, "0005")
    assert done.lost == tables | {"adapters.policy": 1, "revisions.is_holdback": 1}
    assert "policies (1 row)" in done.lost_in_words


async def test_a_way_back_that_loses_nothing_needs_no_leave(empty: AsyncEngine) -> None:
    """As where nobody has used what is new, though a column of it says no in each row."""
    await migrate_to(empty, "0005")
    await write(empty, "0005")
    before = await rows_of(empty)
    await migrate(empty)
    assert (await migrate_to(empty, "0005")).lost == {}
    assert await rows_of(empty) == before


async def test_a_way_back_loses_nothing_of_another_application(empty: AsyncEngine) -> None:
    """Whose tables may be in the same database, and stay, whatever refers to what in them."""
    await migrate(empty)
    async with empty.begin() as connection:
        await connection.execute(text("CREATE TABLE tickets (id INTEGER PRIMARY KEY)"))
        await connection.execute(text("CREATE TABLE replies (ticket INTEGER REFERENCES tickets (id))"))
        await connection.execute(text("INSERT INTO tickets VALUES (1)"))
        await connection.execute(text("INSERT INTO replies VALUES (1)"))
    assert (await migrate_to(empty, "0005")).lost == {}
    async with empty.connect() as connection:
        assert (await connection.execute(text("SELECT ticket FROM replies"))).all() == [(1,)]


async def test_secrets_that_become_revoked_keys_are_not_lost(empty: AsyncEngine) -> None:
    """The schema before has no table of them."""
    await migrate(empty)
    await write(empty, SCHEMA_VERSION)
    before = await rows_of(empty)
    keys, retired = len(before["api_keys"]), len(before["retired_secrets"])
    assert (await migrate_to(empty, "0006")).lost == {}
    assert len((await rows_of(empty))["api_keys"]) == keys + retired > keys


@pytest.mark.parametrize("version", SCHEMAS[SCHEMAS.index(FIRST_ADDITIVE) :])
async def test_the_program_before_goes_on_writing(empty: AsyncEngine, version: str) -> None:
    """What it writes goes into the next schema, too: a gateway that runs on meanwhile fails no request."""
    await migrate_to(empty, version)
    await write(empty, SCHEMAS[SCHEMAS.index(version) - 1])


async def test_a_program_starts_on_its_own_schema_only(empty: AsyncEngine) -> None:
    """Neither on an older one nor on a newer one; the message says what to do about it."""
    await migrate_to(empty, SCHEMAS[-2])
    with pytest.raises(SchemaMismatch, match=f"has schema {SCHEMAS[-2]}.*run `ostler migrate`$"):
        await check_schema(empty)
    async with empty.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(
        SchemaMismatch, match=f"a newer Ostler, or with that one `ostler migrate --to {SCHEMA_VERSION}`"
    ):
        await check_schema(empty)
    with pytest.raises(SchemaMismatch, match=f"knows the schemas 0001 to {SCHEMA_VERSION}, not 9999"):
        await migrate(empty)


async def test_an_unknown_schema_is_refused_and_changes_nothing(database: AsyncEngine) -> None:
    """Also one that is no number at all."""
    for version in ("9999", "", "base", "-1"):
        with pytest.raises(SchemaMismatch, match="knows the schemas"):
            await migrate_to(database, version)
    await check_schema(database)


async def test_migrations_that_begin_at_once_are_done_once(database_url: str) -> None:
    """Each process of an installation may run them at its start."""
    engines = [connect(database_url) for _ in range(3)]
    await asyncio.gather(*map(migrate, engines))
    async with engines[0].connect() as connection:
        counters = (await connection.execute(text("SELECT count(*) FROM change_counter"))).scalar_one()
    assert counters == 1
    for engine in engines:
        await engine.dispose()


@pytest.fixture
async def first_release(empty: AsyncEngine, store: ArtifactStore) -> Registry:
    """A database of the first schema, after `ostler migrate`."""
    await migrate_to(empty, "0001")
    await write(empty, "0001")
    await migrate(empty)
    return Registry(empty, store, (BASE,))


async def test_what_the_first_release_wrote_keeps_its_meaning(first_release: Registry) -> None:
    """What was live is live, nothing is archived, roles are scopes, and a rollback leads where it led."""
    catalog = await first_release.catalog()
    adapter = catalog.adapters["support"]
    assert catalog.change == 11
    assert [version.archived for version in adapter.versions.values()] == [False] * 3
    assert adapter.deployment is not None
    assert (adapter.deployment.stable, adapter.deployment.canary, adapter.deployment.fallback) == (2, None, ())
    assert adapter.deployment.warm == {1, 3}
    assert [row.reason for row in await first_release.history("support")] == ["worse", "", "", "first"]
    boss, team = (held.key for held in sorted(catalog.keys.values(), key=lambda held: held.key.name))
    assert (boss.scopes, boss.adapters) == (frozenset({Scope.ADMIN}), None)
    assert (team.scopes, team.adapters) == (frozenset({Scope.INFERENCE, Scope.FEEDBACK}), frozenset({"support"}))
    assert (await first_release.rollback("support", actor="ann")).deployment.stable == 1
    newest, *_, oldest = await first_release.audit()
    assert (newest.change, oldest.change, oldest.detail) == (12, 1, {"name": "boss", "role": "admin"})
