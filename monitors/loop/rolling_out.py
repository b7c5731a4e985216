"""A new version serves a few: further, back, or wait.

It goes back as soon as one test says that it is worse: than the stable version, than the base model, or than a limit
allows. It goes on by steps, each with enough sessions and time. It is promoted after the last step, and only once it is
established that it is not worse than the stable version by the least drop that matters. No data is never a pass.
"""

from datetime import datetime, timedelta

import msgspec

from monitors.loop.approving import PROMOTE, if_approved, refusal
from monitors.loop.seen import Comparison, Held, Seen
from monitors.loop.state import LoopState, Rollout
from monitors.loop.verdicts import Act, Verdict
from monitors.loop.watching import alarms_of
from registry.policies import Policy, RolloutRule

_DONE_NOW = "Nothing: it is done now."


def roll_out(seen: Seen, state: LoopState, policy: Policy) -> Verdict:
    """What becomes of the canary."""
    rollout, rule = _under_way(state), policy.rollout
    worse = _what_is_worse(seen.comparison, rollout, rule)
    if worse is not None:
        return _verdict("roll_back", worse, seen, rollout, policy)
    if rollout.by_person:
        reason = f"{_stands(seen.comparison)} A person set the canary, and takes it further."
        return _verdict("wait", ("watched", reason), seen, rollout, policy, _would_fail(rollout))
    refused = refusal(seen, PROMOTE, state.cycle)
    if refused is not None:
        return _verdict("roll_back", ("refused", refused), seen, rollout, policy)
    onwards = _onwards(seen, rollout, policy)
    if onwards.act == "promote":
        return if_approved(onwards, seen, PROMOTE, state.cycle) if rule.approval else onwards
    if onwards.act == "wait" and seen.now >= undecided_at(rollout, rule):
        return _undecided(seen, rollout, policy)
    return onwards


def hold_back(seen: Seen, state: LoopState, policy: Policy) -> Verdict:
    """What becomes of a promoted version while some sessions are held back from it."""
    rollout, rule = _under_way(state), policy.rollout
    lost = _lost_quality(seen, rollout)
    pairs, mean = _since_promotion(seen.comparison, rollout)
    speaks_for_it = pairs >= rule.least_sessions and mean >= 0
    worse = _what_is_worse(seen.comparison, rollout, rule) or (None if speaks_for_it else lost)
    if worse is not None:
        return _verdict("roll_back", worse, seen, rollout, policy)
    over = rollout.step_began_at + timedelta(hours=rule.holdback_h)
    if seen.now >= over:
        reason = f"{_stands(seen.comparison)} {rule.holdback_h:g} h went by since the promotion."
        return _verdict("end_holdback", ("held", reason), seen, rollout, policy)
    change = f"{_would_fail(rollout)} Or it is {over:%Y-%m-%d %H:%M} UTC."
    if lost is not None:
        alike = f"{mean:+.3f} over the {pairs} sessions since its promotion"
        reason = f"{lost[1]} Version {rollout.incumbent} does no better, so it stays: beside that it has {alike}."
        return _verdict("wait", ("lost_alike", reason), seen, rollout, policy, change)
    return _verdict("wait", ("holds_back", _stands(seen.comparison)), seen, rollout, policy, change)


def undecided_at(rollout: Rollout, rule: RolloutRule) -> datetime:
    """When a rollout that is not decided by then has taken too long.

    A step that begins late, for automatic change was stopped or the sessions came slowly, has its share of the time
    still; so all steps together take twice the time at most, and stops.
    """
    longest = timedelta(hours=rule.longest_h)
    return max(rollout.began_at + longest, rollout.step_began_at + longest / len(rule.steps))


def _under_way(state: LoopState) -> Rollout:
    assert state.rollout is not None, "the phases of a rollout have one"
    return state.rollout


def _what_is_worse(comparison: Comparison, rollout: Rollout, rule: RolloutRule) -> tuple[str, str] | None:
    """What is established against the new version, as an outcome and a reason; None if nothing is."""
    if comparison.errors is not None and comparison.errors.worse:
        more = f"by more than the {rule.errors:.1%} that may ({_share(comparison.errors)} of all so far failed)"
        return "errors", f"Its requests fail more often than version {rollout.incumbent}'s of the same time, {more}."
    if comparison.incumbent.worse:
        return "worse_than_stable", f"It is worse than version {rollout.incumbent}: {_numbers(comparison.incumbent)}."
    if comparison.base is not None and comparison.base.worse:
        return "worse_than_base", f"It is worse than the base model: {_numbers(comparison.base)}."
    if comparison.latency is not None and comparison.latency.worse:
        times = f"{rule.latency_ratio:g} times the stable version's time for a token"
        return "latency", f"{_share(comparison.latency)} of its answers took more than {times}."
    if comparison.cost is not None and comparison.cost.worse:
        times = f"{rule.cost_ratio:g} times the stable version's"
        return "cost", f"{_share(comparison.cost)} of its answers cost more than {times}."
    return None


def _lost_quality(seen: Seen, rollout: Rollout) -> tuple[str, str] | None:
    """An alarm that the new version raised since it was promoted; it may have raised others as a canary."""
    quality = seen.quality
    if quality is None or quality.version != rollout.version or not quality.alarm:
        return None
    if alarms_of(quality) == rollout.alarms:
        return None
    return "lost_quality", f"Version {rollout.version} lost quality while some sessions were held back from it."


