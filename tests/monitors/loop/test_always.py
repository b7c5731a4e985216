"""What holds whatever is seen, wherever the loop is and whatever the policy says."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import msgspec
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from monitors.loop.decide import decide
from monitors.loop.seen import Approval, Comparison, Held, JobSeen, Labels, Quality, Seen
from monitors.loop.state import Alarms, Learned, LoopState, Rollout
from monitors.loop.transitions import after
from monitors.loop.verdicts import CHANGING
from registry.catalog import Canary, Deployment
from registry.policies import Policy, RetrainRule, RolloutRule
from tests.monitors.loop.cases import NOW

maybe = st.booleans()
counts = st.integers(0, 3_000)
moments = st.floats(0, 400).map(lambda hours: NOW - timedelta(hours=hours))
versions = st.integers(1, 3)
weights = st.sampled_from([0.01, 0.05, 0.1, 0.25, 0.5, 0.9, 1.0])


@st.composite
def helds(draw: st.DrawFn) -> Held:
    """Numbers as a test may give them: without data there is no mean, and nothing is established."""
    n = draw(counts)
    if not n:
        return Held()
    return Held(n, draw(st.floats(-1, 1)), worse=draw(maybe), not_worse=draw(maybe))


comparisons = st.builds(Comparison, helds(), *[st.none() | helds() for _ in range(4)])
jobs = st.builds(
    JobSeen,
    st.just("job-4"),
    st.sampled_from(["open", "succeeded", "rejected", "failed", "cancelled"]),
    st.none() | versions,
    ended_at=st.none() | moments,
)
qualities = st.builds(
    Quality,
    versions,
    st.just("feedback"),
    counts,
    level=st.none() | st.floats(0.1, 1),
    recent=st.none() | st.floats(0, 1),
    alarm=maybe,
    alarms=st.integers(0, 3),
    observed_at=st.none() | moments,
)
alarms = st.builds(Alarms, versions, st.just("feedback"), st.integers(0, 3))
approvals = st.builds(
    Approval,
    st.sampled_from(["retrain", "promote"]),
    st.integers(0, 6),
    st.sampled_from(["none", "approved", "rejected"]),
    st.just("ada"),
)
deployments = st.builds(
    Deployment, st.integers(1, 9), versions, st.none() | st.builds(Canary, versions, weights, maybe)
)
labels = st.builds(Labels, counts, counts, agreed=maybe)
seens = st.builds(
    Seen,
    st.just(NOW),
    st.none() | deployments,
    changed_by=st.none() | st.just("ada"),
    taken_away=maybe,
    frozen=st.none() | st.just("ada: holidays"),
    paused=st.none() | st.just("ada: holidays"),
    quality=st.none() | qualities,
    new_quality=st.none() | qualities,
    labels=labels,
    open_job=st.none() | jobs,
    job=st.none() | jobs,
    spent=st.floats(0, 100),
    comparison=comparisons,
    approvals=st.lists(approvals, max_size=3),
)
policies = st.builds(
    Policy,
    st.sampled_from(["off", "advise", "act"]),
    retrain=st.builds(
        RetrainRule,
        cool_down_h=st.sampled_from([0.0, 24.0]),
        budget=st.none() | st.floats(0, 100),
        hours=st.none() | st.tuples(st.integers(0, 23), st.integers(0, 23)),
        approval=maybe,
    ),
    rollout=st.builds(
        RolloutRule,
        steps=st.lists(weights, min_size=1, max_size=4, unique=True).map(lambda found: tuple(sorted(found))),
        least_sessions=st.integers(1, 200),
        undecided=st.sampled_from(["rollback", "hold"]),
        holdback=st.sampled_from([0.0, 0.05]),
        holdback_h=st.sampled_from([0.0, 72.0]),
        adopt=st.sampled_from(["guard", "ignore"]),
        approval=maybe,
    ),
)


@st.composite
def states(draw: st.DrawFn) -> LoopState:
    """One that the loop may be in: a rollout belongs to the phases that have one."""
    phase: Any = draw(st.sampled_from(["watching", "tuning", "rolling_out", "holding_back"]))
    began, step_began = sorted([draw(moments), draw(moments)])
    step, before = draw(st.integers(0, 3)), draw(counts)
    by_person = phase == "rolling_out" and draw(maybe)
    known = draw(st.none() | alarms) if phase == "holding_back" else None
    rollout = Rollout(draw(versions), draw(versions), began, step_began, by_person, step, before, known)
    return LoopState(
        phase,
        cycle=draw(st.integers(0, 5)),
        since=draw(moments),
        revision=draw(st.integers(0, 9)),
        job="job-4",
        tuned_at=draw(st.none() | moments),
        answered=tuple(draw(st.lists(alarms, max_size=2))),
        labels_until=draw(st.none() | moments),
        learned=tuple(draw(st.lists(st.builds(Learned, versions, moments), max_size=2))),
        rollout=rollout if phase in ("rolling_out", "holding_back") else None,
    )


any_case = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


def reachable(seen: Seen, state: LoopState) -> bool:
    """Whether both can meet: what is under way has a deployment."""
    return seen.deployment is not None or state.phase == "watching"


@any_case
@given(seens, states(), policies)
def test_nothing_is_changed_while_all_is_stopped(seen: Seen, state: LoopState, policy: Policy) -> None:
    """Frozen, paused or off, there is only waiting, but for knowing what a person changed, which is known once."""
    assume(seen.frozen is not None or seen.paused is not None or policy.mode == "off")
    verdict = decide(seen, state, policy)
    then = after(state, verdict, seen)
    if verdict.act == "wait":
        assert then == state
        return
    assert verdict.act == "take_up"
    assert seen.changed_by is not None
    assert decide(seen, then, policy).act == "wait"


@any_case
@given(seens, states(), policies)
def test_a_persons_change_of_what_is_under_way_always_comes_first(seen: Seen, state: LoopState, policy: Policy) -> None:
    """Whatever else is seen, the deployment stays as it is; of what a person had begun it is no news to the loop."""
    assume(state.phase != "watching" and seen.deployment is not None)
    assert seen.deployment is not None
    seen = replace(seen, changed_by="ada", frozen=None, paused=None)
    assume(seen.deployment is not None and seen.deployment.revision != state.revision and policy.mode != "off")
    act = decide(seen, state, policy).act
    if state.rollout is None or not state.rollout.by_person:
        assert act == "stand_back"
    else:
        assert act in ("take_up", "roll_back", "wait")


@any_case
@given(seens, states(), policies)
def test_no_data_never_promotes(seen: Seen, state: LoopState, policy: Policy) -> None:
    """Nor takes the next step: without a pair of sessions nothing goes further."""
    assume(reachable(seen, state))
    seen = replace(seen, comparison=replace(seen.comparison, incumbent=Held()))
    assert decide(seen, state, policy).act not in ("next_step", "promote")


@any_case
@given(seens, states(), policies)
def test_only_what_is_shown_is_promoted(seen: Seen, state: LoopState, policy: Policy) -> None:
    """Not worse than the stable version, and nothing established against it; never a person's canary."""
    assume(reachable(seen, state))
    verdict = decide(seen, state, policy)
    if verdict.act == "promote":
        found = seen.comparison
        assert found.incumbent.not_worse
        limits = (found.incumbent, found.base, found.errors, found.latency, found.cost)
        assert not any(each is not None and each.worse for each in limits)
        assert state.rollout is not None
        assert not state.rollout.by_person


