"""`ostler webhooks`: where events are told, and what became of each."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.tables import DeliveryRow
from monitors.webhooks.job import WebhookJob
from registry.registry import Registry
from tests.conftest import RunningGateway
from tests.fakes.receiver import Receiver
from tests.monitors.judging.rows import workshop
from tests.monitors.webhooks.rows import decide
from tests.ostler.command import DONE, MISUSED, REFUSED
from tests.ostler.in_process import QuickCli

_DELIVERIES = DeliveryRow.__table__  # type: ignore[attr-defined]


@pytest.fixture
def quick(gateway: RunningGateway, tmp_path: Path) -> QuickCli:
    """The command, and a gateway without adapters."""
    return QuickCli(gateway, tmp_path)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A receiver that listens."""
    found = Receiver()
    await found.start()
    yield found
    await found.stop()


@pytest.fixture
async def monitor(gateway: RunningGateway, tmp_path: Path) -> AsyncIterator[None]:
    """A monitor that tells webhooks, for as long as the test lasts."""
    shop = workshop(database(gateway), tmp_path)
    registry: Registry = gateway.registry

    async def work() -> None:
        job = WebhookJob(shop)
        while True:
            await job.run(await registry.catalog(), job._clock())
            await asyncio.sleep(0.05)

    task = asyncio.create_task(work())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def database(gateway: RunningGateway) -> AsyncEngine:
    """The gateway's own."""
    found: AsyncEngine = gateway.app.state["database"]
    return found


async def added(cli: QuickCli, address: str, *options: str) -> Any:
    """A new webhook, and its secret."""
    return (await cli("webhooks", "add", address, *options, "--json")).json


async def test_a_secret_is_printed_alone_and_once(quick: QuickCli) -> None:
    """So that a script can take it; lists show where to and what, and never the secret."""
    made = await quick("webhooks", "add", "https://example.com/a", "--event", "promoted", "--adapter", "support")
    secret = made.out.strip()
    assert secret.startswith("whsec_")
    assert secret not in made.err
    assert "https://example.com/a" in made.err
    (webhook,) = (await quick("webhooks", "list", "--json")).json["data"]
    assert (webhook["events"], webhook["adapters"]) == (["promoted"], ["support"])
    listed = (await quick("webhooks", "list")).out
    for words in (webhook["id"], "https://example.com/a", "promoted", "only of support", " on "):
        assert words in listed
    assert secret not in listed
    replaced = await quick("webhooks", "rotate", webhook["id"], "--overlap", "2h")
    assert replaced.out.strip() not in ("", secret)
    assert "ends in 2h" in replaced.err
    assert "the replaced secret signs, too, until" in (await quick("webhooks", "list")).out
    assert "off since" in (await quick("webhooks", "disable", webhook["id"])).out
    assert "off since" not in (await quick("webhooks", "enable", webhook["id"])).out
    assert "is deleted" in (await quick("webhooks", "remove", webhook["id"])).out
    assert "No webhooks." in (await quick("webhooks", "list")).out


async def test_what_is_wrong_is_said(quick: QuickCli) -> None:
    """In one line."""
    (await quick("webhooks", "add", "example.com")).assert_failed(REFUSED, "https://example.com/hooks")
    wrong = await quick("webhooks", "add", "https://example.com", "--event", "promotion")
    wrong.assert_failed(REFUSED, "`events[0]` must be 'alarm', 'approval_wanted', ", "'promoted'")
    (await quick("webhooks", "remove", "nobody")).assert_failed(REFUSED, "no webhook of this id")
    (await quick("webhooks", "rotate", "nobody", "--overlap", "soon")).assert_failed(MISUSED, "not a duration")
    (await quick("webhooks", "retry")).assert_failed(MISUSED, "--dead")
    (await quick("webhooks", "retry", "one", "--dead")).assert_failed(MISUSED, "--dead")


