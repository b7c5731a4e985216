"""The tables of what happened and of what followed from it.

Requests        request_log, captures, usage_hours, spending        written by the gateways' recorders
Money           replica_hours, cost_rates                           what engines cost, and what a token of them did
Labels          feedback, teacher_labels                            what people, and a teacher, said of answers
Judging         scores, observations, evidence, golden_*         numbers in [0, 1], and what tests made of them
Drift           drift_runs, drift_calibrations
Work            decisions, monitor_windows, monitor_cursors         what the monitor decided, and how far it is

There are no foreign keys: a request is written after its end, and must never fail for an adapter or key that is gone.
Empty text and 0 stand for "none" in primary keys, where no database takes NULL.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Column, Float, Index, Integer, String, Text, UniqueConstraint
from sqlmodel import Field, SQLModel

from registry.tables import UtcDateTime

_ROW_NUMBER = BigInteger().with_variant(Integer(), "sqlite")  # SQLite counts by itself only in an INTEGER


def _now() -> datetime:
    return datetime.now(UTC)


def _moment(*, nullable: bool = False, index: bool = False) -> Any:
    column: Column[datetime] = Column(UtcDateTime(), nullable=nullable, index=index)
    return Field(default=None, sa_column=column) if nullable else Field(default_factory=_now, sa_column=column)


def _key(column: Any) -> Any:
    return Field(sa_column=Column(column, primary_key=True))


def _number() -> Any:
    return Field(default=None, sa_column=Column(_ROW_NUMBER, primary_key=True, autoincrement=True))


def _tokens() -> Any:
    return Field(default=0, sa_column=Column(BigInteger(), nullable=False))


def _sum() -> Any:
    return Field(default=0.0, sa_column=Column(Float(), nullable=False))


def _json() -> Any:
    return Field(default=None, sa_column=Column(JSON(none_as_null=True), nullable=True))


def _text() -> Any:
    return Field(default=None, sa_column=Column(Text(), nullable=True))


class RequestRow(SQLModel, table=True):
    """One finished request; the fields are those of `monitors.record.RequestRecord`, whose text is a `CaptureRow`.

    `id` is the recorder's own and never given twice; `request_id` may be a client's choice and so may repeat.
    """

    __tablename__ = "request_log"
    __table_args__ = (Index(None, "adapter", "version", "started_at", "id"), Index(None, "key_id", "started_at"))

    id: str = _key(String(32))
    request_id: str = Field(index=True)
    path: str
    key_id: str | None = None
    adapter: str | None = None
    model: str | None = None
    version: int | None = None
    variant: str | None = None
    status: int
    error: str | None = None
    started_at: datetime = Field(sa_column=Column(UtcDateTime(), nullable=False, index=True))
    duration_s: float
    first_byte_s: float | None = None
    streamed: bool
    prompt_tokens: int | None = Field(default=None, sa_column=Column(BigInteger(), nullable=True))
    completion_tokens: int | None = Field(default=None, sa_column=Column(BigInteger(), nullable=True))
    replica: str | None = None
    retries: int = 0
    queue_s: float = 0.0
    cost: float | None = None
    pool: str | None = None
    session: str | None = Field(default=None, sa_column=Column(String(32), nullable=True, index=True))
    end_user: str | None = Field(default=None, sa_column=Column(String(32), nullable=True, index=True))
    completion_id: str | None = Field(default=None, sa_column=Column(String(160), nullable=True, index=True))
    finish_reason: str | None = None
    overhead_s: float | None = None
    intended: int | None = None


class CaptureRow(SQLModel, table=True):
    """What was said in a captured request, after redaction; `id` is the request's own.

    `prompt` is a list of messages or a text, `answer` the text of the first choice (None if there was none), both
    as they stood at the time; `redactions` counts what was taken out. `mean_logprob` is the mean log probability of
    the answer's tokens (nats), where it is known.
    """

    __tablename__ = "captures"
    __table_args__ = (Index(None, "adapter", "version", "created_at"),)

    id: str = _key(String(32))
    request_id: str = Field(index=True)
    adapter: str
    version: int = 0
    variant: str
    session: str | None = Field(default=None, sa_column=Column(String(32), nullable=True, index=True))
    end_user: str | None = Field(default=None, sa_column=Column(String(32), nullable=True, index=True))
    prompt: Any = _json()
    answer: str | None = _text()
    redactions: int = 0
    mean_logprob: float | None = None
    created_at: datetime = _moment(index=True)


class UsageRow(SQLModel, table=True):
    """What was used in one hour (UTC), added up; kept when the request log is not.

    `errors` counts what ended with a status of 400 or more, or broke off; `duration_s` adds up seconds.
    """

    __tablename__ = "usage_hours"

    hour: datetime = _key(UtcDateTime())
    key_id: str = _key(String(24))
    pool: str = _key(String(255))
    adapter: str = _key(String(63))
    version: int = _key(Integer())
    variant: str = _key(String(16))
    requests: int = _tokens()
    errors: int = _tokens()
    prompt_tokens: int = _tokens()
    completion_tokens: int = _tokens()
    duration_s: float = _sum()
    cost: float = _sum()


class SpendingRow(SQLModel, table=True):
    """What one key has used in one month, such as ``2026-11`` (UTC)."""

    __tablename__ = "spending"

    key_id: str = _key(String(24))
    month: str = _key(String(7))
    cost: float = _sum()
    requests: int = _tokens()
    prompt_tokens: int = _tokens()
    completion_tokens: int = _tokens()


class ReplicaHourRow(SQLModel, table=True):
    """How long a replica was ready in one hour (UTC), seconds."""

    __tablename__ = "replica_hours"

    hour: datetime = _key(UtcDateTime())
    pool: str = _key(String(255))
    replica: str = _key(String(255))
    ready_s: float = _sum()


class CostRateRow(SQLModel, table=True):
    """What one hour (UTC) of a pool's engines cost, and so a weighted token of it; written once the hour is over."""

    __tablename__ = "cost_rates"

    hour: datetime = _key(UtcDateTime())
    pool: str = _key(String(255))
    money: float = _sum()
    weighted_tokens: float = _sum()
    unit_price: float = _sum()
    closed_at: datetime = _moment()