@any_case
@given(seens, states(), policies)
def test_a_weight_only_rises(seen: Seen, state: LoopState, policy: Policy) -> None:
    """Whatever the policy's steps are by now, up to the promotion."""
    assume(reachable(seen, state))
    verdict = decide(seen, state, policy)
    if verdict.act == "next_step":
        assert verdict.weight is not None
        assert seen.deployment is not None
        assert seen.deployment.canary is None or verdict.weight > seen.deployment.canary.weight


@any_case
@given(seens, states(), policies)
def test_a_state_stays_consistent(seen: Seen, state: LoopState, policy: Policy) -> None:
    """A rollout is there just in its phases; cycles only rise; and it can be stored."""
    assume(reachable(seen, state))
    verdict = decide(seen, state, policy)
    then = after(state, verdict, seen)
    assert (then.rollout is not None) == (then.phase in ("rolling_out", "holding_back"))
    assert state.cycle <= then.cycle <= state.cycle + 1
    if then.phase != state.phase:
        assert then.since == NOW
    assert msgspec.json.decode(msgspec.json.encode(then), type=LoopState) == then


@any_case
@given(seens, states(), policies)
def test_a_verdict_says_all_that_is_needed(seen: Seen, state: LoopState, policy: Policy) -> None:
    """A reason, a rule and what would change it, for each; a version for what changes one; JSON for the record."""
    assume(reachable(seen, state))
    verdict = decide(seen, state, policy)
    assert verdict.outcome
    assert verdict.rule
    assert verdict.reason.endswith((".", "!"))
    assert verdict.would_change
    assert msgspec.json.encode(verdict.inputs)
    if verdict.act in CHANGING:
        assert verdict.version > 0
    assert (verdict.act == "ask") == (verdict.wanted is not None)
    if verdict.act in ("begin_rollout", "next_step"):
        assert verdict.weight is not None
        assert 0 < verdict.weight <= 1