def _since_promotion(comparison: Comparison, rollout: Rollout) -> tuple[int, float]:
    """The pairs of sessions since the promotion, and their mean difference; 0 without any.

    They alone tell whether the old version would have lost quality, too: those from before promoted the new one.
    """
    beside = comparison.incumbent
    pairs = beside.n - rollout.sessions_before
    return pairs, (beside.total - rollout.total_before) / pairs if pairs else 0.0


def _onwards(seen: Seen, rollout: Rollout, policy: Policy) -> Verdict:
    """The next step, the promotion, or what is still missing."""
    rule, beside = policy.rollout, seen.comparison.incumbent
    at_step = beside.n - rollout.sessions_before
    over = rollout.step_began_at + timedelta(minutes=rule.least_minutes)
    if at_step < rule.least_sessions or seen.now < over:
        reason = f"{at_step} of {rule.least_sessions} sessions at this step. {_stands(seen.comparison)}"
        change = f"{rule.least_sessions} sessions at this step, and it is {over:%H:%M:%S} UTC. {_would_fail(rollout)}"
        return _verdict("wait", ("gathers", reason), seen, rollout, policy, change)
    if beside.mean is not None and beside.mean <= -policy.quality.drop:
        reason = f"It looks worse, which is not established yet. {_stands(seen.comparison)}"
        return _verdict("wait", ("looks_worse", reason), seen, rollout, policy, _would_pass(beside, policy))
    if _next_weight(seen, rollout, rule) is not None:
        return _verdict("next_step", ("step", _stands(seen.comparison)), seen, rollout, policy)
    if beside.not_worse:
        reason = f"It is not worse than version {rollout.incumbent} by {policy.quality.drop:g}: {_numbers(beside)}."
        return _verdict("promote", ("promoted", reason), seen, rollout, policy)
    return _verdict("wait", ("not_shown", _stands(seen.comparison)), seen, rollout, policy, _would_pass(beside, policy))


def _undecided(seen: Seen, rollout: Rollout, policy: Policy) -> Verdict:
    rule = policy.rollout
    reason = f"Undecided for {rule.longest_h:g} h. {_stands(seen.comparison)}"
    if rule.undecided == "rollback":
        return _verdict("roll_back", ("undecided", reason), seen, rollout, policy)
    change = _would_pass(seen.comparison.incumbent, policy)
    return _verdict("wait", ("undecided", reason), seen, rollout, policy, change)


def _verdict(
    act: Act,
    found: tuple[str, str],
    seen: Seen,
    rollout: Rollout,
    policy: Policy,
    would_change: str = _DONE_NOW,
) -> Verdict:
    outcome, reason = found
    inputs = {"comparison": msgspec.to_builtins(seen.comparison), "step": rollout.step, "by_person": rollout.by_person}
    return Verdict(
        act,
        outcome,
        _rule(policy),
        reason,
        would_change,
        inputs,
        rollout.version,
        _weight(act, seen, rollout, policy.rollout),
    )


def _next_weight(seen: Seen, rollout: Rollout, rule: RolloutRule) -> float | None:
    """The first step above the present weight, whatever the steps were when the rollout began; None after the last."""
    canary = None if seen.deployment is None else seen.deployment.canary
    present = rule.steps[min(rollout.step, len(rule.steps) - 1)] if canary is None else canary.weight
    return next((weight for weight in rule.steps if weight > present), None)


def _weight(act: Act, seen: Seen, rollout: Rollout, rule: RolloutRule) -> float | None:
    """The canary's weight after the act, where it sets one."""
    if act == "next_step":
        return _next_weight(seen, rollout, rule)
    return rule.holdback if act == "promote" and rule.holdback_h > 0 and rule.holdback > 0 else None


def _rule(policy: Policy) -> str:
    rule = policy.rollout
    steps = ", ".join(f"{weight:.0%}" for weight in rule.steps)
    drop, alpha = policy.quality.drop, policy.quality.alpha
    return (
        f"by steps of {steps}, each with {rule.least_sessions} sessions and {rule.least_minutes:g} min; promoted if "
        f"not worse by {drop:g}, taken back if worse, each wrong with probability {alpha:g} at most"
    )


def _stands(comparison: Comparison) -> str:
    beside = comparison.incumbent
    return f"Beside the stable version: {_numbers(beside)}." if beside.n else "No session of it was scored yet."


def _would_fail(rollout: Rollout) -> str:
    return f"It is taken back once it is established that it is worse than version {rollout.incumbent}, or a limit."


def _would_pass(beside: Held, policy: Policy) -> str:
    return (
        f"Evidence of {beside.needed:g} that it is not worse by {policy.quality.drop:g} promotes it "
        f"({beside.evidence_not_worse:.3g} so far), evidence of {beside.needed_worse:g} that it is worse takes it back "
        f"({beside.evidence_worse:.3g} so far)."
    )


def _numbers(held: Held) -> str:
    mean = "no mean" if held.mean is None else f"{held.mean:+.3f}"
    return f"{mean} ({held.low:+.3f} to {held.high:+.3f}) over {held.n} sessions"


def _share(held: Held) -> str:
    return "None" if held.mean is None else f"{held.mean:.1%}"
