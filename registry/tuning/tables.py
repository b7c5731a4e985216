"""The rows of tuning. They are only read and written by the modules of this room."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Column, ForeignKey, Index, Integer, String, Text, UniqueConstraint, text
from sqlmodel import Field, SQLModel

from registry.tables import UtcDateTime

_ROW_NUMBER = BigInteger().with_variant(Integer(), "sqlite")  # SQLite counts by itself only in an INTEGER
_AT_WORK = text("state IN ('validating_files', 'running')")


def _now() -> datetime:
    return datetime.now(UTC)


def _created_at() -> Any:
    return Field(default_factory=_now, sa_column=Column(UtcDateTime(), nullable=False))


def _moment() -> Any:
    return Field(default=None, sa_column=Column(UtcDateTime(), nullable=True))


def _json(*, nullable: bool = True) -> Any:
    return Field(default=None, sa_column=Column(JSON(none_as_null=True), nullable=nullable))


def _string(length: int, *, nullable: bool = False, unique: bool = False, index: bool = False) -> Any:
    column: Column[str] = Column(String(length), nullable=nullable, unique=unique, index=index)
    return Field(default=None, sa_column=column) if nullable else Field(sa_column=column)


class FileRow(SQLModel, table=True):
    """An uploaded file; its content is the one file of an artifact.

    `key_id` is the API key that sent it. The row is there before its content; nobody sees it until that `is_stored`. A
    deleted row stays, without its content, for the jobs that name it; it `is_cleared` once that content was removed, or
    was found to be another file's as well.
    """

    __tablename__ = "files"
    __table_args__ = (Index(None, "created_at", "id"),)

    id: str = Field(sa_column=Column(String(32), primary_key=True))
    key_id: str = _string(24)
    filename: str = _string(255)
    purpose: str = _string(32)
    size_bytes: int = Field(sa_column=Column(BigInteger(), nullable=False))
    digest: str = _string(64, index=True)
    created_at: datetime = _created_at()
    expires_at: datetime | None = _moment()
    deleted_at: datetime | None = _moment()
    is_stored: bool = False
    is_cleared: bool = False


class TuningJobRow(SQLModel, table=True):
    """One job: what was asked for, how far it is, and who is at work on it.

    `wanted` is what a person wants of it: ``run``, ``pause`` or ``cancel``; whoever is at work on it sees that within
    a step. `worker` holds it until `lease_until`; a queued job's was the last to hold it, and gave it back. `attempt`
    counts who held it since its newest checkpoint, and nobody may claim it before `claimable_from`, from when it waits
    if it was let go of or resumed. `dataset` is the digest of what it trains on, `version` the candidate that it
    registered, `checkpoint` the newest one to go on from. `rule` is what its gate will hold that candidate to
    (`registry.tuning.rules`), None until its fitness was checked.
    """

    __tablename__ = "tuning_jobs"
    __table_args__ = (
        UniqueConstraint("key_id", "idempotency_key"),
        # An adapter has one job at work at a time, whatever two tuners believe.
        Index(
            "uq_tuning_jobs_adapter_at_work", "adapter", unique=True, sqlite_where=_AT_WORK, postgresql_where=_AT_WORK
        ),
        Index(None, "state", "created_at"),
        Index(None, "created_at", "id"),
    )

    id: str = Field(sa_column=Column(String(32), primary_key=True))
    key_id: str = _string(24)
    adapter: str = _string(63, index=True)
    base: str = _string(255)
    model: str = _string(255)
    order: dict[str, Any] = _json(nullable=False)
    state: str = _string(20)
    stage: str = _string(20)
    wanted: str = _string(10)
    idempotency_key: str | None = _string(255, nullable=True)
    asked: str = _string(64)
    worker: str | None = _string(120, nullable=True)
    lease_until: datetime | None = _moment()
    claimable_from: datetime | None = _moment()
    attempt: int = 0
    dataset: str | None = _string(64, nullable=True)
    checkpoint: str | None = _string(64, nullable=True)
    version: int | None = None
    fine_tuned_model: str | None = _string(128, nullable=True)
    trained_tokens: int | None = Field(default=None, sa_column=Column(BigInteger(), nullable=True))
    result_file: str | None = _string(32, nullable=True)
    rule: dict[str, Any] | None = _json()
    error: dict[str, Any] | None = _json()
    created_by: str = _string(120)
    created_at: datetime = _created_at()
    started_at: datetime | None = _moment()
    finished_at: datetime | None = _moment()
    estimated_finish: datetime | None = _moment()


class TuningJobFileRow(SQLModel, table=True):
    """A file that a job needs until it has ended, or can be resumed no more (`registry.tuning.needs`)."""

    __tablename__ = "tuning_job_files"

    job: str = Field(sa_column=Column(ForeignKey("tuning_jobs.id"), primary_key=True))
    file: str = Field(sa_column=Column(String(64), primary_key=True, index=True))


class TuningEventRow(SQLModel, table=True):
    """What a job said of itself; `type` is ``message`` or ``metrics``, which go a while after the job has ended."""

    __tablename__ = "tuning_events"
    __table_args__ = (Index(None, "job", "id"),)

    id: int | None = Field(default=None, sa_column=Column(_ROW_NUMBER, primary_key=True, autoincrement=True))
    job: str = Field(sa_column=Column(ForeignKey("tuning_jobs.id"), nullable=False))
    level: str = _string(8)
    type: str = _string(8)
    message: str = Field(sa_column=Column(Text(), nullable=False))
    data: dict[str, Any] | None = _json()
    created_at: datetime = _created_at()


class TuningCheckpointRow(SQLModel, table=True):
    """The weights after a step; `digest` is an artifact to go on from, None once it was cleaned away."""

    __tablename__ = "tuning_checkpoints"
    __table_args__ = (UniqueConstraint("job", "step"),)

    id: str = Field(sa_column=Column(String(32), primary_key=True))
    job: str = Field(sa_column=Column(ForeignKey("tuning_jobs.id"), nullable=False))
    step: int
    digest: str | None = _string(64, nullable=True)
    is_best: bool = False
    metrics: dict[str, Any] = _json(nullable=False)
    created_at: datetime = _created_at()


class DatasetRow(SQLModel, table=True):
    """A frozen dataset of an adapter: its digest, what is in it and where that came from.

    `counts` are rows by split; `sources` rows by where their labels came from; `parents` digests of the datasets whose
    rows are replayed; `report` what was left out, and why.
    """

    __tablename__ = "tuning_datasets"
    __table_args__ = (UniqueConstraint("adapter", "digest"),)

    id: int | None = Field(default=None, primary_key=True)
    adapter: str = _string(63)
    digest: str = _string(64)
    method: str = _string(16)
    size_bytes: int = Field(sa_column=Column(BigInteger(), nullable=False))
    counts: dict[str, int] = _json(nullable=False)
    sources: dict[str, int] = _json(nullable=False)
    parents: list[str] = _json(nullable=False)
    report: dict[str, Any] = _json(nullable=False)
    job: str = _string(32)
    created_at: datetime = _created_at()
