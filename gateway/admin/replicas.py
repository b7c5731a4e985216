"""The engines, as this gateway sees them."""

from typing import Annotated, Literal

import msgspec
from litestar import Controller, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from gateway.admin.fields import NO_NUL
from gateway.engines.fleet import Fleet
from gateway.engines.replica import ReplicaReport
from gateway.engines.resting import Rests
from gateway.json_body import StrictRequest
from gateway.refusals import refusals
from gateway.shapes import Page

_Holder = Annotated[str, msgspec.Meta(min_length=1, max_length=120, pattern=NO_NUL)]


class ReplicaShape(msgspec.Struct, frozen=True):
    """One engine. `running` and `waiting` are as it says itself, `in_flight` are those of the gateway that answers.

    `idle_s` are the seconds since it last had a request, as far as that gateway knows.
    """

    id: str
    url: str
    pool: str
    state: Literal["ready", "loading", "down", "asleep"]
    breaker: Literal["closed", "open", "half_open"]
    retry_in_s: float | None
    in_flight: int
    idle_s: float
    running: int | None
    waiting: int | None
    kv_cache_usage: float | None
    resident: list[str]
    loading: list[str]
    problem: str | None


class SleepOrder(msgspec.Struct, forbid_unknown_fields=True):
    """How an engine shall sleep: for whom, and how long, unless that is renewed.

    `force` lets it sleep though no other engine serves its base model; `renew` is refused if it does not sleep already.
    """

    holder: _Holder
    for_s: Annotated[float, msgspec.Meta(ge=1, le=3600)] = 120.0
    force: bool = False
    renew: bool = False


class WakeOrder(msgspec.Struct, forbid_unknown_fields=True):
    """For whom the engine sleeps; without a holder it is woken whoever that is."""

    holder: _Holder | None = None


class ReplicaController(Controller):
    """Engines."""

    path = "/replicas"
    tags = ("Replicas",)
    request_class = StrictRequest

    @get("/", summary="List replicas", responses=refusals())
    async def list_replicas(self, fleet: NamedDependency[Fleet]) -> Page[ReplicaShape]:
        """Each engine with its state, its load, and what is loaded in it."""
        return Page([replica_shape(report) for report in fleet.reports()])

    @post(
        "/{replica_id:str}/sleep",
        summary="Have a replica sleep",
        status_code=200,
        responses=refusals(404, 409, 413),
    )
    async def sleep(
        self, replica_id: FromPath[str], data: JSONBody[SleepOrder], rests: NamedDependency[Rests]
    ) -> ReplicaShape:
        """Take an engine out of service and have it give up its GPU's memory, once nobody uses it any more.

        It is woken when the time is over, also if nobody asks for that.
        """
        replica = await rests.sleep(replica_id, data.holder, data.for_s, force=data.force, renew=data.renew)
        return replica_shape(replica.report())

    @post("/{replica_id:str}/wake", summary="Wake a replica", status_code=200, responses=refusals(404, 409, 413))
    async def wake(
        self,
        replica_id: FromPath[str],
        rests: NamedDependency[Rests],
        data: JSONBody[WakeOrder | None] = None,
    ) -> ReplicaShape:
        """Have an engine serve again; answers when it does."""
        return replica_shape((await rests.wake(replica_id, data.holder if data else None)).report())


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
        idle_s=report.idle_s,
        running=report.running,
        waiting=report.waiting,
        kv_cache_usage=report.kv_cache_usage,
        resident=sorted(report.resident),
        loading=sorted(report.loading),
        problem=report.problem,
    )
