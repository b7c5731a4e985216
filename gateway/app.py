"""The gateway's composition root: `create_app` wires everything, and nothing else does."""

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import AsyncIterator, Coroutine
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiohttp
from litestar import Litestar, Router
from litestar.datastructures import State
from litestar.di import Provide
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway import operations
from gateway.admin import CONTROLLERS, sweep_uploads
from gateway.directory import Directory
from gateway.engines.agents import AgentManager
from gateway.engines.connections import KEEPALIVE_S
from gateway.engines.engine import Engine
from gateway.engines.fleet import Fleet
from gateway.engines.managing import DirectManager, Manager
from gateway.engines.resting import Rests
from gateway.feedback import give_feedback
from gateway.inference import PATHS, Inference
from gateway.leadership import Leadership
from gateway.limits.admission import Admission
from gateway.limits.budgets import Budgets
from gateway.limits.limiter import Limiter
from gateway.overdue import Overdue
from gateway.pricing import Prices
from gateway.priority import LowPriority
from gateway.schema import openapi_config
from gateway.settings import GatewaySettings, PoolSettings
from gateway.shadow import Shadower
from gateway.swap import Swapper
from gateway.tracing import Tracer
from gateway.tuning.access import tuning_guard
from gateway.tuning.files import FileController
from gateway.tuning.jobs import JobController
from gateway.tuning.sweeping import sweep_files
from gateway.web import RequestIds, admin_guard, provide_actor, render_error
from monitors.log.recorder import Recorder
from monitors.log.usage import month_of, spending
from monitors.metrics import Metrics
from monitors.money.rates import newest_rates
from monitors.record import RequestHook
from registry.artifact_files import ArtifactReader
from registry.artifacts import ArtifactStore
from registry.base_model import BaseSpec, read_config
from registry.database import check_schema, connect
from registry.notifications import ChangeSignal
from registry.registry import Registry
from registry.tuning.files import Files

log = logging.getLogger(__name__)

_OPERATIONS = (
    operations.livez,
    operations.readyz,
    operations.metrics,
    operations.list_models,
    operations.show_model,
    give_feedback,
)
_LAST_RECORDS_S = 5.0
_LAST_TRACES_S = 5.0
_BUDGETS_EVERY_S = 5.0
"""More than the recorder's pause between batches, see `Budgets`."""
_RATES_EVERY_S = 5.0
_FILES_EVERY_S = 60.0


def base_specs(settings: GatewaySettings) -> tuple[BaseSpec, ...]:
    """What adapters must fit, read from each base model's config.json where the gateway can see it.

    Raises:
        ValueError: `base` is not set, or a `base_model` is a folder without a readable config.json.
    """
    if not settings.pools and not settings.base:
        raise ValueError("the base model's name is not set: say --base or OSTLER_BASE")
    return tuple(_base_spec(pool) for pool in settings.all_pools)


def _base_spec(pool: PoolSettings) -> BaseSpec:
    config = read_config(pool.base_model) if pool.base_model else None
    if config is None and Path(pool.base_model or "/no-folder").is_dir():
        raise ValueError(f"the folder of the base model {pool.base} (OSTLER_BASE_MODEL) has no readable config.json")
    return BaseSpec(
        pool.base,
        aliases=frozenset({pool.base_model} - {""}),
        config=config,
        max_lora_rank=pool.max_lora_rank,
        source=pool.base_model,
    )


def artifact_store(settings: GatewaySettings) -> ArtifactStore:
    """The artifact store that the settings name.

    Raises:
        ValueError: its URL is wrong, or the package for it is not installed.
    """
    try:
        return ArtifactStore(settings.artifacts, settings.cache)
    except (ImportError, ValueError) as error:
        raise ValueError(f"the artifact store in OSTLER_ARTIFACTS_URL cannot be used: {error}") from error