async def test_a_webhook_is_tried(quick: QuickCli, monitor: None, receiver: Receiver) -> None:
    """The command waits for what comes of it, and its exit code tells scripts."""
    made = await added(quick, receiver.url)
    webhook = made["webhook"]["id"]
    arrived = await quick("webhooks", "test", webhook)
    assert (arrived.code, arrived.out.strip()) == (DONE, "It arrived.")
    assert receiver.got[0].is_signed_by(made["secret"])
    receiver.answers = [404]
    failed = await quick("webhooks", "test", webhook)
    assert failed.code == REFUSED
    assert "status 404" in failed.out


async def test_without_a_monitor_nothing_is_sent(quick: QuickCli, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the command says so, instead of waiting for ever."""
    monkeypatch.setattr("ostler.commands.webhooks._LONGEST_TEST_S", 0.1)
    made = await added(quick, "https://example.com")
    waits = await quick("webhooks", "test", made["webhook"]["id"])
    assert waits.code == REFUSED
    assert "No monitor" in waits.out


async def test_dead_letters_are_listed_sent_again_and_dropped(quick: QuickCli, gateway: RunningGateway) -> None:
    """One by its id, or all."""
    await added(quick, "https://example.com")
    for _ in range(3):
        await decide(database(gateway))
    async with database(gateway).begin() as connection:
        dead = {"state": "dead", "attempts": 10, "error": "status 500"}
        await connection.execute(update(_DELIVERIES).values(**dead))
    listed = (await quick("webhooks", "deliveries", "--state", "dead")).out
    for words in ("alarm", "support version 7", "status 500; attempts that failed: 10"):
        assert words in listed
    first, *_ = (await quick("webhooks", "deliveries", "--json")).json["data"]
    (again,) = (await quick("webhooks", "retry", first["id"], "--json")).json["data"]
    assert (again["id"], again["state"]) == (first["id"], "queued")
    assert len((await quick("webhooks", "retry", "--dead", "--json")).json["data"]) == 2
    assert (await quick("webhooks", "deliveries", "--state", "dead", "--json")).json["data"] == []
    async with database(gateway).begin() as connection:
        await connection.execute(update(_DELIVERIES).values(**dead))
    assert "Dropped: 3." in (await quick("webhooks", "drop", "--dead")).out
    assert "No deliveries." in (await quick("webhooks", "deliveries")).out
    assert (await quick("webhooks", "deliveries", "--limit", "1")).code == DONE


async def test_what_is_refused_of_one_webhook_holds_up_no_other(quick: QuickCli, gateway: RunningGateway) -> None:
    """The others' letters go, the refusals are listed, each with its webhook, and the exit code tells scripts."""
    hooks = [(await added(quick, f"https://example.com/{number}"))["webhook"]["id"] for number in range(2)]
    for _ in range(3):
        await decide(database(gateway))
    await quick("webhooks", "disable", hooks[1])
    async with database(gateway).begin() as connection:
        await connection.execute(update(_DELIVERIES).values(state="dead", attempts=10))
    sent = await quick("webhooks", "retry", "--dead")
    assert (sent.code, sent.out.count(f"to {hooks[0]}"), sent.out.count(hooks[1])) == (REFUSED, 3, 0)
    assert sent.err.count("error: ") == sent.err.count(f"webhook {hooks[1]} is switched off") == 3
    left = [each["id"] for each in (await quick("webhooks", "deliveries", "--state", "dead", "--json")).json["data"]]
    assert len(left) == 3
    again = await quick("webhooks", "retry", "--dead", "--json")
    assert again.code == REFUSED
    told = json.loads(again.out)
    assert (told["data"], {each["id"] for each in told["refused"]}) == ([], set(left))
    (await quick("webhooks", "retry", left[0])).assert_failed(REFUSED, left[0], hooks[1])
    dropped = await quick("webhooks", "drop", left[0], "nobody", left[1])
    assert (dropped.code, dropped.out.strip()) == (REFUSED, "Dropped: 2.")
    assert "error: nobody: " in dropped.err
