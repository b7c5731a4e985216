"""Where the loop is after a verdict: for each act, what becomes of its state."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec

from monitors.loop.seen import Quality, Seen
from monitors.loop.state import Learned, LoopState, Rollout
from monitors.loop.verdicts import Act, Verdict
from monitors.loop.watching import alarms_of
from registry.catalog import Deployment

Next = Callable[[LoopState, Verdict, Seen], LoopState]


def after(state: LoopState, verdict: Verdict, seen: Seen) -> LoopState:
    """The state once the verdict is carried out.

    What only the carrying out can tell is set by whoever does it: the job's id after ``retrain`` and the deployment's
    revision after an act that changes it.
    """
    return _NEXT[verdict.act](state, verdict, seen)


def _stay(state: LoopState, _verdict: Verdict, _seen: Seen) -> LoopState:
    return state


def _tuning(state: LoopState, _verdict: Verdict, seen: Seen) -> LoopState:
    assert seen.deployment is not None
    return _changed(
        _answered(state, seen.quality),
        seen.now,
        phase="tuning",
        cycle=state.cycle + 1,
        revision=seen.deployment.revision,
        labels_until=seen.now,
        rollout=None,
    )


def _rolling_out(state: LoopState, verdict: Verdict, seen: Seen) -> LoopState:
    assert seen.deployment is not None
    rollout = Rollout(verdict.version, seen.deployment.stable, began_at=seen.now, step_began_at=seen.now)
    learned = _learned(state, verdict.version)
    return _changed(state, seen.now, phase="rolling_out", tuned_at=_ended(seen), learned=learned, rollout=rollout)


def _watching_canary(state: LoopState, verdict: Verdict, seen: Seen) -> LoopState:
    """No cycle of its own: nobody is asked about it, and what a person approved of before still counts."""
    assert seen.deployment is not None
    rollout = Rollout(
        verdict.version, seen.deployment.stable, began_at=seen.now, step_began_at=seen.now, by_person=True
    )
    return _changed(state, seen.now, phase="rolling_out", revision=seen.deployment.revision, rollout=rollout)


def _stepped(state: LoopState, _verdict: Verdict, seen: Seen) -> LoopState:
    return msgspec.structs.replace(state, rollout=_next_step(state.rollout, seen))


def _promoted(state: LoopState, verdict: Verdict, seen: Seen) -> LoopState:
    """What was said against the old version until then is answered."""
    state = _answered(state, seen.quality)
    if verdict.weight is None:
        return _watching(state, verdict, seen)
    alarms = None if seen.new_quality is None else alarms_of(seen.new_quality)
    rollout = msgspec.structs.replace(_next_step(state.rollout, seen), alarms=alarms)
    return _changed(state, seen.now, phase="holding_back", rollout=rollout)


def _watching(state: LoopState, _verdict: Verdict, seen: Seen) -> LoopState:
    return _changed(state, seen.now, phase="watching", rollout=None)


def _given_up(state: LoopState, verdict: Verdict, seen: Seen) -> LoopState:
    """A training that a person refused or cancelled is not asked for again before there is new evidence.

    The refused one counts as a cycle, as the next one is asked about anew.
    """
    if verdict.outcome in ("refused", "cancelled"):
        state = _answered(state, seen.quality)
    if verdict.outcome == "refused":
        return _changed(state, seen.now, phase="watching", cycle=state.cycle + 1, tuned_at=seen.now, rollout=None)
    return _changed(state, seen.now, phase="watching", tuned_at=_ended(seen), rollout=None)


def _after_a_person(state: LoopState, verdict: Verdict, seen: Seen) -> LoopState:
    """The stable version is watched; a holdback of the loop's that the person left as it was goes on.

    A training that is under way has ended for the loop, and the cool-down after it begins.
    """
    assert seen.deployment is not None
    if state.phase == "tuning":
        state = msgspec.structs.replace(state, tuned_at=seen.now)
    if not (state.phase == "holding_back" and _is_held_back(state.rollout, seen.deployment)):
        state = _watching(state, verdict, seen)
    return msgspec.structs.replace(state, revision=seen.deployment.revision)


def _is_held_back(rollout: Rollout | None, deployment: Deployment) -> bool:
    canary = deployment.canary
    if rollout is None or canary is None or not canary.holdback:
        return False
    return (deployment.stable, canary.version) == (rollout.version, rollout.incumbent)


def _next_step(rollout: Rollout | None, seen: Seen) -> Rollout:
    assert rollout is not None
    beside = seen.comparison.incumbent
    return msgspec.structs.replace(
        rollout, step=rollout.step + 1, step_began_at=seen.now, sessions_before=beside.n, total_before=beside.total
    )


def _answered(state: LoopState, quality: Quality | None) -> LoopState:
    """The state with all alarms of the version so far answered, if it was watched."""
    if quality is None:
        return state
    others = (each for each in state.answered if (each.version, each.scorer) != (quality.version, quality.scorer))
    return msgspec.structs.replace(state, answered=(*others, alarms_of(quality)))


def _learned(state: LoopState, version: int) -> tuple[Learned, ...]:
    if state.labels_until is None:
        return state.learned
    others = (each for each in state.learned if each.version != version)
    return (*others, Learned(version, state.labels_until))


def _ended(seen: Seen) -> datetime:
    return seen.now if seen.job is None or seen.job.ended_at is None else seen.job.ended_at


def _changed(state: LoopState, now: datetime, **values: Any) -> LoopState:
    return msgspec.structs.replace(state, since=now, **values)


_NEXT: dict[Act, Next] = {
    "wait": _stay,
    "ask": _stay,
    "retrain": _tuning,
    "begin_rollout": _rolling_out,
    "watch_canary": _watching_canary,
    "next_step": _stepped,
    "promote": _promoted,
    "end_holdback": _watching,
    "roll_back": _watching,
    "end_cycle": _given_up,
    "take_up": _after_a_person,
    "stand_back": _after_a_person,
}
