"""The monitor's jobs about money, from the gateway's answer to the metric."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.money.jobs import CostJob, ReplicaTimeJob
from monitors.money.pricing import PricedPool
from monitors.settings import MonitorSettings
from monitors.watch.client import GatewayClient, GatewayRefused
from monitors.watch.metrics import MonitorMetrics
from monitors.watch.work import Job, Workshop
from registry.artifacts import ArtifactStore
from registry.catalog import Catalog
from tests.monitors.ledger import NOON, POOL, Ledger, after, request

CATALOG = Catalog(1)
Maker = Callable[..., Workshop]


class FakeGateway:
    """Tells which replicas there are."""

    def __init__(self) -> None:
        self.replicas: list[dict[str, Any]] = []
        self.asked = 0
        self.is_away = False

    def __call__(self, asked: httpx.Request) -> httpx.Response:
        """Answer as `GET /admin/v1/replicas` does."""
        assert asked.url.path == "/admin/v1/replicas"
        self.asked += 1
        return httpx.Response(503 if self.is_away else 200, json={"data": self.replicas, "has_more": False})


@pytest.fixture
def gateway() -> FakeGateway:
    """One with two ready replicas of different pools, and one that is loading."""
    found = FakeGateway()
    found.replicas = [
        {"id": "r0", "pool": POOL, "state": "ready"},
        {"id": "r1", "pool": POOL, "state": "loading"},
        {"id": "r2", "pool": "listed", "state": "ready"},
    ]
    return found


@pytest.fixture
def workshop(database: AsyncEngine, store: ArtifactStore, tmp_path: Path, gateway: FakeGateway) -> Maker:
    """Makes what the jobs work with, under some settings."""

    def make(**settings: Any) -> Workshop:
        client = GatewayClient("http://gateway", "key", concurrency=1, transport=httpx.MockTransport(gateway))
        own = MonitorSettings(home=tmp_path, **settings)
        return Workshop(database, store, client, None, MonitorMetrics(), own, tmp_path)

    return make


def by_the_hour(workshop: Maker) -> Workshop:
    """An hour of a replica of `tiny` costs 3, tokens of `listed` cost by a list."""
    listed = PricedPool(base="listed", price_per_million_prompt_tokens=1)
    return workshop(price_per_gpu_hour=3, pools=(listed,))


async def run(job: Job, *hours: float) -> None:
    """Run a job so many hours after noon."""
    for each in hours:
        await job.run(CATALOG, after(NOON, each))


async def test_hours_are_closed_from_what_the_gateway_says(workshop: Maker, database: AsyncEngine) -> None:
    """Ready replicas of pools that are paid by the hour cost money, which that hour's requests share."""
    ledger, shop = Ledger(database), by_the_hour(workshop)
    await ledger.add(request(10, 5), request(10, 5, version=None, variant="shadow", key_id=None))
    await ledger.add(request(1000, 0, pool="listed", cost=0.001))
    await run(ReplicaTimeJob(shop), 0, 0.25, 0.5, 1)
    seen = await ledger.read("SELECT pool, replica, ready_s FROM replica_hours")
    assert sorted(seen) == [("listed", "r2", 3600.0), (POOL, "r0", 3600.0)]
    await run(CostJob(shop), 1.2)
    assert await ledger.rates() == [], "the hour's last requests may still be under way"
    await run(CostJob(shop), 1.25, 1.25, 1.5)
    assert await ledger.rates() == [(3.0, 60.0, 0.05)]
    assert await ledger.used() == {"stable": pytest.approx(1.501), "shadow": 1.5}


async def test_a_price_can_be_set_after_the_hour_that_it_is_for(workshop: Maker, database: AsyncEngine) -> None:
    """Without one nothing is closed, but how long replicas were ready is counted all the same."""
    ledger, unpriced = Ledger(database), workshop(price_per_million_prompt_tokens=1)
    await ledger.add(request(10, 5))
    await run(ReplicaTimeJob(unpriced), 0, 1)
    await run(CostJob(unpriced), 2)
    assert await ledger.rates() == []
    await run(CostJob(by_the_hour(workshop)), 2)
    assert [money for money, _, _ in await ledger.rates()] == [3.0]


async def test_a_gateway_that_is_away_leaves_a_gap_that_is_filled(
    workshop: Maker, gateway: FakeGateway, database: AsyncEngine
) -> None:
    """The hour waits until its end has been looked at."""
    ledger, shop = Ledger(database), by_the_hour(workshop)
    await run(ReplicaTimeJob(shop), 0, 0.5)
    gateway.is_away = True
    with pytest.raises(GatewayRefused):
        await run(ReplicaTimeJob(shop), 0.75)
    await run(CostJob(shop), 3)
    assert await ledger.rates() == []
    gateway.is_away = False
    await run(ReplicaTimeJob(shop), 3)
    await run(CostJob(shop), 3)
    assert [money for money, _, _ in await ledger.rates()] == [3.0, 3.0]


async def test_the_metric_shows_what_a_thousand_requests_cost(workshop: Maker, database: AsyncEngine) -> None:
    """Of the last day: what has no requests any more disappears."""
    ledger, shop = Ledger(database), workshop()
    await ledger.add(request(10, 5, cost=2.0), request(10, 5, cost=0.5, version=None, variant="shadow", key_id=None))
    job, registry = CostJob(shop), shop.metrics.registry

    def shown(variant: str) -> float | None:
        labels = {"adapter": "support", "variant": variant}
        return registry.get_sample_value("ostler_cost_per_thousand_requests", labels)

    await run(job, 2)
    assert (shown("stable"), shown("base")) == (2000.0, 500.0)
    await run(job, 30)
    assert (shown("stable"), shown("base")) == (None, None)
