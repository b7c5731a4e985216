"""How the values of two versions become pairs."""

import json

from hypothesis import given
from hypothesis import strategies as st

from monitors.loop.matching import MOST_WAITING, Arm, Matching

ARRIVALS = st.lists(st.tuples(st.sampled_from(["new", "old"]), st.integers(0, 9)), max_size=60)


def pairs(arrivals: list[tuple[Arm, float]], matching: Matching) -> list[tuple[float, float]]:
    """The pairs of these values, the new version's first."""
    return [pair for arm, value in arrivals if (pair := matching.take(arm, value)) is not None]


@given(ARRIVALS)
def test_the_first_of_one_meets_the_first_of_the_other(arrivals: list[tuple[Arm, float]]) -> None:
    """In their order, each once, as many as the version that has fewer gives."""
    new = [value for arm, value in arrivals if arm == "new"]
    old = [value for arm, value in arrivals if arm == "old"]
    assert pairs(arrivals, Matching()) == list(zip(new, old, strict=False))


@given(ARRIVALS)
def test_a_matching_survives_json(arrivals: list[tuple[Arm, float]]) -> None:
    """After each value, without any change of what follows."""
    whole, parts, found = Matching(), Matching.from_state(None), []
    for arrival in arrivals:
        found += pairs([arrival], parts)
        parts = Matching.from_state(json.loads(json.dumps(parts.state())))
    assert found == pairs(arrivals, whole)
    assert parts.state() == whole.state()


def test_only_the_newest_wait() -> None:
    """So that a version with many sessions is not held by its first ones against the other's last."""
    matching = Matching()
    for value in range(3 * MOST_WAITING):
        matching.take("old", float(value))
    assert matching.take("new", 0.5) == (0.5, 2.0 * MOST_WAITING)
    assert len(matching.state()["waiting"]) == MOST_WAITING - 1