class FeedbackRow(SQLModel, table=True):
    """What somebody said of an answer. `record_id` is the request's row; it outlives that row.

    `client_id` is the client's own id for it, unique among its key's; `thumb` is ``up`` or ``down``, `score` lies in
    [0, 1], `correction` is the answer that should have been.
    """

    __tablename__ = "feedback"
    __table_args__ = (UniqueConstraint("key_id", "client_id"), Index(None, "adapter", "created_at"))

    id: str = _key(String(32))
    record_id: str = Field(sa_column=Column(String(32), nullable=False, index=True))
    request_id: str
    key_id: str = Field(sa_column=Column(String(24), nullable=False))
    client_id: str | None = Field(default=None, sa_column=Column(String(128), nullable=True))
    adapter: str | None = None
    version: int | None = None
    variant: str | None = None
    session: str | None = Field(default=None, sa_column=Column(String(32), nullable=True, index=True))
    end_user: str | None = Field(default=None, sa_column=Column(String(32), nullable=True, index=True))
    thumb: str | None = Field(default=None, sa_column=Column(String(4), nullable=True))
    score: float | None = None
    comment: str | None = _text()
    correction: str | None = _text()
    created_at: datetime = _moment(index=True)


class TeacherLabelRow(SQLModel, table=True):
    """What a teacher answered to a captured prompt, once; `record_id` is the capture's.

    `answer` is an assistant's message, None if there was none to use; `key_id` the API key that sent the prompt, empty
    if that is not known; `prompt` a hash of the prompt, by which the same one is asked once; `cost` what it took.
    """

    __tablename__ = "teacher_labels"
    __table_args__ = (Index(None, "adapter", "created_at"),)

    record_id: str = _key(String(32))
    adapter: str = Field(sa_column=Column(String(63), nullable=False))
    key_id: str = Field(default="", sa_column=Column(String(24), nullable=False))
    prompt: str = Field(sa_column=Column(String(32), nullable=False))
    answer: Any = _json()
    cost: float = _sum()
    created_at: datetime = _moment(index=True)


class ScoreRow(SQLModel, table=True):
    """One score of one answer; `value` lies in [0, 1], `source` says what it was held against.

    Where two answers were compared, `against` is what the other one came from; it is empty otherwise.
    """

    __tablename__ = "scores"
    __table_args__ = (UniqueConstraint("record_id", "scorer", "against"), Index(None, "adapter", "scorer", "id"))

    id: int | None = _number()
    record_id: str = Field(sa_column=Column(String(32), nullable=False))
    request_id: str
    adapter: str
    version: int = 0
    variant: str
    session: str | None = Field(default=None, sa_column=Column(String(32), nullable=True, index=True))
    scorer: str = Field(sa_column=Column(String(40), nullable=False))
    against: str = Field(default="", sa_column=Column(String(96), nullable=False))
    value: float
    source: str = Field(sa_column=Column(String(20), nullable=False))
    created_at: datetime = _moment()


