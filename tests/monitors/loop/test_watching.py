"""Whether to retrain: only after an alarm, only with all that the policy asks for, and once for each alarm."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from msgspec import structs

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


def test_an_alarm_of_long_ago_begins_no_training_when_its_version_serves_once_more() -> None:
    """Trainings about it and about another version answered it; nothing of it was seen since."""
    seen, state = watched(), FRESH
    for found in (seen, replace(seen, quality=quality(version=2))):
        state = after(state, decide(found, state, POLICY), found)
    back = LoopState(answered=state.answered, tuned_at=NOW - timedelta(days=90))
    assert decide(seen, back, POLICY).outcome == "answered"
    old = quality(alarms=2, observed_at=NOW - timedelta(days=91))
    assert decide(replace(seen, quality=old), back, POLICY).outcome == "answered"
    new = quality(alarms=2, observed_at=NOW - timedelta(days=89))
    assert decide(replace(seen, quality=new), back, POLICY).act == "retrain"


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


def test_a_level_from_which_nothing_can_fall_is_told_of() -> None:
    """No alarm could ever come, so that it is not said that quality holds; with what would help."""
    verdict = decide(watched(quality=quality(alarm=False, level=0.04, recent=0.0)), FRESH, POLICY)
    assert (verdict.act, verdict.outcome) == ("wait", "cannot_fall")
    assert "No alarm can ever come" in verdict.reason
    assert "quality.drop=0.02" in verdict.would_change
    nothing = decide(watched(quality=quality(alarm=False, level=0.0)), FRESH, POLICY)
    assert nothing.outcome == "cannot_fall"
    assert "quality.drop=" not in nothing.would_change
    assert decide(watched(quality=quality(alarm=False, level=0.06)), FRESH, POLICY).outcome == "quality_holds"
    beside = structs.replace(POLICY, quality=structs.replace(POLICY.quality, against="base"))
    assert decide(watched(quality=quality(alarm=False, level=0.04)), FRESH, beside).outcome == "quality_holds"
    assert decide(watched(quality=quality(alarm=False, level=-0.97)), FRESH, beside).outcome == "cannot_fall"


def test_labels_that_cannot_be_used_are_told_of() -> None:
    """With how many there are of each kind, and how prompts come to be captured."""
    labels = Labels(agreed=True, without_prompt=5000, unusable=3, contradicted=2, repeated=1)
    verdict = decide(watched(labels=labels), FRESH, POLICY)
    for said in ("5000 have no captured prompt", "3 are no text", "2 are contradicted", "1 repeat"):
        assert said in verdict.reason
    assert "`ostler monitoring NAME --capture 1`" in verdict.would_change
    assert "--capture" not in decide(watched(labels=ROWS), FRESH, POLICY).would_change


def test_a_budget_without_prices_is_told_of() -> None:
    """It binds nothing; once anything was spent there are prices."""
    policy = with_retrain(budget=50.0)
    verdict = decide(watched(has_price=False), FRESH, policy)
    assert verdict.act == "retrain"
    assert "No price per GPU hour is set" in verdict.inputs["conditions"]["budget"]
    assert "budget" not in verdict.inputs["met"]
    assert "budget" in decide(watched(), FRESH, policy).inputs["met"]
    assert decide(watched(has_price=False, spent=60.0), FRESH, policy).outcome == "no_budget"


def test_how_a_key_is_trusted_can_be_pasted() -> None:
    """Once, with the keys that are trusted already."""
    labels = Labels(rows=0, found=900, heaviest_key="k7", heaviest_share=1.0, lone_voice="k7")
    change = decide(watched(labels=labels), FRESH, with_retrain(trusted_keys=("k1",))).would_change
    assert change.count("`ostler policy set NAME retrain.trusted_keys=k1,k7`") == 1


def test_while_it_is_stopped_it_is_told_what_waits() -> None:
    """What would be done if nothing were stopped, from the same numbers; it is not done."""
    for stopped in ({"paused": "ann"}, {"frozen": "ann"}):
        verdict = decide(watched(**stopped), FRESH, POLICY)
        assert verdict.act == "wait"
        assert (verdict.inputs["waits"]["act"], verdict.inputs["waits"]["inputs"]["rows"]) == ("retrain", 500)
