"""Versions, promote, rollback and history, on SQLite and on PostgreSQL."""

import asyncio
from itertools import pairwise
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlmodel.ext.asyncio.session import AsyncSession

from registry import repository
from registry.artifacts import ArtifactStore
from registry.errors import Conflict, InvalidAdapter, InvalidName, NotFound, NothingToRollBack
from registry.registry import Registry
from tests.conftest import AdapterMaker
from tests.registry.lora_samples import BASE, config, write_adapter


async def live(registry: Registry, name: str = "support") -> int | None:
    """The number of the live version."""
    adapter = (await registry.catalog()).adapters[name]
    return adapter.deployment.stable if adapter.deployment else None


async def test_versions_are_numbered_from_one_and_named_by_content(three: Registry) -> None:
    """Each push of other weights is the next number, and its engine name ends in its digest."""
    versions = (await three.catalog()).adapters["support"].versions
    assert list(versions) == [1, 2, 3]
    assert len({version.digest for version in versions.values()}) == 3
    for version in versions.values():
        assert version.engine_name == f"support@{version.number}-{version.digest[:8]}"


async def test_same_content_is_the_same_version(three: Registry, adapter_folder: AdapterMaker) -> None:
    """Pushing what is there already makes no second version, even with the configuration spelled differently."""
    again = config(target_modules=["q_proj", "v_proj"], base_model_name_or_path="/home/ann/models/tiny")
    folder = write_adapter(
        adapter_folder(2.0), settings=again, weights=(adapter_folder(2.0) / "adapter_model.safetensors").read_bytes()
    )
    pushed = await three.push("support", folder, actor="bob")
    assert (pushed.created, pushed.version.number) == (False, 2)
    assert len((await three.catalog()).adapters["support"].versions) == 3


async def test_concurrent_pushes_of_one_content_make_one_version(
    registry: Registry, adapter_folder: AdapterMaker
) -> None:
    """However many push the same content at once, one version comes of it."""
    folder = adapter_folder(1.0)
    pushed = await asyncio.gather(*(registry.push("support", folder, actor="ann") for _ in range(8)))
    assert sorted(outcome.created for outcome in pushed) == [False] * 7 + [True]
    assert {outcome.version.number for outcome in pushed} == {1}


async def test_refused_push_registers_nothing(registry: Registry, tmp_path: Path) -> None:
    """After a refusal there is neither a version nor an adapter."""
    with pytest.raises(InvalidAdapter):
        await registry.push("support", write_adapter(tmp_path / "dora", config(use_dora=True)), actor="ann")
    assert (await registry.catalog()).adapters == {}


@pytest.mark.parametrize("name", ["Support", "-x", "", "a" * 64, "a b", "support@1", "ünder"])
async def test_adapter_names_follow_the_rule(registry: Registry, adapter_folder: AdapterMaker, name: str) -> None:
    """A name outside the pattern is refused, and the rule is told."""
    with pytest.raises(InvalidName, match="lower-case letters"):
        await registry.push(name, adapter_folder(1.0), actor="ann")


async def test_an_adapter_cannot_have_the_name_of_a_base(registry: Registry, adapter_folder: AdapterMaker) -> None:
    """Else a client's `model` would mean two things."""
    with pytest.raises(InvalidName, match="base model"):
        await registry.push(BASE.name, adapter_folder(1.0), actor="ann")


async def test_promote_adds_a_revision_with_actor_reason_and_time(three: Registry) -> None:
    """History says who, why, when, and from what to what."""
    await three.promote("support", 1, actor="ann", reason="first")
    await three.promote("support", 2, actor="bob", reason="better")
    newest, first = await three.history("support")
    assert (first.number, first.action, first.stable, first.previous_stable) == (1, "promote", 1, None)
    assert (newest.number, newest.stable, newest.previous_stable) == (2, 2, 1)
    assert (newest.actor, newest.reason) == ("bob", "better")
    assert newest.created_at >= first.created_at
    assert newest.created_at.tzinfo is not None


async def test_promoting_what_is_live_adds_nothing(three: Registry) -> None:
    """The same order twice is one revision."""
    await three.promote("support", 1, actor="ann")
    again = await three.promote("support", 1, actor="ann")
    assert again.deployment.revision == 1
    assert len(await three.history("support")) == 1


async def test_rollback_restores_what_served_before(three: Registry) -> None:
    """A rollback is a new revision that restores an earlier one."""
    await three.promote("support", 1, actor="ann")
    await three.promote("support", 2, actor="ann")
    changed = await three.rollback("support", actor="bob", reason="worse")
    assert (changed.deployment.revision, changed.deployment.stable) == (3, 1)
    newest = (await three.history("support"))[0]
    assert (newest.action, newest.restores, newest.reason) == ("rollback", 1, "worse")


async def test_rolling_back_twice_goes_back_twice(three: Registry) -> None:
    """A second rollback never brings back what the first one took away."""
    for number in (1, 2, 3):
        await three.promote("support", number, actor="ann")
    served = [(await three.rollback("support", actor="ann")).deployment.stable for _ in range(2)]
    assert served == [2, 1]
    with pytest.raises(NothingToRollBack):
        await three.rollback("support", actor="ann")
    assert await live(three) == 1


