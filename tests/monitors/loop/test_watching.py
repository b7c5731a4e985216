"""Whether to retrain: only after an alarm, only with all that the policy asks for, and once for each alarm."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from monitors.loop.decide import decide
from monitors.loop.seen import Approval, JobSeen, Labels, Seen
from monitors.loop.state import LoopState
from monitors.loop.transitions import after
from monitors.loop.watching import conditions
from registry.catalog import Canary, Deployment
from registry.policies import Policy, RetrainRule
from tests.monitors.loop.cases import NOW, POLICY, quality, watched, with_retrain

FRESH = LoopState(cycle=3)


def test_an_alarm_with_enough_labels_begins_a_training() -> None:
    """With the numbers that it was decided from."""
    verdict = decide(watched(), FRESH, POLICY)
    assert (verdict.act, verdict.outcome, verdict.version) == ("retrain", "begun", 1)
    assert "0.700" in verdict.reason
    assert "0.900" in verdict.reason
    assert verdict.inputs["rows"] == 500


@pytest.mark.parametrize(
    ("seen", "outcome"),
    [
        (watched(deployment=None), "nothing_serves"),
        (watched(quality=None), "no_level"),
        (watched(quality=quality(level=None)), "no_level"),
        (watched(quality=quality(alarm=False, ratio=0.99)), "quality_holds"),
    ],
)
def test_without_an_alarm_nothing_begins(seen: Seen, outcome: str) -> None:
    """However many labels there are."""
    verdict = decide(seen, FRESH, POLICY)
    assert (verdict.act, verdict.outcome) == ("wait", outcome)


ROWS = Labels(rows=199, found=199, agreed=True)
LACKING: list[tuple[str, Seen, Policy, LoopState]] = [
    ("canary", watched(deployment=Deployment(3, 1, Canary(2, 0.1))), POLICY, FRESH),
    ("other_job", watched(open_job=JobSeen("job-9", "open")), POLICY, FRESH),
    ("enough_rows", watched(labels=ROWS), POLICY, FRESH),
    ("second_voice", watched(labels=replace(ROWS, rows=200, agreed=False)), POLICY, FRESH),
    ("cool_down", watched(), POLICY, LoopState(tuned_at=NOW - timedelta(hours=23.99))),
    ("budget", watched(spent=10.0), with_retrain(budget=10.0), FRESH),
    ("hours", watched(), with_retrain(hours=(13, 12)), FRESH),
    ("hours", watched(), with_retrain(hours=(8, 12)), FRESH),
]


def _ignoring(policy: Policy) -> Policy:
    """A person's canary is not watched, else that would come first."""
    return Policy("act", policy.quality, policy.retrain, type(policy.rollout)(adopt="ignore"))


@pytest.mark.parametrize(("name", "seen", "policy", "state"), LACKING)
def test_each_condition_alone_keeps_a_training_back(name: str, seen: Seen, policy: Policy, state: LoopState) -> None:
    """The verdict says which, and what would make it hold."""
    verdict = decide(seen, state, _ignoring(policy))
    assert (verdict.act, verdict.outcome) == ("wait", f"no_{name}")
    assert verdict.would_change


@pytest.mark.parametrize(
    ("seen", "policy", "state"),
    [
        (watched(labels=replace(ROWS, rows=200, found=200)), POLICY, FRESH),
        (watched(), POLICY, LoopState(tuned_at=NOW - timedelta(hours=24))),
        (watched(spent=9.99), with_retrain(budget=10.0), FRESH),
        (watched(spent=1e9), POLICY, FRESH),
        (watched(), with_retrain(hours=(12, 13)), FRESH),
        (watched(), with_retrain(hours=(22, 13)), FRESH),
        (watched(), with_retrain(cool_down_h=0.0), LoopState(tuned_at=NOW)),
    ],
)
def test_at_the_edge_of_a_condition_a_training_begins(seen: Seen, policy: Policy, state: LoopState) -> None:
    """Each limit is met by what just meets it; hours may pass midnight."""
    assert decide(seen, state, policy).act == "retrain"


