"""What is set up without a gateway."""

from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

import demo
from demo.learned import learned
from gateway.app import base_specs
from monitors.teaching.rows import SupervisedRow
from ostler.local import ensure_admin_key, register_demo
from ostler.settings import UpSettings
from registry.artifacts import ArtifactStore
from registry.catalog import Scope
from registry.registry import Registry
from tuner.data.replay import Earlier


@pytest.fixture
def demo_registry(database: AsyncEngine, store: ArtifactStore) -> Registry:
    """A registry of the demo's base model."""
    return Registry(database, store, base_specs(UpSettings(base_model="")))


async def stable(registry: Registry) -> int:
    """The version of the demo's adapter that is live."""
    deployment = (await registry.catalog()).adapters["support"].deployment
    assert deployment
    return deployment.stable


async def test_the_demo_is_registered_with_something_to_roll_back_to(demo_registry: Registry) -> None:
    """Its last version is live, the one before is its undo, and a second start changes nothing."""
    await register_demo(demo_registry)
    await register_demo(demo_registry)
    assert await stable(demo_registry) == demo.ADAPTERS[-1].version
    assert [revision.stable for revision in await demo_registry.history("support")] == [2, 1]


async def test_what_the_demo_learned_is_known_and_can_be_replayed(demo_registry: Registry) -> None:
    """Of each version, as of one that the tuner made, but nobody's gate has let it through."""
    await register_demo(demo_registry)
    for shipped in demo.ADAPTERS:
        record = await demo_registry.version_record("support", shipped.version)
        assert record.verdict is None
        assert record.lineage is not None
        earlier = Earlier(demo_registry.store.fetch(record.lineage["dataset"]))
        expected = learned(shipped)
        rows = earlier.draw(10_000, seed=1, without=())
        assert {row.messages[-1].content for row in rows if isinstance(row, SupervisedRow)} == {
            each.answer for each in expected
        }
        assert len(rows) == len(expected)
        assert list(earlier.held_out()) == []


async def test_what_was_promoted_once_is_left_alone_however_long_ago(
    demo_registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person's rollback stays, also when the history has become longer than one page."""
    await register_demo(demo_registry)
    await demo_registry.rollback("support", actor="person")
    for number in (2, 1):
        await demo_registry.promote("support", number, actor="person")
    whole = demo_registry.history

    async def in_pages_of_one(name: str, *, before: int | None = None) -> object:
        return await whole(name, before=before, limit=1)

    monkeypatch.setattr(demo_registry, "history", in_pages_of_one)
    await register_demo(demo_registry)
    assert await stable(demo_registry) == 1


async def test_the_admin_key_is_made_once(demo_registry: Registry, tmp_path: Path) -> None:
    """And again only when the file holds none that is valid."""
    file = tmp_path / "admin.key"
    made = await ensure_admin_key(demo_registry, file)
    assert made == file.read_text().strip()
    assert file.stat().st_mode & 0o777 == 0o600
    assert await ensure_admin_key(demo_registry, file) is None
    file.write_text("sk-ostler-unknown")
    assert await ensure_admin_key(demo_registry, file) != made
    keys = (await demo_registry.catalog()).keys.values()
    assert [held.key.scopes for held in keys] == [frozenset({Scope.ADMIN})] * 2
