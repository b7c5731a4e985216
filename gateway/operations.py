"""What operators' machines ask: alive, ready, metrics; and the list of models for clients."""

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from gateway.directory import Directory
from gateway.replica import Replica
from gateway.routing import not_found
from gateway.settings import GatewaySettings
from gateway.shapes import ModelShape, model_shapes
from gateway.web import AnyRequest, key_guard, loopback_or_key_guard
from monitors.metrics import CONTENT_TYPE, Metrics
from registry.catalog import ApiKey


class Health(msgspec.Struct, frozen=True):
    """Whether the gateway can serve, and why not; `problems` name models, never machines."""

    status: str
    problems: list[str] = []


class ModelList(msgspec.Struct, frozen=True):
    """OpenAI's list of models."""

    data: list[ModelShape]
    object: str = "list"


@get("/livez", tags=["Operations"], summary="Is the process alive?")
async def livez() -> Health:
    """200 as long as the process can answer at all."""
    return Health("ok")


@get("/readyz", tags=["Operations"], summary="Can it serve?")
async def readyz(replica: NamedDependency[Replica]) -> Response[Health]:
    """200 once the engine has answered with the base model and with each live version."""
    if replica.state == "ready" and replica.problem is None:
        return Response(Health("ok"))
    return Response(Health("not ready", [replica.problem or replica.state]), status_code=503)


@get("/metrics", tags=["Operations"], summary="Prometheus metrics", guards=[loopback_or_key_guard])
async def metrics(metrics: NamedDependency[Metrics]) -> Response[bytes]:
    """In Prometheus' text format; without a key only from this machine."""
    return Response(metrics.exposition(), headers={"content-type": CONTENT_TYPE})


@get("/v1/models", tags=["Inference"], summary="List models", guards=[key_guard])
async def list_models(
    request: AnyRequest, directory: NamedDependency[Directory], settings: NamedDependency[GatewaySettings]
) -> ModelList:
    """What this key may say as `model`: deployments, their versions, and the base model."""
    return ModelList(_models(request.state.key, directory, settings))


@get("/v1/models/{model:path}", tags=["Inference"], summary="Show a model", guards=[key_guard])
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
    raise not_found(directory.catalog, frozenset({settings.base}), request.state.key, model)


def _models(key: ApiKey, directory: Directory, settings: GatewaySettings) -> list[ModelShape]:
    found = []
    for adapter in directory.catalog.adapters.values():
        if key.may_use(adapter.name):
            found += model_shapes(adapter)
    if key.may_use(settings.base):
        found.append(ModelShape(id=settings.base, created=0, root=settings.base, parent=None))
    return found