def test_everything_that_is_missing_is_told_at_once() -> None:
    """So that nobody mends one thing only to hear of the next."""
    seen = watched(labels=ROWS, open_job=JobSeen("job-9", "open"), spent=99.0)
    verdict = decide(seen, FRESH, with_retrain(budget=10.0))
    for said in ("job-9", "199 of 200", "99.00 of 10.00"):
        assert said in verdict.reason
    assert "1 more labelled rows" in verdict.would_change
    assert {each.name for each in conditions(seen, FRESH, RetrainRule())} == set(verdict.inputs["conditions"])


def test_rows_over_a_keys_cap_are_told_of() -> None:
    """With the key that sent them, which somebody may trust."""
    labels = Labels(rows=150, found=900, heaviest_key="k7", heaviest_share=0.9, agreed=True)
    verdict = decide(watched(labels=labels), FRESH, POLICY)
    assert "750 more are left out" in verdict.reason
    assert "k7" in verdict.would_change


def test_an_alarm_begins_one_training_and_the_next_needs_evidence_of_its_own() -> None:
    """A false alarm that stands would otherwise begin one after each cool-down, for ever."""
    seen, policy = watched(), with_retrain(cool_down_h=0.0)
    state = after(FRESH, decide(seen, FRESH, policy), seen)
    refused = replace(seen, job=JobSeen("job", "rejected", ended_at=NOW))
    state = after(state, decide(refused, state, policy), refused)
    assert state.phase == "watching"
    waiting = decide(refused, state, policy)
    assert (waiting.act, waiting.outcome) == ("wait", "answered")
    again = replace(refused, quality=quality(alarms=2))
    assert decide(again, state, policy).act == "retrain"


@pytest.mark.parametrize("other", [{"version": 2}, {"scorer": "label"}])
def test_another_versions_alarm_is_not_answered_by_a_training_about_this_one(other: dict[str, Any]) -> None:
    """Nor that of another scorer, though both are a first alarm."""
    seen = watched()
    state = after(FRESH, decide(seen, FRESH, POLICY), seen)
    ended = LoopState(answered=state.answered)
    assert decide(seen, ended, POLICY).outcome == "answered"
    assert decide(watched(quality=quality(**other)), ended, POLICY).act == "retrain"


APPROVED = with_retrain(approval=True)


def test_where_a_person_must_approve_it_is_asked_for_once() -> None:
    """Then waited for, and begun with the answer."""
    asked = decide(watched(), FRESH, APPROVED)
    assert (asked.act, asked.wanted) == ("ask", "retrain")
    open_one = Approval("retrain", 4, "none")
    assert decide(watched(approvals=[open_one]), FRESH, APPROVED).act == "wait"
    approved = replace(open_one, answer="approved", actor="ada")
    begun = decide(watched(approvals=[approved]), FRESH, APPROVED)
    assert begun.act == "retrain"
    assert "ada" in begun.reason


def test_an_answer_counts_for_its_own_cycle() -> None:
    """What was approved of before is no approval of what comes next; nor is that of a promotion."""
    for other in (Approval("retrain", 3, "approved", "ada"), Approval("promote", 4, "approved", "ada")):
        assert decide(watched(approvals=[other]), FRESH, APPROVED).act == "ask"


def test_a_refused_training_is_not_asked_for_again_until_there_is_new_evidence() -> None:
    """The refusal ends the cycle, and the cool-down begins."""
    seen = watched(approvals=[Approval("retrain", 4, "rejected", "ada", "not this week")])
    verdict = decide(seen, FRESH, APPROVED)
    assert (verdict.act, verdict.outcome) == ("end_cycle", "refused")
    assert "not this week" in verdict.reason
    state = after(FRESH, verdict, seen)
    assert (state.phase, state.cycle, state.tuned_at) == ("watching", 4, NOW)
    assert decide(seen, state, APPROVED).outcome == "answered"
    again = decide(replace(seen, quality=quality(alarms=2)), state, APPROVED)
    assert again.outcome == "no_cool_down"


def test_an_approval_does_not_stand_in_for_what_else_is_missing() -> None:
    """It may have been given before the budget was spent."""
    seen = watched(approvals=[Approval("retrain", 4, "approved", "ada")], spent=10.0)
    assert decide(seen, FRESH, with_retrain(approval=True, budget=10.0)).outcome == "no_budget"
