"""The queue: what is told stands there with its decision, once, and for those who want it."""

from datetime import timedelta

import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.decisions import decisions, record_decision
from monitors.judging.quality import QualityJob
from monitors.tables import DeliveryRow
from monitors.watch.jobs import CountingJob
from monitors.watch.work import Workshop
from monitors.webhooks.hooks import Webhooks
from monitors.webhooks.queue import due, enqueue, enqueue_test, mark_delivered, mark_failed, webhooks_due
from registry.monitoring import QualityRule
from tests.monitors.judging.rows import NOW as OBSERVED
from tests.monitors.judging.rows import catalog, observe
from tests.monitors.webhooks.rows import ALARM, NOW, PROMOTES, decide, deliveries, states

URL = "https://example.com/hook"
DELIVERIES = DeliveryRow.__table__  # type: ignore[attr-defined]


async def test_nothing_is_told_of_a_decision_that_was_not_made(database: AsyncEngine) -> None:
    """Both are one transaction."""
    await Webhooks(database).add(URL, actor="ann")
    async with database.connect() as connection:
        await enqueue(connection, await record_decision(connection, ALARM, NOW), ALARM, NOW)
        await connection.rollback()
    assert await deliveries(database) == []
    await decide(database)
    assert await states(database) == {"alarm": "queued"}


async def test_nothing_is_queued_twice_for_a_decision(database: AsyncEngine) -> None:
    """Whoever is not sure that it was queued queues it again."""
    await Webhooks(database).add(URL, actor="ann")
    number = await decide(database)
    async with database.begin() as connection:
        await enqueue(connection, number, ALARM, NOW + timedelta(hours=1))
    (row,) = await deliveries(database)
    assert row.created_at == NOW
    await decide(database)
    assert len(await deliveries(database)) == 2, "another alarm is another event"


async def test_webhooks_are_told_what_they_want(database: AsyncEngine) -> None:
    """By event and adapter; all of both if nothing is said; nothing while off, or after they are deleted."""
    hooks = Webhooks(database)
    everything, _ = await hooks.add(URL, actor="ann")
    alarms, _ = await hooks.add(URL, events=["alarm", "promoted"], adapters=["billing", "support"], actor="ann")
    await hooks.add(URL, events=["promoted"], actor="ann")
    await hooks.add(URL, adapters=["billing"], actor="ann")
    off, _ = await hooks.add(URL, actor="ann")
    await hooks.switch(off.id, on=False, actor="ann")
    gone, _ = await hooks.add(URL, actor="ann")
    await hooks.remove(gone.id, actor="ann")
    await decide(database)
    assert {row.webhook for row in await deliveries(database)} == {everything.id, alarms.id}


async def test_changes_are_held(database: AsyncEngine) -> None:
    """They are due once they are made, see `monitors.webhooks.holding`."""
    made, _ = await Webhooks(database).add(URL, actor="ann")
    await decide(database, PROMOTES)
    assert await states(database) == {"promoted": "held"}
    async with database.connect() as connection:
        assert await webhooks_due(connection, NOW + timedelta(days=1)) == set()
        assert await due(connection, made.id, NOW + timedelta(days=1), 10) == []


async def test_what_is_due_comes_oldest_first_and_a_few_at_once(database: AsyncEngine) -> None:
    """And nothing before its time."""
    made, _ = await Webhooks(database).add(URL, actor="ann")
    numbers = [await decide(database, now=NOW + timedelta(minutes=minute)) for minute in (2, 1, 9)]
    at = NOW + timedelta(minutes=5)
    async with database.connect() as connection:
        assert await webhooks_due(connection, at) == {made.id}
        found = [each.body["data"]["decision"] for each in await due(connection, made.id, at, 10)]
        assert found == [numbers[1], numbers[0]]
        assert len(await due(connection, made.id, at, 1)) == 1


async def test_a_mark_does_not_undo_what_happened_meanwhile(database: AsyncEngine) -> None:
    """A monitor that lost its lease long ago marks nothing that another one has tried since."""
    made, _ = await Webhooks(database).add(URL, actor="ann")
    await decide(database)
    async with database.begin() as connection:
        (first,) = await due(connection, made.id, NOW, 10)
        await mark_failed(connection, first, "status 500", NOW + timedelta(minutes=1))
        await mark_failed(connection, first, "late", None)
        await mark_delivered(connection, first, NOW)
    (row,) = await deliveries(database)
    assert (row.state, row.attempts, row.error) == ("queued", 1, "status 500")
    async with database.begin() as connection:
        (second,) = await due(connection, made.id, NOW + timedelta(minutes=1), 10)
        await mark_delivered(connection, second, NOW)
        await mark_failed(connection, second, "late", None)
    (row,) = await deliveries(database)
    assert (row.state, row.attempts, row.error, row.delivered_at) == ("delivered", 1, None, NOW)


async def test_an_alarm_is_told(shop: Workshop, database: AsyncEngine) -> None:
    """By the job that raises it, with the decision's id."""
    await Webhooks(database).add(URL, actor="ann")
    rule = QualityRule(level_observations=50, drop=0.1, alarm_every=1000)
    await observe(database, [1.0] * 50 + [0.0] * 50)
    await QualityJob(shop).run(catalog(quality=rule), OBSERVED)
    (row,) = await deliveries(database)
    (found,) = [each for each in await decisions(database) if each.outcome == "alarm"]
    data = row.body["data"]
    assert (row.event, data["decision"], data["version"]) == ("alarm", found.id, found.version)
    assert data["reason"] == found.reason


async def test_the_queue_is_shown(shop: Workshop, database: AsyncEngine) -> None:
    """What waits, what was given up, and since when the oldest waits; no tests, and nothing of one that is off."""

    def shown(name: str, **labels: str) -> float | None:
        return shop.metrics.registry.get_sample_value(f"ostler_webhook_{name}", labels)

    made, _ = await Webhooks(database).add(URL, actor="ann")
    await CountingJob(shop).run(catalog(), NOW)
    assert (shown("deliveries", state="queued"), shown("deliveries", state="dead")) == (0, 0)
    assert shown("wait_seconds") == 0
    for minutes in (0, 3, 4):
        await decide(database, now=NOW + timedelta(minutes=minutes))
    first = (await deliveries(database))[0].id
    async with database.begin() as connection:
        await connection.execute(update(DELIVERIES).where(DELIVERIES.c.id == first).values(state="dead"))
        await enqueue_test(connection, made.id, NOW - timedelta(days=1))
    oldest = min(row.created_at for row in await deliveries(database) if (row.state, row.event) == ("queued", "alarm"))
    await CountingJob(shop).run(catalog(), NOW + timedelta(minutes=10))
    assert (shown("deliveries", state="queued"), shown("deliveries", state="dead")) == (2, 1)
    assert shown("wait_seconds") == pytest.approx((NOW + timedelta(minutes=10) - oldest).total_seconds())
    await Webhooks(database).switch(made.id, on=False, actor="ann")
    await CountingJob(shop).run(catalog(), NOW + timedelta(minutes=10))
    assert (shown("deliveries", state="queued"), shown("deliveries", state="dead")) == (0, 0), "nobody wants them"
    await Webhooks(database).switch(made.id, on=True, actor="ann")
    await CountingJob(shop).run(catalog(), NOW + timedelta(minutes=10))
    assert (shown("deliveries", state="queued"), shown("deliveries", state="dead")) == (0, 3)
    shop.metrics.forget_findings()
    assert (shown("deliveries", state="dead"), shown("wait_seconds")) == (None, 0)
