"""What becomes of a canary: back for whatever is established against it, on by steps, promoted only when shown."""

from dataclasses import replace
from datetime import timedelta

import pytest

from monitors.loop.decide import decide
from monitors.loop.evidence import Beside
from monitors.loop.seen import Approval, Comparison, Held, Seen
from monitors.loop.state import Alarms
from monitors.loop.transitions import after
from registry.catalog import Canary, Deployment
from registry.policies import Policy
from tests.monitors.loop.cases import (
    EARLIER,
    GOOD,
    NOW,
    OPEN,
    OVER,
    POLICY,
    WORSE,
    held_back,
    quality,
    rolling,
    rollout_state,
    with_rollout,
)

AGAINST = [
    ("errors", Comparison(GOOD, errors=OVER)),
    ("worse_than_stable", Comparison(WORSE)),
    ("worse_than_base", Comparison(GOOD, base=WORSE)),
    ("latency", Comparison(GOOD, latency=OVER)),
    ("cost", Comparison(GOOD, cost=OVER)),
]


@pytest.mark.parametrize(("outcome", "comparison"), AGAINST)
@pytest.mark.parametrize("phase", ["rolling_out", "holding_back"])
def test_each_thing_that_is_established_against_it_takes_it_back(
    outcome: str, comparison: Comparison, phase: str
) -> None:
    """At any step and while sessions are held back, though all else speaks for it; the reason has the numbers."""
    seen = (rolling if phase == "rolling_out" else held_back)(comparison=comparison)
    verdict = decide(seen, rollout_state(phase), POLICY)
    assert (verdict.act, verdict.outcome, verdict.version) == ("roll_back", outcome, 2)
    assert verdict.inputs["comparison"]["incumbent"]["n"] == 500
    assert any(number in verdict.reason for number in ("60.0%", "-0.200"))
    assert after(rollout_state(phase), verdict, seen).phase == "watching"


@pytest.mark.parametrize(("outcome", "comparison"), AGAINST)
def test_a_persons_canary_is_taken_back_for_the_same(outcome: str, comparison: Comparison) -> None:
    """It is watched as any other."""
    verdict = decide(rolling(comparison=comparison), rollout_state(by_person=True), POLICY)
    assert (verdict.act, verdict.outcome) == ("roll_back", outcome)


def test_a_persons_canary_goes_no_further_by_itself() -> None:
    """However good it is, and however long it takes."""
    long_ago = NOW - timedelta(days=100)
    state = rollout_state(by_person=True, began_at=long_ago, step_began_at=long_ago)
    verdict = decide(rolling(), state, POLICY)
    assert (verdict.act, verdict.outcome) == ("wait", "watched")


def test_an_error_burst_takes_it_back_before_any_score_is_there() -> None:
    """And before the least time at the step is over."""
    seen = rolling(comparison=Comparison(errors=OVER))
    assert decide(seen, rollout_state(step_began_at=NOW), POLICY).outcome == "errors"


@pytest.mark.parametrize(
    ("n", "before", "began", "act"),
    [
        (149, 100, EARLIER, "wait"),
        (150, 100, EARLIER, "next_step"),
        (150, 100, NOW - timedelta(minutes=9.99), "wait"),
        (150, 100, NOW - timedelta(minutes=10), "next_step"),
    ],
)
def test_a_step_needs_its_sessions_and_its_time(n: int, before: int, began: object, act: str) -> None:
    """Sessions of steps before do not count."""
    state = rollout_state(step=0, step_began_at=began, sessions_before=before)
    seen = rolling(deployment=Deployment(7, 1, Canary(2, 0.05)), comparison=Comparison(replace(GOOD, n=n)))
    verdict = decide(seen, state, POLICY)
    assert verdict.act == act
    assert verdict.weight == (0.25 if act == "next_step" else None)


