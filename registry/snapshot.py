"""Reads the whole catalog, in five queries whatever the number of adapters."""

from collections import defaultdict
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row, func, or_
from sqlalchemy import select as select_columns
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from registry import mapping, repository
from registry.building import let_others_run
from registry.catalog import KEY_INDEX_LENGTH, Adapter, Catalog, Deployment, HeldKey, Version
from registry.monitoring import stored_monitoring
from registry.policies import policy_number, stored_policy
from registry.tables import AdapterRow, ApiKeyRow, RevisionRow, VersionRow

_LONG = ("lineage", "report")
"""Columns of a version that no request needs."""


async def read_catalog(session: AsyncSession) -> Catalog:
    """The picture that the transaction sees."""
    change = await repository.change_number(session)
    adapters = await _all(session, select_columns(_table(AdapterRow)).order_by(col(AdapterRow.name)))
    versions = await _versions(session, {row.id: row.name for row in adapters})
    deployments = await _deployments(session)
    found = {
        row.name: Adapter(
            name=row.name,
            base=row.base,
            created_at=row.created_at,
            versions=versions[row.id],
            deployment=deployments.get(row.id),
            **_rules(row),
        )
        for row in adapters
    }
    return Catalog(change=change, adapters=found, keys=await _held_keys(session))


def _rules(row: Row[Any]) -> dict[str, Any]:
    """What is said of an adapter: how it is watched, and what Ostler may do to it."""
    monitoring = stored_monitoring(row.monitoring)
    return {
        "monitoring": monitoring,
        "policy": stored_policy(row.policy, monitoring.quality),
        "policy_number": policy_number(row.policy),
    }


def _table(model: Any) -> Any:
    return model.__table__


async def _all(session: AsyncSession, query: Any) -> list[Row[Any]]:
    return list(await (await session.connection()).execute(query))


async def _versions(session: AsyncSession, names: dict[int, str]) -> defaultdict[int, dict[int, Version]]:
    """Each adapter's versions, by its id and by their number."""
    found: defaultdict[int, dict[int, Version]] = defaultdict(dict)
    columns = [column for column in _table(VersionRow).c if column.name not in _LONG]
    rows = await _all(session, select_columns(*columns).order_by(col(VersionRow.number)))
    for index, row in enumerate(rows):
        await let_others_run(index)
        found[row.adapter_id][row.number] = mapping.to_version(names[row.adapter_id], row)
    return found


async def _deployments(session: AsyncSession) -> dict[int, Deployment]:
    """Each adapter's deployment, by its id: from its newest revision, the one before, and the one to go back to."""
    newest = select_columns(col(RevisionRow.adapter_id), func.max(RevisionRow.number).label("number"))
    last = newest.group_by(col(RevisionRow.adapter_id)).subquery()
    current = (
        select_columns(last.c.adapter_id, last.c.number, col(RevisionRow.undo_revision).label("undo"))
        .join(RevisionRow, (col(RevisionRow.adapter_id) == last.c.adapter_id) & (RevisionRow.number == last.c.number))
        .subquery()
    )
    number = col(RevisionRow.number)
    wanted = or_(number == current.c.number, number == current.c.number - 1, number == current.c.undo)
    query = select_columns(_table(RevisionRow)).join(
        current, (col(RevisionRow.adapter_id) == current.c.adapter_id) & wanted
    )
    rows: defaultdict[int, dict[int, Row[Any]]] = defaultdict(dict)
    for row in await _all(session, query):
        rows[row.adapter_id][row.number] = row
    found = {}
    for index, (adapter, revisions) in enumerate(rows.items()):
        await let_others_run(index)
        found[adapter] = _deployment(revisions)
    return found


def _deployment(revisions: dict[int, Row[Any]]) -> Deployment:
    row = revisions[max(revisions)]
    return mapping.to_deployment(row, revisions.get(row.number - 1), revisions.get(row.undo_revision))


async def _held_keys(session: AsyncSession) -> dict[str, HeldKey]:
    """The keys that are not revoked, each under both of its hashes while a rotation gives it two."""
    usable = select_columns(_table(ApiKeyRow)).where(col(ApiKeyRow.revoked_at).is_(None))
    held, now = [], datetime.now(UTC)
    for row in await _all(session, usable):
        key = mapping.to_key(row)
        held.append(HeldKey(row.hash, key))
        if key.previous_valid_until is not None and key.previous_valid_until > now:
            held.append(HeldKey(row.previous_hash, key, row.previous_until))
    return {one.hash[:KEY_INDEX_LENGTH]: one for one in held}
