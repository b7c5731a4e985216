"""What follows when a decision cannot be carried out: it is tried again, dropped, or something else is done instead."""

from datetime import datetime, timedelta

import msgspec

from monitors.loop.store import Kept, Pending
from monitors.loop.verdicts import Act, Verdict
from monitors.watch.client import GatewayRefused
from registry.policies import RolloutRule

_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _LONGEST_PAUSE_BACK_S = 2.0, 300.0, 15.0
_LONGEST_TROUBLE = 500
_MOST_DOUBLINGS = 16
_INSTEAD: dict[Act, Act] = {
    "retrain": "end_cycle",
    "begin_rollout": "end_cycle",
    "next_step": "roll_back",
    "promote": "roll_back",
    "end_holdback": "stand_back",
    "roll_back": "stand_back",
}
_RETRIED = "what the gateway refuses is tried again, with growing pauses"
_GIVEN_UP = "what the gateway has refused for rollout.longest_h is given up"
_OVERTAKEN = "a person's change, and whatever stops the loop, comes before what was decided"


def rests(pending: Pending, now: datetime) -> bool:
    """Whether it was refused, and is not tried again yet."""
    return pending.next_at is not None and now < pending.next_at


def trouble_of(error: Exception) -> str:
    """Why it could not be done, for people: what the gateway said; of other errors the kind, as they may quote text."""
    if not isinstance(error, GatewayRefused):
        return f"the monitor failed with {type(error).__name__}, and its log says where"
    return (error.said or str(error))[:_LONGEST_TROUBLE].rstrip(".")


def later(pending: Pending, trouble: str, now: datetime) -> Pending:
    """The decision, to be tried again after a pause that grows; a way back is tried more often."""
    longest = _LONGEST_PAUSE_BACK_S if pending.verdict.act == "roll_back" else _LONGEST_PAUSE_S
    pause = timedelta(seconds=min(_FIRST_PAUSE_S * 2 ** min(pending.tries, _MOST_DOUBLINGS), longest))
    return msgspec.structs.replace(pending, tries=pending.tries + 1, next_at=now + pause, trouble=trouble)


def is_over(pending: Pending, rule: RolloutRule, now: datetime) -> bool:
    """Whether it has been tried for long enough, and there is something to do instead."""
    has_other = pending.verdict.act in _INSTEAD
    return has_other and now - pending.decided_at >= timedelta(hours=rule.longest_h)


def instead(pending: Pending, trouble: str, rule: RolloutRule) -> Verdict:
    """What is done in place of what was refused for too long.

    No training, and no canary, where one could not begin; the version from before where a canary got no further; a
    person where even that was refused.
    """
    act = _INSTEAD[pending.verdict.act]
    reason = f"{_words(pending)} could not be carried out for {rule.longest_h:g} h: {trouble}."
    change = "A person does it, and `ostler resume NAME`." if act == "stand_back" else "A new alarm."
    inputs = {"of": pending.decision, "wanted_act": pending.verdict.act, "tries": pending.tries}
    return Verdict(act, "given_up", _GIVEN_UP, reason, change, inputs, pending.verdict.version)


def forgotten(kept: Kept) -> Kept:
    """What is kept without the decision that was to be carried out.

    A training that was asked for may have begun though nobody heard of it: the number of its cycle, by which the
    gateway knows the job, is used up.
    """
    pending, state = kept.pending, kept.state
    if pending is not None and pending.verdict.act == "retrain" and pending.file is not None:
        state = msgspec.structs.replace(state, cycle=pending.then.cycle)
    return msgspec.structs.replace(kept, pending=None, state=state)


def refusal_told(pending: Pending, trouble: str) -> Verdict:
    """That it was refused, told once for each reason."""
    reason = f"{_words(pending)} could not be carried out: {trouble}. It is tried again."
    return _about(pending, "refused_by_gateway", _RETRIED, reason, "The gateway does it.")


def dropped(pending: Pending, why: str) -> Verdict:
    """That it is not carried out any more."""
    reason = f"{_words(pending)} was not carried out. {why}"
    return _about(pending, "dropped", _OVERTAKEN, reason, "Nothing: it is decided anew.")


def _about(pending: Pending, outcome: str, rule: str, reason: str, would_change: str) -> Verdict:
    inputs = {"of": pending.decision, "wanted_act": pending.verdict.act}
    return Verdict("wait", outcome, rule, reason, would_change, inputs, pending.verdict.version)


def _words(pending: Pending) -> str:
    return f"Decision {pending.decision} ({pending.verdict.act.replace('_', ' ')})"
