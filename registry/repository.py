"""Reading and writing rows. Every function takes the session of the transaction it is part of."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from sqlalchemy import delete, func, or_, text, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from registry import mapping
from registry.names import is_adapter_name
from registry.tables import (
    AdapterRow,
    ApiKeyRow,
    AuditRow,
    ChangeCounterRow,
    GatewayUseRow,
    LeaseRow,
    PolicyRow,
    RetiredSecretRow,
    RevisionRow,
    StopRow,
    VersionRow,
)

CHANNEL = "ostler_changes"
_VERSIONS = VersionRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model
_LARGEST = 2**31 - 1  # of an INTEGER in PostgreSQL, which raises for what is beyond it


async def begin_change(session: AsyncSession) -> int:
    """Take the change counter's lock and the next number; must come first in a transaction that changes anything."""
    raised = (
        update(ChangeCounterRow).values(value=col(ChangeCounterRow.value) + 1).returning(col(ChangeCounterRow.value))
    )
    (number,) = (await session.exec(raised)).one()
    return int(number)


async def notify(session: AsyncSession, number: int) -> None:
    """Have PostgreSQL tell every gateway of the change, in the moment that it is committed."""
    if _is_postgresql(session):
        telling = text("SELECT pg_notify(:channel, :number)").bindparams(channel=CHANNEL, number=str(number))
        await (await session.connection()).execute(telling)


def _is_postgresql(session: AsyncSession) -> bool:
    return bool(session.get_bind().dialect.name == "postgresql")


async def see_one_moment(session: AsyncSession) -> None:
    """Have every query of this transaction see the same state; must come first. On SQLite it is so anyway."""
    if _is_postgresql(session):
        await session.connection(execution_options={"isolation_level": "REPEATABLE READ"})


async def change_number(session: AsyncSession) -> int:
    """The number of the newest committed change."""
    return (await session.exec(select(ChangeCounterRow.value))).one()


# Adapters and versions


async def adapter_by_name(session: AsyncSession, name: str) -> AdapterRow | None:
    """The adapter of that name."""
    if not is_adapter_name(name):
        return None
    return (await session.exec(select(AdapterRow).where(AdapterRow.name == name))).one_or_none()


async def versions_by_number(
    session: AsyncSession, adapter: AdapterRow, numbers: Collection[int]
) -> dict[int, VersionRow]:
    """The adapter's versions of those numbers; what does not exist is left out."""
    asked = [number for number in numbers if 0 < number <= _LARGEST]
    query = select(VersionRow).where(VersionRow.adapter_id == adapter.id, col(VersionRow.number).in_(asked))
    return {row.number: row for row in await session.exec(query)}


async def version_by_digest(session: AsyncSession, adapter: AdapterRow, digest: str) -> VersionRow | None:
    """The adapter's version with that content."""
    query = select(VersionRow).where(VersionRow.adapter_id == adapter.id, VersionRow.digest == digest)
    return (await session.exec(query)).one_or_none()


async def last_version_number(session: AsyncSession, adapter: AdapterRow) -> int:
    """The highest number given so far; 0 before the first."""
    query = select(func.max(VersionRow.number)).where(VersionRow.adapter_id == adapter.id)
    return (await session.exec(query)).one() or 0


async def judged_on(session: AsyncSession, adapter: AdapterRow, holdout: str, besides: int) -> int:
    """How many of the adapter's versions but one have a gate's report on the holdout of that digest."""
    asked = _VERSIONS.c.report["sets", "holdout", "digest"].as_string()
    query = select(func.count(col(VersionRow.number))).where(
        VersionRow.adapter_id == adapter.id, VersionRow.number != besides, asked == holdout
    )
    return (await session.exec(query)).one()


# Revisions


async def current_revision(session: AsyncSession, adapter: AdapterRow) -> RevisionRow | None:
    """The adapter's newest revision."""
    query = select(RevisionRow).where(RevisionRow.adapter_id == adapter.id)
    return (await session.exec(query.order_by(col(RevisionRow.number).desc()).limit(1))).first()


async def revision_by_number(session: AsyncSession, adapter: AdapterRow, number: int | None) -> RevisionRow | None:
    """The adapter's revision of that number; None is none."""
    if number is None or not 0 < number <= _LARGEST:
        return None
    query = select(RevisionRow).where(RevisionRow.adapter_id == adapter.id, RevisionRow.number == number)
    return (await session.exec(query)).one_or_none()


async def has_served(session: AsyncSession, adapter: AdapterRow, version: int) -> bool:
    """Whether clients were ever to get answers of a version, as stable or as canary."""
    serving = or_(col(RevisionRow.stable) == version, col(RevisionRow.canary) == version)
    query = select(RevisionRow.number).where(RevisionRow.adapter_id == adapter.id, serving).limit(1)
    return (await session.exec(query)).first() is not None


async def origin(session: AsyncSession, adapter: AdapterRow, revision: RevisionRow) -> RevisionRow:
    """The revision that first brought the state of `revision`; a rollback restores one that is not itself one."""
    if revision.restores is None:
        return revision
    found = await revision_by_number(session, adapter, revision.restores)
    assert found is not None, "history only grows"
    return found


async def undo_of(
    session: AsyncSession, adapter: AdapterRow, before: RevisionRow | None, suspect: int
) -> RevisionRow | None:
    """What a plain rollback restores from a new revision that follows `before`.

    It is the newest state in the chain of those that led here which does not serve the suspect version. What was
    rolled back is not in that chain, so rolling back again and again only goes back.
    """
    while before is not None:
        step = await origin(session, adapter, before)
        state = mapping.to_state(step)
        if not state.serves(suspect):
            return step
        if state.suspect == suspect:  # its own undo is the same question, answered when it was made
            return await revision_by_number(session, adapter, step.undo_revision)
        before = await revision_by_number(session, adapter, step.number - 1)
    return None


