"""Which observations follow from the scores of some requests."""

from typing import Any

import pytest

from monitors.judging.pairing import Observation, Scored, observations


def scored(record_id: str, value: float, **fields: Any) -> Scored:
    """A score of version 2's own answer to the request `r`."""
    usual = {"request_id": "r", "adapter": "a", "version": 2, "variant": "stable", "session": "s"}
    return Scored(record_id=record_id, value=value, **{**usual, "scorer": "x", "against": "", **fields})


def pairs(*scores: Scored) -> list[tuple[int, str, float]]:
    """The observations of differences: version, what against, value."""
    found = observations(scores, lambda adapter, number: f"{adapter}@{number}")
    return [(each.version, each.against, each.value) for each in found if each.against != "level"]


def test_an_answer_counts_for_its_session() -> None:
    """Or for its request, if the client named no session."""
    own, nameless = scored("1", 0.75), scored("2", 0.25, session=None)
    assert observations([own, nameless], lambda *_: "") == [
        Observation("a", 2, "x", "level", "s", 0.75),
        Observation("a", 2, "x", "level", "request r", 0.25),
    ]


@pytest.mark.parametrize("variant", ["shadow", "fallback", "base", "evaluation"])
def test_only_what_a_version_answered_its_own_clients_is_its_level(variant: str) -> None:
    """A copy that no client saw, or what served in its place, is not."""
    assert observations([scored("1", 1.0, variant=variant)], lambda *_: "") == []


@pytest.mark.parametrize("variant", ["stable", "canary", "pinned"])
def test_the_base_is_subtracted(variant: str) -> None:
    """Whichever way the version was asked."""
    shadow = scored("2", 1.0, variant="shadow", version=0, session=None)
    assert pairs(shadow, scored("1", 0.25, variant=variant)) == [(2, "base", -0.75)]


def test_of_two_versions_the_one_that_is_not_stable_is_tested() -> None:
    """A shadow of version 3 counts for version 3; a canary's stable shadow counts for the canary."""
    assert pairs(scored("1", 0.25), scored("2", 1.0, variant="shadow", version=3)) == [(3, "a@2", 0.75)]
    canary = scored("1", 0.25, version=3, variant="canary")
    assert pairs(canary, scored("2", 1.0, variant="shadow", version=2)) == [(3, "a@2", -0.75)]


def test_scores_by_different_scorers_or_of_different_requests_are_no_pair() -> None:
    """Nor an answer and its own copy."""
    own = scored("1", 1.0)
    assert pairs(own, scored("2", 0.0, variant="shadow", version=0, scorer="y")) == []
    assert pairs(own, scored("2", 0.0, variant="shadow", version=0, request_id="q")) == []
    assert pairs(own, scored("2", 0.0, variant="shadow", version=2)) == []


def test_a_request_id_that_was_used_twice_is_not_paired() -> None:
    """Whose shadow is whose is not known."""
    shadow = scored("3", 0.0, variant="shadow", version=0)
    assert pairs(scored("1", 1.0), scored("2", 1.0), shadow) == []
    assert pairs(scored("1", 1.0), shadow, scored("4", 0.0, variant="shadow", version=0)) == []


def test_a_verdict_of_the_judge_is_a_difference_already() -> None:
    """And against the base also a level: the share of wins. Beside another version it is none."""
    won = scored("1", 1.0, scorer="judge", against="base")
    assert [(each.against, each.value) for each in observations([won], lambda *_: "")] == [
        ("level", 1.0),
        ("base", 1.0),
    ]
    lost = scored("1", 0.0, scorer="judge", against="a@2", version=3)
    assert [(each.against, each.value) for each in observations([lost], lambda *_: "")] == [("a@2", -1.0)]
