"""A gateway at work while somebody migrates its database, as docs/upgrading.md tells it."""

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from registry.database import connect, migrate, migrate_to
from tests.conftest import RunningGateway, until

OLDER = "0005"


@pytest.fixture
async def beneath(gateway: RunningGateway) -> AsyncIterator[AsyncEngine]:
    """The database of a gateway whose `support` is live."""
    await gateway.push("support", 1.0)
    assert (await gateway.promote("support", 1)).is_success
    engine = connect(gateway.app.state.settings.database)
    yield engine
    await engine.dispose()


async def recorded(engine: AsyncEngine) -> int:
    """How many requests are in the log."""
    async with engine.connect() as connection:
        return int((await connection.execute(text("SELECT count(*) FROM request_log"))).scalar_one())


async def test_clients_notice_nothing_when_the_schema_goes_back_and_forward(
    gateway: RunningGateway, beneath: AsyncEngine
) -> None:
    """Chat goes on, admin calls are told to come again, and what was recorded meanwhile is written afterwards."""
    assert (await gateway.chat("support")).is_success
    await until(lambda: _has(beneath, 1))
    await migrate_to(beneath, OLDER, may_lose=True)
    assert (await gateway.chat("support")).is_success
    refused = await gateway.http.get("/admin/v1/adapters/support/history")
    assert (refused.status_code, refused.json()["error"]["message"].count("ostler migrate")) == (503, 1)
    await migrate(beneath)
    await until(lambda: _has(beneath, 2))
    assert (await gateway.chat("support")).is_success
    assert (await gateway.http.get("/admin/v1/adapters/support/history")).is_success


async def _has(engine: AsyncEngine, requests: int) -> bool:
    return await recorded(engine) == requests
