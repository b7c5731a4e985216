"""What comes first: what stops all automatic change, then a person's change, then what is under way."""

from dataclasses import replace
from datetime import timedelta

import pytest
from msgspec import structs

from monitors.loop.decide import decide
from monitors.loop.seen import Approval, Comparison, JobSeen, Seen
from monitors.loop.state import LoopState
from monitors.loop.transitions import after
from registry.catalog import Canary, Deployment, Shadow
from tests.monitors.loop.cases import (
    NOW,
    POLICY,
    TUNING,
    WORSE,
    held_back,
    rolling,
    rollout_state,
    watched,
    with_retrain,
    with_rollout,
)

UNDER_WAY: list[tuple[Seen, LoopState]] = [
    (watched(), LoopState()),
    (replace(watched(), job=JobSeen("job-4", "succeeded", 2)), TUNING),
    (rolling(), rollout_state()),
    (rolling(comparison=Comparison(WORSE)), rollout_state()),
    (held_back(comparison=Comparison(WORSE)), rollout_state("holding_back")),
]


@pytest.mark.parametrize(("seen", "state"), UNDER_WAY)
def test_while_it_is_stopped_nothing_is_done(seen: Seen, state: LoopState) -> None:
    """Neither frozen nor paused nor in mode `off`, also where the same would be done at once without it."""
    assert decide(seen, state, POLICY).act != "wait"
    stopped = [
        decide(replace(seen, frozen="ada: holidays"), state, POLICY),
        decide(replace(seen, paused="ada: I look at it"), state, POLICY),
        decide(seen, state, structs.replace(POLICY, mode="off")),
    ]
    assert [each.outcome for each in stopped] == ["frozen", "paused", "off"]
    assert {each.act for each in stopped} == {"wait"}
    assert "holidays" in stopped[0].reason
    assert "I look at it" in stopped[1].reason


def test_advice_is_what_would_be_done() -> None:
    """The same verdict, which the caller does not carry out."""
    advise = structs.replace(POLICY, mode="advise")
    for seen, state in UNDER_WAY:
        assert decide(seen, state, advise) == decide(seen, state, POLICY)


@pytest.mark.parametrize(("seen", "state"), UNDER_WAY[1:])
def test_a_persons_change_of_what_is_under_way_makes_the_loop_stand_back(seen: Seen, state: LoopState) -> None:
    """Whatever was about to be done; the state of the deployment stays as the person left it."""
    assert seen.deployment is not None
    changed = replace(seen, deployment=replace(seen.deployment, revision=9), changed_by="ada")
    verdict = decide(changed, state, POLICY)
    assert (verdict.act, verdict.outcome) == ("stand_back", "person")
    assert "ada" in verdict.reason
    stood = after(state, verdict, changed)
    assert stood.revision == 9
    assert decide(replace(changed, job=None), stood, POLICY).act != "stand_back"
    ended = replace(changed, deployment=Deployment(9, 1))
    stood = after(state, decide(ended, state, POLICY), ended)
    assert (stood.phase, stood.revision, stood.rollout) == ("watching", 9, None)


@pytest.mark.parametrize(("seen", "state"), UNDER_WAY[1:])
def test_a_persons_change_while_it_is_stopped_needs_no_second_resume(seen: Seen, state: LoopState) -> None:
    """Paused, frozen or in mode `off`: the loop knows of it, and goes on from there when nothing stops it any more."""
    person = replace(seen, deployment=Deployment(9, 1), changed_by="ada")
    off = structs.replace(POLICY, mode="off")
    stops = [(replace(person, paused="ada"), POLICY), (replace(person, frozen="ada"), POLICY), (person, off)]
    for stopped, policy in stops:
        verdict = decide(stopped, state, policy)
        assert (verdict.act, verdict.outcome) == ("take_up", "person")
        assert "ada" in verdict.reason
        then = after(state, verdict, stopped)
        assert (then.phase, then.revision, then.rollout) == ("watching", 9, None)
        assert decide(stopped, then, policy).act == "wait"
        assert decide(person, then, POLICY).act != "stand_back"


