"""A database of the first release, with data in it, keeps its meaning in today's schema."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from registry.artifacts import ArtifactStore
from registry.catalog import Scope
from registry.database import check_schema, connect, migrate, migrate_to
from registry.registry import Registry
from tests.registry.lora_samples import BASE

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ROWS = (
    "INSERT INTO adapters (id, name, base, created_at) VALUES (1, 'support', 'tiny', :now)",
    *(
        "INSERT INTO versions (adapter_id, number, digest, engine_name, rank, alpha, parameters, size_bytes, note,"
        f" created_by, created_at) VALUES (1, {number}, '{number * 64}', 'support@{number}-{number * 8}', 4, 8, 9, 9,"
        " '', 'ann', :now)"
        for number in "12"
    ),
    (
        "INSERT INTO revisions (adapter_id, number, action, stable, actor, reason, created_at)"
        " VALUES (1, 1, 'promote', 1, 'ann', 'first', :now)"
    ),
    (
        "INSERT INTO revisions (adapter_id, number, action, stable, previous_stable, undo_revision, undo_stable, actor,"
        " reason, created_at) VALUES (1, 2, 'promote', 2, 1, 1, 1, 'ann', '', :now)"
    ),
    *(
        "INSERT INTO api_keys (id, name, hash, hint, role, adapters, created_by, created_at)"
        f" VALUES ('key_{role}', '{role}', '{role[0] * 64}', '...x', '{role}', {adapters}, 'ann', :now)"
        for role, adapters in (("admin", "NULL"), ("client", "'[\"support\"]'"))
    ),
    (
        "INSERT INTO audit (change, actor, action, subject, detail, created_at)"
        " VALUES (1, 'ann', 'push', 'adapter:support', '{\"version\": 1}', :now)"
    ),
    "UPDATE change_counter SET value = 7",
)


@pytest.fixture
async def first_release(database_url: str) -> AsyncIterator[AsyncEngine]:
    """A database with the first schema and rows of every table."""
    engine = connect(database_url)
    await migrate_to(engine, "0001")
    async with engine.begin() as connection:
        for row in ROWS:
            await connection.execute(text(row), {"now": NOW.isoformat(" ") if "sqlite" in database_url else NOW})
    yield engine
    await engine.dispose()


@pytest.fixture
async def migrated(first_release: AsyncEngine, store: ArtifactStore) -> Registry:
    """The same after `ostler migrate`."""
    await migrate(first_release)
    await check_schema(first_release)
    return Registry(first_release, store, (BASE,))


async def test_adapters_and_history_are_as_they_were(migrated: Registry) -> None:
    """What was live is live, nothing is archived, and a rollback leads where it led."""
    catalog = await migrated.catalog()
    adapter = catalog.adapters["support"]
    assert catalog.change == 7
    assert adapter.created_at == NOW
    assert [version.archived for version in adapter.versions.values()] == [False, False]
    assert adapter.deployment is not None
    assert (adapter.deployment.stable, adapter.deployment.previous) == (2, 1)
    assert adapter.deployment.warm == {1}
    assert (adapter.deployment.canary, adapter.deployment.shadow, adapter.deployment.fallback) == (None, None, ())
    assert [row.reason for row in await migrated.history("support")] == ["", "first"]
    assert (await migrated.rollback("support", actor="ann")).deployment.stable == 1


async def test_roles_become_scopes(migrated: Registry) -> None:
    """An admin stays one, a client keeps what clients could do; their secrets open them as before."""
    catalog = await migrated.catalog()
    admin, client = catalog.key("a" * 64), catalog.key("c" * 64)
    assert admin is not None
    assert client is not None
    assert admin.key.scopes == {Scope.ADMIN}
    assert admin.key.adapters is None
    assert client.key.scopes == {Scope.INFERENCE, Scope.FEEDBACK}
    assert client.key.adapters == frozenset({"support"})
    assert client.key.limits.requests_per_minute is None


async def test_the_audit_log_goes_on(migrated: Registry) -> None:
    """Old entries keep their detail."""
    (row,) = await migrated.audit()
    assert (row.detail, row.before, row.after) == ({"version": 1}, None, None)
    await migrated.promote("support", 1, actor="bob")
    assert [row.change for row in await migrated.audit()] == [8, 1]
