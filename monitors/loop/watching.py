"""Quality was lost: whether to retrain. All conditions are looked at, so that a person sees each that is missing."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from monitors.loop.approving import RETRAIN, if_approved, refusal
from monitors.loop.seen import Labels, Quality, Seen
from monitors.loop.state import Alarms, LoopState
from monitors.loop.verdicts import Verdict
from registry.monitoring import QualityRule
from registry.policies import Policy, RetrainRule

_FEW = 0.01
_RULE = "watch the stable version; retrain after an alarm"


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that must hold before a training begins.

    Attributes:
        name: a word for it; a decision that waits for it has the outcome ``no_`` and this.
        holds: whether it does.
        said: how it stands, for people.
        mend: what would make it hold.
        binds: whether it could fail to hold; people are told of one that cannot, also while all is well.
    """

    name: str
    holds: bool
    said: str
    mend: str
    binds: bool = True


def watch(seen: Seen, state: LoopState, policy: Policy) -> Verdict:
    """What follows from how the stable version does."""
    quality = seen.quality
    if seen.deployment is None:
        return Verdict("wait", "nothing_serves", _RULE, "No version serves yet.", "A version is promoted.")
    if quality is None or quality.level is None:
        return Verdict("wait", "no_level", _RULE, _gathering(quality), "More sessions are scored.")
    if not quality.alarm:
        can_fall = policy.quality.can_fall(quality.level)
        return _wait_for_alarm(quality, policy) if can_fall else _cannot_fall(quality, quality.level, policy.quality)
    if is_answered(state, quality):
        return _wait_for_evidence(quality)
    return _after_alarm(seen, state, policy, quality)


def is_answered(state: LoopState, quality: Quality) -> bool:
    """Whether a training was about all alarms of the stable version. The next training needs one more of them.

    Without that an alarm that was false would begin trainings for ever, for it stands. Nor does one begin by an alarm
    of long ago, about a version that serves once more and of which nothing was seen since the last training.
    """
    if state.tuned_at is not None and quality.observed_at is not None and quality.observed_at <= state.tuned_at:
        return True
    return alarms_of(quality) in state.answered


def alarms_of(quality: Quality) -> Alarms:
    """The alarms that there were so far."""
    return Alarms(quality.version, quality.scorer, quality.alarms)


def conditions(seen: Seen, state: LoopState, rule: RetrainRule) -> tuple[Condition, ...]:
    """Everything that must hold before a training begins, but for a person's approval."""
    return (
        _no_canary(seen),
        _no_other_job(seen),
        _enough_rows(seen.labels, rule),
        _more_than_one_voice(seen.labels, rule),
        _cooled_down(seen.now, state.tuned_at, rule),
        _within_budget(seen, rule),
        _within_hours(seen.now, rule),
    )


def _wait_for_alarm(quality: Quality, policy: Policy) -> Verdict:
    drop, level = policy.quality.drop, quality.level
    assert level is not None
    reason = (
        f"Quality holds: the newest sessions score {_score(quality.recent)} by {quality.scorer} where {level:.3f} is "
        f"expected, and the evidence of a fall by {drop:g} is {quality.ratio:.0%} of what raises the alarm."
    )
    change = f"Sessions that score below {level - drop:.3f} on average, until the evidence is complete."
    inputs = {"recent": quality.recent, "level": level, "ratio": quality.ratio}
    return Verdict("wait", "quality_holds", _RULE, reason, change, inputs, quality.version)


def _cannot_fall(quality: Quality, level: float, rule: QualityRule) -> Verdict:
    reason = (
        f"No alarm can ever come: {level:.3f} is expected by {quality.scorer}, where {rule.least:g} is the least there "
        f"can be, and only a fall by {rule.drop:g} matters."
    )
    smaller = f"A smaller drop: `ostler policy set NAME quality.drop={(level - rule.least) / 2:.2g}`. Or the level"
    which = "The level" if level <= rule.least else smaller
    change = f"{which} that you expect of a good version, above {rule.least + rule.drop:g}, as quality.level."
    inputs = {"recent": quality.recent, "level": level, "drop": rule.drop}
    return Verdict("wait", "cannot_fall", _RULE, reason, change, inputs, quality.version)


def _wait_for_evidence(quality: Quality) -> Verdict:
    reason = (
        f"Quality was lost: {_score(quality.recent)} of late where {_score(quality.level)} is expected. The last "
        f"training was about that, and version {quality.version} still serves."
    )
    change = "The evidence of a fall is complete once more, from nothing."
    inputs = {"recent": quality.recent, "level": quality.level, "alarms": quality.alarms}
    return Verdict("wait", "answered", _RULE, reason, change, inputs, quality.version)


