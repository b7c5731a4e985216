"""Patches of a deployment in the database: optimistic locking, previews, and values that no database could keep."""

import pytest

from registry.catalog import Canary, Shadow
from registry.deployments import Patch
from registry.errors import Conflict, InvalidValue, NotFound, RevisionMismatch
from registry.registry import Registry


async def live(registry: Registry, name: str = "support") -> int | None:
    """The number of the live version."""
    adapter = (await registry.catalog()).adapters[name]
    return adapter.deployment.stable if adapter.deployment else None


async def test_a_rollback_that_someone_else_overtook_is_refused(three: Registry) -> None:
    """What was made ready is what goes live, or nothing."""
    for number in (1, 2, 3):
        await three.promote("support", number, actor="ann")
    ready = (await three.preview_rollback("support")).versions
    assert ready == {2}
    await three.promote("support", 1, actor="bob")
    with pytest.raises(Conflict, match="someone else"):
        await three.rollback("support", prepared=ready, actor="ann")
    assert await live(three) == 1


async def test_a_change_needs_only_what_is_not_served_already(three: Registry) -> None:
    """A version that the present deployment serves is ready, whoever asks."""
    await three.change("support", Patch(stable=1, canary=Canary(2, 0.1)), prepared=frozenset({1, 2}), actor="ann")
    await three.promote("support", 2, actor="ann")
    await three.change("support", Patch(canary=Canary(3, 0.5)), prepared=frozenset({3}), actor="ann")
    with pytest.raises(Conflict, match="someone else"):
        await three.change("support", Patch(stable=1), prepared=frozenset({3}), actor="ann")


async def test_two_admins_cannot_overwrite_each_other_unseen(three: Registry) -> None:
    """Of two changes made from the same revision, the second is told both numbers."""
    seen = (await three.change("support", Patch(stable=1), expected_revision=0, actor="ann")).deployment.revision
    await three.change("support", Patch(stable=2), expected_revision=seen, actor="ann")
    with pytest.raises(RevisionMismatch, match="revision 2, not 1") as refused:
        await three.change("support", Patch(stable=3), expected_revision=seen, actor="bob")
    assert (refused.value.status, refused.value.code) == (412, "revision_mismatch")
    with pytest.raises(RevisionMismatch):
        await three.rollback("support", expected_revision=seen, actor="bob")
    assert await live(three) == 2


async def test_a_preview_is_what_the_change_makes_of_it(three: Registry) -> None:
    """With the same errors, and without writing anything."""
    await three.promote("support", 1, actor="ann")
    patch = Patch(canary=Canary(2, 0.25), shadow=Shadow(None, 0.5), fallback=("previous", "base"))
    number = await three.change_number()
    expected = await three.preview("support", patch)
    assert await three.change_number() == number
    assert (await three.change("support", patch, actor="ann")).deployment == expected
    expected = await three.preview_rollback("support")
    assert (await three.rollback("support", actor="ann")).deployment == expected
    for wrong, error in ((Patch(stable=9), NotFound), (Patch(canary=Canary(1, 0.1)), InvalidValue)):
        with pytest.raises(error):
            await three.preview("support", wrong)


async def test_the_catalog_has_what_the_change_answered(three: Registry) -> None:
    """A gateway that made a change and one that reads it see the same deployment."""
    for patch in (
        Patch(stable=1),
        Patch(canary=Canary(2, 0.1), fallback=("base",)),
        Patch(stable=2, shadow=Shadow(1, 1.0)),
        Patch(stable=3, fallback=("previous",)),
    ):
        changed = await three.change("support", patch, actor="ann")
        catalog = await three.catalog()
        assert catalog.adapters["support"].deployment == changed.deployment
        assert catalog.change == changed.change
    assert changed.deployment.previous == 2
    rolled = await three.rollback("support", actor="ann")
    assert (await three.catalog()).adapters["support"].deployment == rolled.deployment


async def test_a_change_that_changes_nothing_takes_no_number(three: Registry) -> None:
    """So no gateway is woken by it, and what it answers is the newest number there is."""
    first = await three.promote("support", 1, actor="ann")
    again = await three.change("support", Patch(stable=1, canary=None), actor="bob")
    assert (again.deployment, again.change) == (first.deployment, first.change)
    assert await three.change_number() == first.change


@pytest.mark.parametrize(
    "patch", [Patch(), Patch(canary=Canary(1, 0.1)), Patch(shadow=Shadow(None, 0.1)), Patch(fallback=("base",))]
)
async def test_nothing_but_a_stable_version_begins_a_deployment(three: Registry, patch: Patch) -> None:
    """A canary of nothing is refused."""
    with pytest.raises(Conflict, match="promote a version first"):
        await three.change("support", patch, actor="ann")


async def test_numbers_beyond_every_database_are_just_not_found(three: Registry) -> None:
    """They fit no column, and are asked of none."""
    await three.promote("support", 1, actor="ann")
    for number in (0, -1, 2**31, 2**63, 10**30):
        with pytest.raises(NotFound):
            await three.promote("support", number, actor="ann")
        with pytest.raises(NotFound):
            await three.rollback("support", to=number, actor="ann")
    assert len(await three.history("support", before=10**30)) == 1
    assert len(await three.audit(before=10**30)) == 4
    for name in ("nul\0", "\ud800", "x" * 1000):
        with pytest.raises(NotFound):
            await three.history(name)


@pytest.mark.parametrize("reason", ["nul\0", "\ud800", "x" * 1001])
async def test_a_reason_that_cannot_be_stored_is_refused(three: Registry, reason: str) -> None:
    """On every database alike, and before anything changes."""
    with pytest.raises(InvalidValue, match="reason"):
        await three.promote("support", 1, actor="ann", reason=reason)
    assert await live(three) is None
