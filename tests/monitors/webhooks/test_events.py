"""Which decisions are told, and what is said of them."""

import json
from dataclasses import replace

import pytest

from monitors.decisions import ACTS, Decision
from monitors.webhooks.events import EVENTS, body_of, told_of, with_job, with_revision
from tests.monitors.webhooks.rows import ALARM, NOW, PROMOTES, loop_decision

END = {"phase": "tuning", "job": "ftjob-1"}


@pytest.mark.parametrize(
    ("decision", "events"),
    [
        (ALARM, ["alarm"]),
        (replace(ALARM, outcome="better_than_base"), []),
        (replace(ALARM, kind="drift"), []),
        (loop_decision("ask", "asked"), ["approval_wanted"]),
        (loop_decision("retrain", "begun"), ["retrain_begun"]),
        (loop_decision("begin_rollout", "begun", **END), ["retrain_ended", "rollout_begun"]),
        (loop_decision("end_cycle", "rejected", **END), ["retrain_ended"]),
        (loop_decision("end_cycle", "lost", phase="tuning"), ["retrain_ended"]),
        (loop_decision("end_cycle", "given_up", of=3), ["retrain_ended"]),
        (loop_decision("end_cycle", "refused"), []),
        (loop_decision("watch_canary", "adopted"), []),
        (loop_decision("next_step", "step"), []),
        (PROMOTES, ["promoted"]),
        (loop_decision("end_holdback", "held"), []),
        (loop_decision("roll_back", "worse_than_stable"), ["rolled_back"]),
        (loop_decision("roll_back", "undecided"), ["rolled_back"]),
        (loop_decision("roll_back", "given_up", of=3), ["rolled_back"]),
        (loop_decision("stand_back", "person"), ["paused"]),
        (loop_decision("wait", "undecided"), ["undecided"]),
        (loop_decision("wait", "quality_holds"), []),
        (loop_decision("wait", "dropped", of=3, wanted_act="promote"), []),
    ],
    ids=lambda each: f"{each.kind} {each.outcome}" if isinstance(each, Decision) else "",
)
def test_what_is_told_of_a_decision(decision: Decision, events: list[str]) -> None:
    """In this order; everything else is not told."""
    assert [each.event for each in told_of(12, decision)] == events


@pytest.mark.parametrize("act", ACTS)
def test_what_would_be_done_is_not_told(act: str) -> None:
    """In mode advise nothing happens."""
    assert told_of(12, loop_decision(act, f"would_{act}", **END)) == []


def test_every_event_is_of_some_decision() -> None:
    """None is only a name."""
    acts = ("ask", "retrain", "begin_rollout", "promote", "roll_back", "stand_back")
    told = [each.event for act in acts for each in told_of(12, loop_decision(act, "any", **END))]
    told += [each.event for each in told_of(12, ALARM) + told_of(12, loop_decision("wait", "undecided"))]
    assert set(told) == set(EVENTS)


def test_the_end_of_a_job_is_one_event() -> None:
    """However often the rollout that follows is decided anew, which is another event each time."""
    first = told_of(12, loop_decision("begin_rollout", "begun", **END))
    again = told_of(15, loop_decision("begin_rollout", "begun", **END))
    assert first[0].source == again[0].source
    assert first[1].source != again[1].source


def test_changes_are_told_once_they_are_made() -> None:
    """What is only said, or concluded, is told at once."""
    later = {
        act: [each.once_done for each in told_of(12, loop_decision(act, "any"))]
        for act in ("retrain", "begin_rollout", "promote", "roll_back", "ask", "stand_back")
    }
    assert later == {
        "retrain": [True],
        "begin_rollout": [True],
        "promote": [True],
        "roll_back": [True],
        "ask": [False],
        "stand_back": [False],
    }


def test_a_body_is_small_and_leads_to_more() -> None:
    """Of the decision only what is said to people, without its inputs, which may hold anything."""
    secretive = replace(PROMOTES, inputs={**PROMOTES.inputs, "prompt": "my card is 4111"})
    (told,) = told_of(12, secretive)
    body = body_of(told, 12, secretive, NOW)
    assert body == {
        "type": "ostler.promoted",
        "timestamp": "2026-11-20T12:00:00.000Z",
        "data": {
            "adapter": "support",
            "version": 8,
            "decision": 12,
            "outcome": "promoted",
            "reason": "It is not worse.",
            "revision": None,
            "job": None,
            "links": {
                "why": "/admin/v1/adapters/support/why",
                "decision": "/admin/v1/decisions?adapter=support&before=13&limit=1",
                "version": "/admin/v1/adapters/support/versions/8",
            },
        },
    }
    assert "4111" not in json.dumps(body)
    done = with_job(with_revision(body, 31), None)
    assert done == {**body, "data": body["data"] | {"revision": 31}}


def test_jobs_and_questions_have_their_links() -> None:
    """A job that is known at once, one that is known later, and the two answers."""
    (ended, _) = told_of(12, loop_decision("begin_rollout", "begun", **END))
    data = body_of(ended, 12, PROMOTES, NOW)["data"]
    assert (data["job"], data["links"]["job"]) == ("ftjob-1", "/v1/fine_tuning/jobs/ftjob-1")
    (begun,) = told_of(12, loop_decision("retrain", "begun"))
    body = body_of(begun, 12, loop_decision("retrain", "begun"), NOW)
    assert body["data"]["job"] is None
    data = with_job(body, "ftjob-2")["data"]
    assert (data["job"], data["links"]["job"]) == ("ftjob-2", "/v1/fine_tuning/jobs/ftjob-2")
    (asks,) = told_of(12, loop_decision("ask", "asked"))
    links = body_of(asks, 12, loop_decision("ask", "asked"), NOW)["data"]["links"]
    assert links["approve"] == "/admin/v1/adapters/support/approve"
    assert links["reject"] == "/admin/v1/adapters/support/reject"
