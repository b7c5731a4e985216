"""The monitor's composition root: `create_monitor` wires its jobs, and the page that says how it does."""

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
from litestar import Litestar, Response, get
from litestar.datastructures import State
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from monitors.settings import MonitorSettings
from monitors.watch.catalogs import CatalogReader
from monitors.watch.client import GatewayClient
from monitors.watch.errors import place_of
from monitors.watch.jobs import all_jobs
from monitors.watch.loop import MonitorLoop
from monitors.watch.metrics import MonitorMetrics
from monitors.watch.work import Workshop
from registry.artifacts import ArtifactStore
from registry.database import check_schema, connect
from registry.registry import Registry

log = logging.getLogger(__name__)

_SCRATCH = "monitor"


class Health(msgspec.Struct, frozen=True):
    """How the monitor does; `active` is false for one that stands by."""

    status: str
    active: bool = False
    problems: list[str] = []


@get("/livez")
async def livez(state: State) -> Response[Health]:
    """200 as long as the monitor does its work or stands by; 503 asks for its restart."""
    if state.get("ended", False):
        return Response(
            Health("not alive", problems=["the monitor's loop has ended; the log says why"]), status_code=503
        )
    return Response(Health("ok", state.loop.is_active))


@get("/readyz")
async def readyz(state: State) -> Response[Health]:
    """200 while the database answers."""
    if state.loop.database_problem is None:
        return Response(Health("ok", state.loop.is_active))
    return Response(Health("not ready", problems=[state.loop.database_problem]), status_code=503)


@get("/metrics", media_type="text/plain")
async def metrics(state: State) -> Response[bytes]:
    """What the monitor found, in Prometheus' text format."""
    return Response(generate_latest(state.metrics.registry), headers={"content-type": CONTENT_TYPE_LATEST})


def create_monitor(settings: MonitorSettings) -> Litestar:
    """Wire the monitor.

    Raises:
        ValueError: a setting is missing or wrong.
    """
    if not settings.key:
        raise ValueError("the monitor needs an admin key for the gateway: set OSTLER_API_KEY")
    database = connect(settings.database)
    store = _store(settings)
    registry = Registry(database, store, ())
    found = MonitorMetrics()

    @contextlib.asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        await check_schema(database)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(database.dispose)
            workshop = Workshop(
                database=database,
                store=store,
                gateway=await stack.enter_async_context(_gateway(settings)),
                judge=await stack.enter_async_context(_judge(settings)) if settings.judge_model else None,
                metrics=found,
                settings=settings,
                scratch=_scratch(settings),
            )
            new_jobs = functools.partial(all_jobs, workshop)
            app.state["loop"] = loop = MonitorLoop(registry, CatalogReader(registry).read, found, new_jobs)
            task = asyncio.create_task(loop.run())
            task.add_done_callback(functools.partial(_tell_of_an_end, app.state))
            try:
                yield
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    state = State({"metrics": found})
    return Litestar(
        [livez, readyz, metrics], lifespan=[lifespan], state=state, openapi_config=None, logging_config=None
    )


def _store(settings: MonitorSettings) -> ArtifactStore:
    try:
        return ArtifactStore(settings.artifacts, settings.cache)
    except (ImportError, ValueError) as error:
        raise ValueError(f"the artifact store in OSTLER_ARTIFACTS_URL cannot be used: {error}") from error


def _gateway(settings: MonitorSettings) -> GatewayClient:
    return GatewayClient(settings.url, settings.key, concurrency=settings.evaluation_concurrency)


def _judge(settings: MonitorSettings) -> GatewayClient:
    """The judge's endpoint; the gateway itself counts the judge's requests apart, others would not know the mark."""
    if not settings.judge_url:
        return _gateway(settings)
    concurrency = settings.evaluation_concurrency
    return GatewayClient(settings.judge_url, settings.judge_api_key, concurrency=concurrency, purpose="")


def _scratch(settings: MonitorSettings) -> Path:
    folder = settings.cache / _SCRATCH
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _tell_of_an_end(state: State, task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("the monitor's loop has ended; it must be restarted: %s", place_of(error))
        state["ended"] = True