class ObservationRow(SQLModel, table=True):
    """One session's contribution to a test, in the order in which the test sees them.

    `against` is ``level`` (the value is the score itself, in [0, 1]), ``base``, or the engine name of another version
    (the value is the difference of two scores, in [-1, 1]). A session that the client did not name is its request.
    """

    __tablename__ = "observations"
    __table_args__ = (UniqueConstraint("adapter", "version", "scorer", "against", "session"),)

    id: int | None = _number()
    adapter: str = Field(sa_column=Column(String(63), nullable=False))
    version: int
    scorer: str = Field(sa_column=Column(String(40), nullable=False))
    against: str = Field(sa_column=Column(String(96), nullable=False))
    session: str = Field(sa_column=Column(String(160), nullable=False, index=True))
    value: float
    created_at: datetime = _moment()


class EvidenceRow(SQLModel, table=True):
    """How far a sequential test is: its numbers, and the last observation in them, written in one transaction."""

    __tablename__ = "evidence"

    adapter: str = _key(String(63))
    version: int = _key(Integer())
    scorer: str = _key(String(40))
    against: str = _key(String(96))
    observations: int = _tokens()
    last_observation: int = _tokens()
    state: Any = _json()
    updated_at: datetime = _moment()


class GoldenSetRow(SQLModel, table=True):
    """A frozen evaluation set of an adapter: numbered from 1, its content in the artifact store under `digest`."""

    __tablename__ = "golden_sets"
    __table_args__ = (UniqueConstraint("adapter", "number"), UniqueConstraint("adapter", "digest"))

    id: int | None = _number()
    adapter: str = Field(sa_column=Column(String(63), nullable=False))
    number: int
    digest: str = Field(sa_column=Column(String(64), nullable=False))
    rows: int
    scorers: Any = _json()
    note: str = Field(default="", sa_column=Column(String(1000), nullable=False))
    created_by: str = Field(sa_column=Column(String(120), nullable=False))
    created_at: datetime = _moment()


class GoldenRunRow(SQLModel, table=True):
    """One run of a golden set against one model; kept for ever.

    Runs of one `batch` were asked for together, and are held against its base. `version` is 0 for the base model;
    `state` is ``queued``, ``running``, ``done`` or ``failed``; `results` has for each scorer the number of rows, the
    mean and its interval, `items` each row's scores in the set's order.
    """

    __tablename__ = "golden_runs"
    __table_args__ = (Index(None, "adapter", "created_at"),)

    id: str = _key(String(32))
    batch: str = Field(sa_column=Column(String(32), nullable=False, index=True))
    adapter: str = Field(sa_column=Column(String(63), nullable=False))
    golden_set: int
    digest: str = Field(sa_column=Column(String(64), nullable=False))
    model: str = Field(sa_column=Column(String(255), nullable=False))
    version: int = 0
    reason: str = Field(sa_column=Column(String(40), nullable=False))
    state: str = Field(default="queued", sa_column=Column(String(10), nullable=False, index=True))
    error: str | None = _text()
    results: Any = _json()
    items: Any = _json()
    requested_by: str = Field(sa_column=Column(String(120), nullable=False))
    created_at: datetime = _moment()
    started_at: datetime | None = _moment(nullable=True)
    finished_at: datetime | None = _moment(nullable=True)


class DriftRunRow(SQLModel, table=True):
    """One window held against a version's reference.

    `outcome` is ``drift``, ``no_drift``, ``not_enough_data`` or ``failed``; `columns` has for each column its method,
    statistic, threshold and verdict; `missing` says what lacked; `report` is the HTML report's digest, if it is kept.
    """

    __tablename__ = "drift_runs"
    __table_args__ = (UniqueConstraint("adapter", "version", "window_end"), Index(None, "adapter", "created_at"))

    id: str = _key(String(32))
    adapter: str = Field(sa_column=Column(String(63), nullable=False))
    version: int
    window_start: datetime | None = _moment(nullable=True)
    window_end: datetime = _moment()
    rows: int
    reference_rows: int
    reference: str = Field(sa_column=Column(String(20), nullable=False))
    outcome: str = Field(sa_column=Column(String(16), nullable=False))
    missing: str | None = _text()
    columns: Any = _json()
    report: str | None = Field(default=None, sa_column=Column(String(64), nullable=True))
    created_at: datetime = _moment()


class DriftCalibrationRow(SQLModel, table=True):
    """Thresholds found by bootstrap on a reference, for windows of one size."""

    __tablename__ = "drift_calibrations"

    adapter: str = _key(String(63))
    version: int = _key(Integer())
    window_rows: int = _key(Integer())
    reference: str = Field(sa_column=Column(String(64), nullable=False))
    columns: Any = _json()
    created_at: datetime = _moment()


