"""A ledger for the tests of costs: hours of traffic and of ready replicas, and what became of their money."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.log.recorder import Recorder
from monitors.metrics import Metrics
from monitors.money.pricing import Pricing
from monitors.money.replica_time import HOUR, add_look
from monitors.record import RequestRecord
from tests.monitors.records import record

NOON = datetime(2026, 11, 3, 12, tzinfo=UTC)
POOL = "tiny"
BY_HOUR = Pricing(price_per_gpu_hour=2.0, gpus_per_replica=2)


def request(prompt: int | None, completion: int | None, **fields: Any) -> RequestRecord:
    """A request of that many tokens in the hour from noon on, with a provisional cost of 1."""
    usual = {"started_at": NOON.timestamp() + 60, "pool": POOL, "cost": 1.0}
    return record(prompt_tokens=prompt, completion_tokens=completion, **{**usual, **fields})


@dataclass(frozen=True)
class Ledger:
    """The database's tables of traffic and money, written as the gateway and the monitor do, and read."""

    engine: AsyncEngine

    async def add(self, *records: RequestRecord) -> None:
        """Have requests recorded."""
        recorder = Recorder(self.engine, Metrics(), size=100_000)
        for one in records:
            recorder(one)
        assert await recorder.drain(30) == 0

    async def look(self, replicas: Iterable[str], moment: datetime) -> None:
        """The monitor looks, and these replicas are ready."""
        await add_look(self.engine, [(POOL, replica) for replica in replicas], moment)

    async def ready_all_hour(self, hour: datetime = NOON, replicas: Iterable[str] = ("r0",)) -> None:
        """Have replicas ready from the hour's beginning to its end."""
        await self.look(replicas, hour)
        await self.look(replicas, hour + HOUR)

    async def read(self, query: str) -> list[tuple[Any, ...]]:
        """Rows of a query."""
        async with self.engine.connect() as connection:
            return [tuple(row) for row in await connection.execute(text(query))]

    async def logged(self) -> dict[str, float | None]:
        """Each request's cost in the log, by its id."""
        return dict(await self.read("SELECT request_id, cost FROM request_log"))

    async def used(self) -> dict[str, float]:
        """The cost of what was used, by variant."""
        return dict(await self.read("SELECT variant, sum(cost) FROM usage_hours GROUP BY 1"))

    async def spent(self) -> dict[str, float]:
        """What each key has spent."""
        return dict(await self.read("SELECT key_id, sum(cost) FROM spending GROUP BY 1"))

    async def rates(self) -> list[tuple[Any, ...]]:
        """Money, weighted tokens and unit price of the closed hours, in their order."""
        return await self.read("SELECT money, weighted_tokens, unit_price FROM cost_rates ORDER BY hour")

    async def agree(self, money: float) -> bool:
        """Whether log and usage both say that so much money was shared out."""
        logged, used = [
            (await self.read(f"SELECT coalesce(sum(cost), 0) FROM {table}"))[0][0]
            for table in ("request_log", "usage_hours")
        ]
        return math.isclose(logged, money) and math.isclose(used, money)


def after(hour: datetime, hours: float = 1.5) -> datetime:
    """A moment so long after the hour's beginning."""
    return hour + timedelta(hours=hours)
