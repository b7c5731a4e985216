"""The gateway's composition root: `create_app` wires everything, and nothing else does."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiohttp
from litestar import Litestar, Router, asgi
from litestar.datastructures import State
from litestar.di import Provide

from gateway import operations
from gateway.admin import AdapterController, KeyController, ReplicaController, sweep_uploads
from gateway.directory import Directory
from gateway.engine import Engine
from gateway.inference import PATHS, Inference
from gateway.replica import Replica
from gateway.schema import openapi_config
from gateway.settings import GatewaySettings
from gateway.swap import Swapper
from gateway.web import RequestIds, admin_guard, provide_actor, render_error
from monitors.metrics import Metrics
from monitors.record import RequestHook
from registry.artifacts import ArtifactStore
from registry.base_model import BaseSpec, read_config
from registry.database import check_schema, connect
from registry.registry import Registry

_ENGINE_KEEPALIVE_S = 4.0
"""Below vLLM's own 5 s, so that no request goes out on a connection that the engine is just closing."""


def base_spec(settings: GatewaySettings) -> BaseSpec:
    """What adapters must fit, read from the base model's config.json where the gateway can see it.

    Raises:
        ValueError: `base` is not set, or `base_model` is a folder without a readable config.json.
    """
    if not settings.base:
        raise ValueError("the base model's name is not set: say --base or OSTLER_BASE")
    config = read_config(settings.base_model) if settings.base_model else None
    if config is None and Path(settings.base_model or "/no-folder").is_dir():
        raise ValueError("the folder in OSTLER_BASE_MODEL has no readable config.json")
    return BaseSpec(
        settings.base,
        aliases=frozenset({settings.base_model} - {""}),
        config=config,
        max_lora_rank=settings.max_lora_rank,
        source=settings.base_model,
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


def create_app(settings: GatewaySettings) -> Litestar:
    """Wire the gateway.

    Raises:
        ValueError: a setting is missing or wrong.
    """
    base = base_spec(settings)
    database = connect(settings.database)
    store = artifact_store(settings)
    registry = Registry(database, store, (base,))
    directory = Directory(registry)
    metrics = Metrics()
    hooks: list[RequestHook] = [metrics]

    @contextlib.asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        await check_schema(database)
        await directory.refresh()
        await asyncio.to_thread(store.sweep)
        await asyncio.to_thread(sweep_uploads, settings.cache)
        connections = aiohttp.TCPConnector(limit=0, keepalive_timeout=_ENGINE_KEEPALIVE_S)
        async with aiohttp.ClientSession(connector=connections, auto_decompress=False) as session:
            replica = Replica(
                "engine-0",
                Engine(settings.engine_url, base.name, session),
                store,
                directory,
                metrics,
                slots=settings.engine_slots,
                probe_timeout_s=settings.probe_timeout_s,
                wait_s=settings.engine_wait_s,
            )
            app.state.replica = replica
            app.state.swapper = Swapper(registry, directory, replica, metrics, patience_s=2 * settings.probe_timeout_s)
            app.state.inference = Inference(settings, directory, replica, metrics, hooks)
            async with _running(directory.follow(settings.poll_s), replica.watch(settings.poll_s)):
                yield
        await database.dispose()

    state = State({"settings": settings, "registry": registry, "directory": directory, "metrics": metrics})
    return Litestar(
        route_handlers=[
            serve_inference,
            Router(
                "/",
                middleware=[RequestIds()],
                route_handlers=[
                    operations.livez,
                    operations.readyz,
                    operations.metrics,
                    operations.list_models,
                    operations.show_model,
                    Router(
                        "/admin/v1",
                        route_handlers=[AdapterController, KeyController, ReplicaController],
                        guards=[admin_guard],
                        dependencies={"actor": Provide(provide_actor, sync_to_thread=False)},
                    ),
                ],
            ),
        ],
        dependencies={
            name: Provide(_FromState(name), sync_to_thread=False)
            for name in ("settings", "registry", "directory", "metrics", "replica", "swapper")
        },
        exception_handlers={Exception: render_error},
        lifespan=[lifespan],
        state=state,
        openapi_config=openapi_config(version("ostler")),
        logging_config=None,
    )


@asgi(list(PATHS), copy_scope=False)
async def serve_inference(scope: Any, receive: Any, send: Any) -> None:
    """The hot path, which the lifespan has put together."""
    await scope["litestar_app"].state.inference(scope, receive, send)


class _FromState:
    """A dependency that stands in the app's state under its own name."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, state: State) -> Any:
        return state[self._name]


@contextlib.asynccontextmanager
async def _running(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run endless work beside the block, and end it after."""
    tasks = [asyncio.create_task(coroutine) for coroutine in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