def test_what_looks_worse_goes_no_further_though_it_is_not_established() -> None:
    """A mean that lies below by the least drop that matters."""
    seen = rolling(deployment=Deployment(7, 1, Canary(2, 0.05)), comparison=Comparison(replace(OPEN, mean=-0.05)))
    verdict = decide(seen, rollout_state(step=0), POLICY)
    assert (verdict.act, verdict.outcome) == ("wait", "looks_worse")
    seen = replace(seen, comparison=Comparison(replace(OPEN, mean=-0.049)))
    assert decide(seen, rollout_state(step=0), POLICY).act == "next_step"


def test_it_goes_through_every_step_and_is_promoted_after_the_last() -> None:
    """Also where it was shown to be good at the first step already."""
    state, deployment, weights = rollout_state(step=0), Deployment(7, 1, Canary(2, 0.05)), []
    for number in range(1, 4):
        now = NOW + number * timedelta(hours=1)
        seen = Seen(now, deployment, comparison=Comparison(replace(GOOD, n=number * 50)))
        verdict = decide(seen, state, POLICY)
        weights.append((verdict.act, verdict.weight))
        state = after(state, verdict, seen)
        assert verdict.weight is not None
        deployment = Deployment(7, 1, Canary(2, verdict.weight))
    assert weights == [("next_step", 0.25), ("next_step", 0.5), ("promote", 0.05)]
    assert state.phase == "holding_back"


def test_steps_that_change_on_the_way_never_lower_the_weight() -> None:
    """The next step is the first one above the present weight, whichever number it has by now."""
    policy = with_rollout(steps=(0.01, 0.02, 0.1, 0.6))
    seen = rolling(deployment=Deployment(7, 1, Canary(2, 0.25)))
    assert decide(seen, rollout_state(step=1), policy).weight == 0.6
    lower = with_rollout(steps=(0.01, 0.02))
    assert decide(seen, rollout_state(step=1), lower).act == "promote"


def test_it_is_promoted_only_once_it_is_shown_to_be_no_worse() -> None:
    """A mean that looks good is not enough."""
    better = Held(n=500, mean=0.1, low=-0.01, high=0.21, evidence_not_worse=19.9)
    verdict = decide(rolling(comparison=Comparison(better)), rollout_state(), POLICY)
    assert (verdict.act, verdict.outcome) == ("wait", "not_shown")
    assert "19.9" in verdict.would_change
    assert "20" in verdict.would_change
    assert decide(rolling(comparison=Comparison(replace(better, not_worse=True))), rollout_state(), POLICY).act == (
        "promote"
    )


def test_what_was_shown_to_be_no_worse_by_much_and_yet_worse_goes_back() -> None:
    """Both can be established of a version that is worse by less than matters."""
    both = replace(WORSE, not_worse=True)
    assert decide(rolling(comparison=Comparison(both)), rollout_state(), POLICY).act == "roll_back"


@pytest.mark.parametrize("comparison", [Comparison(), Comparison(base=Held(), errors=Held(), latency=Held())])
def test_no_data_is_never_a_pass(comparison: Comparison) -> None:
    """Without sessions it waits, and goes back when the time is over."""
    seen = rolling(comparison=comparison)
    assert decide(seen, rollout_state(step=0), POLICY).act == "wait"
    long_ago = NOW - timedelta(hours=168)
    assert decide(seen, rollout_state(began_at=long_ago, step_began_at=long_ago), POLICY).outcome == "undecided"


def test_what_stays_undecided_goes_back_or_stays_as_the_policy_says() -> None:
    """At the end of the time, and not before."""
    seen = rolling(comparison=Comparison(OPEN))
    long_ago = NOW - timedelta(hours=168)
    a_third = NOW - timedelta(hours=168 / 3)
    just_before = rollout_state(began_at=long_ago + timedelta(seconds=1), step_began_at=a_third)
    assert decide(seen, just_before, POLICY).outcome == "not_shown"
    over = rollout_state(began_at=long_ago, step_began_at=a_third)
    assert decide(seen, over, POLICY).act == "roll_back"
    held = decide(seen, over, with_rollout(undecided="hold"))
    assert (held.act, held.outcome) == ("wait", "undecided")
    assert decide(rolling(), over, with_rollout(undecided="hold")).act == "promote"


