"""Where the loop is after each act: phase, rollout, revision and clocks fit together."""

from dataclasses import replace
from datetime import timedelta

import msgspec
import pytest

from monitors.loop.seen import Comparison, JobSeen
from monitors.loop.state import Alarms, LoopState, Rollout
from monitors.loop.transitions import after
from monitors.loop.verdicts import Act, Verdict
from registry.catalog import Deployment
from tests.monitors.loop.cases import (
    EARLIER,
    GOOD,
    NOW,
    TUNING,
    quality,
    rolling,
    rollout_state,
    watched,
)


def verdict(act: Act, outcome: str = "any", version: int = 2, weight: float | None = None) -> Verdict:
    """One with that act, of which the rest does not matter."""
    return Verdict(act, outcome, "a rule", "a reason", "a change", version=version, weight=weight)


@pytest.mark.parametrize("act", ["wait", "ask"])
@pytest.mark.parametrize("state", [LoopState(cycle=3), TUNING, rollout_state(), rollout_state("holding_back")])
def test_waiting_changes_nothing(act: Act, state: LoopState) -> None:
    """Not even since when the phase began."""
    assert after(state, verdict(act), watched()) == state


def test_a_training_is_a_cycle_of_its_own() -> None:
    """From the revision that serves, with the labels up to now, in answer to the alarms so far."""
    state = after(LoopState(cycle=3), verdict("retrain", version=1), watched())
    assert (state.phase, state.cycle, state.revision) == ("tuning", 4, 3)
    assert (state.since, state.labels_until) == (NOW, NOW)
    assert state.answered == (Alarms(1, "feedback", 1),)


def test_what_was_answered_is_known_of_each_version() -> None:
    """By its newest alarms; that of another version stays."""
    state = after(LoopState(), verdict("retrain"), watched())
    for found in (quality(version=2), quality(alarms=5), quality(scorer="label")):
        state = after(state, verdict("retrain"), watched(quality=found))
    assert set(state.answered) == {Alarms(2, "feedback", 1), Alarms(1, "feedback", 5), Alarms(1, "label", 1)}


def test_a_rollout_begins_at_the_first_step_of_the_same_cycle() -> None:
    """The training ended when its job did, however late that is seen."""
    ended = NOW - timedelta(hours=2)
    seen = watched(job=JobSeen("job-4", "succeeded", 2, ended_at=ended))
    state = after(TUNING, verdict("begin_rollout", weight=0.05), seen)
    assert (state.phase, state.cycle, state.tuned_at) == ("rolling_out", 4, ended)
    assert state.rollout == Rollout(2, 1, NOW, NOW)


def test_a_step_begins_anew_with_the_sessions_so_far() -> None:
    """The rollout's own beginning stays, by which it is undecided at last."""
    seen = rolling(comparison=Comparison(replace(GOOD, n=73, total=4.5)))
    state = after(rollout_state(step=0), verdict("next_step", weight=0.25), seen)
    assert state.phase == "rolling_out"
    assert state.rollout == Rollout(2, 1, EARLIER, NOW, step=1, sessions_before=73, total_before=4.5)


@pytest.mark.parametrize("act", ["roll_back", "end_holdback", "stand_back", "take_up"])
def test_a_version_learned_what_its_training_had_and_the_one_before_did_not(act: Act) -> None:
    """So labels of a version that went back, or that a person takes away, are used again."""
    begun = after(TUNING, verdict("begin_rollout", weight=0.05), watched())
    held = after(begun, verdict("promote", weight=0.05), rolling())
    state = after(held, verdict(act), watched())
    assert (state.learned_by(1), state.learned_by(2)) == (None, EARLIER)
    third = msgspec.structs.replace(TUNING, learned=state.learned, labels_until=NOW)
    state = after(third, verdict("begin_rollout", version=3, weight=0.05), watched())
    assert (state.learned_by(1), state.learned_by(2), state.learned_by(3)) == (None, EARLIER, NOW)


def test_what_was_said_against_the_old_version_is_answered_by_the_promotion() -> None:
    """Alarms of the time of the training and the rollout are old when it serves once more."""
    state = after(rollout_state(), verdict("promote", weight=0.05), rolling(quality=quality(alarms=4)))
    assert state.answered == (Alarms(1, "feedback", 4),)


def test_the_time_of_a_holdback_begins_with_the_promotion() -> None:
    """The version and the one that it replaced stay known."""
    state = after(rollout_state(), verdict("promote", weight=0.05), rolling())
    assert state.rollout is not None
    assert (state.rollout.version, state.rollout.incumbent, state.rollout.step_began_at) == (2, 1, NOW)
    assert state.since == NOW


@pytest.mark.parametrize("act", ["roll_back", "end_holdback", "take_up", "stand_back"])
@pytest.mark.parametrize("phase", ["rolling_out", "holding_back"])
def test_what_is_over_leaves_nothing_under_way(act: Act, phase: str) -> None:
    """The stable version is watched from now on, and no cycle is counted twice."""
    state = after(rollout_state(phase), verdict(act), watched())
    assert (state.phase, state.rollout, state.since, state.cycle) == ("watching", None, NOW, 4)


def test_standing_back_knows_the_persons_revision() -> None:
    """So that it is not seen as a new one at the next look."""
    seen = rolling(deployment=Deployment(12, 1), changed_by="ada")
    assert after(rollout_state(), verdict("stand_back"), seen).revision == 12


@pytest.mark.parametrize("act", ["stand_back", "take_up"])
def test_a_training_that_a_person_ends_is_followed_by_the_cool_down(act: Act) -> None:
    """As any other; what ended before does not end once more."""
    seen = watched(deployment=Deployment(12, 1), changed_by="ada")
    state = after(TUNING, verdict(act), seen)
    assert (state.phase, state.tuned_at) == ("watching", NOW)
    before = msgspec.structs.replace(rollout_state(), tuned_at=EARLIER)
    assert after(before, verdict(act), seen).tuned_at == EARLIER


@pytest.mark.parametrize(
    "state", [LoopState(cycle=3), TUNING, rollout_state(by_person=True), rollout_state("holding_back")]
)
def test_a_state_survives_json(state: LoopState) -> None:
    """It is stored between two looks."""
    assert msgspec.json.decode(msgspec.json.encode(state), type=LoopState) == state
