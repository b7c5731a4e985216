"""The recorder's tables: one row a finished request, and the sums per key and month."""

from datetime import datetime

from sqlalchemy import BigInteger, Column, Float, Index, String
from sqlmodel import Field, SQLModel

from registry.tables import UtcDateTime


class RequestRow(SQLModel, table=True):
    """One finished request; the fields are those of `monitors.record.RequestRecord`.

    `id` is the recorder's own and never given twice; `request_id` may be a client's choice and so may repeat.
    """

    __tablename__ = "request_log"
    __table_args__ = (Index(None, "adapter", "version"),)

    id: str = Field(sa_column=Column(String(32), primary_key=True))
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


class SpendingRow(SQLModel, table=True):
    """What one key has used in one month, such as ``2026-11`` (UTC).

    There is no foreign key: a request is written after its end, and must never fail for a key that is gone.
    """

    __tablename__ = "spending"

    key_id: str = Field(sa_column=Column(String(24), primary_key=True))
    month: str = Field(sa_column=Column(String(7), primary_key=True))
    cost: float = Field(default=0.0, sa_column=Column(Float(), nullable=False))
    requests: int = Field(default=0, sa_column=Column(BigInteger(), nullable=False))
    prompt_tokens: int = Field(default=0, sa_column=Column(BigInteger(), nullable=False))
    completion_tokens: int = Field(default=0, sa_column=Column(BigInteger(), nullable=False))
