"""The JSON that clients see of fine-tuning jobs: OpenAI's objects, each with what only Ostler has under `ostler`."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Generic, Literal, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from registry.tuning.events import event_id
from registry.tuning.jobs import order_of
from registry.tuning.orders import (
    Auto,
    DataOrder,
    GateOrder,
    Hyperparameters,
    LoraOrder,
    Method,
    StoppingOrder,
    TuningOrder,
)
from registry.tuning.rules import GateRule
from registry.tuning.states import is_free
from registry.tuning.tables import TuningCheckpointRow, TuningEventRow, TuningJobRow

T = TypeVar("T")
Status = Literal["validating_files", "queued", "running", "succeeded", "failed", "cancelled"]
State = Literal["queued", "validating_files", "running", "paused", "succeeded", "failed", "cancelled"]
Stage = Literal["waiting", "data", "fitness", "training", "registering", "evaluating", "done"]
_ORGANIZATION = "ostler"
_OF_THE_PAGE = ("plots", "page")


class HyperparametersShape(msgspec.Struct, frozen=True):
    """As they were asked for; `beta` is of dpo alone."""

    batch_size: Auto | int
    learning_rate_multiplier: Auto | float
    n_epochs: Auto | int
    beta: Auto | float | UnsetType = UNSET


class MethodBlockShape(msgspec.Struct, frozen=True):
    """A method's hyperparameters."""

    hyperparameters: HyperparametersShape


class MethodShape(msgspec.Struct, frozen=True):
    """How the job trains; only the block of its own method is there."""

    type: Method
    supervised: MethodBlockShape | UnsetType = UNSET
    dpo: MethodBlockShape | UnsetType = UNSET


class JobErrorShape(msgspec.Struct, frozen=True):
    """Why a job failed."""

    code: str
    message: str
    param: str | None


class OrderShape(msgspec.Struct, frozen=True):
    """The rest of what was asked for."""

    lora: LoraOrder
    data: DataOrder
    stopping: StoppingOrder
    gate: GateOrder


class OstlerJobShape(msgspec.Struct, frozen=True):
    """What OpenAI has no field for.

    `state` is `status`, but for a paused job; `wanted` what was asked of the job last, which is so within a step.
    `candidate` is the version that was registered, whatever its gate said; `dataset` the digest of what it is made
    from; `attempt` how many tuners have held the job since its newest checkpoint, `reason` why it was asked for. `rule`
    is what its gate holds the candidate to, null until its fitness was checked; `report` what the gate saw, left out
    until then, and where more than one job, or a change of one, is told.
    """

    adapter: str
    base: str
    start_from: int | None
    state: State
    stage: Stage
    wanted: Literal["run", "pause", "cancel"]
    attempt: int
    candidate: str | None
    dataset: str | None
    suffix: str | None
    reason: str
    started_at: int | None
    order: OrderShape
    rule: GateRule | None
    report: dict[str, Any] | UnsetType = UNSET


class JobShape(msgspec.Struct, frozen=True):
    """OpenAI's fine-tuning job; times are Unix seconds."""

    id: str
    created_at: int
    error: JobErrorShape | None
    fine_tuned_model: str | None
    finished_at: int | None
    hyperparameters: HyperparametersShape
    model: str
    result_files: list[str]
    seed: int
    status: Status
    trained_tokens: int | None
    training_file: str
    validation_file: str | None
    estimated_finish: int | None
    metadata: dict[str, str] | None
    method: MethodShape
    ostler: OstlerJobShape
    integrations: None = None
    organization_id: str = _ORGANIZATION
    object: Literal["fine_tuning.job"] = "fine_tuning.job"


class EventShape(msgspec.Struct, frozen=True):
    """OpenAI's event of a job; one of metrics has them as `data`."""

    id: str
    created_at: int
    level: Literal["info", "warn", "error"]
    message: str
    data: dict[str, Any] | None
    type: Literal["message", "metrics"]
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"


class OstlerCheckpointShape(msgspec.Struct, frozen=True):
    """Whether it is the best so far, which the version is made of, and whether its weights are still kept."""

    is_best: bool
    kept: bool


class CheckpointShape(msgspec.Struct, frozen=True):
    """OpenAI's checkpoint of a job; training goes on from it. What can be asked is the job's own model alone."""

    id: str
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    metrics: dict[str, float | None]
    step_number: int
    ostler: OstlerCheckpointShape
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"


