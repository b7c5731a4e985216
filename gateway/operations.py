"""What operators' machines ask: alive, ready, metrics; and the list of models for clients."""

import asyncio

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath

from gateway.directory import Directory
from gateway.engines.fleet import Fleet
from gateway.refusals import refusals
from gateway.routing import not_found
from gateway.settings import GatewaySettings
from gateway.shapes import ModelShape, model_shapes
from gateway.web import AnyRequest, metrics_guard, models_guard
from monitors.metrics import CONTENT_TYPE, Metrics
from registry.catalog import ApiKey

_STOPPING = "the gateway is stopping"


class Health(msgspec.Struct, frozen=True):
    """Whether the gateway can serve, and why not; `problems` name neither adapters nor machines."""

    status: str
    problems: list[str] = []


class ModelList(msgspec.Struct, frozen=True):
    """OpenAI's list of models."""

    data: list[ModelShape]
    object: str = "list"


@get("/livez", tags=["Operations"], summary="Is the process alive?", security=[{}])
async def livez(request: AnyRequest) -> Response[Health]:
    """200 as long as the process does all of its work; 503 asks for its restart."""
    if request.app.state.get("ended", False):
        return Response(Health("not alive", ["a part of the gateway has ended; the log says why"]), status_code=503)
    return Response(Health("ok"))


@get(
    "/readyz",
    tags=["Operations"],
    summary="Can it serve?",
    security=[{}],
    responses={503: ResponseSpec(Health, generate_examples=False, description="It cannot serve now")},
)
async def readyz(request: AnyRequest, fleet: NamedDependency[Fleet]) -> Response[Health]:
    """200 once engines have answered with the base models and the live versions; 503 again when it is stopping.

    With several base models, one whose engines fail later is named among the problems, while the others are served.
    """
    readiness = fleet.readiness()
    if request.app.state.get("draining", False):
        return Response(Health("not ready", [_STOPPING]), status_code=503)
    if readiness.ready:
        return Response(Health("ok", readiness.problems))
    return Response(Health("not ready", readiness.problems), status_code=503)


@get(
    "/metrics",
    tags=["Operations"],
    summary="Prometheus metrics",
    guards=[metrics_guard],
    media_type="text/plain",
    security=[{}, {"key": []}],
    responses=refusals(always=(401, 403)),
)
async def metrics(metrics: NamedDependency[Metrics]) -> Response[str]:
    """In Prometheus' text format; without a key from this machine alone, else with the scope `metrics`."""
    metrics.publish()
    # With hundreds of adapters it takes a while, which requests must not wait for.
    shown = await asyncio.to_thread(metrics.exposition)
    return Response(shown.decode(), headers={"content-type": CONTENT_TYPE})


@get(
    "/v1/models",
    tags=["Inference"],
    summary="List models",
    guards=[models_guard],
    responses=refusals(always=(401, 403)),
)
async def list_models(
    request: AnyRequest, directory: NamedDependency[Directory], settings: NamedDependency[GatewaySettings]
) -> ModelList:
    """What this key may say as `model`: deployments, their versions, and the base models.

    For keys with the scope `inference`, `tuning` or `admin`.
    """
    return ModelList(_models(request.state.key, directory, settings))


@get(
    "/v1/models/{model:path}",
    tags=["Inference"],
    summary="Show a model",
    guards=[models_guard],
    responses=refusals(404, always=(400, 401, 403)),
)
async def show_model(
    model: FromPath[str],
    request: AnyRequest,
    directory: NamedDependency[Directory],
    settings: NamedDependency[GatewaySettings],
) -> ModelShape:
    """One entry of the list."""
    model = model.removeprefix("/")
    for shape in _models(request.state.key, directory, settings):
        if model in (shape.id, shape.root):
            return shape
    raise not_found(directory.catalog, _bases(settings), request.state.key, model)


def _bases(settings: GatewaySettings) -> frozenset[str]:
    return frozenset(pool.base for pool in settings.all_pools)


def _models(key: ApiKey, directory: Directory, settings: GatewaySettings) -> list[ModelShape]:
    found = []
    for adapter in directory.catalog.adapters.values():
        if key.may_use(adapter.name):
            found += model_shapes(adapter)
    for base in sorted(_bases(settings)):
        if key.may_use(base):
            found.append(ModelShape(id=base, created=0, root=base, parent=None))
    return found
