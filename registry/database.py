"""The database: SQLite in WAL mode by default, PostgreSQL by its URL."""

import contextlib
import sqlite3
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, event, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

SCHEMA_VERSION = "0007"
"""The newest migration; here so that a gateway can check it without loading Alembic. A test holds the two together."""

_WRITES = "ostler_writes"
_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}
_BUSY_TIMEOUT_MS = 10_000
# PostgreSQL that is away, or hangs, must fail a call within seconds: a gateway has better to do than wait for it.
_CONNECT_TIMEOUT_S = 5.0
_STATEMENT_TIMEOUT_S = 30.0
_POOL_TIMEOUT_S = 10.0


class SchemaMismatch(Exception):
    """The database has another schema than this version of Ostler needs; the message says what to run."""


@dataclass(frozen=True)
class Migrated:
    """From which schema a database was brought to which (None: it had none), and what that lost.

    `lost` is how many rows of each table, or of each ``table.column``, went.
    """

    before: str | None
    after: str
    lost: Mapping[str, int]

    @property
    def lost_in_words(self) -> str:
        """Such as ``webhooks (2 rows), adapters.policy (1 row)``."""
        return ", ".join(f"{place} ({rows} row{'s' if rows > 1 else ''})" for place, rows in self.lost.items())


class WouldLose(Exception):
    """Rows would go that an older schema has no place for; nothing was changed."""

    def __init__(self, refused: Migrated) -> None:
        super().__init__(
            f"going back from schema {refused.before} to {refused.after} would lose {refused.lost_in_words};"
            " nothing was changed"
        )


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
        return _connect_postgresql(parsed)
    if parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_async_engine(parsed, hide_parameters=True)
    event.listen(engine.sync_engine, "connect", _set_up_sqlite)
    event.listen(engine.sync_engine, "begin", _begin_sqlite)
    event.listen(engine.sync_engine, "checkin", _discard_open)
    event.listen(engine.sync_engine, "invalidate", _end_sqlite)
    return engine


def _connect_postgresql(url: URL) -> AsyncEngine:
    engine = create_async_engine(
        url,
        hide_parameters=True,  # an error's message would quote them, and they hold what people said
        pool_pre_ping=True,
        pool_timeout=_POOL_TIMEOUT_S,
        connect_args=_postgresql_arguments("ostler") | {"command_timeout": _STATEMENT_TIMEOUT_S},
    )
    event.listen(engine.sync_engine, "checkin", _discard_open)
    return engine


@contextlib.asynccontextmanager
async def writing(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A transaction that writes, after it may have read.

    SQLite has one writer at a time. A transaction waits for its turn where it begins to write, but fails there if it
    has read what another one changed since; so this one waits before it reads.
    """
    async with engine.execution_options(**{_WRITES: True}).begin() as connection:
        yield connection


def connect_alone(engine: AsyncEngine, purpose: str) -> AsyncEngine:
    """An engine for the same PostgreSQL without a pool and a limit on statements, for what is long by its nature.

    `purpose` is a word by which the server's operator tells its connections apart.
    """
    arguments = _postgresql_arguments(f"ostler {purpose}")
    return create_async_engine(engine.url, poolclass=NullPool, connect_args=arguments, hide_parameters=True)


def _postgresql_arguments(application: str) -> dict[str, Any]:
    return {
        "timeout": _CONNECT_TIMEOUT_S,
        "async_creator_fn": _open_postgresql,
        "server_settings": {"application_name": application},
    }


async def _open_postgresql(*args: Any, **kwargs: Any) -> Any:
    """Connect, and fail with a ConnectionError whatever the reason; SQLAlchemy would let the driver's own through."""
    import asyncpg  # here, because SQLite needs none of it

    try:
        return await asyncpg.connect(*args, **kwargs)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        # OSError, too: a socket file that is not there is no ConnectionError of its own.
        raise ConnectionError(f"PostgreSQL lets nobody in ({type(error).__name__})") from error


def _begin_sqlite(connection: Connection) -> None:
    """Begin in words: left to itself the driver begins at the first write, and reads before it see no one state."""
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _discard_open(connection: Any, record: ConnectionPoolEntry) -> None:
    """Close what comes back to the pool with a transaction, and so its lock, still open.

    SQLAlchemy ends none when its COMMIT failed, on a full disk for one.
    """
    if connection is None:
        return
    driver = connection.driver_connection
    if driver.is_in_transaction() if hasattr(driver, "is_in_transaction") else driver.in_transaction:
        record.invalidate()


def _end_sqlite(connection: Any, _record: Any, _error: BaseException | None) -> None:
    """Roll back before closing: a cancelled call's open cursor keeps SQLite from closing, and with it the lock."""
    with contextlib.suppress(sqlite3.Error):
        connection.rollback()


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    """FULL, so that an answered change survives a loss of power, too."""
    connection.isolation_level = None  # the driver begins nothing by itself
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={_BUSY_TIMEOUT_MS}"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


async def migrate(engine: AsyncEngine) -> Migrated:
    """Bring the schema to the newest version; does nothing if it is there already."""
    return await migrate_to(engine, "head")


async def migrate_to(engine: AsyncEngine, version: str, *, may_lose: bool = False) -> Migrated:
    """Bring the schema to one version, up or down; going down, what the older schema cannot say is lost.

    Raises:
        SchemaMismatch: this code does not know that version, or the one that the database has; or rows would be left
            that refer to none, and nothing was changed.
        WouldLose: rows would go, and may not; nothing was changed.
    """
    # Imported here, because a serving gateway never migrates and need not carry Alembic in memory.
    from registry.migrations.moving import move

    alone = connect_alone(engine, "migrate") if engine.dialect.name == "postgresql" else _without_foreign_keys(engine)
    try:
        async with writing(alone) as connection:  # on SQLite, several processes that start at once take turns
            return await connection.run_sync(move, version, may_lose=may_lose)
    finally:
        await alone.dispose()


def _without_foreign_keys(engine: AsyncEngine) -> AsyncEngine:
    """An engine for the same SQLite that lets a table be dropped to be made anew, though others refer to it."""
    alone = connect(engine.url.render_as_string(hide_password=False))
    event.listen(alone.sync_engine, "connect", _ignore_foreign_keys)
    return alone


def _ignore_foreign_keys(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys=OFF")
    cursor.close()


async def check_schema(engine: AsyncEngine) -> None:
    """Hold the database's schema against the one this code needs.

    Raises:
        SchemaMismatch: it is older, newer or not there.
    """
    async with engine.connect() as connection:
        found = await connection.run_sync(schema_version)
    if found == SCHEMA_VERSION:
        return
    state = "has no schema yet" if found is None else f"has schema {found}"
    remedy = "run `ostler migrate`"
    if found is not None and found > SCHEMA_VERSION:
        remedy = f"run a newer Ostler, or with that one `ostler migrate --to {SCHEMA_VERSION}`"
    raise SchemaMismatch(f"the database {state}, this version of Ostler needs {SCHEMA_VERSION}: {remedy}")


def schema_version(connection: Connection) -> str | None:
    """The schema that a database has, or None if it has none yet."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return found