def test_a_version_that_was_shown_in_time_is_promoted_though_the_time_is_over() -> None:
    """What is decided is not undecided; nor is what may take its next step."""
    old = NOW - timedelta(days=30)
    assert decide(rolling(), rollout_state(began_at=old), POLICY).act == "promote"
    first = rolling(deployment=Deployment(7, 1, Canary(2, 0.05)))
    assert decide(first, rollout_state(began_at=old, step=0), POLICY).act == "next_step"


def test_a_step_that_begins_late_has_its_share_of_the_time() -> None:
    """It was frozen up to there, say: what spoke for it then is not undecided at the next look. Nor is it for ever."""
    old = rollout_state(began_at=NOW - timedelta(hours=169), step=0)
    first = rolling(deployment=Deployment(7, 1, Canary(2, 0.05)))
    verdict = decide(first, old, POLICY)
    assert verdict.act == "next_step"
    state = after(old, verdict, first)
    second = replace(first, deployment=Deployment(7, 1, Canary(2, 0.25)))
    for hours, outcome in ((0.001, "gathers"), (55.9, "gathers"), (56, "undecided")):
        found = decide(replace(second, now=NOW + timedelta(hours=hours)), state, POLICY)
        assert found.outcome == outcome, hours


@pytest.mark.parametrize(
    ("policy", "weight", "phase"),
    [
        (POLICY, 0.05, "holding_back"),
        (with_rollout(holdback=0.0), None, "watching"),
        (with_rollout(holdback_h=0.0), None, "watching"),
    ],
)
def test_a_share_is_held_back_after_the_promotion_if_the_policy_says_so(
    policy: Policy, weight: float | None, phase: str
) -> None:
    """Else the loop watches at once."""
    verdict = decide(rolling(), rollout_state(), policy)
    assert (verdict.act, verdict.weight) == ("promote", weight)
    state = after(rollout_state(), verdict, rolling())
    assert state.phase == phase
    assert (state.rollout is None) == (phase == "watching")


def test_a_promotion_waits_for_approval_where_the_policy_asks_for_it() -> None:
    """For any time, until somebody answers; a refusal takes the canary back."""
    policy = with_rollout(approval=True)
    old = rollout_state(began_at=NOW - timedelta(days=30))
    asked = decide(rolling(), old, policy)
    assert (asked.act, asked.wanted) == ("ask", "promote")
    waiting = decide(rolling(approvals=[Approval("promote", 4, "none")]), old, policy)
    assert (waiting.act, waiting.weight) == ("wait", None)
    approved = rolling(approvals=[Approval("promote", 4, "approved", "ada")])
    assert decide(approved, old, policy).act == "promote"
    refused = rolling(approvals=[Approval("promote", 4, "rejected", "ada", "not on a Friday")])
    verdict = decide(refused, old, policy)
    assert (verdict.act, verdict.outcome) == ("roll_back", "refused")
    assert "not on a Friday" in verdict.reason


def test_an_approved_version_goes_back_if_it_is_shown_to_be_worse_before_it_is_promoted() -> None:
    """An approval is no proof."""
    seen = rolling(comparison=Comparison(WORSE), approvals=[Approval("promote", 4, "approved", "ada")])
    assert decide(seen, rollout_state(), with_rollout(approval=True)).act == "roll_back"


def test_the_share_is_held_back_for_its_time() -> None:
    """Then the rest follows."""
    since = rollout_state("holding_back", step_began_at=NOW - timedelta(hours=71.9))
    assert decide(held_back(), since, POLICY).act == "wait"
    over = rollout_state("holding_back", step_began_at=NOW - timedelta(hours=72))
    verdict = decide(held_back(), over, POLICY)
    assert verdict.act == "end_holdback"
    assert after(over, verdict, held_back()).rollout is None


