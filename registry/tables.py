"""The tables. Rows are only read and written by `registry.repository`, inside one of `Registry`'s transactions.

Constructors of table models skip validation, so values are checked before they come here.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    Integer,
    String,
    TypeDecorator,
    UniqueConstraint,
    false,
)
from sqlmodel import Field, SQLModel

SQLModel.metadata.naming_convention = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class UtcDateTime(TypeDecorator[datetime]):
    """Aware UTC datetimes on every database; SQLite would give them back without their zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        """Refuse naive datetimes, store UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("naive datetime")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        """Give back an aware datetime."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _now() -> datetime:
    return datetime.now(UTC)


def _created_at() -> Any:
    return Field(default_factory=_now, sa_column=Column(UtcDateTime(), nullable=False))


def _moment() -> Any:
    return Field(default=None, sa_column=Column(UtcDateTime(), nullable=True))


def _json(*, nullable: bool) -> Any:
    return Field(default=None, sa_column=Column(JSON(none_as_null=True), nullable=nullable))


class AdapterRow(SQLModel, table=True):
    """A named capability of one base model.

    `monitoring` is how it is watched and `policy` what Ostler may do to it by itself; None is the defaults.
    """

    __tablename__ = "adapters"

    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(sa_column=Column(String(63), nullable=False, unique=True))
    base: str = Field(sa_column=Column(String(255), nullable=False))
    monitoring: dict[str, Any] | None = _json(nullable=True)
    policy: dict[str, Any] | None = _json(nullable=True)
    created_at: datetime = _created_at()


class VersionRow(SQLModel, table=True):
    """One immutable set of weights of an adapter.

    Of a version that the tuner made, `lineage` is what it was made from and how, `verdict` what its gate said, and
    `report` what the gate saw.
    """

    __tablename__ = "versions"
    __table_args__ = (UniqueConstraint("adapter_id", "number"), UniqueConstraint("adapter_id", "digest"))

    id: int | None = Field(default=None, primary_key=True)
    adapter_id: int = Field(sa_column=Column(ForeignKey("adapters.id"), nullable=False))
    number: int
    digest: str = Field(sa_column=Column(String(64), nullable=False))
    engine_name: str = Field(sa_column=Column(String(96), nullable=False, unique=True))
    rank: int
    alpha: float
    parameters: int = Field(sa_column=Column(BigInteger(), nullable=False))
    size_bytes: int = Field(sa_column=Column(BigInteger(), nullable=False))
    note: str = Field(default="", sa_column=Column(String(1000), nullable=False))
    created_by: str = Field(sa_column=Column(String(120), nullable=False))
    created_at: datetime = _created_at()
    archived_at: datetime | None = _moment()
    verdict: str | None = Field(default=None, sa_column=Column(String(12), nullable=True))
    lineage: dict[str, Any] | None = _json(nullable=True)
    report: dict[str, Any] | None = _json(nullable=True)


class RevisionRow(SQLModel, table=True):
    """One numbered change of a deployment. Rows are only ever added.

    `stable` is the version number that serves from here on and `previous_stable` the one that served until then.
    `canary` is a version number, `shadow` one as text or "base", `fallback` a list of "previous" and "base".
    `is_holdback` says that the canary is the old version, with the sessions that are held back from the new one.
    `decision` is the monitor's decision that it followed from; None is a person's change.
    `restores` is set on a rollback: the revision whose state came back. `undo_revision` is what a plain rollback
    from here restores, and `undo_stable` the version it would serve; None where nothing came before. `forced` has the
    versions that it made serve by force, each with the verdict of its gate, or ``outdated`` where that was of another
    version than served until then; None where nothing was forced.
    """

    __tablename__ = "revisions"
    __table_args__ = (UniqueConstraint("adapter_id", "number"),)

    id: int | None = Field(default=None, primary_key=True)
    adapter_id: int = Field(sa_column=Column(ForeignKey("adapters.id"), nullable=False))
    number: int
    action: str = Field(sa_column=Column(String(20), nullable=False))
    stable: int
    canary: int | None = None
    canary_weight: float | None = None
    is_holdback: bool = Field(default=False, sa_column=Column(Boolean(), nullable=False, server_default=false()))
    shadow: str | None = Field(default=None, sa_column=Column(String(16), nullable=True))
    shadow_share: float | None = None
    fallback: list[str] = Field(default_factory=list, sa_column=Column(JSON(), nullable=False))
    previous_stable: int | None = None
    restores: int | None = None
    undo_revision: int | None = None
    undo_stable: int | None = None
    decision: int | None = Field(default=None, sa_column=Column(BigInteger(), nullable=True))
    actor: str = Field(sa_column=Column(String(120), nullable=False))
    reason: str = Field(default="", sa_column=Column(String(1000), nullable=False))
    forced: dict[str, str] | None = _json(nullable=True)
    created_at: datetime = _created_at()


