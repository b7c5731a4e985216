"""The tuner's composition root: `create_tuner` wires the worker, and the page that says how it does."""

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator

import msgspec
from litestar import Litestar, Response, get
from litestar.datastructures import State
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.watch.client import GatewayClient
from monitors.watch.errors import place_of
from registry.artifacts import ArtifactStore
from registry.base_model import BaseSpec, read_config
from registry.database import check_schema, connect
from registry.registry import Registry
from registry.tuning.datasets import Datasets
from registry.tuning.events import Events
from registry.tuning.files import Files
from registry.tuning.jobs import Jobs
from tuner.code_version import CodeVersion, code_on_disk
from tuner.metrics import TunerMetrics
from tuner.settings import TunerSettings
from tuner.shop import Shop
from tuner.worker import Worker

log = logging.getLogger(__name__)


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
    """200 while the database answers."""
    if state.worker.database_problem is None:
        return Response(Health("ok"))
    return Response(Health("not ready", [state.worker.database_problem]), status_code=503)


@get("/metrics", media_type="text/plain")
async def metrics(state: State) -> Response[bytes]:
    """What is at work, in Prometheus' text format."""
    return Response(generate_latest(state.metrics.registry), headers={"content-type": CONTENT_TYPE_LATEST})


def create_tuner(settings: TunerSettings) -> Litestar:
    """Wire the tuner.

    Raises:
        ValueError: a setting is missing or wrong.
    """
    if not settings.key:
        raise ValueError("the tuner needs an admin key for the gateway: set OSTLER_API_KEY")
    if not settings.base or not settings.base_model:
        raise ValueError("the tuner needs the base model that it trains adapters for: set OSTLER_BASE_MODEL")
    database = connect(settings.database)
    store = _store(settings)
    found = TunerMetrics()
    code = code_on_disk()

    @contextlib.asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        await check_schema(database)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(database.dispose)
            client = GatewayClient(settings.url, settings.key, concurrency=settings.tuner_concurrency)
            gateway = await stack.enter_async_context(client)
            app.state["worker"] = worker = Worker(_shop(settings, database, store, gateway, found, code))
            task = asyncio.create_task(worker.run())
            task.add_done_callback(functools.partial(_tell_of_an_end, app.state))
            try:
                yield
            finally:
                worker.stop()
                await asyncio.gather(task, return_exceptions=True)

    state = State({"metrics": found})
    return Litestar(
        [livez, readyz, metrics], lifespan=[lifespan], state=state, openapi_config=None, logging_config=None
    )


def _shop(
    settings: TunerSettings,
    database: AsyncEngine,
    store: ArtifactStore,
    gateway: GatewayClient,
    metrics: TunerMetrics,
    code: CodeVersion,
) -> Shop:
    return Shop(
        settings=settings,
        jobs=Jobs(database),
        events=Events(database),
        files=Files(database, store),
        datasets=Datasets(database),
        registry=Registry(database, store, (_base(settings),)),
        store=store,
        gateway=gateway,
        metrics=metrics,
        code=code,
    )


def _base(settings: TunerSettings) -> BaseSpec:
    return BaseSpec(
        settings.base,
        aliases=frozenset({settings.base_model}),
        config=read_config(settings.base_model),
        max_lora_rank=settings.max_lora_rank,
        source=settings.base_model,
    )


def _store(settings: TunerSettings) -> ArtifactStore:
    try:
        return ArtifactStore(settings.artifacts, settings.cache)
    except (ImportError, ValueError) as error:
        raise ValueError(f"the artifact store in OSTLER_ARTIFACTS_URL cannot be used: {error}") from error


def _tell_of_an_end(state: State, task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("the tuner's worker has ended; it must be restarted: %s", place_of(error))
        state["ended"] = True
