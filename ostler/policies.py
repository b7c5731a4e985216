"""Policies as people write and read them: `part.field=value` on the command line, and a table of them."""

import difflib
import json
import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import msgspec

from ostler import render
from ostler.client import CommandFailed
from registry.policies import Policy

MEANS = {
    "mode": "off: nothing; advise: decide, and say what would be done; act: do it",
    "quality.scorer": "whose scores decide: feedback, or a scorer of `ostler monitoring`",
    "quality.against": "level: the scores; base or incumbent: how much better they are than that one's",
    "quality.level": "the mean score, or difference, that is expected; none takes it from a version's first sessions",
    "quality.level_observations": "how many sessions that takes",
    "quality.drop": "the least fall that matters, above 0 and below 1",
    "quality.alarm_every": "the least mean number of sessions to a false alarm",
    "quality.alpha": "the error probability of intervals, and of better, worse and not worse",
    "retrain.least_rows": "new labelled rows that a training needs",
    "retrain.sources": "labels to learn from: correction, accepted, teacher",
    "retrain.most_of_one_key": "the largest share of the rows that may come from one API key",
    "retrain.trusted_keys": "ids of keys without that limit, such as one's own backend's",
    "retrain.cool_down_h": "hours from the end of one training to the next",
    "retrain.budget": "what its trainings may cost in a month; the last may exceed it; none is without limit",
    "retrain.hours": "hours of the day, UTC, in which training may begin, such as 22,6; none is all day",
    "retrain.approval": "whether a person must approve of each training",
    "retrain.job": "what is asked of the job: hyperparameters and ostler, as in the tuning API",
    "rollout.steps": "the shares of the sessions that a new version gets, each below 1; then it is promoted",
    "rollout.least_sessions": "sessions at each step",
    "rollout.least_minutes": "minutes at each step",
    "rollout.longest_h": "hours that a rollout may stay undecided",
    "rollout.undecided": "what follows then: rollback or hold",
    "rollout.errors": "how much more often than the other version's its requests may fail; none does not look",
    "rollout.latency_ratio": "how many times the stable version's time for a token it may take; none does not look",
    "rollout.cost_ratio": "how many times the stable version's cost of a request it may have; none does not look",
    "rollout.guard_alpha": "the error probability of each of these three",
    "rollout.holdback": "the share of the sessions that stays on the old version after the promotion",
    "rollout.holdback_h": "for how many hours; 0 holds none back",
    "rollout.adopt": "a canary that a person set: guard watches it and takes it back if it is worse; or ignore",
    "rollout.approval": "whether a person must approve of each promotion",
}
"""Every setting, with what it means; docs/policies.md has the same words."""
MODES = {
    "off": "does nothing by itself",
    "advise": "advises, and changes nothing",
    "act": "retrains and rolls out by itself",
}
_LISTS = ("retrain.sources", "retrain.trusted_keys", "retrain.hours", "rollout.steps")
_MAY_BE_EMPTY = "retrain.trusted_keys"
_FORM = "say settings as KEY=VALUE, such as mode=act or rollout.steps=0.1,0.5"


def order(settings: Sequence[str]) -> dict[str, Any]:
    """The change that `key=value` words ask for, as the admin API takes it.

    Values are JSON or plain words, lists may be words with commas between them, and `none` is null or an empty list.

    Raises:
        CommandFailed: no such setting, or it is said twice.
    """
    found: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise CommandFailed(f"{setting!r} has no value; {_FORM}", 2)
        part, field = _place(key)
        block = found.setdefault(part, {}) if field else found
        if (field or part) in block:
            raise CommandFailed(f"{key} is said twice", 2)
        block[field or part] = _value(key, value)
    return found


def _place(key: str) -> tuple[str, str]:
    """The part and the field of a setting; `mode` has no field."""
    if key not in MEANS:
        near = difflib.get_close_matches(key, MEANS, n=3, cutoff=0.5)
        part = key.partition(".")[0] + "."
        known = near or [each for each in MEANS if each.startswith(part)] or list(MEANS)
        raise CommandFailed(f"a policy has no {key!r}; there is {', '.join(known)}", 2)
    part, _, field = key.partition(".")
    return part, field


def _value(key: str, text: str) -> Any:
    if text == "none":
        return [] if key == _MAY_BE_EMPTY else None
    if key in _LISTS and not text.startswith("["):
        return [_json(word) for word in text.split(",")]
    return _json(text)


def _json(text: str) -> Any:
    """A JSON value; what is none is a plain word."""
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError):
        return text


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _finite(text: str) -> float:
    if math.isinf(value := float(text)):
        _refuse(text)
    return value


def show(answer: Any, keys: Collection[str] = MEANS) -> None:
    """A policy: these settings, how they stand, and what they mean."""
    number = f"policy {answer['number']}" if answer["number"] else "the defaults"
    render.out.print(f"Ostler {MODES[answer['mode']]} ({number}).")
    rows = [(key, _words(value), MEANS[key]) for key, value in _settings(answer) if key in keys]
    render.table(("SETTING", "VALUE", "WHAT IT IS"), rows, "")
    for warning in answer.get("warnings", ()):
        render.out.print(render.words(f"Warning: {warning}"))


def history(answer: Any, limit: int) -> None:
    """The changes of a policy; the answer has one more than are shown, which the last one is held against."""
    policies = answer["data"]
    older = [*policies[1:], msgspec.to_builtins(Policy())]
    rows = [
        (new["number"], render.when(new["created_at"]), _changed(old, new))
        for new, old in zip(policies, older, strict=True)
    ][:limit]
    render.table(("POLICY", "WHEN", "WHAT CHANGED, WHY, BY WHOM"), rows, "The defaults were never changed.")
    if len(policies) > limit:
        render.out.print(f"There are older ones: --before {rows[-1][0]}")


def _changed(old: Any, new: Any) -> tuple[str, ...]:
    before = dict(_settings(old))
    changes = [
        f"{key} {_words(before.get(key))} to {_words(value)}"
        for key, value in _settings(new)
        if _words(before.get(key)) != _words(value)
    ]
    return (*changes, *([new["reason"]] if new["reason"] else []), f"by {new['actor']}")


def _settings(policy: Any) -> Iterator[tuple[str, Any]]:
    yield "mode", policy["mode"]
    for part in ("quality", "retrain", "rollout"):
        for field, value in policy[part].items():
            yield f"{part}.{field}", value


def _words(value: Any) -> str:
    """A value as `order` reads it."""
    if value in (None, [], ()):
        return "none"
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, (list, tuple)):
        return ",".join(map(_words, value))
    return value if isinstance(value, str) else json.dumps(value)


def standing(name: str, policy: Any, freeze: Any) -> None:
    """Whether anything happens to an adapter by itself, and who stopped it if not."""
    render.out.print(f"Ostler {MODES[policy['mode']]} (`ostler policy show {name}`).")
    stops = {"frozen: all adapters": freeze["frozen"], "paused": freeze["paused"].get(name)}
    for what, stop in stops.items():
        if stop is not None:
            said = f", {stop['reason']}" if stop["reason"] else ""
            render.out.print(render.words(f"{what}, by {stop['actor']} at {render.when(stop['created_at'])}{said}"))
