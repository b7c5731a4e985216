"""Hours of engines that are paid by the hour: closed once, correctly, whatever happens meanwhile."""

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.money.pricing import Pricing
from monitors.money.rates import (
    OPEN,
    ROWS_AT_ONCE,
    Rate,
    close_hour,
    hours_to_close,
    newest_rates,
    pools_with_replicas,
)
from monitors.money.replica_time import HOUR
from tests.monitors.ledger import BY_HOUR, NOON, POOL, Ledger, after, request

_TRAFFIC = (
    request(10, 5, request_id="mine", key_id="key-1"),  # 10 + 4 * 5 = 30
    request(50, 10, request_id="other", key_id="key-2"),  # 90
    request(10, 5, request_id="copy", key_id=None, variant="shadow"),  # 30
    request(50, 100, request_id="own", key_id="key-3", variant="evaluation"),  # 450
    request(None, None, request_id="failed", key_id="key-1", status=503, cost=None),
)


@pytest.fixture
def ledger(database: AsyncEngine) -> Ledger:
    """An empty one, on each kind of database."""
    return Ledger(database)


async def test_an_hour_is_shared_out_as_counted_by_hand(ledger: Ledger) -> None:
    """Two GPUs at 2 an hour, one replica for an hour and one for half: 6, over 600 weighted tokens."""
    await ledger.add(*_TRAFFIC)
    await ledger.look(["r0", "r1"], NOON)
    await ledger.look(["r0", "r1"], NOON + HOUR / 2)
    await ledger.look(["r0"], NOON + HOUR)
    await close_hour(ledger.engine, POOL, NOON, BY_HOUR, after(NOON))
    assert await ledger.rates() == [(6.0, 600.0, 0.01)]
    by_hand = {"mine": 0.3, "other": 0.9, "copy": 0.3, "own": 4.5, "failed": None}
    assert await ledger.logged() == pytest.approx(by_hand)
    assert await ledger.used() == pytest.approx({"stable": 1.2, "shadow": 0.3, "evaluation": 4.5})
    assert await ledger.spent() == pytest.approx({"key-1": 0.3, "key-2": 0.9, "key-3": 4.5})
    assert await ledger.agree(6.0)


async def test_usage_is_locked_in_the_recorders_order(ledger: Ledger) -> None:
    """By code points, as Python sorts, whatever the server's collation; where nothing is to do, nothing is locked."""
    await ledger.add(*_TRAFFIC)
    await ledger.ready_all_hour()
    locking: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "FROM usage_hours" in statement and "ORDER BY" in statement:
            locking.append(statement)

    event.listen(ledger.engine.sync_engine, "before_cursor_execute", note)
    for _ in range(2):
        await close_hour(ledger.engine, POOL, NOON, BY_HOUR, after(NOON))
    event.remove(ledger.engine.sync_engine, "before_cursor_execute", note)
    (statement,) = locking
    if ledger.engine.dialect.name == "postgresql":
        order = 'key_id COLLATE "C", usage_hours.adapter COLLATE "C", usage_hours.version, usage_hours.variant'
        assert f'ORDER BY usage_hours.{order} COLLATE "C" FOR UPDATE' in statement


async def test_only_that_hour_and_pool_are_priced(ledger: Ledger) -> None:
    """The neighbours keep what they have."""
    second = NOON.timestamp()
    await ledger.add(
        request(1, 1, request_id="before", started_at=second - 0.001),
        request(1, 1, request_id="first", started_at=second),
        request(1, 1, request_id="last", started_at=second + 3599.999),
        request(1, 1, request_id="after", started_at=second + 3600),
        request(1, 1, request_id="elsewhere", pool="other"),
    )
    await ledger.ready_all_hour()
    await close_hour(ledger.engine, POOL, NOON, BY_HOUR, after(NOON))
    kept = {"before": 1.0, "after": 1.0, "elsewhere": 1.0}
    assert await ledger.logged() == pytest.approx({"first": 2.0, "last": 2.0, **kept})


async def test_closing_again_changes_nothing(ledger: Ledger) -> None:
    """Neither the rows nor what keys have spent."""
    await ledger.add(*_TRAFFIC)
    await ledger.ready_all_hour()
    await close_hour(ledger.engine, POOL, NOON, BY_HOUR, after(NOON))
    before = [await ledger.read(f"SELECT * FROM {name} ORDER BY 1, 2, 3, 4, 5, 6") for name in _BOOKS]
    await close_hour(ledger.engine, POOL, NOON, BY_HOUR, after(NOON, 2))
    assert [await ledger.read(f"SELECT * FROM {name} ORDER BY 1, 2, 3, 4, 5, 6") for name in _BOOKS] == before


