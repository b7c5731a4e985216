"""Where the loop is after a verdict: for each act, what becomes of its state."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec

from monitors.loop.seen import Seen
from monitors.loop.state import LoopState, Rollout
from monitors.loop.verdicts import Act, Verdict
from monitors.loop.watching import answering

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
        _answered(state, seen),
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
    return _changed(state, seen.now, phase="rolling_out", tuned_at=_ended(seen), rollout=rollout)


def _watching_canary(state: LoopState, verdict: Verdict, seen: Seen) -> LoopState:
    assert seen.deployment is not None
    rollout = Rollout(
        verdict.version, seen.deployment.stable, began_at=seen.now, step_began_at=seen.now, by_person=True
    )
    revision = seen.deployment.revision
    return _changed(state, seen.now, phase="rolling_out", cycle=state.cycle + 1, revision=revision, rollout=rollout)


def _stepped(state: LoopState, _verdict: Verdict, seen: Seen) -> LoopState:
    return msgspec.structs.replace(state, rollout=_next_step(state.rollout, seen))


def _promoted(state: LoopState, verdict: Verdict, seen: Seen) -> LoopState:
    state = msgspec.structs.replace(state, learned_until=state.labels_until)
    if verdict.weight is None:
        return _watching(state, verdict, seen)
    return _changed(state, seen.now, phase="holding_back", rollout=_next_step(state.rollout, seen))


def _watching(state: LoopState, _verdict: Verdict, seen: Seen) -> LoopState:
    return _changed(state, seen.now, phase="watching", rollout=None)


def _given_up(state: LoopState, verdict: Verdict, seen: Seen) -> LoopState:
    """A refused training counts as a cycle, so that it is not asked for again before the cool-down is over."""
    if verdict.outcome == "refused":
        state = _answered(state, seen)
        return _changed(state, seen.now, phase="watching", cycle=state.cycle + 1, tuned_at=seen.now, rollout=None)
    return _changed(state, seen.now, phase="watching", tuned_at=_ended(seen), rollout=None)


def _standing_back(state: LoopState, verdict: Verdict, seen: Seen) -> LoopState:
    assert seen.deployment is not None
    return msgspec.structs.replace(_watching(state, verdict, seen), revision=seen.deployment.revision)


def _next_step(rollout: Rollout | None, seen: Seen) -> Rollout:
    assert rollout is not None
    return msgspec.structs.replace(
        rollout, step=rollout.step + 1, step_began_at=seen.now, sessions_before=seen.comparison.incumbent.n
    )


def _answered(state: LoopState, seen: Seen) -> LoopState:
    assert seen.quality is not None
    return msgspec.structs.replace(state, answered=answering(seen.quality))


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
    "stand_back": _standing_back,
}
