"""OpenAI's fine-tuning jobs: asked for, looked at, and stopped. A tuner does the work, and writes how far it is."""

import contextlib
import re
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from litestar import Controller, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, HeaderParameter, JSONBody, QueryParameter
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.admin.fields import NO_NUL
from gateway.admin.versions import GATE_PAGE, gate_page
from gateway.directory import Directory
from gateway.errors import InvalidRequest
from gateway.json_body import StrictRequest
from gateway.refusals import refusals
from gateway.settings import GatewaySettings
from gateway.tuning.bodies import NewJob
from gateway.tuning.orders import order_for
from gateway.tuning.shapes import (
    CheckpointShape,
    EventShape,
    JobShape,
    ListShape,
    checkpoint_shape,
    event_shape,
    job_shape,
    list_shape,
)
from gateway.web import AnyRequest
from registry.catalog import ApiKey
from registry.errors import NotFound
from registry.registry import Registry
from registry.tuning.events import Events, event_number
from registry.tuning.files import Files
from registry.tuning.jobs import LONGEST_IDEMPOTENCY_KEY, Asker, Jobs, digest_of
from registry.tuning.tables import TuningJobRow

_LARGEST_BODY = 256 << 10
_METADATA = re.compile(r"metadata\[(?P<name>.*)\]", re.DOTALL)
_NULL = "null"
_After = Annotated[str | None, QueryParameter(name="after", max_length=64, pattern=NO_NUL)]
_IdempotencyKey = Annotated[
    str | None,
    HeaderParameter(
        name="idempotency-key",
        description="The same request with the same key makes no second job, however often it is sent.",
        schema_extra={"minLength": 1, "maxLength": LONGEST_IDEMPOTENCY_KEY},
    ),
]