_BOOKS = ("request_log", "usage_hours", "spending", "cost_rates")


@contextmanager
def failing(engine: AsyncEngine, words: str, number: int) -> Iterator[None]:
    """Have the statement with these words fail when it comes for the `number`th time."""
    count = itertools.count(1)

    def execute(_connection: Any, _cursor: Any, statement: str, *_others: Any) -> None:
        if words in statement and next(count) == number:
            raise ConnectionError("the plug was pulled")

    event.listen(engine.sync_engine, "before_cursor_execute", execute)
    try:
        yield
    finally:
        event.remove(engine.sync_engine, "before_cursor_execute", execute)


@pytest.mark.parametrize(
    ("words", "number"),
    [("UPDATE request_log", 2), ("INSERT INTO cost_rates", 1), ("UPDATE usage_hours", 1), ("UPDATE spending", 1)],
)
async def test_what_is_cut_off_is_done_once_in_the_end(ledger: Ledger, words: str, number: int) -> None:
    """Between two pieces of the log, or within the one transaction of the money."""
    requests = ROWS_AT_ONCE + 200
    await ledger.add(*(request(3, 1, request_id=f"r{each}", key_id=f"key-{each % 3}") for each in range(requests)))
    await ledger.ready_all_hour()
    with failing(ledger.engine, words, number), pytest.raises(ConnectionError):
        await close_hour(ledger.engine, POOL, NOON, BY_HOUR, after(NOON))
    assert await ledger.rates() == []
    assert await ledger.spent() == dict.fromkeys(("key-0", "key-1", "key-2"), requests / 3)
    await close_hour(ledger.engine, POOL, NOON, BY_HOUR, after(NOON))
    assert await ledger.agree(4.0)
    assert await ledger.spent() == pytest.approx(dict.fromkeys(("key-0", "key-1", "key-2"), 4 / 3))


async def test_two_monitors_at_once_correct_spending_once(ledger: Ledger) -> None:
    """They take turns, and the second finds nothing to do."""
    await ledger.add(*_TRAFFIC)
    await ledger.ready_all_hour()
    await asyncio.gather(*(close_hour(ledger.engine, POOL, NOON, BY_HOUR, after(NOON)) for _ in range(4)))
    assert await ledger.spent() == pytest.approx({"key-1": 0.2, "key-2": 0.6, "key-3": 3.0})
    assert await ledger.agree(4.0)


async def test_what_is_recorded_meanwhile_is_never_lost(ledger: Ledger) -> None:
    """Closing while requests of the hour are still written ends with exact sums once they are all there."""
    await ledger.ready_all_hour()

    async def record_on() -> None:
        for number in range(25):
            await ledger.add(request(4, 2, request_id=f"late-{number}", key_id=f"key-{number % 2}"))

    recording = asyncio.create_task(record_on())
    while not recording.done():
        await close_hour(ledger.engine, POOL, NOON, BY_HOUR, after(NOON))
    await recording
    await close_hour(ledger.engine, POOL, NOON, BY_HOUR, after(NOON))
    assert await ledger.agree(4.0)
    assert sum((await ledger.spent()).values()) == pytest.approx(4.0)


async def test_a_late_request_takes_its_share_of_a_closed_hour(ledger: Ledger) -> None:
    """The others' cost falls by as much."""
    await ledger.add(request(10, 0, request_id="early", key_id="key-1"))
    await ledger.ready_all_hour()
    assert await hours_to_close(ledger.engine, POOL, after(NOON)) == [NOON]
    await close_hour(ledger.engine, POOL, NOON, BY_HOUR, after(NOON))
    await ledger.add(request(30, 0, request_id="late", key_id="key-2", cost=9.0))
    assert await hours_to_close(ledger.engine, POOL, after(NOON, 2)) == [NOON]
    await close_hour(ledger.engine, POOL, NOON, BY_HOUR, after(NOON, 2))
    assert await ledger.logged() == pytest.approx({"early": 1.0, "late": 3.0})
    assert await ledger.spent() == pytest.approx({"key-1": 1.0, "key-2": 3.0})


