"""Adapters and their versions: listed, pushed, and put away."""

from typing import Annotated

import msgspec
from litestar import Controller, Response, get, patch, post
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, JSONBody, QueryParameter

from gateway.admin.fields import NO_NUL
from gateway.admin.uploads import uploaded
from gateway.directory import Directory
from gateway.engines.fleet import Fleet
from gateway.json_body import StrictRequest
from gateway.refusals import ETAG, refusals
from gateway.settings import GatewaySettings
from gateway.shapes import AdapterShape, OnEngines, Page, PushedShape, VersionShape, adapter_shape, version_shape
from gateway.web import AnyRequest
from registry.catalog import Adapter
from registry.errors import NotFound
from registry.names import check_adapter_name
from registry.registry import Registry


class VersionPatch(msgspec.Struct, forbid_unknown_fields=True):
    """Whether a version is put away: kept, but not served."""

    archived: bool


class AdapterController(Controller):
    """Adapters and their versions."""

    path = "/adapters"
    tags = ("Adapters",)
    request_class = StrictRequest

    @get("/", summary="List adapters", responses=refusals())
    async def list_adapters(
        self,
        directory: NamedDependency[Directory],
        fleet: NamedDependency[Fleet],
        limit: Annotated[int, QueryParameter(name="limit", ge=1, le=1000)] = 100,
        after: Annotated[str, QueryParameter(name="after", max_length=255)] = "",
    ) -> Page[AdapterShape]:
        """Adapters with their deployment and versions, by name; `after` goes on from a name."""
        adapters, engines = directory.catalog.adapters, on_engines(fleet)
        names = sorted(name for name in adapters if name > after)
        page = [adapter_shape(adapters[name], engines) for name in names[:limit]]
        return Page(page, has_more=len(names) > limit)

    @get("/{name:str}", summary="Show an adapter", responses=refusals(404), response_headers=[ETAG])
    async def show(
        self, name: FromPath[str], directory: NamedDependency[Directory], fleet: NamedDependency[Fleet]
    ) -> Response[AdapterShape]:
        """One adapter with its deployment and versions."""
        return with_etag(_adapter(directory, name), fleet)

    @post(
        "/{name:str}/versions",
        summary="Push a version",
        request_max_body_size=None,
        responses={
            **refusals(404, 408, 409, 413, 422),
            200: ResponseSpec(PushedShape, generate_examples=False, description="The adapter has this content already"),
        },
    )
    async def push(
        self,
        name: FromPath[str],
        request: AnyRequest,
        settings: NamedDependency[GatewaySettings],
        registry: NamedDependency[Registry],
        directory: NamedDependency[Directory],
        fleet: NamedDependency[Fleet],
        actor: NamedDependency[str],
        base: Annotated[str | None, QueryParameter(name="base", max_length=255)] = None,
        note: Annotated[str, QueryParameter(name="note", max_length=1000, pattern=NO_NUL)] = "",
    ) -> Response[PushedShape]:
        """Register a PEFT LoRA folder, sent as a tar, tar.gz or zip, as the adapter's next version.

        201 for a new version, 200 if the adapter has this content already.
        """
        check_adapter_name(name, frozenset(registry.bases))
        async with uploaded(request, settings) as folder:
            pushed = await registry.push(name, folder, actor=actor, base=base, note=note)
        await directory.refresh()
        shape = version_shape(pushed.version, _adapter(directory, name).deployment, on_engines(fleet))
        answer = PushedShape(name, pushed.created, shape)
        return Response(answer, status_code=201 if pushed.created else 200)

    @patch("/{name:str}/versions/{number:int}", summary="Archive a version", responses=refusals(404, 409, 413))
    async def archive(
        self,
        name: FromPath[str],
        number: FromPath[int],
        data: JSONBody[VersionPatch],
        registry: NamedDependency[Registry],
        directory: NamedDependency[Directory],
        fleet: NamedDependency[Fleet],
        actor: NamedDependency[str],
    ) -> VersionShape:
        """Put a version away, so that it is kept but not served, or bring it back."""
        require_version_number(name, number)
        await registry.archive_version(name, number, archived=data.archived, actor=actor)
        await directory.refresh()
        adapter = _adapter(directory, name)
        return version_shape(adapter.versions[number], adapter.deployment, on_engines(fleet))


def on_engines(fleet: Fleet) -> OnEngines:
    """How versions stand on the engines, as of now."""
    return OnEngines(fleet.resident, lambda name: not fleet.breakers.is_closed(name))


def with_etag(adapter: Adapter, fleet: Fleet) -> Response[AdapterShape]:
    """An adapter, with its deployment's revision as the tag that a change can be made to depend on."""
    revision = adapter.deployment.revision if adapter.deployment else 0
    return Response(adapter_shape(adapter, on_engines(fleet)), headers={"etag": f'"{revision}"'})


def require_version_number(name: str, number: int) -> None:
    """Refuse what no database can hold and no version is called.

    Raises:
        NotFound
    """
    if not 1 <= number < 2**31:
        raise NotFound(f"adapter {name!r} has no version {number}", param="version")


def _adapter(directory: Directory, name: str) -> Adapter:
    adapter = directory.catalog.adapters.get(name)
    if adapter is None:
        raise NotFound(f"there is no adapter {name!r}", param="name")
    return adapter
