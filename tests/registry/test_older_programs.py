"""After the way back, each older program can read the keys that it finds, and none of them opens more than before.

What an older program knew is written down here, as its code is not there any more to ask.
"""

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from registry.artifacts import ArtifactStore
from registry.catalog import ApiKey, Scope
from registry.database import SCHEMA_VERSION, connect, migrate, migrate_to
from registry.errors import Conflict
from registry.keys import hash_key
from registry.registry import Registry
from tests.registry.lora_samples import BASE

FIRST_SCOPES = {"admin", "feedback", "inference", "tuning"}
KNOWN = dict.fromkeys(("0002", "0003", "0004", "0005", "0006"), FIRST_SCOPES) | {"0007": FIRST_SCOPES | {"metrics"}}
"""The scopes of each schema's program. A released one knows no more than here: a new scope needs a new schema."""
LEAKED = "x7Kq-" + "0123456789abcdef" * 2


@pytest.fixture
async def newest(database_url: str, store: ArtifactStore) -> AsyncIterator[tuple[AsyncEngine, Registry]]:
    """A database of the newest schema that somebody may bring back."""
    engine = connect(database_url)
    await migrate(engine)
    yield engine, Registry(engine, store, (BASE,))
    await engine.dispose()


async def keys_in(engine: AsyncEngine) -> dict[str, dict[str, Any]]:
    """Every key by its id, with the columns that its schema has."""
    async with engine.connect() as connection:
        return {row["id"]: dict(row) for row in (await connection.execute(text("SELECT * FROM api_keys"))).mappings()}


async def keys_of_all_kinds(registry: Registry) -> dict[str, ApiKey]:
    """One of each scope, and one of all that are not admins'."""
    kinds = [frozenset({scope}) for scope in Scope] + [frozenset(Scope) - {Scope.ADMIN}]
    made = [(await registry.create_key("x", scopes=scopes, actor="ann"))[0] for scopes in kinds]
    return {key.id: key for key in made}


def test_what_this_program_knows_is_written_down() -> None:
    """Whoever adds a scope finds here that the way back must take it away."""
    assert KNOWN[SCHEMA_VERSION] == set(Scope)


@pytest.mark.parametrize("version", sorted(KNOWN)[:-1])
async def test_an_older_program_knows_the_scopes_of_all_keys(
    newest: tuple[AsyncEngine, Registry], version: str
) -> None:
    """It cannot start on one that it does not know. Those that it knows stay."""
    engine, registry = newest
    made = await keys_of_all_kinds(registry)
    await migrate_to(engine, version, may_lose=True)
    for key_id, row in (await keys_in(engine)).items():
        scopes = row["scopes"]
        known = set(json.loads(scopes) if isinstance(scopes, str) else scopes)
        assert known == made[key_id].scopes & KNOWN[version]


async def test_the_first_programs_roles_open_nothing_more(newest: tuple[AsyncEngine, Registry]) -> None:
    """It knows admins and clients alone; a key that opened less than a client's is revoked."""
    engine, registry = newest
    made = await keys_of_all_kinds(registry)
    await migrate_to(engine, "0001", may_lose=True)
    in_force = {
        made[key_id].scopes: row["role"] for key_id, row in (await keys_in(engine)).items() if not row["revoked_at"]
    }
    assert in_force == {
        frozenset({Scope.ADMIN}): "admin",
        frozenset({Scope.INFERENCE}): "client",
        frozenset(Scope) - {Scope.ADMIN}: "client",
    }


async def test_the_metrics_key_is_there_again_after_going_back_and_forth(
    newest: tuple[AsyncEngine, Registry],
) -> None:
    """So the next upgrade's job, which ensures it, goes on; between, it opens nothing and is not revoked."""
    engine, registry = newest
    metrics = frozenset({Scope.METRICS})
    key, _ = await registry.ensure_key("prometheus", LEAKED, scopes=metrics, actor="local")
    await migrate_to(engine, "0006", may_lose=True)
    assert (await keys_in(engine))[key.id]["revoked_at"] is None
    await migrate(engine)
    assert await registry.ensure_key("prometheus", LEAKED, scopes=metrics, actor="local") == (key, False)


async def test_a_secret_that_was_rotated_away_opens_nothing_on_any_way(
    newest: tuple[AsyncEngine, Registry],
) -> None:
    """The older program finds it as a revoked key, and so does the newer one after that, however often they change."""
    engine, registry = newest
    key, _ = await registry.ensure_key("install", LEAKED, scopes=frozenset({Scope.ADMIN}), actor="local")
    for _ in range(2):
        await registry.rotate_key(key.id, overlap=timedelta(hours=1), actor="ann")
    for _ in range(2):
        await migrate_to(engine, "0006", may_lose=True)
        (leaked,) = [row for row in (await keys_in(engine)).values() if row["hash"] == hash_key(LEAKED)]
        assert leaked["revoked_at"] is not None
        assert (leaked["name"], leaked["created_by"]) == (f"retired secret of {key.id}", "local")
        await migrate(engine)
        with pytest.raises(Conflict, match="revoked"):
            await registry.ensure_key("install", LEAKED, scopes=frozenset({Scope.ADMIN}), actor="local")
    assert (await registry.catalog()).key(hash_key(LEAKED)) is None
    assert len(await registry.list_keys()) == 2