def _after_alarm(seen: Seen, state: LoopState, policy: Policy, quality: Quality) -> Verdict:
    found = conditions(seen, state, policy.retrain)
    missing = [each for each in found if not each.holds]
    lost = f"Quality was lost: {_score(quality.recent)} of late where {_score(quality.level)} is expected."
    rule = f"retrain after an alarm with {', '.join(each.name.replace('_', ' ') for each in found)}"
    inputs = {
        "recent": quality.recent,
        "level": quality.level,
        "rows": seen.labels.rows,
        "labels": msgspec.to_builtins(seen.labels),
        "conditions": {each.name: each.said for each in found},
        "met": [each.name for each in found if each.holds and each.binds],
    }
    refused = refusal(seen, RETRAIN, state.cycle + 1)
    if refused is not None:
        change = "The evidence of a fall is complete once more, after the cool-down."
        return Verdict("end_cycle", "refused", rule, f"{lost} {refused}", change, inputs, quality.version)
    if missing:
        said, mend = " ".join(each.said for each in missing), " ".join(each.mend for each in missing)
        return Verdict("wait", f"no_{missing[0].name}", rule, f"{lost} {said}", mend, inputs, quality.version)
    reason = f"{lost} {seen.labels.rows} labelled rows are there to learn from."
    verdict = Verdict("retrain", "begun", rule, reason, "Nothing: it begins now.", inputs, quality.version)
    if not policy.retrain.approval:
        return verdict
    return if_approved(verdict, seen, RETRAIN, state.cycle + 1)


def _no_canary(seen: Seen) -> Condition:
    canary = None if seen.deployment is None else seen.deployment.canary
    said = "No canary serves." if canary is None else f"Version {canary.version} serves a share of the sessions."
    return Condition("canary", canary is None, said, "That version serves all or none.")


def _no_other_job(seen: Seen) -> Condition:
    job = seen.open_job
    said = "No other training is under way." if job is None else f"The job {job.id} is under way."
    return Condition("other_job", job is None, said, "That job ends.")


def _enough_rows(labels: Labels, rule: RetrainRule) -> Condition:
    left_out = labels.found - labels.rows
    said = f"{labels.rows} of {rule.least_rows} new labelled rows are there."
    mend = f"{rule.least_rows - labels.rows} more labelled rows arrive."
    if unused := _unused(labels):
        said += f" Beside them {', '.join(unused)}."
    if labels.without_prompt:
        mend += " Prompts are captured: `ostler monitoring NAME --capture 1`."
    if left_out > _FEW * labels.found:
        said += f" {left_out} more are left out, for no key may have more than {rule.most_of_one_key:.0%} of them."
        if labels.agreed or labels.heaviest_key != labels.lone_voice:
            mend += _trust(labels.heaviest_key, rule)
    return Condition("enough_rows", labels.rows >= rule.least_rows, said, mend)


def _unused(labels: Labels) -> list[str]:
    """What else was said of answers since the last training, and why nothing is learned from it."""
    counts = {
        "have no captured prompt": labels.without_prompt,
        "are no text to train on": labels.unusable,
        "are contradicted by others": labels.contradicted,
        "repeat another one": labels.repeated,
    }
    return [f"{count} {what}" for what, count in counts.items() if count]


def _more_than_one_voice(labels: Labels, rule: RetrainRule) -> Condition:
    alone = "one key" if labels.lone_voice is None else f"the key {labels.lone_voice}"
    lost = f"Without {alone} nothing speaks for a loss of quality."
    said = "Quality is lost whichever key is left out." if labels.agreed else lost
    mend = f"Feedback from other keys says the same.{_trust(labels.lone_voice, rule)}"
    return Condition("second_voice", labels.agreed, said, mend)


def _trust(key: str | None, rule: RetrainRule) -> str:
    """How a person trusts a key, beside those that are trusted; empty where nobody knows which key it is."""
    if key is None:
        return ""
    keys = ",".join((*rule.trusted_keys, key))
    return f" Or you trust the key {key}: `ostler policy set NAME retrain.trusted_keys={keys}`."


def _cooled_down(now: datetime, tuned_at: datetime | None, rule: RetrainRule) -> Condition:
    if tuned_at is None:
        return Condition("cool_down", holds=True, said="There was no training before.", mend="")
    until = tuned_at + timedelta(hours=rule.cool_down_h)
    said = f"The last training ended at {_time(tuned_at)}; the next one may begin {rule.cool_down_h:g} h later."
    return Condition("cool_down", now >= until, said, f"It is {_time(until)}.")


def _within_budget(seen: Seen, rule: RetrainRule) -> Condition:
    spent = seen.spent
    if rule.budget is None:
        return Condition("budget", holds=True, said=f"Trainings of this month cost {spent:.2f}.", mend="")
    if not seen.has_price and not spent:
        said = f"No price per GPU hour is set, so the budget of {rule.budget:.2f} binds nothing."
        return Condition("budget", holds=True, said=said, mend="", binds=False)
    said = f"Trainings of this month cost {spent:.2f} of {rule.budget:.2f}."
    return Condition("budget", spent < rule.budget, said, "A new month begins, or the budget is raised.")


def _within_hours(now: datetime, rule: RetrainRule) -> Condition:
    if rule.hours is None:
        return Condition("hours", holds=True, said="Training may begin at any hour.", mend="")
    first, last = rule.hours
    inside = first <= now.hour < last if first < last else now.hour >= first or now.hour < last
    return Condition("hours", inside, f"Training begins from {first} to {last} o'clock UTC.", f"It is {first}:00 UTC.")


def _gathering(quality: Quality | None) -> str:
    if quality is None:
        return "No session was scored yet."
    return f"The expected level by {quality.scorer} is not known yet; {quality.observations} sessions were scored."


def _score(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.3f}"


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
