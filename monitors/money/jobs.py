"""The monitor's work on money: how long engines were ready, what each closed hour cost, and what requests cost."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from monitors.money.costs import cost_per_thousand
from monitors.money.rates import close_hour, hours_to_close, pools_with_replicas
from monitors.money.replica_time import LONGEST_GAP, Replica, add_look
from monitors.watch.work import Workshop
from registry.catalog import Catalog

_SHOWN = timedelta(days=1)
_REPLICAS = "/admin/v1/replicas"


class ReplicaTimeJob:
    """Looks which replicas are ready; of every pool, so that a price can be set after the hours that it is for."""

    name = "replica_time"
    every_s = 15.0

    def __init__(self, workshop: Workshop) -> None:
        self._workshop = workshop

    async def run(self, _catalog: Catalog, now: datetime, /) -> None:
        """Look once."""
        answer = await self._workshop.gateway.get(_REPLICAS)
        ready = list(filter(None, map(_ready, answer["data"])))
        await add_look(self._workshop.database, ready, now)


class CostJob:
    """Closes the hours that are over, and shows what 1,000 requests cost."""

    name = "costs"
    every_s = 60.0

    def __init__(self, workshop: Workshop) -> None:
        self._workshop = workshop

    async def run(self, _catalog: Catalog, now: datetime, /) -> None:
        """Close what is due, oldest first."""
        settings, database = self._workshop.settings, self._workshop.database
        if settings.any_by_gpu_hour:
            for pool in await pools_with_replicas(database, now - 2 * LONGEST_GAP):
                if settings.pricing(pool).is_by_gpu_hour:
                    await self._close(pool, now)
        self._show(await cost_per_thousand(database, now - _SHOWN, now))

    async def _close(self, pool: str, now: datetime) -> None:
        pricing = self._workshop.settings.pricing(pool)
        for hour in await hours_to_close(self._workshop.database, pool, now):
            await close_hour(self._workshop.database, pool, hour, pricing, now)

    def _show(self, costs: Mapping[tuple[str, str], float]) -> None:
        gauge = self._workshop.metrics.cost_per_thousand
        gauge.clear()
        for labels, cost in costs.items():
            gauge.labels(*labels).set(cost)


def _ready(replica: Mapping[str, Any]) -> Replica | None:
    return (replica["pool"], replica["id"]) if replica["state"] == "ready" else None
