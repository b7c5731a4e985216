"""The engines, as this gateway sees them."""

from typing import Literal

import msgspec
from litestar import Controller, get
from litestar.di import NamedDependency

from gateway.engines.fleet import Fleet
from gateway.engines.replica import ReplicaReport
from gateway.refusals import refusals
from gateway.shapes import Page


class ReplicaShape(msgspec.Struct, frozen=True):
    """One engine. `running` and `waiting` are as it says itself, `in_flight` are those of the gateway that answers."""

    id: str
    url: str
    pool: str
    state: Literal["ready", "loading", "down"]
    breaker: Literal["closed", "open", "half_open"]
    retry_in_s: float | None
    in_flight: int
    running: int | None
    waiting: int | None
    kv_cache_usage: float | None
    resident: list[str]
    loading: list[str]
    problem: str | None


class ReplicaController(Controller):
    """Engines."""

    path = "/replicas"
    tags = ("Replicas",)

    @get("/", summary="List replicas", responses=refusals())
    async def list_replicas(self, fleet: NamedDependency[Fleet]) -> Page[ReplicaShape]:
        """Each engine with its state, its load, and what is loaded in it."""
        return Page([replica_shape(report) for report in fleet.reports()])


def replica_shape(report: ReplicaReport) -> ReplicaShape:
    """A replica as admins see it."""
    return ReplicaShape(
        id=report.id,
        url=report.url,
        pool=report.pool,
        state=report.state,
        breaker=report.breaker,
        retry_in_s=report.retry_in_s,
        in_flight=report.in_flight,
        running=report.running,
        waiting=report.waiting,
        kv_cache_usage=report.kv_cache_usage,
        resident=sorted(report.resident),
        loading=sorted(report.loading),
        problem=report.problem,
    )