async def test_promote_after_rollback_can_be_rolled_back_again(three: Registry) -> None:
    """The two can alternate for ever."""
    await three.promote("support", 1, actor="ann")
    for _ in range(5):
        await three.promote("support", 2, actor="ann")
        assert (await three.rollback("support", actor="ann")).deployment.stable == 1
    assert [row.number for row in await three.history("support")] == list(range(11, 0, -1))


async def test_any_earlier_revision_can_be_restored(three: Registry) -> None:
    """Also one from before a rollback, and one that was itself a rollback."""
    for number in (1, 2, 3):
        await three.promote("support", number, actor="ann")
    assert (await three.rollback("support", to=1, actor="ann")).deployment.stable == 1
    assert (await three.rollback("support", to=3, actor="ann")).deployment.stable == 3
    assert (await three.rollback("support", to=4, actor="ann")).deployment.stable == 1
    assert (await three.preview_rollback("support", to=2)).stable == 2


async def test_what_a_rollback_needs_is_marked_to_stay_warm(three: Registry) -> None:
    """The version before, and the one a rollback would serve, are what the engine should keep."""
    for number in (1, 2, 3):
        await three.promote("support", number, actor="ann")
    changed = await three.rollback("support", actor="ann")
    assert changed.deployment.stable == 2
    assert changed.deployment.warm == {1, 3}


async def test_unknown_adapters_are_not_found(registry: Registry) -> None:
    """Nothing is made by asking for it."""
    for asked in (registry.promote("nobody", 1, actor="ann"), registry.rollback("nobody", actor="ann")):
        with pytest.raises(NotFound):
            await asked
    with pytest.raises(NotFound):
        await registry.history("nobody")
    assert (await registry.catalog()).adapters == {}


async def test_unknown_versions_and_revisions_change_nothing(three: Registry) -> None:
    """404 for what is not there; the deployment stays."""
    await three.promote("support", 1, actor="ann")
    with pytest.raises(NotFound, match="version 9"):
        await three.promote("support", 9, actor="ann")
    with pytest.raises(NotFound, match="revision 9"):
        await three.rollback("support", to=9, actor="ann")
    assert len(await three.history("support")) == 1


async def test_rollback_before_any_promote_is_a_conflict(three: Registry) -> None:
    """There is nothing before."""
    with pytest.raises(NothingToRollBack):
        await three.rollback("support", actor="ann")


async def test_concurrent_changes_are_put_in_one_order(three: Registry) -> None:
    """Revisions of racing changes have different numbers without a gap, each from what the one before served."""
    await asyncio.gather(*(three.promote("support", 1 + index % 3, actor=f"admin-{index}") for index in range(12)))
    rows = list(reversed(await three.history("support")))
    assert [row.number for row in rows] == list(range(1, len(rows) + 1))
    for before, after in pairwise(rows):
        assert after.previous_stable == before.stable
    assert await live(three) == rows[-1].stable


async def test_history_is_paged(three: Registry) -> None:
    """`before` goes on from where a page ended."""
    for index in range(6):
        await three.promote("support", 1 + index % 2, actor="ann")
    first = await three.history("support", limit=4)
    rest = await three.history("support", before=first[-1].number, limit=4)
    assert [row.number for row in first + rest] == [6, 5, 4, 3, 2, 1]


async def test_every_change_leaves_an_audit_entry(three: Registry, database: AsyncEngine) -> None:
    """Pushes and changes of the deployment, with their actor, in the same transaction."""
    await three.promote("support", 1, actor="ann")
    async with database.connect() as connection:
        rows = (await connection.execute(text("SELECT actor, action, subject FROM audit ORDER BY id"))).all()
    assert [tuple(row) for row in rows] == [("ann", "push", "adapter:support")] * 3 + [
        ("ann", "promote", "adapter:support")
    ]


async def test_a_change_that_fails_leaves_no_trace(three: Registry, database: AsyncEngine) -> None:
    """Neither a row nor a raised counter: the transaction is the whole change."""
    before = await three.change_number()
    with pytest.raises(NotFound):
        await three.promote("support", 9, actor="ann")
    assert await three.change_number() == before


async def test_a_pushed_adapter_of_another_base_is_a_conflict(
    database: AsyncEngine, store: ArtifactStore, adapter_folder: AdapterMaker
) -> None:
    """An adapter belongs to one base model for ever."""
    other = type(BASE)(name="other", config=BASE.config)
    registry = Registry(database, store, (BASE, other))
    await registry.push("support", adapter_folder(1.0), actor="ann", base="tiny")
    with pytest.raises(Conflict, match="belongs to the base model 'tiny'"):
        await registry.push("support", adapter_folder(2.0), actor="ann", base="other")


async def test_a_catalog_is_of_one_moment(
    three: Registry, adapter_folder: AdapterMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What others change while it is read is not in it, not even in part."""
    await three.promote("support", 1, actor="ann")
    first_query = repository.change_number

    async def others_change_after_it(session: AsyncSession) -> int:
        found = await first_query(session)
        pushed = await three.push("support", adapter_folder(9.0), actor="bob")
        await three.promote("support", pushed.version.number, actor="bob")
        return found

    with monkeypatch.context() as patched:
        patched.setattr(repository, "change_number", others_change_after_it)
        seen = (await three.catalog()).adapters["support"]
    assert list(seen.versions) == [1, 2, 3]
    assert seen.stable == seen.versions[1]
    assert await live(three) == 4
