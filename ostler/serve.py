"""Runs one gateway process, and the migrations that it needs."""

import asyncio
import difflib
import logging
import resource
import socket
import sys
from typing import Any, TypeVar

import msgspec
import uvicorn
from pydantic import ValidationError
from pydantic_settings import TomlConfigSettingsSource
from sqlalchemy.exc import SQLAlchemyError

from gateway.admin import NewKey, create_key
from gateway.app import create_app
from gateway.settings import GatewaySettings
from gateway.shapes import NewKeyShape
from ostler.client import CommandFailed
from ostler.local import local_registry
from ostler.settings import UpSettings
from registry.database import SchemaMismatch, check_schema, connect, migrate

LOG_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"

SettingsKind = TypeVar("SettingsKind", bound=GatewaySettings)


def read_settings(kind: type[SettingsKind], given: dict[str, Any]) -> SettingsKind:
    """Settings from flags, environment and file.

    Raises:
        CommandFailed: one is wrong; the message names it and says what would be right.
    """
    try:
        _require_known_settings()
        return kind(**given)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise CommandFailed(f"a setting is wrong: {problems}", 2) from None
    except ValueError as error:
        raise CommandFailed(f"ostler.toml cannot be read: {error}", 2) from None


def _require_known_settings() -> None:
    """A misspelled line of ``ostler.toml`` is an error, not a default."""
    lines = TomlConfigSettingsSource(UpSettings)()
    for name in lines.keys() - UpSettings.model_fields.keys():
        near = difflib.get_close_matches(name, UpSettings.model_fields, n=1)
        hint = f"; is it {near[0]!r}?" if near else ""
        raise CommandFailed(f"ostler.toml: there is no setting {name!r}{hint}", 2)


def set_up_logging(level: str) -> None:
    """Log lines to standard error; our own from `level`, other libraries' from warning."""
    logging.basicConfig(level=logging.WARNING, format=LOG_FORMAT, stream=sys.stderr)
    for name in ("gateway", "registry", "monitors", "ostler", "uvicorn"):
        logging.getLogger(name).setLevel(level.upper())


def run_gateway(given: dict[str, Any]) -> int:
    """Serve until a signal; the exit code."""
    settings = read_settings(GatewaySettings, given)
    set_up_logging(settings.log_level)
    require_free_port(settings.host, settings.port)
    try:
        asyncio.run(_check_database(settings))
        app = create_app(settings)
    except ValueError as error:
        raise CommandFailed(str(error), 2) from None
    _allow_many_connections()
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(settings.drain_s),
    )
    server = uvicorn.Server(config)
    server.run()
    return 0 if server.started else 1


def require_free_port(host: str, port: int) -> None:
    """Find out before anything is started.

    Raises:
        CommandFailed: it cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise CommandFailed(
                f"cannot listen on {host} port {port} ({error.strerror}); another Ostler may run, or say --port"
            ) from None


def _allow_many_connections() -> None:
    """Each client takes two sockets, its own and the engine's; the usual soft limit is 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def run_migrate() -> int:
    """Bring the schema up to date; the exit code."""
    settings = read_settings(GatewaySettings, {})
    asyncio.run(migrate_database(settings))
    return 0


async def migrate_database(settings: GatewaySettings) -> None:
    """Bring the schema up to date.

    Raises:
        CommandFailed: the database cannot be reached.
    """
    engine = _engine(settings)
    try:
        await migrate(engine)
    except (SQLAlchemyError, OSError) as error:
        raise CommandFailed(f"the database could not be migrated: {_cause(error)}") from error
    finally:
        await engine.dispose()


async def _check_database(settings: GatewaySettings) -> None:
    engine = _engine(settings)
    try:
        await check_schema(engine)
    except SchemaMismatch as mismatch:
        raise CommandFailed(str(mismatch)) from None
    except (SQLAlchemyError, OSError) as error:
        raise CommandFailed(f"the database cannot be reached: {_cause(error)}") from error
    finally:
        await engine.dispose()


def _engine(settings: GatewaySettings) -> Any:
    try:
        return connect(settings.database)
    except ValueError as error:
        raise CommandFailed(str(error), 2) from None
    except OSError as error:
        raise CommandFailed(f"the database's folder cannot be made: {error.strerror}") from None


def _cause(error: Exception) -> str:
    """The driver's own words in one line; SQLAlchemy's add the statement and a link."""
    return str(getattr(error, "orig", error)).splitlines()[0]


def run_create_key(body: dict[str, Any]) -> Any:
    """Make a key in the database itself, with the admin API's request and answer."""
    settings = read_settings(GatewaySettings, {})
    try:
        order = msgspec.convert(body, NewKey)
    except msgspec.ValidationError as error:
        raise CommandFailed(str(error), 2) from None
    return msgspec.to_builtins(asyncio.run(_create_key(settings, order)))


async def _create_key(settings: GatewaySettings, order: NewKey) -> NewKeyShape:
    await _check_database(settings)
    async with local_registry(settings) as registry:
        return await create_key(registry, order, actor="local")
