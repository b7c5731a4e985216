"""What a patch makes of a deployment: the pure rules, without a database."""

import pytest

from registry.catalog import Canary, FallbackStep, Shadow
from registry.deployments import Patch, State, action_of, patched
from registry.errors import Conflict, InvalidValue

C2, C3 = Canary(2, 0.1), Canary(3, 0.2)
S3, BASE = Shadow(3, 0.5), Shadow(None, 0.05)
ALL: tuple[FallbackStep, ...] = ("previous", "base")


@pytest.mark.parametrize(
    ("before", "patch", "after", "action"),
    [
        (None, Patch(stable=1), State(1), "promote"),
        (None, Patch(stable=1, canary=C2), State(1, C2), "promote"),
        (State(1), Patch(canary=C2), State(1, C2), "canary"),
        (State(1, C2), Patch(canary=Canary(2, 0.5)), State(1, Canary(2, 0.5)), "canary"),
        (State(1, C2), Patch(canary=None), State(1), "canary"),
        (State(1, C2), Patch(stable=2), State(2), "promote"),
        (State(1, C2), Patch(stable=3), State(3, C2), "promote"),
        (State(1, C2), Patch(stable=2, canary=C3), State(2, C3), "promote"),
        (State(1, C2, S3, ALL), Patch(stable=4), State(4, C2, S3, ALL), "promote"),
        (State(1, C2), Patch(shadow=BASE), State(1, C2, BASE), "shadow"),
        (State(1, C2, BASE), Patch(shadow=None, fallback=ALL), State(1, C2, None, ALL), "shadow"),
        (State(1), Patch(fallback=("base",)), State(1, fallback=("base",)), "fallback"),
        (State(1, fallback=ALL), Patch(fallback=()), State(1), "fallback"),
    ],
)
def test_what_is_left_out_stays(before: State | None, patch: Patch, after: State, action: str) -> None:
    """A patch changes what it names, and a canary that becomes stable is no canary any more."""
    made = patched(before, patch)
    assert made == after
    assert action_of(before, made) == action


@pytest.mark.parametrize(
    ("patch", "param"),
    [
        (Patch(canary=Canary(2, 1.1)), "canary.weight"),
        (Patch(canary=Canary(2, -0.1)), "canary.weight"),
        (Patch(canary=Canary(2, float("nan"))), "canary.weight"),
        (Patch(canary=Canary(2, float("inf"))), "canary.weight"),
        (Patch(canary=Canary(2, weight=True)), "canary.weight"),
        (Patch(canary=Canary(2, 10**400)), "canary.weight"),
        (Patch(shadow=Shadow(None, 2)), "shadow.share"),
        (Patch(shadow=Shadow(3, float("-inf"))), "shadow.share"),
        (Patch(canary=Canary(1, 0.5)), "canary"),
        (Patch(stable=2, canary=Canary(2, 0.5)), "canary"),
        (Patch(fallback=("base", "base")), "fallback"),
        (Patch(fallback=("nothing",)), "fallback"),  # type: ignore[arg-type]
    ],
)
def test_values_outside_what_is_allowed_are_refused(patch: Patch, param: str) -> None:
    """With the name of the one that is wrong."""
    with pytest.raises(InvalidValue) as refused:
        patched(State(1), patch)
    assert (refused.value.param, refused.value.status) == (param, 422)


@pytest.mark.parametrize("weight", [0, 0.0, 1, 1.0])
def test_the_ends_are_allowed(weight: float) -> None:
    """A canary of nothing and one of everything."""
    assert patched(State(1), Patch(canary=Canary(2, weight))).canary == Canary(2, weight)


def test_nothing_but_a_stable_version_begins_a_deployment() -> None:
    """Else there is nothing that the rest could go with."""
    with pytest.raises(Conflict):
        patched(None, Patch(canary=C2))


def test_a_state_knows_its_versions_and_its_suspect() -> None:
    """On trial is the canary, and the stable version where there is none."""
    whole = State(1, C2, S3)
    assert whole.versions == {1, 2, 3}
    assert State(1, None, BASE).versions == {1}
    assert (whole.suspect, State(1).suspect) == (2, 1)
    assert [whole.serves(number) for number in (1, 2, 3)] == [True, True, False]
