"""Whether an adapter's traffic is still what its versions were made for."""

import asyncio
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
from litestar import Controller, Response, get, post
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, QueryParameter
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.admin.fields import NO_NUL
from gateway.admin.monitoring import known_adapter
from gateway.directory import Directory
from gateway.json_body import StrictRequest
from gateway.refusals import refusals
from gateway.shapes import Page
from monitors.drifting import runs as drift_runs
from registry.database import writing
from registry.errors import NotFound
from registry.registry import Registry

REPORT_HEADERS = {
    # The report is one file with scripts in it: they may draw, and reach nothing, neither the network nor this API.
    "content-security-policy": (
        "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; "
        "style-src 'unsafe-inline'; img-src data: blob:; font-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "private, no-store",
}
_REPORT = "report.html"


class ColumnShape(msgspec.Struct, frozen=True):
    """How far a column is from the reference: it drifted if the statistic reached the threshold.

    `p_value` is how probable a statistic as large is without drift; `rows` and `reference_rows` count known values.
    """

    name: str
    method: Literal["ks_distance", "jensenshannon", "mean_distance"]
    statistic: float
    threshold: float
    p_value: float
    drifted: bool
    rows: int
    reference_rows: int


class DriftShape(msgspec.Struct, frozen=True):
    """One look: a version's newest requests held against its reference.

    `missing` says what lacked, of the window or of columns that could not be judged, or why the look failed; `report`
    is the path of the HTML report, while it is kept.
    """

    id: str
    adapter: str
    version: int
    outcome: Literal["drift", "no_drift", "not_enough_data", "failed"]
    window_start: datetime | None
    window_end: datetime
    rows: int
    reference_rows: int
    reference: str
    columns: list[ColumnShape]
    missing: str | None
    report: str | None
    created_at: datetime


class AskedShape(msgspec.Struct, frozen=True):
    """A look that the monitor will take as soon as it can; a window that was looked at is not looked at again."""

    adapter: str
    asked_at: datetime


class DriftController(Controller):
    """Looks at drift."""

    tags = ("Drift",)
    request_class = StrictRequest

    @get("/adapters/{name:str}/drift", summary="List looks at drift", responses=refusals(404))
    async def list_looks(
        self,
        name: FromPath[str],
        database: NamedDependency[AsyncEngine],
        directory: NamedDependency[Directory],
        limit: Annotated[int, QueryParameter(name="limit", ge=1, le=1000)] = 100,
        before: Annotated[str | None, QueryParameter(name="before", max_length=32, pattern=NO_NUL)] = None,
    ) -> Page[DriftShape]:
        """Looks at the adapter's versions, newest first; `before` goes on from a look's id."""
        known_adapter(directory, name)
        async with database.connect() as connection:
            rows = await drift_runs.list_runs(connection, name, before=before, limit=limit + 1)
        return Page([_shape(row) for row in rows[:limit]], has_more=len(rows) > limit)

    @post("/adapters/{name:str}/drift", summary="Look at drift now", status_code=202, responses=refusals(404, 413))
    async def look(
        self, name: FromPath[str], database: NamedDependency[AsyncEngine], directory: NamedDependency[Directory]
    ) -> AskedShape:
        """Have the monitor look at the newest window of each served version, whether it is due or not."""
        known_adapter(directory, name)
        now = datetime.now(UTC)
        async with writing(database) as connection:
            await drift_runs.ask_for_look(connection, name, now)
        return AskedShape(name, now)

    @get(
        "/drift/{drift_id:str}/report",
        summary="Show the report of a look",
        media_type="text/html",
        responses={
            **refusals(404),
            200: ResponseSpec(str, generate_examples=False, media_type="text/html", description="Evidently's report"),
        },
    )
    async def report(
        self, drift_id: FromPath[str], database: NamedDependency[AsyncEngine], registry: NamedDependency[Registry]
    ) -> Response[bytes]:
        """The HTML report; only an adapter's newest ones are kept. It holds distributions, and no prompt."""
        async with database.connect() as connection:
            row = await drift_runs.find_run(connection, drift_id)
        if row is None or row.report is None:
            raise NotFound("there is no report of that id, or it is not kept any more", param="drift_id")
        folder = await asyncio.to_thread(registry.store.fetch, row.report)
        content = await asyncio.to_thread((folder / _REPORT).read_bytes)
        return Response(content, media_type="text/html", headers=REPORT_HEADERS)


def _shape(row: Row[Any]) -> DriftShape:
    found: dict[str, Any] = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's public name for it
    found["columns"] = msgspec.convert(found["columns"] or [], list[ColumnShape])
    found["report"] = f"/admin/v1/drift/{row.id}/report" if row.report else None
    return DriftShape(**found)
