"""The database: SQLite in WAL mode by default, PostgreSQL by its URL."""

from pathlib import Path
from typing import Any

from sqlalchemy import Connection, event, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

SCHEMA_VERSION = "0001"
"""The newest migration; here so that a gateway can check it without loading Alembic. A test holds the two together."""

_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}
_BUSY_TIMEOUT_MS = 10_000


class SchemaMismatch(Exception):
    """The database has another schema than this version of Ostler needs; the message says what to run."""


def connect(url: str) -> AsyncEngine:
    """Make an engine for `url`, such as ``sqlite:///ostler.db`` or ``postgresql://user:password@host/ostler``.

    Raises:
        ValueError: the URL is not one of these.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ValueError(
            "the database URL cannot be read; it should be like postgresql://user:password@host/name"
        ) from None
    dialect = parsed.drivername.split("+")[0]
    if dialect not in _DRIVERS:
        raise ValueError(f"the database URL names {dialect!r}; Ostler knows sqlite and postgresql")
    parsed = parsed.set(drivername=_DRIVERS[dialect])
    if dialect != "sqlite":
        return create_async_engine(parsed, pool_pre_ping=True)
    if parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_async_engine(parsed)
    event.listen(engine.sync_engine, "connect", _set_up_sqlite)
    event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


def _begin_sqlite(connection: Connection) -> None:
    """Begin in words: left to itself the driver begins at the first write, and reads before it see no one state."""
    connection.exec_driver_sql("BEGIN")


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    """FULL, so that an answered change survives a loss of power, too."""
    connection.isolation_level = None  # the driver begins nothing by itself
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={_BUSY_TIMEOUT_MS}"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


async def migrate(engine: AsyncEngine) -> None:
    """Bring the schema to the newest version; does nothing if it is there already."""
    async with engine.begin() as connection:
        await connection.run_sync(_upgrade)


def _upgrade(connection: Connection) -> None:
    # Imported here, because a serving gateway never migrates and need not carry Alembic in memory.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    if connection.dialect.name == "postgresql":
        # Several processes may start at once; the lock ends with the transaction.
        connection.execute(text("SELECT pg_advisory_xact_lock(7155241)"))
    command.upgrade(config, "head")


async def check_schema(engine: AsyncEngine) -> None:
    """Hold the database's schema against the one this code needs.

    Raises:
        SchemaMismatch: it is older, newer or not there.
    """
    async with engine.connect() as connection:
        found = await connection.run_sync(_schema_version)
    if found != SCHEMA_VERSION:
        state = "has no schema yet" if found is None else f"has schema {found}"
        raise SchemaMismatch(
            f"the database {state}, this version of Ostler needs {SCHEMA_VERSION}: run `ostler migrate`"
        )


def _schema_version(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return found
