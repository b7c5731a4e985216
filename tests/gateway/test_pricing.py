"""What requests cost at the gateway: by a price list, or by what the engines' hours have cost lately."""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.pricing import Prices
from gateway.settings import GatewaySettings
from gateway.usage import Usage
from monitors.money.jobs import CostJob, ReplicaTimeJob
from monitors.money.pricing import Pricing
from monitors.money.rates import close_hour
from monitors.money.replica_time import HOUR, hour_of
from monitors.record import RequestRecord
from monitors.settings import MonitorSettings
from monitors.watch.client import GatewayClient
from monitors.watch.metrics import MonitorMetrics
from monitors.watch.work import Workshop
from registry.artifacts import ArtifactStore
from registry.catalog import Catalog
from registry.database import connect, migrate
from tests.conftest import RunningGateway, until
from tests.gateway.answers import error_of, new_key, stranger
from tests.monitors.ledger import POOL, Ledger, after, request

LISTED = Pricing(price_per_million_prompt_tokens=1e6, price_per_million_completion_tokens=2e6)
HOURLY = Pricing(price_per_gpu_hour=6)
CHAT = {"model": POOL, "messages": []}
COST = 0.1 * (7 + 4 * 3)
"""Of one request to the fake engine, at 0.1 a weighted token."""


async def nothing(_pools: Sequence[str]) -> Mapping[str, float]:
    """No rates."""
    return {}


def test_a_price_list_holds_at_once() -> None:
    """Each pool has its own; of tokens that are not known, or of no pool, there is no cost."""
    prices = Prices({"a": LISTED, "b": Pricing()}, nothing)
    assert prices.cost("a", Usage(7, 3)) == 13.0
    assert prices.cost("a", Usage(7, None)) == 7.0
    assert prices.cost("b", Usage(7, 3)) == 0.0
    assert prices.cost("a", Usage()) is None
    assert prices.cost(None, Usage(7, 3)) is None


async def test_engines_by_the_hour_cost_what_the_newest_rate_says() -> None:
    """Before the first there is no cost; only pools that are paid so are asked about."""
    rates = {"b": 0.5}
    asked: list[Sequence[str]] = []

    async def read(pools: Sequence[str]) -> Mapping[str, float]:
        asked.append(pools)
        return rates

    prices = Prices({"a": LISTED, "b": HOURLY, "c": HOURLY}, read)
    assert prices.cost("b", Usage(7, 3)) is None
    await prices.refresh()
    assert asked == [("b", "c")]
    assert prices.cost("b", Usage(7, 3)) == pytest.approx(0.5 * 19)
    assert prices.cost("c", Usage(7, 3)) is None
    assert prices.cost("a", Usage(7, 3)) == 13.0


@pytest.fixture
async def closed(gateway_settings: GatewaySettings) -> AsyncIterator[None]:
    """An hour of the past in which 60 weighted tokens cost 6."""
    database = connect(gateway_settings.database)
    await migrate(database)
    ledger = Ledger(database)
    hour = hour_of(datetime.now(UTC)) - timedelta(hours=2)
    await ledger.add(request(20, 10, started_at=hour.timestamp(), key_id="key-1"))
    await ledger.ready_all_hour(hour)
    await close_hour(database, POOL, hour, HOURLY, after(hour))
    yield
    await database.dispose()


@pytest.fixture
def gateway_settings(gateway_settings: GatewaySettings) -> GatewaySettings:
    """Engines that are paid by the hour."""
    return gateway_settings.model_copy(update={"price_per_gpu_hour": 6.0})


async def test_budgets_bind_once_a_rate_is_known(closed: None, gateway: RunningGateway) -> None:
    """By the provisional cost; the key's own sum shows it."""
    secret, key = await new_key(gateway, limits={"monthly_budget": 2 * COST + 0.01})
    answers = [await stranger(gateway, secret, "POST", "/v1/chat/completions", json=CHAT) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert error_of(answers[-1])["code"] == "insufficient_quota"
    shown = (await gateway.http.get(f"/admin/v1/keys/{key['id']}")).json()
    assert shown["spent_this_month"] == pytest.approx(3 * COST)

    async def is_written() -> bool:
        answer = await gateway.http.get("/admin/v1/costs", params={"by": "key"})
        costs = {one["key_id"]: one["cost"] for one in answer.json()["data"]}
        return costs.get(key["id"]) == pytest.approx(3 * COST)

    await until(is_written)


async def test_before_the_first_rate_requests_have_no_cost(gateway: RunningGateway) -> None:
    """And no budget stops them."""
    told: list[RequestRecord] = []
    gateway.app.state.inference._hooks.append(told.append)
    secret, _ = await new_key(gateway, limits={"monthly_budget": 1e-9})
    answers = [await stranger(gateway, secret, "POST", "/v1/chat/completions", json=CHAT) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert [record.cost for record in told] == [None, None, None]


async def test_the_monitor_closes_what_the_gateway_recorded(
    gateway: RunningGateway, store: ArtifactStore, tmp_path: Path
) -> None:
    """Replicas as the gateway tells of them, requests as it records them: their cost is the hour's, to the budget."""
    secret, key = await new_key(gateway)
    for name in ("a", "b"):
        headers = {"authorization": f"Bearer {secret}", "x-request-id": name}
        answer = await gateway.http.post("/v1/chat/completions", json=CHAT, headers=headers)
        assert answer.status_code == 200

    async def costs() -> list[tuple[str, int, float]]:
        answer = await gateway.http.get("/admin/v1/costs", params={"by": "key"})
        return [(one["key_id"], one["requests"], one["cost"]) for one in answer.json()["data"]]

    async def are_written() -> bool:
        return await costs() == [(key["id"], 2, 0.0)]

    await until(are_written)
    ledger = Ledger(gateway.app.state.database)
    ((earliest,),) = await ledger.read("SELECT hour FROM usage_hours")
    hour = datetime.fromisoformat(earliest).replace(tzinfo=UTC)
    async with GatewayClient(gateway.url, gateway.key, concurrency=1) as client:
        settings = MonitorSettings(home=tmp_path, price_per_gpu_hour=6)
        shop = Workshop(ledger.engine, store, client, None, MonitorMetrics(), settings, tmp_path)
        for moment in (hour, hour + HOUR):
            await ReplicaTimeJob(shop).run(Catalog(1), moment)
        await CostJob(shop).run(Catalog(1), after(hour))
    ((key_id, requests, cost),) = await costs()
    assert (key_id, requests) == (key["id"], 2)
    assert cost == pytest.approx(6.0)
    assert await ledger.logged() == pytest.approx({"a": 3.0, "b": 3.0})
    assert await ledger.spent() == pytest.approx({key["id"]: 6.0})
