"""The job that tells webhooks, before receivers on real ports."""

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from monitors.log.retention import RetentionJob
from monitors.watch.work import Workshop
from monitors.webhooks.deliveries import send_again
from monitors.webhooks.hooks import Webhooks
from monitors.webhooks.job import WebhookJob
from monitors.webhooks.queue import Due, enqueue_test, mark_failed
from monitors.webhooks.sending import Sender
from registry.catalog import Catalog
from registry.errors import Conflict
from tests.conftest import until
from tests.fakes.receiver import Receiver
from tests.monitors.webhooks.rows import ALARM, NOW, decide, deliveries, states

EMPTY = Catalog(1, MappingProxyType({}))
MINUTE = timedelta(minutes=1)


@dataclass
class Clock:
    """Tells the time that the test says."""

    now: datetime = NOW

    def __call__(self) -> datetime:
        """That time."""
        return self.now


@dataclass
class Monitor:
    """Runs a new job each time, as a monitor that was restarted does."""

    shop: Workshop
    clock: Clock = field(default_factory=Clock)
    pauses_s: Sequence[float] = (10.0, 20.0)
    timeout_s: float = 5.0
    transport: httpx.AsyncBaseTransport | None = None

    def job(self) -> WebhookJob:
        """A new one."""
        job = WebhookJob(
            self.shop,
            pauses_s=self.pauses_s,
            new_sender=lambda: Sender(timeout_s=self.timeout_s, transport=self.transport),
            clock=self.clock,
        )
        job.every_s = 0.02
        return job

    async def run(self) -> None:
        """Tell what is due."""
        await self.job().run(EMPTY, self.clock())

    def attempts(self, outcome: str) -> float:
        """How many attempts ended so."""
        name = "ostler_webhook_attempts_total"
        return self.shop.metrics.registry.get_sample_value(name, {"outcome": outcome}) or 0.0


@pytest.fixture
def monitor(shop: Workshop) -> Monitor:
    """One whose clock the test sets."""
    return Monitor(shop)


async def hook(database: AsyncEngine, receiver: Receiver, **wanted: Any) -> tuple[str, str]:
    """A webhook to the receiver: its id and its secret."""
    made, secret = await Webhooks(database).add(receiver.url, actor="ann", **wanted)
    return made.id, secret


async def test_an_event_arrives_signed(monitor: Monitor, database: AsyncEngine, receiver: Receiver) -> None:
    """Once; what came is what is stored, byte for byte what was signed, and names its delivery."""
    _, secret = await hook(database, receiver)
    number = await decide(database)
    await monitor.run()
    await monitor.run()
    (got,) = receiver.got
    (row,) = await deliveries(database)
    assert got.is_signed_by(secret)
    assert (got.id, got.timestamp, got.body) == (row.id, int(NOW.timestamp()), row.body)
    assert (got.body["type"], got.body["data"]["decision"]) == ("ostler.alarm", number)
    assert got.headers["content-type"] == "application/json"
    assert "authorization" not in got.headers
    assert (row.state, row.attempts, row.delivered_at) == ("delivered", 0, NOW)
    assert monitor.attempts("delivered") == 1


async def test_both_secrets_sign_for_a_while(monitor: Monitor, database: AsyncEngine, receiver: Receiver) -> None:
    """After a rotation; when that is over the old one signs no more."""
    now = datetime.now(UTC)
    monitor.clock.now = now + MINUTE
    made, old = await hook(database, receiver)
    _, new = await Webhooks(database).rotate(made, overlap=timedelta(hours=1), actor="ann")
    await decide(database, now=now)
    await monitor.run()
    monitor.clock.now += timedelta(hours=1)
    await decide(database, now=now)
    await monitor.run()
    during, after = receiver.got
    assert during.is_signed_by(old)
    assert during.is_signed_by(new)
    assert not after.is_signed_by(old)
    assert after.is_signed_by(new)