def test_what_a_person_took_away_while_it_was_stopped_needs_no_second_resume() -> None:
    """Though nothing was under way."""
    taken = watched(changed_by="ada", deployment=Deployment(9, 1), taken_away=True, paused="ada")
    state = LoopState(revision=8)
    verdict = decide(taken, state, POLICY)
    assert verdict.act == "take_up"
    assert decide(replace(taken, paused=None, taken_away=False), after(state, verdict, taken), POLICY).act == "retrain"


def test_a_holdback_that_a_person_left_as_it_was_goes_on_when_the_loop_does() -> None:
    """Else its share would stay on the old version for ever, and keep each training back."""
    state = rollout_state("holding_back", step_began_at=NOW - timedelta(days=9))
    changed = held_back(changed_by="ada")
    assert changed.deployment is not None
    changed = replace(changed, deployment=replace(changed.deployment, revision=9, shadow=Shadow(None, 0.1)))
    verdict = decide(changed, state, POLICY)
    assert verdict.act == "stand_back"
    stood = after(state, verdict, changed)
    assert (stood.phase, stood.revision, stood.rollout) == ("holding_back", 9, state.rollout)
    assert decide(changed, stood, POLICY).act == "end_holdback"


@pytest.mark.parametrize(("seen", "state"), UNDER_WAY[1:])
def test_the_loops_own_change_is_nobody_elses(seen: Seen, state: LoopState) -> None:
    """A revision that followed from a decision, though its number was not noted before the monitor was killed."""
    assert seen.deployment is not None
    own = replace(seen, deployment=replace(seen.deployment, revision=9), changed_by=None)
    assert decide(own, state, POLICY).act != "stand_back"


def test_a_persons_change_while_nothing_is_under_way_is_everyday() -> None:
    """But taking away what the loop had made stable is an answer to the loop."""
    seen = watched(changed_by="ada", deployment=Deployment(9, 1, shadow=Shadow(None, 0.1)))
    assert decide(seen, LoopState(revision=8), POLICY).act == "retrain"
    taken = replace(seen, taken_away=True)
    verdict = decide(taken, LoopState(revision=8), POLICY)
    assert verdict.act == "stand_back"
    assert decide(taken, after(LoopState(revision=8), verdict, taken), POLICY).act == "retrain"


def test_a_persons_promotion_before_the_training_is_no_change_of_it() -> None:
    """The first cycle of every adapter begins after one: the loop goes on from the revision that it found."""
    seen = watched(changed_by="ada")
    state = after(LoopState(), decide(seen, LoopState(), POLICY), seen)
    assert state.phase == "tuning"
    waiting = decide(replace(seen, job=JobSeen("job-1", "open")), state, POLICY)
    assert (waiting.act, waiting.outcome) == ("wait", "tuning")


CANARY = Deployment(5, 1, Canary(2, 0.1))


def test_a_persons_canary_is_watched_from_then_on() -> None:
    """Before anything is retrained."""
    seen = watched(deployment=CANARY)
    verdict = decide(seen, LoopState(cycle=3), POLICY)
    assert (verdict.act, verdict.version) == ("watch_canary", 2)
    state = after(LoopState(cycle=3), verdict, seen)
    assert (state.phase, state.cycle, state.revision) == ("rolling_out", 3, 5)
    assert state.rollout is not None
    assert (state.rollout.version, state.rollout.incumbent, state.rollout.by_person) == (2, 1, True)
    assert decide(seen, state, POLICY).outcome == "watched"


OWN = after(
    LoopState(cycle=3), decide(watched(deployment=CANARY), LoopState(cycle=3), POLICY), watched(deployment=CANARY)
)


def test_a_person_who_raises_their_own_canary_keeps_its_guard() -> None:
    """Nothing is paused, and what was seen of it so far counts still."""
    raised = rolling(deployment=Deployment(6, 1, Canary(2, 0.5), Shadow(None, 0.1)), changed_by="ada")
    assert decide(raised, OWN, POLICY).outcome == "watched"
    worse = replace(raised, comparison=Comparison(WORSE))
    assert decide(worse, OWN, POLICY).act == "roll_back"


