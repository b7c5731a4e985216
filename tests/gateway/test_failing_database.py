"""A PostgreSQL that hangs, loses a connection or fails over is a 503 to an admin, who may try again: never a 500."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import asyncpg
import httpx
import pytest
from litestar import Request
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

import registry.database
from gateway.settings import GatewaySettings
from gateway.web import render_error
from registry.artifacts import ArtifactStore
from registry.catalog import Scope
from registry.database import connect, migrate
from registry.registry import Registry
from tests.conftest import serving, until
from tests.gateway.answers import error_of
from tests.registry.lora_samples import BASE


@dataclass
class Served:
    """A gateway's admin, and an operator's own connection to its PostgreSQL."""

    http: httpx.AsyncClient
    operator: Any

    async def change(self) -> httpx.Response:
        """Ask for a change of the registry."""
        return await self.http.post("/admin/v1/keys", json={"name": "new"})

    async def set_for_new_connections(self, setting: str) -> None:
        """Change a setting of the database, and end the gateway's connections, so that its next ones have it."""
        name = await self.operator.fetchval("SELECT current_database()")
        await self.operator.execute(f"ALTER DATABASE {name} SET {setting}")
        await self.end("application_name = 'ostler'")

    async def end(self, which: str) -> int:
        """End connections to this database; how many there were."""
        of_ours = "datname = current_database() AND pid <> pg_backend_pid()"
        ended = await self.operator.fetch(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {of_ours} AND {which}"
        )
        return len(ended)


@contextlib.asynccontextmanager
async def changes_blocked(url: str) -> AsyncIterator[None]:
    """Hold the lock that every change takes first."""
    other = await asyncpg.connect(url)
    try:
        async with other.transaction():
            await other.execute("SELECT value FROM change_counter FOR UPDATE")
            yield
    finally:
        await other.close()


@pytest.fixture
async def served(gateway_settings: GatewaySettings, postgres_url: str) -> AsyncIterator[Served]:
    """A gateway on PostgreSQL."""
    settings = gateway_settings.model_copy(update={"database_url": postgres_url})
    database = connect(postgres_url)
    await migrate(database)
    own = Registry(database, ArtifactStore(settings.artifacts, settings.cache), (BASE,))
    _, key = await own.create_key("test", scopes=frozenset({Scope.ADMIN}), actor="test")
    await database.dispose()
    operator = await asyncpg.connect(postgres_url)
    headers = {"authorization": f"Bearer {key}"}
    async with serving(settings) as (url, _), httpx.AsyncClient(base_url=url, headers=headers, timeout=30) as http:
        yield Served(http, operator)
    await operator.close()


def assert_is_unavailable(response: httpx.Response) -> None:
    """503, when to try again, and nothing of the database's own words."""
    assert (response.status_code, error_of(response)["code"]) == (503, "database_unavailable")
    assert int(response.headers["retry-after"]) >= 1
    assert "change_counter" not in response.text


async def test_a_statement_that_the_server_ends_is_503(served: Served, postgres_url: str) -> None:
    """Its own timeout has passed while another session holds the lock; the next change is done."""
    await served.set_for_new_connections("statement_timeout = '300ms'")
    async with changes_blocked(postgres_url):
        assert_is_unavailable(await served.change())
    assert (await served.change()).status_code == 201


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway that is made from here on waits for no statement for long."""
    monkeypatch.setattr(registry.database, "_STATEMENT_TIMEOUT_S", 0.5)


@pytest.mark.usefixtures("impatient")
async def test_a_statement_that_takes_too_long_is_503(served: Served, postgres_url: str) -> None:
    """The gateway's own timeout has passed; the next change is done."""
    async with changes_blocked(postgres_url):
        assert_is_unavailable(await served.change())
    assert (await served.change()).status_code == 201


async def test_a_connection_that_ends_in_mid_statement_is_503(served: Served, postgres_url: str) -> None:
    """As when the server restarts; the next change is done on another connection."""
    async with changes_blocked(postgres_url):
        changing = asyncio.create_task(served.change())

        async def has_ended() -> bool:
            return await served.end("wait_event_type = 'Lock'") == 1

        await until(has_ended)
        assert_is_unavailable(await changing)
    assert (await served.change()).status_code == 201


async def test_a_database_that_only_reads_is_503(served: Served) -> None:
    """As one that is not yet the primary in a failover; what is only read is still answered."""
    await served.set_for_new_connections("default_transaction_read_only = on")
    assert_is_unavailable(await served.change())
    assert (await served.http.get("/admin/v1/keys")).status_code == 200


class _DriverError(Exception):
    """What the driver raises, with an SQLSTATE or without one."""

    def __init__(self, sqlstate: str | None) -> None:
        super().__init__("change_counter")
        self.sqlstate = sqlstate


def _failed(sqlstate: str | None, *, invalidated: bool = False) -> DBAPIError:
    return DBAPIError("SELECT 1", {}, _DriverError(sqlstate), connection_invalidated=invalidated)


AWAY = {
    "no free connection": PoolTimeoutError("QueuePool limit"),
    "connection lost": _failed(None, invalidated=True),
    **{state: _failed(state) for state in ("08006", "25006", "40001", "40P01", "53300", "57014", "57P01", "57P03")},
}
OURS = {
    "a broken rule": IntegrityError("INSERT", {}, _DriverError("23505")),
    **{state: _failed(state) for state in (None, "", "22003", "42601", "XX000")},
}


@pytest.mark.parametrize("error", AWAY.values(), ids=AWAY.keys())
def test_what_befalls_the_server_is_503(error: Exception) -> None:
    """Whatever the statement was."""
    assert _status_of(error) == 503


@pytest.mark.parametrize("error", OURS.values(), ids=map(str, OURS))
def test_what_is_wrong_with_the_statement_is_500(error: Exception) -> None:
    """It is the gateway's fault and fails again however often it is tried."""
    assert _status_of(error) == 500


def _status_of(error: Exception) -> int | None:
    scope: Any = {"type": "http", "path": "/", "headers": [], "state": {}, "method": "GET"}
    return render_error(Request(scope), error).status_code
