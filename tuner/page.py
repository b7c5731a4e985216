"""The page that says how a tuner does, whether it does its jobs itself or has a cluster do them."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import msgspec
from litestar import Litestar, Response, get
from litestar.datastructures import State
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from monitors.watch.errors import place_of
from tuner.metrics import TunerMetrics

log = logging.getLogger(__name__)
Lifespan = Callable[[Litestar], AbstractAsyncContextManager[None]]


class Health(msgspec.Struct, frozen=True):
    """How the tuner does."""

    status: str
    problems: list[str] = []


@get("/livez")
async def livez(state: State) -> Response[Health]:
    """200 as long as the tuner does its work; 503 asks for its restart."""
    if state.get("ended", False):
        return Response(Health("not alive", ["the tuner's worker has ended; the log says why"]), status_code=503)
    return Response(Health("ok"))


@get("/readyz")
async def readyz(state: State) -> Response[Health]:
    """200 while the database answers, and where jobs become pods the API server of the cluster."""
    if state.worker.problem is None:
        return Response(Health("ok"))
    return Response(Health("not ready", [state.worker.problem]), status_code=503)


@get("/metrics", media_type="text/plain")
async def metrics(state: State) -> Response[bytes]:
    """What is at work, in Prometheus' text format."""
    return Response(generate_latest(state.metrics.registry), headers={"content-type": CONTENT_TYPE_LATEST})


def page(lifespan: Lifespan, metrics_found: TunerMetrics) -> Litestar:
    """The app that says how a tuner does."""
    state = State({"metrics": metrics_found})
    return Litestar(
        [livez, readyz, metrics], lifespan=[lifespan], state=state, openapi_config=None, logging_config=None
    )


def tell_of_an_end(state: State, task: asyncio.Task[None]) -> None:
    """Have /livez ask for a restart once the task has failed that does the tuner's work."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("the tuner's worker has ended; it must be restarted: %s", place_of(error))
        state["ended"] = True