@pytest.mark.parametrize(
    "then",
    [
        Deployment(6, 2),
        Deployment(6, 1),
        Deployment(6, 1, Canary(3, 0.1)),
        Deployment(6, 2, Canary(1, 0.1, holdback=True)),
    ],
)
def test_a_person_who_promotes_or_ends_their_own_canary_ends_its_watch(then: Deployment) -> None:
    """Without a pause: nothing of the loop's was changed; another canary of theirs is watched next."""
    ended = watched(deployment=then, changed_by="ada")
    verdict = decide(ended, OWN, POLICY)
    assert (verdict.act, verdict.outcome) == ("take_up", "person")
    state = after(OWN, verdict, ended)
    assert (state.phase, state.cycle, state.revision, state.tuned_at) == ("watching", 3, 6, None)
    following = decide(ended, state, POLICY).act
    assert (following == "watch_canary") == (then.canary is not None and not then.canary.holdback)
    assert following != "stand_back"


def test_a_training_that_was_approved_of_begins_after_a_persons_canary_too() -> None:
    """Its watch is no cycle of its own; and a promotion that was refused before is none of its."""
    policy = with_retrain(approval=True)
    said = [Approval("retrain", 4, "approved", "eve"), Approval("promote", 3, "rejected", "eve")]
    assert decide(rolling(deployment=CANARY, approvals=said), OWN, policy).outcome == "watched"
    ended = watched(changed_by="ada", deployment=Deployment(6, 1), approvals=said)
    state = after(OWN, decide(ended, OWN, policy), ended)
    verdict = decide(ended, state, policy)
    assert verdict.act == "retrain"
    assert "eve" in verdict.reason


def test_a_persons_canary_is_left_alone_where_the_policy_says_so() -> None:
    """Nothing replaces it either: no training begins beside it."""
    verdict = decide(watched(deployment=CANARY), LoopState(), with_rollout(adopt="ignore"))
    assert (verdict.act, verdict.outcome) == ("wait", "no_canary")


def test_an_old_version_that_was_left_held_back_is_no_canary_on_trial() -> None:
    """Taking 'it' back would take back the version that replaced it."""
    deployment = Deployment(9, 2, Canary(1, 0.05, holdback=True))
    verdict = decide(watched(deployment=deployment), LoopState(revision=9), POLICY)
    assert (verdict.act, verdict.outcome) == ("wait", "no_canary")


def test_a_job_under_way_is_waited_for() -> None:
    """However long it takes."""
    seen = watched(job=JobSeen("job-4", "open"), now=NOW + timedelta(days=9))
    assert decide(seen, TUNING, POLICY).outcome == "tuning"


def test_a_version_that_its_gate_let_through_becomes_the_canary_at_the_first_weight() -> None:
    """The rollout begins with the version that serves now as its measure."""
    seen = watched(job=JobSeen("job-4", "succeeded", 2, ended_at=NOW - timedelta(minutes=3)))
    verdict = decide(seen, TUNING, POLICY)
    assert (verdict.act, verdict.version, verdict.weight) == ("begin_rollout", 2, 0.05)
    state = after(TUNING, verdict, seen)
    assert (state.phase, state.cycle, state.tuned_at) == ("rolling_out", 4, NOW - timedelta(minutes=3))
    assert state.rollout is not None
    assert (state.rollout.version, state.rollout.incumbent, state.rollout.step) == (2, 1, 0)


@pytest.mark.parametrize(
    ("job", "outcome", "said"),
    [
        (JobSeen("job-4", "rejected", 2, "quality is not better"), "rejected", "the gate: quality is not better"),
        (JobSeen("job-4", "failed", said="out of memory"), "failed", "out of memory"),
        (JobSeen("job-4", "cancelled"), "cancelled", "was cancelled"),
        (JobSeen("job-4", "succeeded", None), "succeeded", "failed"),
        (None, "lost", "job-4"),
    ],
)
def test_a_job_without_a_version_ends_the_cycle(job: JobSeen | None, outcome: str, said: str) -> None:
    """The stable version is watched again; the cool-down begins when the job ended."""
    seen = watched(job=job and replace(job, ended_at=NOW - timedelta(minutes=3)))
    verdict = decide(seen, TUNING, POLICY)
    assert (verdict.act, verdict.outcome) == ("end_cycle", outcome)
    assert said in verdict.reason
    state = after(TUNING, verdict, seen)
    assert (state.phase, state.cycle) == ("watching", 4)
    assert len(state.answered) == (outcome == "cancelled")  # what a person ended begins no more by what came meanwhile
    assert state.tuned_at == (NOW if job is None else NOW - timedelta(minutes=3))
