"""Runs a gateway, in one process or several, or a monitor, and the migrations that they need."""

import asyncio
import difflib
import logging
import os
import resource
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec
from litestar import Litestar
from pydantic import ValidationError
from pydantic_settings import TomlConfigSettingsSource
from sqlalchemy.exc import SQLAlchemyError

from agent.settings import AgentSettings
from gateway.admin import NewKey, create_key
from gateway.app import base_specs, create_app
from gateway.settings import GatewaySettings, PoolSettings
from gateway.shapes import NewKeyShape
from monitors.metrics import mark_process_dead
from monitors.settings import MonitorSettings, StorageSettings
from ostler.client import CommandFailed
from ostler.draining import Grace, serve
from ostler.leash import MARK_VARIABLE
from ostler.local import local_registry
from ostler.settings import UpSettings, gateway_environment
from ostler.starting import listening_socket, log_to_standard_error, problem_of, require_free_port
from ostler.workers import Workers, metrics_folder
from registry.catalog import ApiKey, Scope
from registry.database import Migrated, SchemaMismatch, WouldLose, check_schema, connect, migrate_to
from registry.wording import plain
from tuner.settings import TunerSettings

OTHER_VARIABLES = frozenset({MARK_VARIABLE})
WORKER_APP = "ostler.serve:app_from_environment"

_MONITOR_GRACE = Grace(delay_s=0.0, drain_s=5.0)

logger = logging.getLogger(__name__)
SettingsKind = TypeVar("SettingsKind", bound=StorageSettings)


def read_settings(kind: type[SettingsKind], given: dict[str, Any]) -> SettingsKind:
    """Settings from flags, environment and file.

    Raises:
        CommandFailed: one is wrong; the message names it and says what would be right.
    """
    try:
        _require_known_settings()
        return kind(**given)
    except ValidationError as error:
        raise CommandFailed(f"a setting is wrong: {'; '.join(map(problem_of, error.errors()))}", 2) from None
    except (OSError, ValueError) as error:
        raise CommandFailed(f"ostler.toml cannot be read: {error}", 2) from None


def _require_known_settings() -> None:
    """A misspelled line of ``ostler.toml`` is an error, not a default."""
    lines = TomlConfigSettingsSource(UpSettings)()
    known = _setting_names()
    for name in lines.keys() - known:
        hint = _hint(name, known)
        raise CommandFailed(f"ostler.toml: there is no setting {name!r}{hint}", 2)


def _setting_names() -> set[str]:
    """The settings of all processes; one file may hold those of several."""
    kinds = (UpSettings, MonitorSettings, TunerSettings, AgentSettings)
    return {name for kind in kinds for name in kind.model_fields}


def warn_of_unknown_variables() -> None:
    """Tell of misspelled variables. It is no error, as other programs may have variables that begin so."""
    known = OTHER_VARIABLES | {f"OSTLER_{name.upper()}" for name in _setting_names()}
    for name in sorted(os.environ):
        if name.upper().startswith("OSTLER_") and name.upper() not in known:
            sys.stderr.write(f"warning: there is no setting {name}{_hint(name.upper(), known)}\n")


