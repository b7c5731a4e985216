"""Where a rollback leads, as a table: each row a history, and what rolling back again and again restores."""

from dataclasses import dataclass

import pytest

from registry.catalog import Canary, Shadow
from registry.deployments import Patch, State
from registry.errors import NothingToRollBack
from registry.mapping import to_state
from registry.registry import Registry
from tests.conftest import AdapterMaker

LOW, HIGH = 0.1, 0.5


@dataclass(frozen=True)
class Back:
    """A rollback among the patches of a history, plain or to a revision."""

    to: int | None = None


def stable(number: int) -> Patch:
    """A promote."""
    return Patch(stable=number)


def canary(number: int, weight: float = LOW) -> Patch:
    """A canary."""
    return Patch(canary=Canary(number, weight))


def promoted(number: int, held_back: int) -> Patch:
    """A promotion that leaves some sessions with the old version."""
    return Patch(stable=number, canary=Canary(held_back, LOW, holdback=True))


NO_CANARY = Patch(canary=None)
SHADOW = Patch(shadow=Shadow(3, LOW))
CASES: list[tuple[str, list[Patch | Back], list[int]]] = [
    ("a promote is taken back", [stable(1), stable(2)], [1]),
    ("each promote in turn", [stable(1), stable(2), stable(3)], [2, 1]),
    ("a canary is taken away at once, whatever its ramp", [stable(1), canary(2), canary(2, HIGH)], [1]),
    ("a canary that was promoted leaves wholly", [stable(1), canary(2), canary(2, HIGH), stable(2)], [1]),
    ("promoted after its rollback", [stable(1), canary(2), canary(2, HIGH), Back(), stable(2)], [1]),
    ("from one canary back to the one before", [stable(1), canary(2), canary(3)], [2, 1]),
    ("a promote past a canary keeps it, and both go", [stable(1), canary(2), stable(3)], [1]),
    ("an ended canary does not come back", [stable(1), stable(2), canary(3), NO_CANARY], [1]),
    ("a canary of the version before", [stable(1), stable(2), canary(1)], [2, 1]),
    ("a shadow alone is no way out", [stable(1), stable(2), SHADOW], [1]),
    ("a shadow comes back with its state", [stable(1), SHADOW, stable(2)], [2]),
    (
        "an ended canary on another version",
        [stable(1), stable(3), Patch(stable=2, canary=Canary(3, LOW)), NO_CANARY],
        [2, 1],
    ),
    (
        "past a canary that a rollback brought back",
        [stable(1), stable(2), canary(3), Patch(stable=1, canary=None), Back(), NO_CANARY],
        [1],
    ),
    ("never back to what was rolled back", [stable(1), stable(2), Back(), stable(3)], [1]),
    ("a revision restored by number goes on from there", [stable(1), stable(2), stable(3), Back(to=2)], [1]),
    ("forwards by number, and back", [stable(1), stable(2), Back(), Back(to=2)], [1]),
    ("a promotion with a holdback leaves wholly", [stable(1), canary(2), canary(2, HIGH), promoted(2, 1)], [1]),
    ("and so it does once the holdback has ended", [stable(1), canary(2), promoted(2, 1), NO_CANARY], [1]),
    ("one promotion after another", [stable(1), promoted(2, 1), promoted(3, 2)], [2, 1]),
    ("a canary in a holdback's place brings the holdback back", [stable(1), promoted(2, 1), canary(3)], [2, 1]),
    ("past a holdback to another version", [stable(1), promoted(2, 1), stable(3)], [2, 1]),
    ("promoted with a holdback after its rollback", [stable(1), promoted(2, 1), Back(), promoted(2, 1)], [1]),
    ("a holdback's other weight", [stable(1), promoted(2, 1), Patch(canary=Canary(1, HIGH, holdback=True))], [1]),
    ("the same version twice", [stable(1), stable(2), stable(1)], [2, 1]),
]


async def play(registry: Registry, steps: list[Patch | Back]) -> None:
    """Make a history."""
    for step in steps:
        if isinstance(step, Back):
            await registry.rollback("support", to=step.to, actor="ann")
        else:
            await registry.change("support", step, actor="ann")


@pytest.mark.parametrize(("steps", "restored"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
async def test_rolling_back(
    registry: Registry, adapter_folder: AdapterMaker, steps: list[Patch | Back], restored: list[int]
) -> None:
    """Each plain rollback restores the whole of the stated revision, and after the last there is nothing before."""
    for scale in (1.0, 2.0, 3.0):
        await registry.push("support", adapter_folder(scale), actor="ann")
    await play(registry, steps)
    states = {row.number: to_state(row) for row in await registry.history("support")}
    for revision in restored:
        told = (await registry.history("support", limit=1))[0].undo_stable
        deployment = (await registry.rollback("support", actor="ann")).deployment
        newest = (await registry.history("support", limit=1))[0]
        assert newest.restores == revision
        assert to_state(newest) == states[revision]
        assert deployment.stable == told == states[revision].stable
    with pytest.raises(NothingToRollBack):
        await registry.rollback("support", actor="ann")


async def test_all_of_an_earlier_state_comes_back(registry: Registry, adapter_folder: AdapterMaker) -> None:
    """Stable, canary, shadow and fallback, by number too; and the versions it needs stay warm."""
    for scale in (1.0, 2.0, 3.0, 4.0):
        await registry.push("support", adapter_folder(scale), actor="ann")
    whole = Patch(stable=1, canary=Canary(2, LOW), shadow=Shadow(3, HIGH), fallback=("previous", "base"))
    await registry.change("support", whole, actor="ann")
    bare = Patch(stable=4, canary=None, shadow=None, fallback=())
    changed = await registry.change("support", bare, actor="ann")
    assert changed.deployment.warm == {1, 2, 3}
    await registry.rollback("support", to=1, actor="ann")
    newest = (await registry.history("support", limit=1))[0]
    assert to_state(newest) == State(1, Canary(2, LOW), Shadow(3, HIGH), ("previous", "base"))
