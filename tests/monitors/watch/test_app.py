"""The monitor as its operators see it: alive, ready, active, and its metrics."""

import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.decisions import Decision, decisions, record_decision
from monitors.settings import MonitorSettings
from monitors.watch.app import create_monitor
from registry.database import connect, migrate
from tests.conftest import until


@pytest.fixture
def monitor_settings(tmp_path: Path, database_url: str) -> MonitorSettings:
    """Settings of a monitor whose gateway does not answer."""
    return MonitorSettings(
        home=tmp_path, cache=tmp_path / "cache", database_url=database_url, url="http://127.0.0.1:9", api_key="secret"
    )


@contextlib.asynccontextmanager
async def client_of(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a monitor that runs."""
    async with (
        app.lifespan(),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://monitor") as client,
    ):
        yield client


async def test_an_active_monitor_says_so_and_shows_its_metrics(
    monitor_settings: MonitorSettings, database: AsyncEngine
) -> None:
    """What it has not found yet is not there; what it counts stands at 0."""
    async with database.begin() as connection:
        said = Decision("support", 2, "quality", "alarm", "e-CUSUM", "it fell", {"mean": 0.5})
        await record_decision(connection, said, datetime.now(UTC))
    async with client_of(create_monitor(monitor_settings)) as client:
        await until(lambda: _shows(client, 'ostler_decisions{adapter="support",kind="quality",outcome="alarm"} 1.0'))
        assert (await client.get("/livez")).json() == {"status": "ok", "active": True, "problems": []}
        assert (await client.get("/readyz")).status_code == 200
        text = (await client.get("/metrics")).text
        assert "ostler_monitor_active 1.0" in text
        assert 'ostler_tuning_jobs{status="running"} 0.0' in text
        assert "ostler_quality_score{" not in text


async def test_a_second_monitor_stands_by(monitor_settings: MonitorSettings, database: AsyncEngine) -> None:
    """It is ready, too: it can take over."""
    async with client_of(create_monitor(monitor_settings)) as first:
        await until(lambda: _says(first, active=True))
        async with client_of(create_monitor(monitor_settings)) as second:
            await until(lambda: _is_ready(second))
            assert (await second.get("/livez")).json()["active"] is False


async def test_a_monitor_whose_loop_has_ended_asks_for_its_restart(
    monitor_settings: MonitorSettings, database: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever watches /livez then starts it anew."""

    async def end(_self: object) -> None:
        raise RuntimeError("ended")

    monkeypatch.setattr("monitors.watch.loop.MonitorLoop.run", end)
    async with client_of(create_monitor(monitor_settings)) as client:
        await until(lambda: _is_dead(client))


def test_a_monitor_needs_a_key(monitor_settings: MonitorSettings) -> None:
    """It is said before anything runs."""
    with pytest.raises(ValueError, match="OSTLER_API_KEY"):
        create_monitor(monitor_settings.model_copy(update={"api_key": ""}))


async def test_decisions_are_listed_newest_first(database_url: str) -> None:
    """By adapter, and on from any of them."""
    engine = connect(database_url)
    await migrate(engine)
    async with engine.begin() as connection:
        for number, adapter in enumerate(("support", "other", "support"), 1):
            said = Decision(adapter, number, "drift", "drift", "Holm", f"number {number}", {})
            await record_decision(connection, said, datetime.now(UTC))
    found = await decisions(engine)
    assert [each.version for each in found] == [3, 2, 1]
    assert [each.version for each in await decisions(engine, adapter="support")] == [3, 1]
    assert [each.version for each in await decisions(engine, before=found[0].id, limit=1)] == [2]
    await engine.dispose()


async def _shows(client: httpx.AsyncClient, line: str) -> bool:
    return line in (await client.get("/metrics")).text


async def _is_dead(client: httpx.AsyncClient) -> bool:
    return (await client.get("/livez")).status_code == 503


async def _says(client: httpx.AsyncClient, *, active: bool) -> bool:
    return (await client.get("/livez")).json()["active"] is active


async def _is_ready(client: httpx.AsyncClient) -> bool:
    return (await client.get("/readyz")).status_code == 200
