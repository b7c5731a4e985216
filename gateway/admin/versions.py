"""Single versions: what they were made from and how, and what the gate said of them."""

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec
from litestar import Controller, Response, get
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath

from gateway.admin.adapters import on_engines, require_version_number
from gateway.admin.drift import REPORT_HEADERS
from gateway.directory import Directory
from gateway.engines.fleet import Fleet
from gateway.refusals import refusals
from gateway.shapes import VersionShape, version_shape
from registry.artifacts import store_failures
from registry.catalog import Adapter, Version
from registry.errors import NotFound
from registry.registry import Registry

PAGE = "report.html"
"""The name of the one file in a report's artifact."""
GATE_PAGE = ResponseSpec(str, generate_examples=False, media_type="text/html", description="The gate's report")
_HEADERS = REPORT_HEADERS | {
    # This page draws without scripts, so none may run, whatever a report's names and labels hold.
    "content-security-policy": (
        "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
}


class VersionDetailShape(VersionShape, frozen=True):
    """A version with its lineage and its gate's report; null for what was pushed by hand."""

    adapter: str
    lineage: dict[str, Any] | None
    report: dict[str, Any] | None


class VersionController(Controller):
    """Single versions."""

    path = "/adapters/{name:str}/versions/{number:int}"
    tags = ("Adapters",)

    @get("/", summary="Show a version", responses=refusals(404))
    async def show(
        self,
        name: FromPath[str],
        number: FromPath[int],
        registry: NamedDependency[Registry],
        directory: NamedDependency[Directory],
        fleet: NamedDependency[Fleet],
    ) -> VersionDetailShape:
        """One version: how it stands, what it was made from, and what its gate saw."""
        require_version_number(name, number)
        record = await registry.version_record(name, number)
        adapter, version = await _shown(directory, name, number)
        known = msgspec.structs.asdict(version_shape(version, adapter.deployment, on_engines(fleet)))
        known["verdict"] = record.verdict  # the catalog may be a moment older than the report beside it
        return VersionDetailShape(**known, adapter=name, lineage=record.lineage, report=record.report)

    @get(
        "/report",
        summary="Show the report of a version's gate",
        media_type="text/html",
        responses={**refusals(404), 200: GATE_PAGE},
    )
    async def report(
        self, name: FromPath[str], number: FromPath[int], registry: NamedDependency[Registry]
    ) -> Response[bytes]:
        """What the gate saw, as a page of HTML with plots."""
        require_version_number(name, number)
        page = await gate_page(registry, (await registry.version_record(name, number)).report)
        if page is None:
            raise NotFound(f"version {number} of {name!r} has no report of a gate", param="number")
        return page


async def gate_page(registry: Registry, report: Mapping[str, Any] | None) -> Response[bytes] | None:
    """The page of a gate's report; None where there is none.

    Raises:
        StoreFailure
    """
    page = (report or {}).get("page")
    if page is None:
        return None
    folder = await asyncio.to_thread(registry.store.fetch, page)
    with store_failures("be read"):  # another process may just be removing it
        content = await asyncio.to_thread((folder / PAGE).read_bytes)
    return Response(content, media_type="text/html", headers=_HEADERS)


async def _shown(directory: Directory, name: str, number: int) -> tuple[Adapter, Version]:
    """The version as the catalog has it, which may have to be read again."""
    adapter = directory.catalog.adapters.get(name)
    if adapter is None or number not in adapter.versions:
        await directory.refresh()
        adapter = directory.catalog.adapters[name]
    return adapter, adapter.versions[number]
