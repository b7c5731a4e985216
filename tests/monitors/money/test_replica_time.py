"""How long replicas were ready: counted from looks, each second once."""

import asyncio
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.money.replica_time import HOUR, LONGEST_GAP, add_look, split_by_hour
from tests.monitors.ledger import NOON, POOL, Ledger

_LOOK = timedelta(seconds=15)


@pytest.fixture
def ledger(database: AsyncEngine) -> Ledger:
    """An empty one, on each kind of database."""
    return Ledger(database)


async def ready_s(ledger: Ledger) -> list[tuple[object, ...]]:
    """Replica and seconds, hour by hour."""
    return await ledger.read("SELECT replica, ready_s FROM replica_hours ORDER BY hour, replica")


async def test_time_counts_for_what_was_ready_at_both_looks(ledger: Ledger) -> None:
    """What starts or stops in between counts from its first look to its last."""
    for number, replicas in enumerate((["r0"], ["r0", "r1"], ["r0", "r1"], ["r1"], [], ["r0", "r1"])):
        await ledger.look(replicas, NOON + number * _LOOK)
    assert await ready_s(ledger) == [("r0", 30.0), ("r1", 30.0)]


async def test_time_over_the_hour_is_split(ledger: Ledger) -> None:
    """Each hour has its own part."""
    await ledger.look(["r0"], NOON - timedelta(seconds=10))
    await ledger.look(["r0"], NOON + timedelta(seconds=5))
    assert await ready_s(ledger) == [("r0", 10.0), ("r0", 5.0)]


async def test_a_gap_counts_up_to_a_day(ledger: Ledger) -> None:
    """Where both sides agree that the replica is ready; beyond a day nothing is known."""
    await ledger.look(["r0", "r1"], NOON)
    await ledger.look(["r0"], NOON + 5 * HOUR)
    assert await ready_s(ledger) == [("r0", 3600.0)] * 5
    await ledger.look(["r0"], NOON + 5 * HOUR + LONGEST_GAP + _LOOK)
    assert len(await ready_s(ledger)) == 5


async def test_two_monitors_count_no_second_twice(ledger: Ledger) -> None:
    """Also when they look at the same time, or one with a clock that is behind."""
    await ledger.look(["r0"], NOON)
    looks = [NOON + timedelta(seconds=second) for second in (40, 10, 30, 20, 30, 5)]
    await asyncio.gather(*(ledger.look(["r0"], look) for look in looks))
    assert await ready_s(ledger) == [("r0", 40.0)]


async def test_replicas_of_pools_with_long_names_are_told_apart(ledger: Ledger) -> None:
    """Names of models may be as long as paths."""
    ready = [("org/" + "x" * 240 + end, "r0") for end in "ab"]
    await add_look(ledger.engine, ready, NOON)
    await add_look(ledger.engine, ready[:1], NOON + _LOOK)
    assert await ledger.read("SELECT pool, ready_s FROM replica_hours") == [(ready[0][0], 15.0)]


async def test_replicas_that_are_gone_leave_nothing_behind(ledger: Ledger) -> None:
    """On Kubernetes each has a new name."""
    for number in range(20):
        await ledger.look([f"r{number}"], NOON + number * _LOOK)
    assert await ledger.read("SELECT count(*) FROM monitor_cursors") == [(2,)]
    assert await ledger.read(f"SELECT count(*) FROM replica_hours WHERE pool = '{POOL}'") == [(0,)]


@given(start=st.integers(0, 200_000), seconds=st.integers(1, 200_000))
def test_the_parts_of_a_span_add_up(start: int, seconds: int) -> None:
    """None is longer than an hour, or empty."""
    begin = NOON + timedelta(seconds=start)
    parts = list(split_by_hour(begin, begin + timedelta(seconds=seconds)))
    assert sum(part for _, part in parts) == pytest.approx(seconds)
    assert all(0 < part <= 3600 for _, part in parts)
    assert len({hour for hour, _ in parts}) == len(parts)