class Gateway(Litestar):
    """Litestar, but inference goes past it: it needs nothing of what the framework does to find and call a route."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve a request."""
        if scope["type"] == "http" and scope["path"] in PATHS:
            await self.state["inference"](scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def create_app(settings: GatewaySettings) -> Litestar:
    """Wire the gateway.

    Raises:
        ValueError: a setting is missing or wrong.
    """
    database = connect(settings.database)
    store = artifact_store(settings)
    registry = Registry(database, store, base_specs(settings))
    metrics = Metrics()
    directory = Directory(registry, metrics)
    state = State({"settings": settings, "database": database, "registry": registry})
    state.update({"directory": directory, "metrics": metrics})
    state["tracer"] = Tracer(settings.otlp_endpoint, settings.otlp_sample_ratio) if settings.otlp_endpoint else None
    state["draining"] = False

    @contextlib.asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        await check_schema(database)
        await directory.refresh()
        await asyncio.to_thread(store.sweep)
        await asyncio.to_thread(sweep_uploads, settings.cache)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(database.dispose)
            await _start(app.state, database, store, stack)
            yield

    admin = Router(
        "/admin/v1",
        route_handlers=CONTROLLERS,
        guards=[admin_guard],
        dependencies={"actor": Provide(provide_actor, sync_to_thread=False)},
    )
    tuning = Router(
        "/v1",
        route_handlers=[FileController, JobController],
        guards=[tuning_guard],
        dependencies={"actor": Provide(provide_actor, sync_to_thread=False)},
    )
    return Gateway(
        route_handlers=[Router("/", middleware=[RequestIds()], route_handlers=[*_OPERATIONS, tuning, admin])],
        dependencies={
            name: Provide(_FromState(name), sync_to_thread=False)
            for name in (
                *("settings", "database", "registry", "directory"),
                *("metrics", "budgets", "fleet", "rests", "swapper"),
            )
        },
        exception_handlers={Exception: render_error},
        lifespan=[lifespan],
        state=state,
        openapi_config=openapi_config(version("ostler")),
        logging_config=None,
    )


async def _start(state: State, database: AsyncEngine, store: ArtifactStore, stack: contextlib.AsyncExitStack) -> None:
    """Put together what runs as long as the app does; `stack` ends it, the last first."""
    settings: GatewaySettings = state["settings"]
    registry: Registry = state["registry"]
    directory: Directory = state["directory"]
    metrics: Metrics = state["metrics"]
    tracer: Tracer | None = state["tracer"]

    stack.callback(metrics.publish)
    if tracer is not None:
        stack.push_async_callback(tracer.close, _LAST_TRACES_S)
    connections = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S)
    session = await stack.enter_async_context(aiohttp.ClientSession(connector=connections, auto_decompress=False))
    leadership = Leadership(registry)
    await leadership.claim()
    stack.push_async_callback(leadership.resign)
    recorder, budgets, prices, limiter = await _counting(settings, metrics, database, stack)
    fleet = Fleet(
        settings,
        directory,
        metrics,
        make_engine=lambda url, base: Engine(url, base, session),
        make_manager=_Managers(settings, store, session),
        may_unload=lambda: leadership.holds,
    )
    rests = Rests(registry, fleet, follow_s=settings.poll_s, patience_s=settings.probe_timeout_s)
    await rests.refresh()  # an engine that sleeps for somebody must not be woken because a gateway starts
    fleet.at_rest = rests.holds
    hooks: list[RequestHook] = [metrics, recorder, budgets]
    low_priority = LowPriority()
    overdue = Overdue(settings.stall_timeout_s, metrics)
    admission, shadower = _places(settings, directory, metrics, fleet, prices, hooks, low_priority)
    stack.push_async_callback(shadower.close)
    signal = ChangeSignal(database)
    stack.push_async_callback(signal.aclose)

    state["leadership"] = leadership
    state["budgets"] = budgets
    state["fleet"] = fleet
    state["rests"] = rests
    state["swapper"] = Swapper(registry, directory, fleet, metrics, patience_s=2 * settings.probe_timeout_s)
    state["inference"] = Inference(
        *(settings, directory, fleet, limiter, admission, shadower, metrics, prices, hooks, low_priority, overdue),
        tracer,
    )
    endless = (
        directory.follow(signal, settings.follow_s),
        fleet.run(),
        overdue.follow(),
        metrics.follow(),
        rests.follow(),
        leadership.follow(fleet.heat),
        recorder.run(),
        budgets.follow(_BUDGETS_EVERY_S),
        prices.follow(_RATES_EVERY_S),
        sweep_files(Files(database, store), _FILES_EVERY_S),
    )
    await stack.enter_async_context(_running(state, *endless))