class DecisionRow(SQLModel, table=True):
    """What was concluded, by which rule, from what; rows are only ever added."""

    __tablename__ = "decisions"
    __table_args__ = (Index(None, "adapter", "id"),)

    id: int | None = _number()
    adapter: str = Field(sa_column=Column(String(63), nullable=False))
    version: int = 0
    kind: str = Field(sa_column=Column(String(40), nullable=False))
    outcome: str = Field(sa_column=Column(String(40), nullable=False))
    rule: str = Field(sa_column=Column(String(400), nullable=False))
    reason: str = Field(sa_column=Column(String(1000), nullable=False))
    inputs: Any = _json()
    created_at: datetime = _moment()


class LoopRow(SQLModel, table=True):
    """Where the closed loop is with an adapter.

    `state` is a `monitors.loop.state.LoopState`, `tests` those of the rollout under way, `cursors` how far they have
    read. `pending` is a decision that may have been carried out or not, with its id; `verdict` the newest one of all,
    also where it is to wait.
    """

    __tablename__ = "loops"

    adapter: str = _key(String(63))
    state: Any = _json()
    tests: Any = _json()
    cursors: Any = _json()
    pending: Any = _json()
    verdict: Any = _json()
    updated_at: datetime = _moment()


class ApprovalRow(SQLModel, table=True):
    """What a person was asked to approve of, once in a cycle; `answer` is ``none``, ``approved`` or ``rejected``."""

    __tablename__ = "approvals"
    __table_args__ = (UniqueConstraint("adapter", "cycle", "wanted"),)

    id: int | None = _number()
    adapter: str = Field(sa_column=Column(String(63), nullable=False))
    cycle: int
    wanted: str = Field(sa_column=Column(String(20), nullable=False))
    decision: int = Field(sa_column=Column(BigInteger(), nullable=False))
    answer: str = Field(default="none", sa_column=Column(String(10), nullable=False))
    actor: str = Field(default="", sa_column=Column(String(120), nullable=False))
    reason: str = Field(default="", sa_column=Column(String(1000), nullable=False))
    created_at: datetime = _moment()
    answered_at: datetime | None = _moment(nullable=True)


class WebhookRow(SQLModel, table=True):
    """Where to tell of events; `events` and `adapters` are what is told, None is all.

    `secret` signs what is sent, and so does `previous_secret` until `previous_until`. Nothing is sent while it is
    switched off, since `disabled_at`, or after it is deleted, when its secrets are gone.
    """

    __tablename__ = "webhooks"

    id: str = _key(String(32))
    url: str = Field(sa_column=Column(String(2000), nullable=False))
    secret: str = Field(sa_column=Column(String(120), nullable=False))
    previous_secret: str = Field(default="", sa_column=Column(String(120), nullable=False))
    previous_until: datetime | None = _moment(nullable=True)
    events: Any = _json()
    adapters: Any = _json()
    created_by: str = Field(sa_column=Column(String(120), nullable=False))
    created_at: datetime = _moment()
    disabled_at: datetime | None = _moment(nullable=True)
    deleted_at: datetime | None = _moment(nullable=True)


class DeliveryRow(SQLModel, table=True):
    """One event for one webhook, told at least once; `state` is ``held``, ``queued``, ``delivered`` or ``dead``.

    One that is held waits until the decision that it tells of is carried out. `event` names what happened and `source`
    what it follows from, so that nothing is queued twice; `attempts` counts those that failed.
    """

    __tablename__ = "webhook_deliveries"
    __table_args__ = (UniqueConstraint("webhook", "source"), Index(None, "state", "next_at"))

    id: str = _key(String(32))
    webhook: str = Field(sa_column=Column(String(32), nullable=False))
    source: str = Field(sa_column=Column(String(80), nullable=False))
    event: str = Field(sa_column=Column(String(40), nullable=False))
    body: Any = _json()
    state: str = Field(default="queued", sa_column=Column(String(10), nullable=False))
    attempts: int = 0
    next_at: datetime = _moment()
    error: str | None = _text()
    created_at: datetime = _moment()
    delivered_at: datetime | None = _moment(nullable=True)


class MonitorWindowRow(SQLModel, table=True):
    """A piece of the monitor's work that is done once: a job, what it is about, and the window."""

    __tablename__ = "monitor_windows"

    job: str = _key(String(40))
    subject: str = _key(String(120))
    window: str = _key(String(40))
    outcome: str = Field(default="", sa_column=Column(String(200), nullable=False))
    created_at: datetime = _moment()


class MonitorCursorRow(SQLModel, table=True):
    """How far a job of the monitor has come."""

    __tablename__ = "monitor_cursors"

    job: str = _key(String(40))
    subject: str = _key(String(120))
    position: str = Field(sa_column=Column(String(200), nullable=False))
    updated_at: datetime = _moment()
