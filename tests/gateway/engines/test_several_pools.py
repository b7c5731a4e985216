"""Several base models behind one gateway: none takes another one with it."""

from collections.abc import AsyncIterator

import httpx
import pytest

from gateway.settings import GatewaySettings, PoolSettings
from registry.database import connect, migrate
from tests.conftest import serving, until
from tests.fakes.engine import FakeEngine


@pytest.fixture
async def other_engine() -> AsyncIterator[FakeEngine]:
    """An engine of another base model, which does not answer yet."""
    engine = FakeEngine("other")
    yield engine
    await engine.stop()


async def of_two_pools(settings: GatewaySettings, first: FakeEngine, other: FakeEngine) -> GatewaySettings:
    """The settings of a gateway before both, its database ready."""
    await other.start()
    pools = tuple(PoolSettings(base=engine.base, engine_url=engine.url) for engine in (first, other))
    await other.stop()
    database = connect(settings.database)
    await migrate(database)
    await database.dispose()
    return settings.model_copy(update={"pools": pools})


async def ready(url: str) -> tuple[int, list[str]]:
    """The status of /readyz, and the problems that it tells."""
    async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
        answer = await http.get("/readyz")
        return answer.status_code, answer.json()["problems"]


async def test_a_new_gateway_waits_for_every_pool_and_keeps_serving_the_others_when_one_fails(
    gateway_settings: GatewaySettings, fake_engine: FakeEngine, other_engine: FakeEngine
) -> None:
    """So a rollout sends no request to a gateway that cannot serve it, and a failing pool empties no Service."""
    settings = await of_two_pools(gateway_settings, fake_engine, other_engine)
    async with serving(settings.model_copy(update={"probe_timeout_s": 60.0})) as (url, app):
        reports = app.state.fleet.reports
        await until(lambda: [one.state for one in reports()] == ["ready", "down"])
        status, problems = await ready(url)
        assert status == 503
        assert len(problems) == 1
        assert "other" in problems[0]

        await other_engine.start()
        await until(lambda: [one.state for one in reports()] == ["ready", "ready"])
        assert await ready(url) == (200, [])

        await other_engine.stop()
        await until(lambda: reports()[1].state == "down")
        status, problems = await ready(url)
        assert status == 200
        assert "other" in problems[0]

        await fake_engine.stop()
        await until(lambda: reports()[0].state == "down")
        assert (await ready(url))[0] == 503


async def test_a_gateway_that_starts_while_a_pool_is_down_serves_the_others_after_a_while(
    gateway_settings: GatewaySettings, fake_engine: FakeEngine, other_engine: FakeEngine
) -> None:
    """As long as a load may take; else no gateway could be added while a pool is down."""
    settings = await of_two_pools(gateway_settings, fake_engine, other_engine)
    async with serving(settings.model_copy(update={"probe_timeout_s": 0.5})) as (url, _):

        async def is_ready() -> bool:
            return (await ready(url))[0] == 200

        await until(is_ready)