def _hint(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; is it {near[0]!r}?" if near else ""


def set_up_logging(settings: StorageSettings, *, workers: int = 1) -> None:
    """Log lines to standard error; our own from the level of the settings, other libraries' from warning."""
    log_to_standard_error(settings.log_level, workers=workers)


def run_gateway(given: dict[str, Any]) -> int:
    """Serve until a signal; the exit code."""
    settings = read_settings(GatewaySettings, given)
    warn_of_unknown_variables()
    require_shared_limits(settings)
    _require_base_models(settings)
    set_up_logging(settings, workers=settings.workers)
    require_free_port(settings.host, settings.port)
    asyncio.run(check_database(settings))
    _allow_many_connections()
    logger.info("%s", summary(settings))
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
        set_up_logging(settings, workers=settings.workers)
        return _make_app(settings)
    except CommandFailed as failed:
        sys.stderr.write(f"{failed}\n")
        raise SystemExit(failed.exit_code) from None


def summary(settings: GatewaySettings) -> str:
    """What a gateway serves, from where, and what it stands on, in a line without passwords."""
    pools = "; ".join(f"{pool.base} on {_engines(pool)}" for pool in settings.all_pools)
    database = "SQLite" if settings.database.startswith("sqlite") else "PostgreSQL"
    limits = "in Redis" if settings.limits_url else "in memory"
    return f"serving {pools}; the registry is in {database}, limits are counted {limits}"


def _engines(pool: PoolSettings) -> str:
    if pool.engine_dns:
        return f"the engines of {pool.engine_dns}"
    places = [urlsplit(url).netloc.rpartition("@")[2] for url in pool.engine_urls]
    return f"{len(places)} engine{'s' if len(places) > 1 else ''} ({', '.join(places)})"


def _require_base_models(settings: GatewaySettings) -> None:
    try:
        specs = base_specs(settings)
    except ValueError as error:
        raise CommandFailed(str(error), 2) from None
    for spec in specs:
        require_folder(spec.source, spec.name)


def require_folder(source: str, base: str) -> None:
    """See that a base model that is given by its folder is there.

    Raises:
        CommandFailed
    """
    if source.startswith(("/", ".", "~")) and not Path(source).exists():
        raise CommandFailed(f"there is no folder {source} of the base model {base}", 2)


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


def _allow_many_connections() -> None:
    """Each client takes two sockets, its own and the engine's; the usual soft limit is 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def run_monitor(given: dict[str, Any]) -> int:
    """Watch until a signal; the exit code."""
    settings = read_settings(MonitorSettings, given)
    warn_of_unknown_variables()
    set_up_logging(settings)
    require_free_port(settings.monitor_host, settings.monitor_port, "set OSTLER_MONITOR_PORT")
    asyncio.run(check_database(settings))
    from monitors.watch.app import create_monitor  # here, because a gateway needs none of what it brings

    try:
        app = create_monitor(settings)
    except ValueError as error:
        raise CommandFailed(str(error), 2) from None
    return serve(app, _MONITOR_GRACE, host=settings.monitor_host, port=settings.monitor_port)


def run_migrate(version: str = "head", *, may_lose: bool = False) -> Migrated:
    """Bring the schema to a version, `head` being the newest.

    Raises:
        CommandFailed
    """
    settings = read_settings(GatewaySettings, {})
    warn_of_unknown_variables()
    return asyncio.run(migrate_database(settings, version, may_lose=may_lose))


async def migrate_database(settings: StorageSettings, version: str = "head", *, may_lose: bool = False) -> Migrated:
    """Bring the schema to a version, up to date if none is said.

    Raises:
        CommandFailed: the database cannot be reached, there is no such version, or rows would go that may not.
    """
    engine = _engine(settings)
    try:
        return await migrate_to(engine, version, may_lose=may_lose)
    except WouldLose as refused:
        raise CommandFailed(f"{refused}; say --yes if they may go", 2) from None
    except SchemaMismatch as mismatch:
        raise CommandFailed(str(mismatch)) from None
    except (SQLAlchemyError, OSError) as error:
        raise CommandFailed(f"the database could not be migrated: {_cause(error)}") from error
    finally:
        await engine.dispose()


async def check_database(settings: StorageSettings) -> None:
    """See that the database answers and that its schema is this version's.

    Raises:
        CommandFailed: it does not, or is not.
    """
    engine = _engine(settings)
    try:
        await check_schema(engine)
    except SchemaMismatch as mismatch:
        raise CommandFailed(str(mismatch)) from None
    except (SQLAlchemyError, OSError) as error:
        raise CommandFailed(f"the database cannot be reached: {_cause(error)}") from error
    finally:
        await engine.dispose()


def _engine(settings: StorageSettings) -> Any:
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
        raise CommandFailed(plain(error, NewKey, "the key"), 2) from None
    return msgspec.to_builtins(asyncio.run(_create_key(settings, order)))


async def _create_key(settings: GatewaySettings, order: NewKey) -> NewKeyShape:
    await check_database(settings)
    async with local_registry(settings) as registry:
        return await create_key(registry, order, actor="local")


def run_ensure_key(name: str, secret: str, scopes: frozenset[Scope]) -> tuple[ApiKey, bool]:
    """Have a secret open a key, in the database itself; the second value says whether it did not before."""
    settings = read_settings(GatewaySettings, {})
    return asyncio.run(_ensure_key(settings, name, secret, scopes))


async def _ensure_key(
    settings: GatewaySettings, name: str, secret: str, scopes: frozenset[Scope]
) -> tuple[ApiKey, bool]:
    await check_database(settings)
    async with local_registry(settings) as registry:
        return await registry.ensure_key(name, secret, scopes=scopes, actor="local")
