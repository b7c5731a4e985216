"""One key that sends many false corrections: it begins no training alone, and is the least part of one with others."""

import json
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from gateway.settings import GatewaySettings
from monitors.judging.quality import QualityJob
from monitors.judging.scoring import ScoringJob
from monitors.loop.controller import LoopJob
from registry.monitoring import QualityRule
from registry.policies import Policy, RetrainRule
from tests.conftest import RunningGateway
from tests.monitors.judging.rows import capture, say
from tests.monitors.loop.stories import NOW, World
from tests.ostler.in_process import QuickCli

SHARE = 0.4
RULE = QualityRule(level=0.9, drop=0.05, alarm_every=1000)
POLICY = Policy("act", RULE, RetrainRule(least_rows=30, cool_down_h=0.0, most_of_one_key=SHARE))


@pytest.fixture
def gateway_settings(gateway_settings: GatewaySettings, database_url: str) -> GatewaySettings:
    """On each kind of database."""
    return gateway_settings.model_copy(update={"database_url": database_url})


class Clients:
    """Keys that judge answers of `support`, each in a session of its own, a second apart."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._numbers = count()

    async def are_content(self, keys: Sequence[str], sessions: int) -> None:
        """They like what they get."""
        await self._judge(keys, sessions, {"score": 1.0})

    async def correct(self, keys: Sequence[str], sessions: int) -> None:
        """They say that it is wrong, and what would be right."""
        await self._judge(keys, sessions, {"score": 0.0, "correction": "it is this"})

    async def _judge(self, keys: Sequence[str], sessions: int, said: dict[str, Any]) -> None:
        for number in range(sessions):
            key, record = keys[number % len(keys)], f"r{next(self._numbers)}"
            prompt = [{"role": "user", "content": f"{key} asks for {record}"}]
            at = NOW - timedelta(hours=1) + timedelta(seconds=int(record[1:]))
            usual = {"version": 1, "session": f"s-{record}", "created_at": at}
            await capture(self._world.database, record, "that", prompt=prompt, **usual)
            await say(self._world.database, record, key_id=key, **usual, **said)


async def looked(world: World) -> str:
    """What the loop decides once the monitor has scored everything: the newest verdict's outcome."""
    catalog = await world.registry.catalog()
    for job in (ScoringJob(world.workshop()), QualityJob(world.workshop())):
        await job.run(catalog, world.now)
    await world.turn("support", LoopJob(world.workshop(), clock=lambda: world.now))
    return str(((await world.kept("support")).verdict or {})["outcome"])


async def test_one_key_begins_no_training_and_is_a_small_part_of_one_with_others(
    world: World, gateway: RunningGateway, tmp_path: Path
) -> None:
    """It raises the alarm and has labels enough, and `why` names it; a second key that says the same begins it."""
    await gateway.push("support", 1.0)
    assert (await gateway.promote("support", 1)).status_code == 200
    await gateway.registry.change_policy("support", lambda _: POLICY, actor="ann")
    clients = Clients(world)
    await clients.are_content(["web", "app"], 40)
    await clients.correct(["loud"], 100)
    for _ in range(3):
        assert await looked(world) == "no_second_voice"
    assert await world.jobs("support") == []
    why = (await gateway.http.get("/admin/v1/adapters/support/why")).json()
    assert why["quality"]["alarm"], "it did bring the alarm"
    assert why["labels"]["rows"] >= POLICY.retrain.least_rows
    assert why["conditions"].keys() - set(why["met"]) == {"second_voice"}, "nothing else holds the training back"
    shown = (await QuickCli(gateway, tmp_path)("why", "support")).out
    assert "Without the key loud nothing speaks for a loss of quality." in shown
    await clients.correct(["web"], 40)
    assert await looked(world) == "begun"
    (asked,) = await world.jobs("support")
    content = await gateway.http.get(f"/v1/files/{asked.order['training_file']}/content")
    rows = [json.loads(line)["messages"] for line in content.text.splitlines()]
    by_key = Counter(messages[0]["content"].split()[0] for messages in rows)
    assert by_key["loud"] <= SHARE * len(rows)
    assert sum(by_key.values()) == len(rows) >= POLICY.retrain.least_rows
