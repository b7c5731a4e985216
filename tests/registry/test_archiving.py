"""Archived versions, and the audit log, on SQLite and on PostgreSQL."""

import pytest

from registry.catalog import Canary, Shadow
from registry.deployments import Patch
from registry.errors import Conflict, NotFound
from registry.registry import Registry


async def test_an_archived_version_stays_and_is_not_served(three: Registry) -> None:
    """Its number and content stay; its name means nothing until it is brought back."""
    await three.promote("support", 1, actor="ann")
    assert (await three.archive_version("support", 2, archived=True, actor="ann")).archived
    catalog = await three.catalog()
    assert catalog.version("support@2") is None
    assert catalog.adapters["support"].versions[2].archived
    for patch in (Patch(stable=2), Patch(canary=Canary(2, 0.1)), Patch(shadow=Shadow(2, 0.1))):
        with pytest.raises(Conflict, match="bring it back"):
            await three.change("support", patch, actor="ann")
    await three.archive_version("support", 2, archived=False, actor="ann")
    assert (await three.catalog()).version("support@2") is not None
    await three.promote("support", 2, actor="ann")


@pytest.mark.parametrize(
    "patch",
    [
        Patch(stable=2),
        Patch(canary=Canary(2, 0.0)),
        Patch(shadow=Shadow(2, 0.0)),
        Patch(stable=3, fallback=("previous",)),
    ],
)
async def test_what_a_deployment_uses_cannot_be_archived(three: Registry, patch: Patch) -> None:
    """As stable, canary, shadow, or as what it falls back to."""
    await three.promote("support", 2 if patch.stable == 3 else 1, actor="ann")
    await three.change("support", patch, actor="ann")
    with pytest.raises(Conflict, match="part of its deployment"):
        await three.archive_version("support", 2, archived=True, actor="ann")
    assert not (await three.catalog()).adapters["support"].versions[2].archived


async def test_a_rollback_brings_archived_versions_back(three: Registry) -> None:
    """Any earlier revision can be restored, in one transaction with what it needs."""
    await three.change("support", Patch(stable=1, canary=Canary(2, 0.1)), actor="ann")
    await three.promote("support", 3, actor="ann")
    await three.change("support", Patch(canary=None), actor="ann")
    for number in (1, 2):
        await three.archive_version("support", number, archived=True, actor="ann")
    await three.rollback("support", actor="bob")
    versions = (await three.catalog()).adapters["support"].versions
    assert [version.archived for version in versions.values()] == [False, False, False]
    newest = await three.audit(limit=3)
    assert [row.action for row in newest] == ["unarchive", "unarchive", "rollback"]
    assert len({row.change for row in newest}) == 1


async def test_a_fallback_to_the_previous_version_brings_it_back(three: Registry) -> None:
    """A deployment never leads to an archived version, even when it comes about by the way."""
    await three.promote("support", 1, actor="ann")
    await three.promote("support", 2, actor="ann")
    await three.archive_version("support", 1, archived=True, actor="ann")
    await three.change("support", Patch(fallback=("previous",)), actor="ann")
    assert (await three.catalog()).version("support@1") is not None


async def test_archiving_again_changes_nothing(three: Registry) -> None:
    """One entry in the audit log; unknown versions are not found."""
    await three.archive_version("support", 3, archived=True, actor="ann")
    number = await three.change_number()
    await three.archive_version("support", 3, archived=True, actor="bob")
    assert await three.change_number() == number
    with pytest.raises(NotFound):
        await three.archive_version("support", 9, archived=True, actor="ann")


async def test_the_audit_log_has_before_and_after(three: Registry) -> None:
    """Newest first, in pages, with who and why."""
    await three.promote("support", 1, actor="ann")
    await three.change("support", Patch(canary=Canary(2, 0.25)), actor="bob", reason="try it")
    newest, first = await three.audit(limit=2)
    assert (newest.actor, newest.action, newest.subject) == ("bob", "canary", "adapter:support")
    assert newest.before is not None
    assert newest.after is not None
    assert newest.before["canary"] is None
    assert newest.after["canary"] == {"version": 2, "weight": 0.25}
    assert newest.detail is not None
    assert newest.detail["reason"] == "try it"
    assert first.before is None
    assert [row.action for row in await three.audit(before=first.id)] == ["push"] * 3
