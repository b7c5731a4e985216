"""Golden sets, and their runs against an adapter's versions and the base model."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from litestar import Controller, Response, get, post
from litestar.di import NamedDependency
from litestar.exceptions import ClientException
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, JSONBody, QueryParameter
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.admin.fields import NO_NUL, Number
from gateway.directory import Directory
from gateway.errors import InvalidRequest
from gateway.json_body import StrictRequest
from gateway.refusals import refusals
from gateway.shapes import Page
from gateway.web import AnyRequest
from monitors.judging import golden_runs
from monitors.judging.golden import DEFAULT_SCORERS, GoldenChecker
from monitors.judging.golden_sets import GoldenSets, find_set
from monitors.tables import GoldenSetRow
from registry.catalog import Adapter
from registry.database import writing
from registry.errors import Conflict, NotFound
from registry.monitoring import ScorerChoice
from registry.registry import Registry

_REQUESTED = "requested"
_ScorerName = Annotated[str, msgspec.Meta(max_length=40, pattern=NO_NUL)]
_Targets = Annotated[list[Number | Literal["stable", "canary", "base"]], msgspec.Meta(min_length=1, max_length=20)]
RunState = Literal["queued", "running", "done", "failed"]


class EvaluationOrder(msgspec.Struct, forbid_unknown_fields=True):
    """What to run a golden set against; without `golden_set` it is the newest."""

    versions: _Targets = msgspec.field(default_factory=lambda: ["stable", "base"])
    golden_set: Number | None = None


class GoldenSetShape(msgspec.Struct, frozen=True):
    """A frozen evaluation set; `scorers` score the rows that do not say."""

    number: int
    digest: str
    rows: int
    scorers: list[ScorerChoice]
    note: str
    created_by: str
    created_at: datetime


class PushedSetShape(msgspec.Struct, frozen=True):
    """The outcome of a push; `created` is false if the adapter had this set already."""

    adapter: str
    created: bool
    golden_set: GoldenSetShape


class EvaluationShape(msgspec.Struct, frozen=True):
    """One run of a set against one model; `version` is null for the base model.

    `results` has under `scorers` the number of scored rows, the mean and its interval for each, with the paired
    difference to the base model of the same `batch` under `base`; under `metrics` what is computed of all rows.
    """

    id: str
    batch: str
    adapter: str
    golden_set: int
    digest: str
    model: str
    version: int | None
    state: RunState
    reason: str
    error: str | None
    results: dict[str, Any] | None
    requested_by: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class EvaluationDetailShape(EvaluationShape, frozen=True):
    """A run with each row's scores, in the set's order."""

    items: list[dict[str, Any]] | None


class GoldenController(Controller):
    """Golden sets and their runs."""

    path = "/adapters/{name:str}"
    tags = ("Golden sets",)
    request_class = StrictRequest

    @post(
        "/golden-sets",
        summary="Push a golden set",
        request_max_body_size=None,
        responses={
            **refusals(404, 413, 422),
            200: ResponseSpec(PushedSetShape, generate_examples=False, description="The adapter has this set already"),
        },
    )
    async def push(
        self,
        name: FromPath[str],
        request: AnyRequest,
        database: NamedDependency[AsyncEngine],
        registry: NamedDependency[Registry],
        directory: NamedDependency[Directory],
        actor: NamedDependency[str],
        scorers: Annotated[list[_ScorerName] | None, QueryParameter(name="scorers", max_items=20)] = None,
        note: Annotated[str, QueryParameter(name="note", max_length=1000, pattern=NO_NUL)] = "",
    ) -> Response[PushedSetShape]:
        """Freeze JSON lines, each with `messages` as in OpenAI's fine-tuning files, as the adapter's next golden set.

        `scorers` is for rows without `scorers` of their own. 201 for a new set, 200 if the adapter has it already.
        """
        _adapter(directory, name)
        checker = GoldenChecker([ScorerChoice(scorer) for scorer in scorers or DEFAULT_SCORERS])
        async for chunk in _chunks(request):
            await asyncio.to_thread(checker.feed, chunk)  # a row may have a schema of its own, which takes its time
        pushed = await GoldenSets(database, registry.store).push(name, checker.finish(), actor=actor, note=note)
        answer = PushedSetShape(name, pushed.created, _set_shape(pushed.row))
        return Response(answer, status_code=201 if pushed.created else 200)

    @get("/golden-sets", summary="List golden sets", responses=refusals(404))
    async def list_sets(
        self,
        name: FromPath[str],
        database: NamedDependency[AsyncEngine],
        registry: NamedDependency[Registry],
        directory: NamedDependency[Directory],
        limit: Annotated[int, QueryParameter(name="limit", ge=1, le=1000)] = 100,
        before: Annotated[int | None, QueryParameter(name="before", ge=1, le=2**31 - 1)] = None,
    ) -> Page[GoldenSetShape]:
        """The adapter's sets, newest first; `before` goes on from a number."""
        _adapter(directory, name)
        rows = await GoldenSets(database, registry.store).listed(name, before=before, limit=limit + 1)
        return Page([_set_shape(row) for row in rows[:limit]], has_more=len(rows) > limit)

    @post("/evaluations", summary="Run a golden set", status_code=202, responses=refusals(404, 409, 413))
    async def evaluate(
        self,
        name: FromPath[str],
        database: NamedDependency[AsyncEngine],
        directory: NamedDependency[Directory],
        actor: NamedDependency[str],
        data: JSONBody[EvaluationOrder | None] = None,
    ) -> Page[EvaluationShape]:
        """Queue a run of the newest golden set, or another, against each of the versions; a monitor works them off."""
        order = data or EvaluationOrder()
        against = golden_runs.contenders(_adapter(directory, name), order.versions)
        async with writing(database) as connection:
            entry = await find_set(connection, name, order.golden_set)
            if entry is None:
                raise _no_set(name, order.golden_set)
            queued = golden_runs.Order(name, entry, against, _REQUESTED, actor)
            rows = await golden_runs.queue_runs(connection, queued)
        return Page([EvaluationShape(**_fields(row)) for row in rows])

    @get("/evaluations", summary="List runs of golden sets", responses=refusals(404))
    async def list_evaluations(
        self,
        name: FromPath[str],
        database: NamedDependency[AsyncEngine],
        directory: NamedDependency[Directory],
        limit: Annotated[int, QueryParameter(name="limit", ge=1, le=1000)] = 100,
        before: Annotated[str | None, QueryParameter(name="before", max_length=32, pattern=NO_NUL)] = None,
    ) -> Page[EvaluationShape]:
        """The adapter's runs without their rows, newest first; `before` goes on from a run's id."""
        _adapter(directory, name)
        async with database.connect() as connection:
            rows = await golden_runs.list_runs(connection, name, before=before, limit=limit + 1)
        return Page([EvaluationShape(**_fields(row)) for row in rows[:limit]], has_more=len(rows) > limit)

    @get("/evaluations/{evaluation_id:str}", summary="Show a run of a golden set", responses=refusals(404))
    async def show_evaluation(
        self,
        name: FromPath[str],
        evaluation_id: FromPath[str],
        database: NamedDependency[AsyncEngine],
        directory: NamedDependency[Directory],
    ) -> EvaluationDetailShape:
        """One run, with each row's scores."""
        _adapter(directory, name)
        async with database.connect() as connection:
            row = await golden_runs.find_run(connection, name, evaluation_id)
        if row is None:
            raise NotFound(f"adapter {name!r} has no evaluation of that id", param="evaluation_id")
        return EvaluationDetailShape(**_fields(row))


def _adapter(directory: Directory, name: str) -> Adapter:
    adapter = directory.catalog.adapters.get(name)
    if adapter is None:
        raise NotFound(f"there is no adapter {name!r}", param="name")
    return adapter


def _no_set(name: str, number: int | None) -> NotFound | Conflict:
    if number is not None:
        return NotFound(f"adapter {name!r} has no golden set {number}", param="golden_set")
    return Conflict(f"adapter {name!r} has no golden set yet; push one first")


async def _chunks(request: AnyRequest) -> AsyncIterator[bytes]:
    try:
        async for chunk in request.stream():
            yield chunk
    except ClientException as error:
        raise InvalidRequest("the upload broke off before its end") from error


def _set_shape(row: GoldenSetRow) -> GoldenSetShape:
    return GoldenSetShape(
        number=row.number,
        digest=row.digest,
        rows=row.rows,
        scorers=msgspec.convert(row.scorers, list[ScorerChoice]),
        note=row.note,
        created_by=row.created_by,
        created_at=row.created_at,
    )


def _fields(row: Row[Any]) -> dict[str, Any]:
    found: dict[str, Any] = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's public name for it
    return found | {"version": found["version"] or None}