class ListShape(msgspec.Struct, Generic[T], frozen=True):
    """OpenAI's list; `after` goes on from its `last_id`."""

    data: list[T]
    has_more: bool
    first_id: str | None
    last_id: str | None
    object: Literal["list"] = "list"


S = TypeVar("S", JobShape, EventShape, CheckpointShape)


def list_shape(found: list[S], limit: int) -> ListShape[S]:
    """A page of what was found; one more than `limit` says that there is more."""
    page = found[:limit]
    first, last = (page[0].id, page[-1].id) if page else (None, None)
    return ListShape(page, has_more=len(found) > limit, first_id=first, last_id=last)


def job_shape(job: TuningJobRow, report: Mapping[str, Any] | None = None) -> JobShape:
    """A job as clients see it, with its gate's report if that is given."""
    order = order_of(job)
    is_held = not is_free(job, datetime.now(UTC))
    return JobShape(
        id=job.id,
        created_at=_seconds(job.created_at),
        error=None if job.error is None else msgspec.convert(job.error, JobErrorShape),
        fine_tuned_model=job.fine_tuned_model,
        finished_at=_moment(job.finished_at),
        hyperparameters=_hyperparameters(order.hyperparameters, "supervised"),
        model=job.model,
        result_files=[] if job.result_file is None else [job.result_file],
        seed=order.seed,
        status=msgspec.convert("queued" if job.state == "paused" else job.state, Status),
        trained_tokens=job.trained_tokens,
        training_file=order.training_file,
        validation_file=order.validation_file,
        estimated_finish=_moment(job.estimated_finish) if is_held else None,
        metadata=order.metadata,
        method=_method(order),
        ostler=_ours(job, order, report),
    )


def event_shape(event: TuningEventRow) -> EventShape:
    """An event as clients see it."""
    return EventShape(
        id=event_id(event),
        created_at=_seconds(event.created_at),
        level=msgspec.convert(event.level, Literal["info", "warn", "error"]),
        message=event.message,
        data=event.data,
        type=msgspec.convert(event.type, Literal["message", "metrics"]),
    )


def checkpoint_shape(checkpoint: TuningCheckpointRow, job: TuningJobRow) -> CheckpointShape:
    """A checkpoint as clients see it; the best one of a job that succeeded is its model."""
    name = f"{job.adapter}:ckpt-step-{checkpoint.step}"
    return CheckpointShape(
        id=checkpoint.id,
        created_at=_seconds(checkpoint.created_at),
        fine_tuned_model_checkpoint=(job.fine_tuned_model or name) if checkpoint.is_best else name,
        fine_tuning_job_id=job.id,
        metrics=checkpoint.metrics,
        step_number=checkpoint.step,
        ostler=OstlerCheckpointShape(is_best=checkpoint.is_best, kept=checkpoint.digest is not None),
    )


def _ours(job: TuningJobRow, order: TuningOrder, report: Mapping[str, Any] | None) -> OstlerJobShape:
    return OstlerJobShape(
        adapter=job.adapter,
        base=job.base,
        start_from=order.start_from,
        state=msgspec.convert(job.state, State),
        stage=msgspec.convert(job.stage, Stage),
        wanted=msgspec.convert(job.wanted, Literal["run", "pause", "cancel"]),
        attempt=job.attempt,
        candidate=None if job.version is None else f"{job.adapter}@{job.version}",
        dataset=job.dataset,
        suffix=order.note or None,
        reason=order.reason,
        started_at=_moment(job.started_at),
        order=OrderShape(order.lora, order.data, order.stopping, order.gate),
        rule=None if job.rule is None else msgspec.convert(job.rule, GateRule),
        report=UNSET if report is None else _summary(report),
    )


def _summary(report: Mapping[str, Any]) -> dict[str, Any]:
    """A report without what only its page draws."""
    return {name: value for name, value in report.items() if name not in _OF_THE_PAGE}


def _method(order: TuningOrder) -> MethodShape:
    block = MethodBlockShape(_hyperparameters(order.hyperparameters, order.method))
    return MethodShape(order.method, **{order.method: block})


def _hyperparameters(asked: Hyperparameters, method: Method) -> HyperparametersShape:
    return HyperparametersShape(
        asked.batch_size,
        asked.learning_rate_multiplier,
        asked.n_epochs,
        asked.beta if method == "dpo" else UNSET,
    )


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())


def _moment(moment: datetime | None) -> int | None:
    return None if moment is None else _seconds(moment)