class JobController(Controller):
    """Fine-tuning jobs."""

    path = "/fine_tuning/jobs"
    tags = ("Fine-tuning",)
    request_class = StrictRequest

    @post(
        "/",
        summary="Create a fine-tuning job",
        status_code=200,
        request_max_body_size=_LARGEST_BODY,
        responses=refusals(404, 409, 413, 422),
    )
    async def create(
        self,
        data: JSONBody[NewJob],
        request: StrictRequest,
        database: NamedDependency[AsyncEngine],
        registry: NamedDependency[Registry],
        directory: NamedDependency[Directory],
        settings: NamedDependency[GatewaySettings],
        actor: NamedDependency[str],
        idempotency_key: _IdempotencyKey = None,
    ) -> JobShape:
        """Queue a job; a tuner takes it up as soon as one is free and no other job of the adapter is at work."""
        key: ApiKey = request.state.key
        jobs = Jobs(database)
        asker = Asker(key.id, actor, idempotency_key, digest_of(msgspec.to_builtins(data)))
        made = await jobs.made_before(asker)
        if made is None:
            await directory.refresh()  # what another gateway made just now is known, too
            files = Files(database, registry.store)
            order = await order_for(data, key, directory.catalog, registry.bases, files)
            try:
                made, _ = await jobs.create(
                    order, data.model, asker, most_open=settings.max_open_jobs, decision=data.ostler.decision
                )
            except NotFound as error:  # a file that was there when the order was made
                raise InvalidRequest(error.message, param=error.param) from None
        return job_shape(await jobs.find(made.id, adapters=key.adapters))

    @get("/", summary="List fine-tuning jobs", responses=refusals(404))
    async def list_jobs(
        self,
        request: AnyRequest,
        database: NamedDependency[AsyncEngine],
        after: _After = None,
        limit: Annotated[int, QueryParameter(name="limit", ge=1, le=100)] = 20,
        metadata: Annotated[str | None, QueryParameter(name="metadata", pattern=f"^{_NULL}$")] = None,
    ) -> ListShape[JobShape]:
        """Jobs of the key's adapters, newest first; `after` goes on from a job's id.

        `metadata[name]=value`, as often as wanted, shows only the jobs that have all of these; `metadata=null` only
        those without any.
        """
        wanted = _metadata(request, without=metadata == _NULL)
        adapters = _adapters(request)
        found = await Jobs(database).listed(adapters=adapters, metadata=wanted, after=after, limit=limit + 1)
        return list_shape([job_shape(job) for job in found], limit)

    @get("/{fine_tuning_job_id:str}", summary="Show a fine-tuning job", responses=refusals(404))
    async def show(
        self,
        fine_tuning_job_id: FromPath[str],
        request: AnyRequest,
        database: NamedDependency[AsyncEngine],
        registry: NamedDependency[Registry],
    ) -> JobShape:
        """One job, how far it is, and what its gate said."""
        job = await Jobs(database).find(fine_tuning_job_id, adapters=_adapters(request))
        return job_shape(job, await _report(registry, job))

    @get(
        "/{fine_tuning_job_id:str}/report",
        summary="Show the report of a fine-tuning job's gate",
        media_type="text/html",
        responses={**refusals(404), 200: GATE_PAGE},
    )
    async def report(
        self,
        fine_tuning_job_id: FromPath[str],
        request: AnyRequest,
        database: NamedDependency[AsyncEngine],
        registry: NamedDependency[Registry],
    ) -> Response[bytes]:
        """What the gate saw of the job's candidate, as a page of HTML with plots."""
        job = await Jobs(database).find(fine_tuning_job_id, adapters=_adapters(request))
        page = await gate_page(registry, await _report(registry, job))
        if page is None:
            raise NotFound(f"the job {job.id} has no report of a gate", param="fine_tuning_job_id")
        return page

    @post(
        "/{fine_tuning_job_id:str}/cancel",
        summary="Cancel a fine-tuning job",
        status_code=200,
        responses=refusals(404, 409),
    )
    async def cancel(
        self,
        fine_tuning_job_id: FromPath[str],
        request: AnyRequest,
        database: NamedDependency[AsyncEngine],
        actor: NamedDependency[str],
    ) -> JobShape:
        """End a job: at once if nobody is at work on it, else within a step. What it made is not promoted."""
        return await _wish(request, database, fine_tuning_job_id, "cancel", actor)

    @post(
        "/{fine_tuning_job_id:str}/pause",
        summary="Pause a fine-tuning job",
        status_code=200,
        responses=refusals(404, 409),
    )
    async def pause(
        self,
        fine_tuning_job_id: FromPath[str],
        request: AnyRequest,
        database: NamedDependency[AsyncEngine],
        actor: NamedDependency[str],
    ) -> JobShape:
        """Have a job rest, with a checkpoint to go on from; its `ostler.state` is then `paused`."""
        return await _wish(request, database, fine_tuning_job_id, "pause", actor)

    @post(
        "/{fine_tuning_job_id:str}/resume",
        summary="Resume a fine-tuning job",
        status_code=200,
        responses=refusals(404, 409),
    )
    async def resume(
        self,
        fine_tuning_job_id: FromPath[str],
        request: AnyRequest,
        database: NamedDependency[AsyncEngine],
        actor: NamedDependency[str],
    ) -> JobShape:
        """Have a paused job go on where it was, or one that failed at its gate be evaluated again."""
        return await _wish(request, database, fine_tuning_job_id, "run", actor)

    @get("/{fine_tuning_job_id:str}/events", summary="List a fine-tuning job's events", responses=refusals(404))
    async def list_events(
        self,
        fine_tuning_job_id: FromPath[str],
        request: AnyRequest,
        database: NamedDependency[AsyncEngine],
        after: _After = None,
        limit: Annotated[int, QueryParameter(name="limit", ge=1, le=1000)] = 20,
    ) -> ListShape[EventShape]:
        """What the job said of itself, newest first; `after` goes on from an event's id."""
        job = await Jobs(database).find(fine_tuning_job_id, adapters=_adapters(request))
        number = None if after is None else event_number(after)
        if after is not None and number is None:
            raise NotFound(f"there is no event {after!r} to go on from", param="after")
        found = await Events(database).listed(job.id, after=number, limit=limit + 1)
        return list_shape([event_shape(event) for event in found], limit)

    @get(
        "/{fine_tuning_job_id:str}/checkpoints",
        summary="List a fine-tuning job's checkpoints",
        responses=refusals(404),
    )
    async def list_checkpoints(
        self,
        fine_tuning_job_id: FromPath[str],
        request: AnyRequest,
        database: NamedDependency[AsyncEngine],
        after: _After = None,
        limit: Annotated[int, QueryParameter(name="limit", ge=1, le=100)] = 10,
    ) -> ListShape[CheckpointShape]:
        """What training can go on from, newest first; `after` goes on from a checkpoint's id."""
        job = await Jobs(database).find(fine_tuning_job_id, adapters=_adapters(request))
        found = await Events(database).checkpoints(job.id, after=after, limit=limit + 1)
        return list_shape([checkpoint_shape(checkpoint, job) for checkpoint in found], limit)


async def _report(registry: Registry, job: TuningJobRow) -> Mapping[str, Any] | None:
    """What the gate said of the job's candidate, if it has said anything."""
    if job.version is None:
        return None
    with contextlib.suppress(NotFound):
        return (await registry.version_record(job.adapter, job.version)).report
    return None


async def _wish(request: AnyRequest, database: AsyncEngine, job_id: str, wanted: str, actor: str) -> JobShape:
    return job_shape(await Jobs(database).wish(job_id, wanted, actor=actor, adapters=_adapters(request)))


def _adapters(request: AnyRequest) -> frozenset[str] | None:
    """Whose jobs the key sees; None for all."""
    key: ApiKey = request.state.key
    return key.adapters


def _metadata(request: AnyRequest, *, without: bool) -> Mapping[str, str] | None:
    """The pairs that the query asks for as ``metadata[name]=value``; None asks for jobs without metadata."""
    matches = ((_METADATA.fullmatch(name), value) for name, value in request.query_params.multi_items())
    pairs = [(match["name"], value) for match, value in matches if match is not None]
    wanted = dict(pairs)
    if len(wanted) < len(pairs) or (wanted and without):
        raise InvalidRequest(
            "say `metadata[name]=value` once for each name, or `metadata=null` alone", param="metadata"
        )
    return None if without else wanted