async def test_what_fails_is_sent_again(monitor: Monitor, database: AsyncEngine, receiver: Receiver) -> None:
    """After its pause and not before, with the same id and body, and the moment of the attempt."""
    _, secret = await hook(database, receiver)
    await decide(database)
    receiver.answers = [500, 503]
    await monitor.run()
    (row,) = await deliveries(database)
    assert (row.state, row.attempts, row.error) == ("queued", 1, "status 500")
    assert timedelta(seconds=10) <= row.next_at - NOW <= timedelta(seconds=12)
    monitor.clock.now += timedelta(seconds=9)
    await monitor.run()
    assert len(receiver.got) == 1
    for seconds in (3, 24):
        monitor.clock.now += timedelta(seconds=seconds)
        await monitor.run()
    first, *others = receiver.got
    assert len(others) == 2
    for got in others:
        assert (got.id, got.content) == (first.id, first.content)
        assert got.timestamp > first.timestamp
        assert got.is_signed_by(secret)
    (row,) = await deliveries(database)
    assert (row.state, row.attempts, row.error) == ("delivered", 2, None)
    assert (monitor.attempts("refused"), monitor.attempts("delivered")) == (2, 1)


async def test_after_the_last_attempt_a_person_sends_it_again(
    monitor: Monitor, database: AsyncEngine, receiver: Receiver
) -> None:
    """A dead letter stays so, until somebody has it begun anew, under its own id."""
    await hook(database, receiver)
    await decide(database)
    receiver.answers = [500] * 3
    for _ in range(5):
        await monitor.run()
        monitor.clock.now += MINUTE
    assert len(receiver.got) == 3
    (row,) = await deliveries(database)
    assert (row.state, row.attempts, row.error) == ("dead", 3, "status 500")
    again = await send_again(database, row.id, monitor.clock())
    assert (again.state, again.attempts) == ("queued", 0)
    await monitor.run()
    assert await states(database) == {"alarm": "delivered"}
    assert len({got.id for got in receiver.got}) == 1


async def test_a_receiver_says_when_to_come_again(monitor: Monitor, database: AsyncEngine, receiver: Receiver) -> None:
    """Not sooner than it wishes."""
    await hook(database, receiver)
    await decide(database)
    receiver.answers, receiver.headers = [429], {"retry-after": "3600"}
    await monitor.run()
    (row,) = await deliveries(database)
    assert row.next_at == NOW + timedelta(hours=1)


async def test_a_receiver_that_is_gone_is_left_alone(
    monitor: Monitor, database: AsyncEngine, receiver: Receiver
) -> None:
    """410 switches its webhook off; what waited is given up, new events are not queued, until it is on again."""
    made, _ = await hook(database, receiver)
    for _ in range(6):
        await decide(database)
    receiver.answers = [410] * 6
    await monitor.run()
    assert 1 <= len(receiver.got) <= 4, "nothing is begun after the first answer"
    assert {row.state for row in await deliveries(database)} == {"dead"}
    assert (await Webhooks(database).find(made)).disabled_at == NOW
    await decide(database)
    rows = await deliveries(database)
    assert len(rows) == 6
    with pytest.raises(Conflict, match="switched off"):
        await send_again(database, rows[0].id, NOW)
    await Webhooks(database).switch(made, on=True, actor="ann")
    receiver.answers = []
    await send_again(database, rows[0].id, NOW)
    await decide(database)
    await monitor.run()
    assert sum(row.state == "delivered" for row in await deliveries(database)) == 2


