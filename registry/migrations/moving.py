"""Moves a database from one schema to another, and tells first what a way back would lose."""

from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import (
    Column,
    Connection,
    MetaData,
    Select,
    Table,
    Text,
    cast,
    create_engine,
    func,
    inspect,
    select,
    text,
)

from registry.database import Migrated, SchemaMismatch, WouldLose, schema_version

_SAID_OTHERWISE = {"retired_secrets"}
"""Tables whose rows the way back keeps in another one: these as revoked keys."""


def move(connection: Connection, version: str, *, may_lose: bool) -> Migrated:
    """Bring the schema to one version, `head` being the newest.

    Raises:
        SchemaMismatch: this code does not know that version, or the one that the database has; or rows would be left
            that refer to none.
        WouldLose: rows would go, and may not.
    """
    config = _config_on(connection)
    if connection.dialect.name == "postgresql":
        # Several processes may start at once; the lock ends with the transaction.
        connection.execute(text("SELECT pg_advisory_xact_lock(7155241)"))
    found = schema_version(connection)
    known = [each.revision for each in ScriptDirectory.from_config(config).walk_revisions()][::-1]
    target = known[-1] if version == "head" else version
    for asked in (target, found or target):
        if asked not in known:
            raise SchemaMismatch(f"this version of Ostler knows the schemas {known[0]} to {known[-1]}, not {asked}")
    is_down = found is not None and known.index(found) > known.index(target)
    lost = rows_lost(connection, found, target) if found is not None and is_down else {}
    migrated = Migrated(found, target, lost)
    if migrated.lost and not may_lose:
        raise WouldLose(migrated)
    if found != target:
        _run(connection, config, target, is_down=is_down)
    return migrated


def _run(connection: Connection, config: Config, target: str, *, is_down: bool) -> None:
    dangling = _dangling(connection)  # such as another program left: they are no reason not to migrate
    (command.downgrade if is_down else command.upgrade)(config, target)
    if new := _dangling(connection) - dangling:
        tables = ", ".join(sorted(new))
        raise SchemaMismatch(f"the migration would leave rows of {tables} that refer to none; nothing was changed")


def _config_on(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    return config


def _dangling(connection: Connection) -> Counter[str]:
    """How many rows of each table refer to none; only SQLite, which is migrated without foreign keys, may have any."""
    if connection.dialect.name != "sqlite":
        return Counter()
    return Counter(row[0] for row in connection.exec_driver_sql("PRAGMA foreign_key_check"))


def rows_lost(connection: Connection, found: str, target: str) -> dict[str, int]:
    """How many rows of each table, or each ``table.column``, say what an older schema has no place for.

    Only tables of the schema `found` count: another application's may be in the same database.
    """
    ours, kept = _columns_at(found), _columns_at(target)
    counts: dict[str, int] = {}
    for table in _tables(connection, ours.keys() - _SAID_OTHERWISE):
        if table.name not in kept:
            counts[table.name] = connection.execute(select(func.count()).select_from(table)).scalar_one()
            continue
        for column in table.columns:
            if column.name not in kept[table.name]:
                counts[f"{table.name}.{column.name}"] = connection.execute(_saying_something(column)).scalar_one()
    return {place: rows for place, rows in counts.items() if rows}


def _tables(connection: Connection, names: Collection[str]) -> list[Table]:
    found = MetaData()
    found.reflect(connection, only=lambda name, _: name in names)
    return [table for table in found.sorted_tables if table.name in names]  # without what they refer to


def _columns_at(version: str) -> Mapping[str, set[str]]:
    """The tables of a schema with their columns, read from an empty database of its own."""
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        command.upgrade(_config_on(connection), version)
        database = inspect(connection)
        found = {name: {each["name"] for each in database.get_columns(name)} for name in database.get_table_names()}
    engine.dispose()
    return found


def _saying_something(column: Column[Any]) -> Select[int]:
    """Its rows that say more there than nothing, or what the column says of itself where nobody does."""
    rows = select(func.count()).where(column.is_not(None))
    if column.server_default is None:
        return rows
    default = cast(column.server_default.arg, Text)  # type: ignore[attr-defined]
    return rows.where(cast(column, Text) != default)
