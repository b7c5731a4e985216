"""Reading and writing rows. Every function takes the session of the transaction it is part of."""

from collections import defaultdict
from collections.abc import Sequence

from sqlalchemy import func, update
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from registry.catalog import Adapter, ApiKey, Catalog, Deployment, Role, Version
from registry.tables import AdapterRow, ApiKeyRow, ChangeCounterRow, RevisionRow, VersionRow


async def begin_change(session: AsyncSession) -> int:
    """Take the change counter's lock and the next number; must come first in a transaction that changes anything."""
    raised = (
        update(ChangeCounterRow).values(value=col(ChangeCounterRow.value) + 1).returning(col(ChangeCounterRow.value))
    )
    (number,) = (await session.exec(raised)).one()
    return int(number)


async def change_number(session: AsyncSession) -> int:
    """The number of the newest committed change."""
    return (await session.exec(select(ChangeCounterRow.value))).one()


async def adapter_by_name(session: AsyncSession, name: str) -> AdapterRow | None:
    """The adapter of that name."""
    return (await session.exec(select(AdapterRow).where(AdapterRow.name == name))).one_or_none()


async def version_by_number(session: AsyncSession, adapter: AdapterRow, number: int) -> VersionRow | None:
    """The adapter's version of that number."""
    query = select(VersionRow).where(VersionRow.adapter_id == adapter.id, VersionRow.number == number)
    return (await session.exec(query)).one_or_none()


async def version_by_digest(session: AsyncSession, adapter: AdapterRow, digest: str) -> VersionRow | None:
    """The adapter's version with that content."""
    query = select(VersionRow).where(VersionRow.adapter_id == adapter.id, VersionRow.digest == digest)
    return (await session.exec(query)).one_or_none()


async def last_version_number(session: AsyncSession, adapter: AdapterRow) -> int:
    """The highest number given so far; 0 before the first."""
    query = select(func.max(VersionRow.number)).where(VersionRow.adapter_id == adapter.id)
    return (await session.exec(query)).one() or 0


async def current_revision(session: AsyncSession, adapter: AdapterRow) -> RevisionRow | None:
    """The adapter's newest revision."""
    query = select(RevisionRow).where(RevisionRow.adapter_id == adapter.id)
    return (await session.exec(query.order_by(col(RevisionRow.number).desc()).limit(1))).first()


async def revision_by_number(session: AsyncSession, adapter: AdapterRow, number: int) -> RevisionRow | None:
    """The adapter's revision of that number."""
    query = select(RevisionRow).where(RevisionRow.adapter_id == adapter.id, RevisionRow.number == number)
    return (await session.exec(query)).one_or_none()


async def revisions_before(
    session: AsyncSession, adapter: AdapterRow, before: int | None, limit: int
) -> Sequence[RevisionRow]:
    """Up to `limit` revisions, newest first, numbered below `before` where that is given."""
    query = select(RevisionRow).where(RevisionRow.adapter_id == adapter.id)
    if before is not None:
        query = query.where(RevisionRow.number < before)
    return (await session.exec(query.order_by(col(RevisionRow.number).desc()).limit(limit))).all()


async def key_by_id(session: AsyncSession, key_id: str) -> ApiKeyRow | None:
    """The key of that public id."""
    return (await session.exec(select(ApiKeyRow).where(ApiKeyRow.id == key_id))).one_or_none()


async def all_keys(session: AsyncSession) -> Sequence[ApiKeyRow]:
    """Every key, oldest first, revoked ones too."""
    return (await session.exec(select(ApiKeyRow).order_by(col(ApiKeyRow.created_at), col(ApiKeyRow.id)))).all()


async def see_one_moment(session: AsyncSession) -> None:
    """Have every query of this transaction see the same state; must come first. On SQLite it is so anyway."""
    if session.get_bind().dialect.name == "postgresql":
        await session.connection(execution_options={"isolation_level": "REPEATABLE READ"})


async def read_catalog(session: AsyncSession) -> Catalog:
    """The whole picture, in four queries whatever the number of adapters."""
    change = await change_number(session)
    versions: dict[int, list[VersionRow]] = defaultdict(list)
    for version in await session.exec(select(VersionRow).order_by(col(VersionRow.number))):
        versions[version.adapter_id].append(version)
    newest = select(RevisionRow.adapter_id, func.max(RevisionRow.number).label("number"))
    newest_by_adapter = newest.group_by(col(RevisionRow.adapter_id)).subquery()
    current = select(RevisionRow).join(
        newest_by_adapter,
        (col(RevisionRow.adapter_id) == newest_by_adapter.c.adapter_id)
        & (col(RevisionRow.number) == newest_by_adapter.c.number),
    )
    revisions = {revision.adapter_id: revision for revision in await session.exec(current)}
    adapters = {}
    for row in await session.exec(select(AdapterRow).order_by(col(AdapterRow.name))):
        assert row.id is not None
        adapters[row.name] = to_adapter(row, versions[row.id], revisions.get(row.id))
    usable = select(ApiKeyRow).where(col(ApiKeyRow.revoked_at).is_(None))
    keys = {key.hash: to_key(key) for key in await session.exec(usable)}
    return Catalog(change=change, adapters=adapters, keys=keys)


def to_adapter(row: AdapterRow, versions: Sequence[VersionRow], revision: RevisionRow | None) -> Adapter:
    """The immutable form of an adapter's rows."""
    return Adapter(
        name=row.name,
        base=row.base,
        created_at=row.created_at,
        versions={version.number: to_version(row.name, version) for version in versions},
        deployment=to_deployment(revision) if revision else None,
    )


def to_version(adapter: str, row: VersionRow) -> Version:
    """The immutable form of a version's row."""
    return Version(
        adapter=adapter,
        number=row.number,
        engine_name=row.engine_name,
        digest=row.digest,
        rank=row.rank,
        alpha=row.alpha,
        parameters=row.parameters,
        size_bytes=row.size_bytes,
        note=row.note,
        created_by=row.created_by,
        created_at=row.created_at,
    )


def to_deployment(row: RevisionRow) -> Deployment:
    """What a revision makes an adapter's name mean."""
    warm = {number for number in (row.previous_stable, row.undo_stable) if number is not None}
    return Deployment(revision=row.number, stable=row.stable, warm=frozenset(warm - {row.stable}))


def to_key(row: ApiKeyRow) -> ApiKey:
    """The immutable form of a key's row, without its hash."""
    return ApiKey(
        id=row.id,
        name=row.name,
        hint=row.hint,
        role=Role(row.role),
        adapters=None if row.adapters is None else frozenset(row.adapters),
        created_by=row.created_by,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
    )
