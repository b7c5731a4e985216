"""Reports of costs: by everything that they can be asked by, in days and months of UTC."""

from datetime import UTC, datetime

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.money.costs import By, Cost, Per, Span, cost_per_thousand, costs
from monitors.money.rates import close_hour
from monitors.money.replica_time import HOUR
from tests.monitors.ledger import BY_HOUR, NOON, POOL, Ledger, after, request

YEAR = Span(datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))
DAY_S = 86_400


@pytest.fixture
async def ledger(database: AsyncEngine) -> Ledger:
    """Two adapters, the base model, and all variants over some days."""
    found = Ledger(database)
    at = NOON.timestamp()
    base = {"version": None, "variant": "shadow", "key_id": None, "cost": 0.25}
    await found.add(
        request(10, 5, cost=2.0),
        request(10, 5, cost=4.0, version=3, variant="canary", key_id="key-2"),
        request(None, None, cost=None, status=503, error="overloaded"),
        request(10, 5, **base),
        request(10, 5, cost=0.75, version=None, variant="fallback"),
        request(None, None, **base | {"cost": None, "status": 499, "error": "shadow_cancelled"}),
        request(10, 5, cost=100.0, variant="evaluation"),
        request(10, 5, cost=8.0, started_at=at + DAY_S),
        request(10, 5, cost=16.0, adapter="other", version=1, key_id="key-2", pool="big"),
        request(10, 5, cost=0.125, adapter=None, version=None, variant="base"),
        request(10, 5, cost=32.0, started_at=at + 31 * DAY_S, adapter="other", version=1),
    )
    return found


async def report(ledger: Ledger, by: By, per: Per = "month", span: Span = YEAR, limit: int = 100) -> list[Cost]:
    """The groups."""
    return await costs(ledger.engine, span, by=by, per=per, limit=limit)


@pytest.mark.parametrize("by", ["adapter", "version", "variant", "key", "pool"])
@pytest.mark.parametrize("per", ["day", "month"])
async def test_every_report_agrees_with_the_usage(ledger: Ledger, by: By, per: Per) -> None:
    """Requests, tokens and money, however they are grouped."""
    ((requests, prompt, completion, money),) = await ledger.read(
        "SELECT sum(requests), sum(prompt_tokens), sum(completion_tokens), sum(cost) FROM usage_hours"
    )
    found = await report(ledger, by, per)
    assert sum(one.cost for one in found) == pytest.approx(money) == 163.125
    assert sum(one.requests for one in found) == requests == 11
    assert sum(one.prompt_tokens for one in found) == prompt
    assert sum(one.completion_tokens for one in found) == completion
    assert sum(one.answered for one in found) == 9


async def test_an_adapter_is_held_against_the_base(ledger: Ledger) -> None:
    """Per 1,000 answers: its own versions' against the base's to the same adapter, without the monitor's own."""
    october_to_december = await report(ledger, "adapter")
    assert [(one.period, one.adapter, one.cost) for one in october_to_december] == [
        ("2026-12", "other", 32.0),
        ("2026-11", "support", 115.0),
        ("2026-11", "other", 16.0),
        ("2026-11", "", 0.125),
    ]
    support = october_to_december[1]
    assert support.per_thousand == pytest.approx(1000 * (2 + 4 + 8) / 3)
    assert support.base_per_thousand == pytest.approx(1000 * (0.25 + 0.75) / 2)
    assert october_to_december[2].base_per_thousand is None
    assert october_to_december[3].per_thousand is None


async def test_versions_variants_keys_and_pools_are_told_apart(ledger: Ledger) -> None:
    """Version 0 is the base model, an empty key nobody's."""
    november = [one for one in await report(ledger, "version") if one.period == "2026-11"]
    assert {(one.adapter, one.version): one.cost for one in november} == {
        ("support", 2): 110.0,
        ("support", 3): 4.0,
        ("support", 0): 1.0,
        ("other", 1): 16.0,
        ("", 0): 0.125,
    }
    variants = {(one.adapter, one.variant): one.cost for one in await report(ledger, "variant")}
    assert variants["support", "evaluation"] == 100.0
    assert variants["support", "shadow"] == 0.25
    keys = {one.key_id: one.cost for one in await report(ledger, "key")}
    assert keys["key-2"] == 20.0
    pools = {one.pool: one.cost for one in await report(ledger, "pool") if one.period == "2026-11"}
    assert pools == {POOL: 115.125, "big": 16.0}


async def test_one_adapter_and_a_span_can_be_asked_for(ledger: Ledger) -> None:
    """An hour counts if it begins within the span."""
    only = Span(NOON, NOON + HOUR, "support")
    (found,) = await report(ledger, "adapter", "day", only)
    assert (found.period, found.cost, found.requests) == ("2026-11-03", 107.0, 7)
    assert await report(ledger, "adapter", "day", Span(NOON + HOUR, NOON + 2 * HOUR)) == []
    assert len(await report(ledger, "adapter", "day", limit=2)) == 2


async def test_days_and_months_are_those_of_utc(database: AsyncEngine) -> None:
    """Whatever the server's own zone does, also in the night when its clocks change."""
    if database.dialect.name == "postgresql":
        async with database.begin() as connection:
            name = (await connection.execute(text("SELECT current_database()"))).scalar()
            await connection.execute(text(f"ALTER DATABASE {name} SET timezone TO 'America/New_York'"))
        await database.dispose()
    ledger = Ledger(database)
    hours = [datetime(2026, 11, 1, hour, tzinfo=UTC) for hour in range(24)]  # New York leaves summer time at 06:00
    hours += [datetime(2026, 10, 31, 23, tzinfo=UTC), datetime(2026, 11, 2, 0, tzinfo=UTC)]
    await ledger.add(*(request(1, 1, started_at=hour.timestamp()) for hour in hours))
    days = await report(ledger, "adapter", "day")
    assert [(one.period, one.requests) for one in days] == [("2026-11-02", 1), ("2026-11-01", 24), ("2026-10-31", 1)]
    months = await report(ledger, "adapter")
    assert [(one.period, one.requests) for one in months] == [("2026-11", 25), ("2026-10", 1)]


async def test_idle_hours_are_shown_beside_a_pools_cost(database: AsyncEngine) -> None:
    """Together they are what the engines cost; a month with nothing else is there, too."""
    ledger = Ledger(database)
    december = datetime(2026, 12, 1, tzinfo=UTC)
    await ledger.add(request(10, 5))
    for hour in (NOON, NOON + HOUR, NOON + 2 * HOUR, december):
        await ledger.ready_all_hour(hour)
        await close_hour(ledger.engine, POOL, hour, BY_HOUR, after(hour))
    found = await report(ledger, "pool")
    assert [(one.period, one.cost, one.idle) for one in found] == [("2026-12", 0.0, 4.0), ("2026-11", 4.0, 8.0)]
    assert [one.idle for one in await report(ledger, "adapter")] == [None]


async def test_the_shown_cost_of_a_thousand_requests(ledger: Ledger) -> None:
    """By adapter and variant; what the base answered is the base's, and failures do not make it cheaper."""
    found = await cost_per_thousand(ledger.engine, NOON, NOON + HOUR)
    assert found == pytest.approx(
        {
            ("support", "stable"): 2000.0,
            ("support", "canary"): 4000.0,
            ("support", "base"): 500.0,
            ("other", "stable"): 16_000.0,
            ("", "base"): 125.0,
        }
    )
