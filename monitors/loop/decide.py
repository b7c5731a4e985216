"""One decision from all that was seen, where the loop is, and the policy. Plain functions: the same in, the same out.

A person's change comes first, then what stops all automatic change, then what is under way.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec

from monitors.loop.rolling_out import hold_back, roll_out
from monitors.loop.seen import JobSeen, Seen
from monitors.loop.state import LoopState, Rollout
from monitors.loop.verdicts import Verdict
from monitors.loop.watching import watch
from registry.catalog import Deployment
from registry.policies import Policy

_PERSON_FIRST = "a person's change comes first, and pauses the loop for the adapter"
_TAKEN_UP = "a person's change comes first; of their own canary, or while the loop is stopped, it needs no pause"
_STOPPED = "nothing changes by itself while it is stopped"
_TUNING = "a version that its gate lets through becomes the canary"


def decide(seen: Seen, state: LoopState, policy: Policy) -> Verdict:
    """What is to be done about an adapter now.

    While `seen.frozen` or `seen.paused` or in mode ``off`` that is nothing but to know what people change meanwhile, so
    that the loop goes on from there; what would be done if nothing were stopped is in the inputs then, as `waits`. In
    mode ``advise`` the caller carries nothing out.
    """
    stopped = stop_of(seen, policy)
    if stopped is None:
        return _free(seen, state, policy)
    changed = _changed_by_a_person(seen, state, is_stopped=True)
    if changed is not None:
        return changed
    if stopped.outcome == "off":
        return stopped
    waits = _free(replace(seen, frozen=None, paused=None), state, policy)
    return replace(stopped, inputs={"waits": msgspec.to_builtins(waits)})


def _free(seen: Seen, state: LoopState, policy: Policy) -> Verdict:
    """What follows where nothing is stopped."""
    changed = _changed_by_a_person(seen, state, is_stopped=False)
    if changed is not None:
        return changed
    match state.phase:
        case "watching":
            return _adopted(seen, policy) or watch(seen, state, policy)
        case "tuning":
            return _after_job(seen, state, policy)
        case "rolling_out":
            return roll_out(seen, state, policy)
        case "holding_back":
            return hold_back(seen, state, policy)


def stop_of(seen: Seen, policy: Policy) -> Verdict | None:
    """What stops all automatic change; None if nothing does."""
    if policy.mode == "off":
        change = "`ostler policy set NAME mode=advise`, or `mode=act`."
        return Verdict("wait", "off", _STOPPED, "The policy's mode is off.", change)
    if seen.frozen is not None:
        return Verdict(
            "wait", "frozen", _STOPPED, f"All automatic change is frozen: {seen.frozen}.", "`ostler unfreeze`."
        )
    if seen.paused is not None:
        return Verdict("wait", "paused", _STOPPED, f"It is paused: {seen.paused}.", "`ostler resume NAME`.")
    return None


def _changed_by_a_person(seen: Seen, state: LoopState, *, is_stopped: bool) -> Verdict | None:
    """A person's change of what the loop has under way, or of what it had made stable."""
    deployment, rollout = seen.deployment, state.rollout
    if deployment is None or seen.changed_by is None or deployment.revision == state.revision:
        return None
    if state.phase == "watching" and not seen.taken_away:
        return None
    done = f"{seen.changed_by} changed the deployment (revision {deployment.revision})"
    inputs = {"revision": deployment.revision, "known": state.revision, "phase": state.phase}
    if rollout is not None and rollout.by_person:
        if _is_on_trial(rollout, deployment):
            return None
        reason = f"{done}. So the trial of version {rollout.version}, which a person had begun, is over."
        return _taken_up(reason, deployment, inputs)
    what = f"{done} while the loop was {state.phase.replace('_', ' ')}. That stands"
    if is_stopped:
        return _taken_up(f"{what}. The loop was stopped, and goes on from there.", deployment, inputs)
    reason = f"{what}, and the loop is paused for the adapter."
    return Verdict("stand_back", "person", _PERSON_FIRST, reason, "`ostler resume NAME`.", inputs, deployment.stable)


def _is_on_trial(rollout: Rollout, deployment: Deployment) -> bool:
    """Whether the canary still is what it was when its watch began, whatever its weight is by now."""
    canary = deployment.canary
    if canary is None or canary.holdback:
        return False
    return (canary.version, deployment.stable) == (rollout.version, rollout.incumbent)


def _taken_up(reason: str, deployment: Deployment, inputs: Mapping[str, Any]) -> Verdict:
    return Verdict("take_up", "person", _TAKEN_UP, reason, "Nothing: it is done now.", inputs, deployment.stable)


def _adopted(seen: Seen, policy: Policy) -> Verdict | None:
    """A canary that a person set, watched from now on; None if there is none, or it is not to be watched."""
    deployment = seen.deployment
    if deployment is None or deployment.canary is None or policy.rollout.adopt == "ignore":
        return None
    canary = deployment.canary
    if canary.holdback:  # the old version, which a person left with its share: nothing new is on trial
        return None
    reason = f"{seen.changed_by or 'Somebody'} gave version {canary.version} {canary.weight:.0%} of the sessions."
    rule = "a canary that a person set is watched, and taken back when it is shown to be worse"
    inputs = {"weight": canary.weight, "revision": deployment.revision}
    return Verdict("watch_canary", "adopted", rule, reason, "The canary is taken away.", inputs, canary.version)


def _after_job(seen: Seen, state: LoopState, policy: Policy) -> Verdict:
    job = seen.job
    if job is None:
        return Verdict("end_cycle", "lost", _TUNING, f"The job {state.job} is gone.", "A new alarm.")
    if job.end == "open":
        return Verdict("wait", "tuning", _TUNING, f"The job {job.id} is under way.", "It ends.", {"job": job.id})
    if job.end == "succeeded" and job.version is not None:
        reason = f"The job {job.id} made version {job.version}, and its gate let it through."
        weight = policy.rollout.steps[0]
        inputs = {"job": job.id, "weight": weight}
        return Verdict(
            "begin_rollout", "begun", _TUNING, reason, "Nothing: it begins now.", inputs, job.version, weight
        )
    return _without_a_version(job)


def _without_a_version(job: JobSeen) -> Verdict:
    what = {"rejected": "was stopped by the gate", "cancelled": "was cancelled"}.get(job.end, "failed")
    said = f": {job.said}" if job.said else "."
    change = "The evidence of a fall is complete once more, after the cool-down."
    inputs = {"job": job.id, "end": job.end}
    return Verdict("end_cycle", job.end, _TUNING, f"The job {job.id} {what}{said}", change, inputs, job.version or 0)