async def test_receivers_that_are_gone_do_not_hold_each_other_up(
    monitor: Monitor, database: AsyncEngine, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the marks of several attempts overlap: all are made, and the run ends."""

    async def slow(connection: AsyncConnection, failed: Due, error: str, next_at: datetime | None) -> None:
        await mark_failed(connection, failed, error, next_at)
        await asyncio.sleep(0.1)  # so that another one marks meanwhile, where it can

    monkeypatch.setattr("monitors.webhooks.job.mark_failed", slow)
    await hook(database, receiver)
    for _ in range(4):
        await decide(database)
    receiver.answers = [410] * 4
    await monitor.run()
    assert {row.state for row in await deliveries(database)} == {"dead"}
    assert monitor.attempts("gone") == 4


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_redirects_are_failures(
    monitor: Monitor, database: AsyncEngine, receiver: Receiver, another: Receiver, status: int
) -> None:
    """Where it leads nobody has said that events may go."""
    await hook(database, receiver)
    await decide(database)
    receiver.answers, receiver.headers = [status], {"location": another.url}
    await monitor.run()
    assert another.got == []
    (row,) = await deliveries(database)
    assert (row.state, row.error) == ("queued", f"status {status}")


async def test_a_slow_receiver_holds_up_nobody(
    monitor: Monitor, database: AsyncEngine, receiver: Receiver, another: Receiver
) -> None:
    """Another one is told what comes meanwhile, and the slow one is asked for no more than a few at once."""
    receiver.hangs = True
    slow, _ = await hook(database, receiver)
    for _ in range(6):
        await decide(database)
    await hook(database, another)
    running = asyncio.create_task(monitor.run())
    await until(lambda: len(receiver.got) == 4)
    for count in (1, 2, 3):
        await decide(database)
        await until(lambda: len(another.got) == count)  # noqa: B023 - it is over before the next one
    assert len(receiver.got) == 4
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert {row.state for row in await deliveries(database) if row.webhook == slow} == {"queued"}


async def test_an_attempt_has_an_end(monitor: Monitor, database: AsyncEngine, receiver: Receiver) -> None:
    """A receiver that never answers has failed."""
    receiver.hangs, monitor.timeout_s = True, 0.2
    await hook(database, receiver)
    await decide(database)
    await monitor.run()
    (row,) = await deliveries(database)
    assert (row.state, row.attempts) == ("queued", 1)
    assert row.error.startswith("no answer")
    assert monitor.attempts("unreachable") == 1


async def test_an_address_where_nobody_is_has_failed(
    monitor: Monitor, database: AsyncEngine, receiver: Receiver
) -> None:
    """It is tried again like any other."""
    await hook(database, receiver)
    await decide(database)
    await receiver.stop()
    await monitor.run()
    (row,) = await deliveries(database)
    assert (row.state, row.attempts, row.error) == ("queued", 1, "no answer (ConnectError)")
    await receiver.start()


async def test_no_name_leads_to_a_link_local_address(
    monitor: Monitor, database: AsyncEngine, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it led to when it was looked up before: who is connected to counts, and is told nothing."""
    monkeypatch.setattr("monitors.webhooks.addresses.is_link_local", lambda host: host == "127.0.0.1")
    named = receiver.url.replace("127.0.0.1", "localhost")
    await Webhooks(database).add(named, actor="ann")
    await decide(database)
    await monitor.run()
    (row,) = await deliveries(database)
    told = "the address leads to 127.0.0.1, which is link-local: no receiver can be there"
    assert (receiver.got, row.state, row.attempts, row.error) == ([], "queued", 1, told)


async def test_whatever_goes_wrong_on_the_way_is_a_failure(
    monitor: Monitor, database: AsyncEngine, receiver: Receiver
) -> None:
    """Of this webhook alone; what a library raises says nothing of the address to anybody."""

    def fail(_request: httpx.Request) -> httpx.Response:
        raise UnicodeError(receiver.url)

    monitor.transport = httpx.MockTransport(fail)
    await hook(database, receiver)
    await decide(database)
    await monitor.run()
    (row,) = await deliveries(database)
    assert (row.state, row.attempts, row.error) == ("queued", 1, "no answer (UnicodeError)")


async def test_killed_before_the_mark_it_is_sent_again_under_the_same_id(
    monitor: Monitor, database: AsyncEngine, database_url: str, receiver: Receiver, tmp_path: Path
) -> None:
    """A monitor's process is killed by force while the receiver has the message: the next monitor sends it again."""
    receiver.hangs = True
    await hook(database, receiver)
    monitor.clock.now = datetime.now(UTC)
    await decide(database, now=monitor.clock())
    command = ("-m", "tests.monitors.webhooks.sending_process", database_url, str(tmp_path))
    process = await asyncio.create_subprocess_exec(sys.executable, *command)
    try:
        await until(lambda: receiver.got or process.returncode is not None, 60)
        assert process.returncode is None, "the process ended by itself"
    finally:
        process.kill()
        await process.wait()
    assert await states(database) == {"alarm": "queued"}
    receiver.hangs = False
    await monitor.run()
    first, second = receiver.got
    assert (second.id, second.content) == (first.id, first.content)
    assert await states(database) == {"alarm": "delivered"}


async def test_stopped_between_the_answer_and_the_mark_it_is_sent_again(
    monitor: Monitor, database: AsyncEngine, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At least once, and never lost; the receiver knows it by its id."""
    await hook(database, receiver)
    await decide(database)
    with monkeypatch.context() as patched:

        async def die(*_: object) -> None:
            raise ConnectionError

        patched.setattr("monitors.webhooks.job.mark_delivered", die)
        with pytest.raises(ExceptionGroup):
            await monitor.run()
    assert await states(database) == {"alarm": "queued"}
    await monitor.run()
    assert len(receiver.got) == 2
    assert len({got.id for got in receiver.got}) == 1
    assert await states(database) == {"alarm": "delivered"}


async def test_what_is_queued_before_a_webhook_is_switched_off_is_given_up(
    monitor: Monitor, database: AsyncEngine, receiver: Receiver
) -> None:
    """It can be sent again; what waited for one that is deleted is gone."""
    off, _ = await hook(database, receiver)
    gone, _ = await hook(database, receiver)
    await decide(database)
    await Webhooks(database).switch(off, on=False, actor="ann")
    await Webhooks(database).remove(gone, actor="ann")
    await monitor.run()
    assert receiver.got == []
    (row,) = await deliveries(database)
    assert (row.webhook, row.state, row.error) == (off, "dead", "the webhook is switched off")


async def test_a_test_is_made_once(monitor: Monitor, database: AsyncEngine, receiver: Receiver) -> None:
    """Whatever the webhook wants to be told, and without attempts for days."""
    made, secret = await hook(database, receiver, events=["promoted"])
    for status in (500, 200):
        receiver.answers = [status]
        async with database.begin() as connection:
            await enqueue_test(connection, made, NOW)
        await monitor.run()
    assert [got.body["type"] for got in receiver.got] == ["ostler.test"] * 2
    assert all(got.is_signed_by(secret) for got in receiver.got)
    assert {row.state for row in await deliveries(database)} == {"dead", "delivered"}


async def test_a_run_ends_although_receivers_fail(
    monitor: Monitor, database: AsyncEngine, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that never came back would look as if it were stuck."""
    monkeypatch.setattr("monitors.webhooks.job._LONGEST_RUN_S", 0.5)
    monitor.pauses_s = [0.0] * 100_000
    await hook(database, receiver)
    await decide(database)
    receiver.answers = [500] * 100_000
    async with asyncio.timeout(20):
        await monitor.run()
    assert await states(database) == {"alarm": "queued"}


async def test_what_was_told_is_listed_as_long_as_the_log(
    monitor: Monitor, database: AsyncEngine, receiver: Receiver
) -> None:
    """What still waits stays, however old."""
    await hook(database, receiver)
    await decide(database)
    await monitor.run()
    await decide(database)
    await RetentionJob(database, 30.0).run(EMPTY, NOW + timedelta(days=29))
    assert len(await deliveries(database)) == 2
    await RetentionJob(database, 30.0).run(EMPTY, NOW + timedelta(days=31))
    assert [row.state for row in await deliveries(database)] == ["queued"]


async def test_nothing_is_sent_but_the_body(monitor: Monitor, database: AsyncEngine, receiver: Receiver) -> None:
    """Not what the decision was made from."""
    await hook(database, receiver)
    await decide(database)
    await monitor.run()
    assert json.dumps(ALARM.inputs["scorer"]) not in receiver.got[0].content.decode()