async def test_an_hour_is_closed_when_it_is_over_and_looked_at(ledger: Ledger) -> None:
    """Not while its last requests may be under way, and not before it is known how long its engines were ready."""
    await ledger.look(["r0"], NOON)
    await ledger.look(["r0"], NOON + HOUR - timedelta(seconds=5))
    assert await hours_to_close(ledger.engine, POOL, after(NOON, 3)) == []
    await ledger.look(["r0"], NOON + HOUR)
    assert await hours_to_close(ledger.engine, POOL, NOON + HOUR + timedelta(minutes=14)) == []
    assert await hours_to_close(ledger.engine, POOL, NOON + HOUR + timedelta(minutes=15)) == [NOON]
    assert await hours_to_close(ledger.engine, "other", after(NOON, 3)) == []
    assert await pools_with_replicas(ledger.engine, NOON) == [POOL]
    assert await pools_with_replicas(ledger.engine, NOON + HOUR) == []


async def test_after_a_pause_every_hour_is_closed_that_was_left(ledger: Ledger) -> None:
    """However long ago; those closed are looked at again for some hours only."""
    await ledger.look(["r0"], NOON)
    await ledger.look(["r0"], NOON + 10 * HOUR)
    hours = [NOON + number * HOUR for number in range(10)]
    now = after(NOON + 9 * HOUR)
    assert await hours_to_close(ledger.engine, POOL, now) == hours
    for hour in hours:
        await close_hour(ledger.engine, POOL, hour, BY_HOUR, now)
    assert await hours_to_close(ledger.engine, POOL, now) == [hour for hour in hours if hour >= NOON + 10 * HOUR - OPEN]


async def test_an_hour_without_tokens_is_idle(ledger: Ledger) -> None:
    """Its money stands on no request, and tells nothing of what tokens cost."""
    await ledger.ready_all_hour()
    await close_hour(ledger.engine, POOL, NOON, BY_HOUR, after(NOON))
    assert await ledger.rates() == [(4.0, 0.0, 0.0)]
    assert await newest_rates(ledger.engine, [POOL]) == {}


async def test_an_hour_without_a_ready_replica_keeps_its_costs(ledger: Ledger) -> None:
    """As one from before the engines were paid by the hour: it is none to close."""
    await ledger.add(request(10, 5))
    await ledger.ready_all_hour(NOON + HOUR)
    assert await hours_to_close(ledger.engine, POOL, after(NOON, 3)) == [NOON + HOUR]


async def test_the_newest_rate_is_that_of_a_day_of_traffic(ledger: Ledger) -> None:
    """One hour with a single request does not make the next hour's many as dear as itself."""
    for number, tokens in enumerate((7, *[1000] * 22, 0, 1000, 1)):
        hour = NOON + number * HOUR
        await ledger.ready_all_hour(hour)
        await ledger.add(request(tokens, 0, started_at=hour.timestamp()))
        await close_hour(ledger.engine, POOL, hour, BY_HOUR, after(hour))
    rates = await newest_rates(ledger.engine, [POOL, "other"])
    assert rates == pytest.approx({POOL: 24 * 4.0 / (23 * 1000 + 1)})


_tokens = st.integers(min_value=0, max_value=2**31 - 1)
_weight = st.floats(min_value=1e-3, max_value=1e3)


@given(
    requests=st.lists(st.tuples(_tokens, _tokens), min_size=1, max_size=50),
    price=st.floats(min_value=1e-6, max_value=1e6),
    ready_s=st.floats(min_value=0, max_value=1e6),
    weights=st.tuples(_weight, _weight),
)
def test_the_shares_of_an_hour_add_up_to_its_money(
    requests: list[tuple[int, int]], price: float, ready_s: float, weights: tuple[float, float]
) -> None:
    """Whatever the tokens, the price and the weights; and no share is negative."""
    pricing = Pricing(price_per_gpu_hour=price, prompt_token_weight=weights[0], completion_token_weight=weights[1])
    rate = Rate(pricing.engines(ready_s), sum(pricing.weighted(*tokens) for tokens in requests))
    shares = [rate.unit_price * pricing.weighted(*tokens) for tokens in requests]
    assert min(shares) >= 0
    assert sum(shares) == pytest.approx(rate.money if rate.weighted_tokens else 0.0, rel=1e-9, abs=1e-300)
