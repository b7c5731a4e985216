"""Reading the catalog costs the same few queries however much there is."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import event, insert
from sqlalchemy.ext.asyncio import AsyncEngine

from registry.registry import Registry
from registry.tables import AdapterRow, RevisionRow, VersionRow

ADAPTERS, VERSIONS = 1000, 3
MADE: dict[str, Any] = {"created_at": datetime(2026, 1, 1, tzinfo=UTC)}


async def fill(engine: AsyncEngine) -> None:
    """A thousand adapters, each with some versions, each promoted in turn."""
    adapters = [{"id": index, "name": f"adapter-{index}", "base": "tiny"} | MADE for index in range(1, ADAPTERS + 1)]
    numbers = range(1, VERSIONS + 1)
    weights = {"rank": 4, "alpha": 8.0, "parameters": 9, "size_bytes": 9, "note": "", "created_by": "ann"} | MADE
    versions = [
        {"adapter_id": one["id"], "number": number, "digest": f"{one['id']}-{number}", **weights}
        | {"engine_name": f"{one['name']}@{number}"}
        for one in adapters
        for number in numbers
    ]
    revisions = [
        {"adapter_id": one["id"], "number": number, "action": "promote", "stable": number, "fallback": []}
        | {"undo_revision": number - 1 or None, "undo_stable": number - 1 or None, "actor": "ann", "reason": ""}
        | MADE
        for one in adapters
        for number in numbers
    ]
    async with engine.begin() as connection:
        await connection.execute(insert(AdapterRow), adapters)
        await connection.execute(insert(VersionRow), versions)
        await connection.execute(insert(RevisionRow), revisions)


async def test_a_thousand_adapters_take_as_many_queries_as_none(registry: Registry, database: AsyncEngine) -> None:
    """And each is whole: its versions, its deployment, and what a rollback needs."""
    asked: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        asked.append(statement)

    event.listen(database.sync_engine, "before_cursor_execute", note)
    await registry.catalog()
    empty = len(asked)
    await fill(database)
    asked.clear()
    catalog = await registry.catalog()
    assert len(asked) == empty < 10
    assert len(catalog.adapters) == ADAPTERS
    for adapter in catalog.adapters.values():
        assert list(adapter.versions) == [1, 2, 3]
        assert adapter.deployment is not None
        assert (adapter.deployment.revision, adapter.deployment.stable, adapter.deployment.previous) == (3, 3, 2)
        assert adapter.deployment.warm == {2}
