"""One decision from all that was seen, where the loop is, and the policy. Plain functions: the same in, the same out.

A person's change comes first, then what stops all automatic change, then what is under way.
"""

from monitors.loop.rolling_out import hold_back, roll_out
from monitors.loop.seen import JobSeen, Seen
from monitors.loop.state import LoopState
from monitors.loop.verdicts import Verdict
from monitors.loop.watching import watch
from registry.policies import Policy

_PERSON_FIRST = "a person's change comes first, and pauses the loop for the adapter"
_STOPPED = "nothing changes by itself while it is stopped"
_TUNING = "a version that its gate lets through becomes the canary"


def decide(seen: Seen, state: LoopState, policy: Policy) -> Verdict:
    """What is to be done about an adapter now.

    While `seen.frozen` or `seen.paused` or in mode ``off`` that is nothing; in mode ``advise`` the caller carries
    nothing out.
    """
    stopped = _stopped(seen, policy)
    if stopped is not None:
        return stopped
    changed = _changed_by_a_person(seen, state)
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


def _stopped(seen: Seen, policy: Policy) -> Verdict | None:
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


def _changed_by_a_person(seen: Seen, state: LoopState) -> Verdict | None:
    """A person's change of what the loop has under way, or of what it had made stable."""
    deployment = seen.deployment
    if deployment is None or seen.changed_by is None or deployment.revision == state.revision:
        return None
    if state.phase == "watching" and not seen.taken_away:
        return None
    reason = (
        f"{seen.changed_by} changed the deployment (revision {deployment.revision}) while the loop was "
        f"{state.phase.replace('_', ' ')}. That stands, and the loop is paused for the adapter."
    )
    inputs = {"revision": deployment.revision, "known": state.revision, "phase": state.phase}
    return Verdict("stand_back", "person", _PERSON_FIRST, reason, "`ostler resume NAME`.", inputs, deployment.stable)


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