async def _counting(
    settings: GatewaySettings, metrics: Metrics, database: AsyncEngine, stack: contextlib.AsyncExitStack
) -> tuple[Recorder, Budgets, Prices, Limiter]:
    """What is known of requests that are over, and what follows for the next ones."""
    recorder = Recorder(database, metrics, size=settings.record_buffer, redactor=settings.redactor)
    stack.push_async_callback(recorder.drain, _LAST_RECORDS_S)
    budgets = Budgets(lambda: spending(database, month_of(time.time())))
    await budgets.refresh()  # nobody's budget is whole again because a gateway restarts
    pricing = settings.pricings(pool.base for pool in settings.all_pools)
    prices = Prices(pricing, lambda pools: newest_rates(database, pools))
    await prices.refresh()
    limiter = Limiter(settings.limits_url, budgets, metrics.limits_fallback.inc)
    stack.push_async_callback(limiter.close)
    return recorder, budgets, prices, limiter


def _places(
    settings: GatewaySettings,
    directory: Directory,
    metrics: Metrics,
    fleet: Fleet,
    prices: Prices,
    hooks: list[RequestHook],
    low_priority: LowPriority,
) -> tuple[Admission, Shadower]:
    """Who may be at the engines: clients first, and shadows in what they leave."""
    admission = Admission(
        metrics, places=settings.max_in_flight, queue=settings.max_queued, wait_s=settings.queue_wait_s
    )
    shadower = Shadower(
        fleet,
        metrics,
        hooks,
        catalog=lambda: directory.catalog,
        is_busy=lambda: admission.queued > 0 or fleet.is_busy(),
        places=settings.shadow_concurrency,
        timeout_s=settings.request_timeout_s,
        prices=prices,
        low_priority=low_priority,
    )
    admission.on_pressure = fleet.on_pressure = shadower.give_way
    return admission, shadower


class _Managers:
    """Makes what loads and unloads in an engine: by its agent, where its pool has agents."""

    def __init__(self, settings: GatewaySettings, store: ArtifactStore, session: aiohttp.ClientSession) -> None:
        self._store = store
        self._session = session
        self._reader = ArtifactReader(settings.artifacts)
        self._token = settings.agent_token
        self._timeout_s = settings.probe_timeout_s

    def __call__(self, engine: Engine, pool: PoolSettings) -> Manager:
        if not pool.engine_agent_port:
            return DirectManager(engine, self._store)
        port, timeout_s = pool.engine_agent_port, self._timeout_s
        return AgentManager(engine, port, self._reader, self._session, self._token, timeout_s)


class _FromState:
    """A dependency that stands in the app's state under its own name."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, state: State) -> Any:
        return state[self._name]


def _tell_of_an_end(state: State, task: asyncio.Task[None]) -> None:
    """Work that never ends has: /livez says so from now on, so that whoever watches it starts the gateway anew."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("a part of the gateway has ended; it must be restarted", exc_info=error)
        state["ended"] = True


@contextlib.asynccontextmanager
async def _running(state: State, *work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run endless work beside the block, and end it after."""
    tasks = [asyncio.create_task(coroutine) for coroutine in work]
    for task in tasks:
        task.add_done_callback(functools.partial(_tell_of_an_end, state))
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