class PolicyRow(SQLModel, table=True):
    """One numbered policy of an adapter, with its quality rule. Rows are only ever added; the newest one holds."""

    __tablename__ = "policies"
    __table_args__ = (UniqueConstraint("adapter_id", "number"),)

    id: int | None = Field(default=None, primary_key=True)
    adapter_id: int = Field(sa_column=Column(ForeignKey("adapters.id"), nullable=False))
    number: int
    policy: dict[str, Any] = _json(nullable=False)
    actor: str = Field(sa_column=Column(String(120), nullable=False))
    reason: str = Field(default="", sa_column=Column(String(1000), nullable=False))
    created_at: datetime = _created_at()


class StopRow(SQLModel, table=True):
    """Who stopped automatic change, and why: of one adapter, or of all where the name is empty."""

    __tablename__ = "stops"

    adapter: str = Field(sa_column=Column(String(63), primary_key=True))
    actor: str = Field(sa_column=Column(String(120), nullable=False))
    reason: str = Field(default="", sa_column=Column(String(1000), nullable=False))
    created_at: datetime = _created_at()


class ApiKeyRow(SQLModel, table=True):
    """An API key, known by its SHA-256 alone. A revoked one stays, so that history keeps its actor.

    After a rotation the old secret, of `previous_hash`, is valid until `previous_until`.
    """

    __tablename__ = "api_keys"

    id: str = Field(sa_column=Column(String(24), primary_key=True))
    name: str = Field(sa_column=Column(String(120), nullable=False))
    hash: str = Field(sa_column=Column(String(64), nullable=False, unique=True))
    hint: str = Field(sa_column=Column(String(16), nullable=False))
    previous_hash: str | None = Field(default=None, sa_column=Column(String(64), nullable=True, unique=True))
    previous_until: datetime | None = _moment()
    scopes: list[str] = _json(nullable=False)
    adapters: list[str] | None = _json(nullable=True)
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_requests: int | None = None
    monthly_budget: float | None = None
    created_by: str = Field(sa_column=Column(String(120), nullable=False))
    created_at: datetime = _created_at()
    expires_at: datetime | None = _moment()
    revoked_at: datetime | None = _moment()


class RetiredSecretRow(SQLModel, table=True):
    """The SHA-256 of a secret that two rotations or more have replaced, so that it never opens anything again."""

    __tablename__ = "retired_secrets"

    hash: str = Field(sa_column=Column(String(64), primary_key=True))
    key_id: str = Field(sa_column=Column(String(24), ForeignKey("api_keys.id"), nullable=False))


class AuditRow(SQLModel, table=True):
    """Who changed what, and when. Rows are only ever added."""

    __tablename__ = "audit"

    id: int | None = Field(default=None, primary_key=True)
    change: int = Field(index=True)
    actor: str = Field(sa_column=Column(String(120), nullable=False))
    action: str = Field(sa_column=Column(String(40), nullable=False))
    subject: str = Field(sa_column=Column(String(160), nullable=False))
    before: dict[str, Any] | None = _json(nullable=True)
    after: dict[str, Any] | None = _json(nullable=True)
    detail: dict[str, Any] | None = _json(nullable=True)
    created_at: datetime = _created_at()


class LeaseRow(SQLModel, table=True):
    """Who may do what only one process does at a time, and until when."""

    __tablename__ = "leases"

    name: str = Field(sa_column=Column(String(63), primary_key=True))
    holder: str = Field(sa_column=Column(String(120), nullable=False))
    expires_at: datetime = Field(sa_column=Column(UtcDateTime(), nullable=False))


class GatewayUseRow(SQLModel, table=True):
    """How much one gateway used each version of late, by engine name, and when it said so."""

    __tablename__ = "gateway_use"

    gateway: str = Field(sa_column=Column(String(120), primary_key=True))
    seen_at: datetime = Field(sa_column=Column(UtcDateTime(), nullable=False))
    use: dict[str, float] = Field(sa_column=Column(JSON(), nullable=False))


class ChangeCounterRow(SQLModel, table=True):
    """One row, raised first in every transaction that changes anything.

    Its lock puts such transactions in one order on every database, so a reader that has seen a number has seen
    every change up to it.
    """

    __tablename__ = "change_counter"

    id: int = Field(sa_column=Column(Integer(), primary_key=True, autoincrement=False))
    value: int