BELOW = Comparison(replace(GOOD, mean=-0.01, total=-5.0))


def test_an_alarm_about_the_promoted_version_takes_it_back_while_sessions_are_held_back() -> None:
    """An alarm about another version does not."""
    state = rollout_state("holding_back")
    about = held_back(quality=quality(version=2), comparison=BELOW)
    assert decide(about, state, POLICY).outcome == "lost_quality"
    for other in (quality(version=1), quality(version=2, alarm=False)):
        assert decide(held_back(quality=other, comparison=BELOW), state, POLICY).outcome == "holds_back"


def test_an_alarm_that_stood_at_the_promotion_takes_nothing_back() -> None:
    """The version raised it as a canary, and was promoted all the same; only one more is news."""
    rolled = rolling(quality=quality(), new_quality=quality(version=2, alarms=3))
    state = after(rollout_state(), decide(rolled, rollout_state(), POLICY), rolled)
    assert state.rollout is not None
    assert state.rollout.alarms == Alarms(2, "feedback", 3)
    seen = held_back(quality=quality(version=2, alarms=3), comparison=BELOW)
    assert decide(seen, state, POLICY).outcome == "holds_back"
    again = replace(seen, quality=quality(version=2, alarms=4))
    assert decide(again, state, POLICY).outcome == "lost_quality"


def test_a_better_version_that_lost_quality_is_not_rolled_back_to_the_worse_one() -> None:
    """It is told of, and the holdback ends in its time. What does not speak for it is enough to go back, though."""
    state = rollout_state("holding_back")
    better = Held(n=500, mean=0.15, low=0.1, high=0.2, total=75.0, not_worse=True)
    alarm = quality(version=2, level=0.85, recent=0.75)
    verdict = decide(held_back(quality=alarm, comparison=Comparison(better)), state, POLICY)
    assert (verdict.act, verdict.outcome) == ("wait", "lost_alike")
    assert "lost quality" in verdict.reason
    assert "+0.150" in verdict.reason
    over = rollout_state("holding_back", step_began_at=NOW - timedelta(hours=72))
    assert decide(held_back(quality=alarm, comparison=Comparison(better)), over, POLICY).act == "end_holdback"
    for unsure in (replace(better, n=49), replace(better, total=-0.5), Held()):
        found = decide(held_back(quality=alarm, comparison=Comparison(unsure)), state, POLICY)
        assert (found.act, found.outcome) == ("roll_back", "lost_quality")


@pytest.mark.parametrize(
    ("sessions", "difference", "outcome"),
    [(0, 0.0, "lost_quality"), (49, 0.3, "lost_quality"), (50, 0.0, "lost_alike"), (60, -0.01, "lost_quality")],
)
def test_what_spoke_for_a_version_before_its_promotion_says_nothing_of_what_it_lost_since(
    sessions: int, difference: float, outcome: str
) -> None:
    """However much of it there is: those of since are enough for a step, and no worse on average, or it goes back."""
    beside = Beside.begin(drop=POLICY.quality.drop, alpha=POLICY.quality.alpha)
    for _ in range(600):
        beside.update(0.08)
    rolled = rolling(comparison=Comparison(beside.held()))
    verdict = decide(rolled, rollout_state(), POLICY)
    assert verdict.act == "promote"
    state = after(rollout_state(), verdict, rolled)
    for _ in range(sessions):
        beside.update(difference)
    seen = held_back(quality=quality(version=2), comparison=Comparison(beside.held()))
    found = decide(seen, state, POLICY)
    assert (found.act, found.outcome) == ("wait" if outcome == "lost_alike" else "roll_back", outcome)
    assert seen.comparison.incumbent.mean is not None
    assert seen.comparison.incumbent.mean > 0
