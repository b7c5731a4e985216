"""Runs a gateway, in one process or several, and the migrations that it needs."""

import asyncio
import difflib
import logging
import os
import resource
import socket
import sys
from typing import Any, TypeVar

import msgspec
from litestar import Litestar
from pydantic import ValidationError
from pydantic_settings import TomlConfigSettingsSource
from sqlalchemy.exc import SQLAlchemyError

from gateway.admin import NewKey, create_key
from gateway.app import create_app
from gateway.settings import GatewaySettings
from gateway.shapes import NewKeyShape
from monitors.metrics import mark_process_dead
from ostler.client import CommandFailed
from ostler.draining import Grace, serve
from ostler.local import local_registry
from ostler.settings import UpSettings, gateway_environment
from ostler.workers import Workers, metrics_folder
from registry.database import SchemaMismatch, check_schema, connect, migrate

LOG_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
WORKER_APP = "ostler.serve:app_from_environment"

logger = logging.getLogger(__name__)
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
    require_shared_limits(settings)
    set_up_logging(settings.log_level)
    require_free_port(settings.host, settings.port)
    asyncio.run(_check_database(settings))
    _allow_many_connections()
    grace = Grace(settings.drain_delay_s, settings.drain_s)
    if settings.workers > 1:
        return _run_workers(settings, grace)
    return serve(_make_app(settings), grace, host=settings.host, port=settings.port)


def _run_workers(settings: GatewaySettings, grace: Grace) -> int:
    os.environ.update(gateway_environment(settings))
    with listening_socket(settings.host, settings.port) as listening, metrics_folder(settings.cache):
        logger.info("%d workers listen on port %d", settings.workers, listening.getsockname()[1])
        workers = Workers(WORKER_APP, listening, settings.workers, grace, mark_process_dead)
        return asyncio.run(workers.run())


def app_from_environment() -> Litestar:
    """A worker's app, with its settings from the environment. What is wrong with them is one line, not a stack."""
    try:
        settings = read_settings(GatewaySettings, {})
        set_up_logging(settings.log_level)
        return _make_app(settings)
    except CommandFailed as failed:
        sys.stderr.write(f"{failed}\n")
        raise SystemExit(failed.exit_code) from None


def _make_app(settings: GatewaySettings) -> Litestar:
    try:
        return create_app(settings)
    except ValueError as error:
        raise CommandFailed(str(error), 2) from None


def require_shared_limits(settings: GatewaySettings) -> None:
    """Find out before anything is started.

    Raises:
        CommandFailed: several workers would each count limits by itself.
    """
    if settings.workers > 1 and not settings.limits_url:
        raise CommandFailed(
            "several workers count limits together only through a server of the Redis protocol: set OSTLER_LIMITS_URL",
            2,
        )


def require_free_port(host: str, port: int) -> None:
    """Find out before anything is started.

    Raises:
        CommandFailed: it cannot be listened on.
    """
    listening_socket(host, port).close()


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket of that address, for those who inherit it to listen on.

    Raises:
        CommandFailed: it cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((host, port))
    except OSError as error:
        opened.close()
        raise CommandFailed(
            f"cannot listen on {host} port {port} ({error.strerror}); another Ostler may run, or say --port"
        ) from None
    return opened


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
