"""What API keys have spent this month: the database's sums and this gateway's own."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.limits.budgets import Budgets
from monitors.record import RequestRecord
from tests.conftest import until

NOVEMBER = datetime(2026, 11, 20, tzinfo=UTC)
DECEMBER = datetime(2026, 12, 1, tzinfo=UTC)


class Database:
    """What the database says, or that it is away."""

    def __init__(self) -> None:
        self.spending: dict[str, float] = {}
        self.away = False
        self.reads = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def read(self) -> Mapping[str, float]:
        """This month's spending."""
        self.reads += 1
        await self.gate.wait()
        if self.away:
            raise ConnectionError("away")
        return dict(self.spending)


def record(key_id: str | None, cost: float | None, began: datetime) -> RequestRecord:
    """A finished request."""
    return RequestRecord(
        request_id="req-1",
        path="/v1/chat/completions",
        key_id=key_id,
        adapter=None,
        model=None,
        version=None,
        variant=None,
        status=200,
        error=None,
        started_at=began.timestamp(),
        duration_s=1.0,
        first_byte_s=None,
        streamed=False,
        prompt_tokens=None,
        completion_tokens=None,
        cost=cost,
    )


async def test_own_spending_counts_at_once_and_others_with_the_next_read() -> None:
    """The sum is the database's and this gateway's."""
    database = Database()
    budgets = Budgets(database.read)
    budgets.add("a", 1.0)
    assert (budgets.spent("a"), budgets.spent("b")) == (1.0, 0.0)
    database.spending = {"a": 5.0}
    await budgets.refresh()
    assert budgets.spent("a") == 6.0


async def test_what_has_been_written_is_not_counted_twice_for_long() -> None:
    """After two reads the database's sum stands alone."""
    database = Database()
    budgets = Budgets(database.read)
    budgets.add("a", 1.0)
    database.spending = {"a": 1.0}
    await budgets.refresh()
    await budgets.refresh()
    assert budgets.spent("a") == 1.0


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.booleans()), max_size=40))
def test_own_spending_is_never_missed(steps: list[tuple[int, bool, bool]]) -> None:
    """As long as the recorder writes between two reads, and however often the database fails to answer."""

    async def play() -> None:
        database = Database()
        budgets = Budgets(database.read, NOVEMBER.timestamp)
        total = 0.0
        for cost, write_before_read, away in steps:
            budgets.add("a", cost)
            total += cost
            if write_before_read:
                database.spending = {"a": total}
            database.away = away
            if away:
                with pytest.raises(ConnectionError):
                    await budgets.refresh()
            else:
                await budgets.refresh()
            assert budgets.spent("a") >= total
            database.spending = {"a": total}
        database.away = False
        await budgets.refresh()
        await budgets.refresh()
        assert budgets.spent("a") == total

    asyncio.run(play())


async def test_what_is_spent_during_a_read_is_kept() -> None:
    """It was not in what was read, and not before it."""
    database = Database()
    budgets = Budgets(database.read)
    database.gate.clear()
    reading = asyncio.create_task(budgets.refresh())
    await until(lambda: database.reads == 1)
    budgets.add("a", 2.0)
    database.gate.set()
    await reading
    await budgets.refresh()
    assert budgets.spent("a") == 2.0


async def test_following_survives_a_database_that_is_away() -> None:
    """The last sums stay, this gateway's own grow, and the database's come again when it does."""
    database = Database()
    database.spending = {"a": 3.0}
    budgets = Budgets(database.read)
    following = asyncio.create_task(budgets.follow(0.01))
    await until(lambda: budgets.spent("a") == 3.0)
    database.away = True
    reads = database.reads
    await until(lambda: database.reads > reads + 2)
    budgets.add("a", 1.0)
    assert budgets.spent("a") == 4.0
    database.spending, database.away = {"a": 9.0}, False
    await until(lambda: budgets.spent("a") == 9.0)
    following.cancel()


async def test_a_month_begins_with_nothing_spent() -> None:
    """Neither the old month's sums count, nor a read that was for the old month."""
    database, now = Database(), NOVEMBER.timestamp()
    budgets = Budgets(database.read, lambda: now)
    database.spending = {"a": 7.0}
    await budgets.refresh()
    budgets.add("a", 1.0)
    assert budgets.renewed_at() == DECEMBER
    database.gate.clear()
    reading = asyncio.create_task(budgets.refresh())
    await until(lambda: database.reads == 2)
    now = DECEMBER.timestamp()
    assert budgets.spent("a") == 0.0
    database.gate.set()
    await reading
    assert budgets.spent("a") == 0.0
    assert budgets.renewed_at() == datetime(2027, 1, 1, tzinfo=UTC)


def test_finished_requests_are_counted_in_the_month_that_they_began_in() -> None:
    """As the database has them; those without a key or a price are nobody's."""
    budgets = Budgets(Database().read, DECEMBER.timestamp)
    budgets(record("a", 0.25, DECEMBER))
    budgets(record("a", 9.0, NOVEMBER))
    budgets(record("a", None, DECEMBER))
    budgets(record(None, 1.0, DECEMBER))
    assert budgets.spent("a") == 0.25


@given(st.datetimes(datetime(2001, 1, 1), datetime(2099, 12, 31)))  # noqa: DTZ001 - Hypothesis takes them so
def test_months_are_those_of_the_calendar_in_utc(naive: datetime) -> None:
    """What began in this month counts, to its last microsecond, and nothing else."""
    now = naive.replace(tzinfo=UTC)
    first = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    budgets = Budgets(Database().read, now.timestamp)
    budgets(record("a", 1.0, first))
    budgets(record("a", 2.0, now))
    budgets(record("a", 4.0, first - timedelta(microseconds=1)))
    budgets(record("a", 8.0, budgets.renewed_at()))
    assert budgets.spent("a") == 3.0
    assert budgets.renewed_at() == (first + timedelta(days=31)).replace(day=1)
    assert budgets.renewed_in_s() == pytest.approx((budgets.renewed_at() - now).total_seconds())