async def revisions_before(
    session: AsyncSession, adapter: AdapterRow, before: int | None, limit: int
) -> Sequence[RevisionRow]:
    """Up to `limit` revisions, newest first, numbered below `before` where that is given."""
    query = select(RevisionRow).where(RevisionRow.adapter_id == adapter.id)
    if before is not None:
        query = query.where(RevisionRow.number < min(before, _LARGEST))
    return (await session.exec(query.order_by(col(RevisionRow.number).desc()).limit(limit))).all()


async def audit_before(session: AsyncSession, before: int | None, limit: int) -> Sequence[AuditRow]:
    """Up to `limit` audit entries, newest first, with ids below `before` where that is given."""
    query = select(AuditRow)
    if before is not None:
        query = query.where(col(AuditRow.id) < min(before, _LARGEST))
    return (await session.exec(query.order_by(col(AuditRow.id).desc()).limit(limit))).all()


# Policies and stops


async def policies_before(
    session: AsyncSession, adapter: AdapterRow, before: int | None, limit: int
) -> Sequence[PolicyRow]:
    """Up to `limit` policies, newest first, numbered below `before` where that is given."""
    query = select(PolicyRow).where(PolicyRow.adapter_id == adapter.id)
    if before is not None:
        query = query.where(PolicyRow.number < min(before, _LARGEST))
    return (await session.exec(query.order_by(col(PolicyRow.number).desc()).limit(limit))).all()


async def stop_of(session: AsyncSession, name: str) -> StopRow | None:
    """What stops the adapter of that name itself."""
    return (await session.exec(select(StopRow).where(StopRow.adapter == name))).one_or_none()


async def all_stops(session: AsyncSession) -> Sequence[StopRow]:
    """Everything that is stopped."""
    return (await session.exec(select(StopRow))).all()


# Keys


async def key_by_id(session: AsyncSession, key_id: str) -> ApiKeyRow | None:
    """The key of that public id."""
    if not key_id.isascii() or not key_id.isprintable():
        return None
    return (await session.exec(select(ApiKeyRow).where(ApiKeyRow.id == key_id))).one_or_none()


async def key_by_hash(session: AsyncSession, hash: str) -> ApiKeyRow | None:
    """The key whose secret has, or before a rotation had, that SHA-256 (hex)."""
    retired = select(RetiredSecretRow.key_id).where(RetiredSecretRow.hash == hash)
    any_of = or_(col(ApiKeyRow.hash) == hash, col(ApiKeyRow.previous_hash) == hash, col(ApiKeyRow.id).in_(retired))
    return (await session.exec(select(ApiKeyRow).where(any_of))).one_or_none()


def retire_secret(session: AsyncSession, hash: str, key: ApiKeyRow) -> None:
    """Keep the hash of a secret that the key's row has no more place for."""
    session.add(RetiredSecretRow(hash=hash, key_id=key.id))


async def all_keys(session: AsyncSession) -> Sequence[ApiKeyRow]:
    """Every key, oldest first, revoked ones too."""
    return (await session.exec(select(ApiKeyRow).order_by(col(ApiKeyRow.created_at), col(ApiKeyRow.id)))).all()


# Leases


async def take_lease(session: AsyncSession, name: str, holder: str, *, now: datetime, until: datetime) -> bool:
    """Take or renew a lease in one statement; False while somebody else holds it."""
    insert = postgresql.insert if _is_postgresql(session) else sqlite.insert
    lease = {"holder": holder, "expires_at": until}
    free = or_(col(LeaseRow.holder) == holder, col(LeaseRow.expires_at) <= now)
    wanted = insert(LeaseRow).values(name=name, **lease)
    taken = wanted.on_conflict_do_update(index_elements=["name"], set_=lease, where=free).returning(col(LeaseRow.name))
    return (await (await session.connection()).execute(taken)).first() is not None


async def drop_lease(session: AsyncSession, name: str, holder: str) -> None:
    """Free a lease, if that is who holds it."""
    held = delete(LeaseRow).where(col(LeaseRow.name) == name, col(LeaseRow.holder) == holder)
    await (await session.connection()).execute(held)


async def leases(session: AsyncSession, prefix: str, *, now: datetime) -> Sequence[LeaseRow]:
    """The leases whose names begin so and that have not run out."""
    begins = col(LeaseRow.name).startswith(prefix, autoescape=True)
    return (await session.exec(select(LeaseRow).where(begins, col(LeaseRow.expires_at) > now))).all()


# What gateways use


async def put_use(session: AsyncSession, gateway: str, use: Mapping[str, float], *, now: datetime) -> None:
    """Replace what a gateway said it uses."""
    insert = postgresql.insert if _is_postgresql(session) else sqlite.insert
    row = {"seen_at": now, "use": dict(use)}
    told = (
        insert(GatewayUseRow).values(gateway=gateway, **row).on_conflict_do_update(index_elements=["gateway"], set_=row)
    )
    await (await session.connection()).execute(told)


async def drop_use(session: AsyncSession, *, before: datetime) -> None:
    """Forget the gateways that have said nothing since."""
    old = delete(GatewayUseRow).where(col(GatewayUseRow.seen_at) < before)
    await (await session.connection()).execute(old)


async def use_of_others(session: AsyncSession, gateway: str, *, since: datetime) -> Sequence[Mapping[str, float]]:
    """What each other gateway said it uses, if it said so since."""
    others = select(GatewayUseRow.use).where(GatewayUseRow.gateway != gateway, GatewayUseRow.seen_at >= since)
    return (await session.exec(others)).all()
