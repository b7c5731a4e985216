"""What Ostler may do to an adapter by itself: when it retrains, how a new version is rolled out, and what stops it.

What counts as lost quality is the adapter's `registry.monitoring.QualityRule`; a policy is kept together with it, and
each change of either is a numbered policy that stays.
"""

import math
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from registry.errors import InvalidValue
from registry.monitoring import QualityRule

Mode = Literal["off", "advise", "act"]
LabelSource = Literal["correction", "accepted", "teacher"]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
_Hour = Annotated[int, Meta(ge=0, le=23)]
_MOST_STEPS = 20
LARGEST_JOB = 16_384


class RetrainRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When a new version is trained.

    Attributes:
        least_rows: new labelled rows since the last training, after the cap of each key.
        sources: where labels may come from: clients' corrections, answers that they accepted, a teacher's answers.
        most_of_one_key: the largest share of the rows that may come from one API key; the rest of its rows is left out.
        trusted_keys: ids of keys without that cap, such as that of one's own backend.
        cool_down_h: hours from the end of one training to the next.
        budget: what trainings that nobody asked for by hand may cost in a month, in the currency of the prices; one
            begins while anything of it is left, and may cost more than that. None is without limit.
        hours: the hours of the day (UTC) in which training may begin, from the first up to the second, which is another
            one; may pass midnight. None is all day.
        approval: whether a person must approve of each.
        job: what is asked of the job beside its data: `hyperparameters`, and `ostler` as in the tuning API.
    """

    least_rows: Annotated[int, Meta(ge=10, le=10_000_000)] = 200
    sources: Annotated[tuple[LabelSource, ...], Meta(min_length=1, max_length=3)] = ("correction", "accepted")
    most_of_one_key: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.4
    trusted_keys: Annotated[tuple[str, ...], Meta(max_length=100)] = ()
    cool_down_h: Annotated[float, Meta(ge=0.0, le=8_760.0)] = 24.0
    budget: Annotated[float, Meta(ge=0.0)] | None = None
    hours: tuple[_Hour, _Hour] | None = None
    approval: bool = False
    job: dict[str, Any] = {}


class RolloutRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a new version comes to serve everyone.

    Attributes:
        steps: the canary's weights, rising, each below 1, for without sessions of the stable version nothing can be
            compared; after the last it is promoted, which is all of the sessions.
        least_sessions: sessions of the canary, each held against one of the stable version, at each step.
        least_minutes: time at each step.
        longest_h: hours that a canary may stay undecided.
        undecided: what follows then.
        errors: the largest share of its requests that may fail beyond those that fail for the stable version, too, at
            the same time; None does not look.
        latency_ratio: how many times the stable version's time for a token it may take in the median; None does not
            look.
        cost_ratio: how many times the stable version's cost of a request it may have in the median; None does not
            look.
        guard_alpha: the error probability of each of these three.
        holdback: the share of the sessions that stays on the old version after the promotion.
        holdback_h: for how many hours; 0 holds none back.
        adopt: what Ostler does about a canary that a person set: watch it, and take it back when it is shown to be
            worse, or nothing.
        approval: whether a person must approve of each promotion.
    """

    steps: Annotated[tuple[Share, ...], Meta(min_length=1, max_length=_MOST_STEPS)] = (0.05, 0.25, 0.5)
    least_sessions: Annotated[int, Meta(ge=1, le=10_000_000)] = 50
    least_minutes: Annotated[float, Meta(ge=0.0, le=525_600.0)] = 10.0
    longest_h: Annotated[float, Meta(gt=0.0, le=8_760.0)] = 168.0
    undecided: Literal["rollback", "hold"] = "rollback"
    errors: Annotated[float, Meta(gt=0.0, lt=1.0)] | None = 0.05
    latency_ratio: Annotated[float, Meta(ge=1.0, le=100.0)] | None = 2.0
    cost_ratio: Annotated[float, Meta(ge=1.0, le=100.0)] | None = 2.0
    guard_alpha: Annotated[float, Meta(ge=1e-9, le=0.5)] = 0.01
    holdback: Annotated[float, Meta(ge=0.0, le=0.5)] = 0.05
    holdback_h: Annotated[float, Meta(ge=0.0, le=8_760.0)] = 72.0
    adopt: Literal["guard", "ignore"] = "guard"
    approval: bool = False


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What Ostler does about one adapter by itself.

    Attributes:
        mode: ``off`` looks at nothing; ``advise`` decides and says what it would do; ``act`` does it.
        quality: what counts as lost quality.
        retrain: when a new version is trained.
        rollout: how a new version comes to serve everyone.
    """

    mode: Mode = "advise"
    quality: QualityRule = QualityRule()
    retrain: RetrainRule = RetrainRule()
    rollout: RolloutRule = RolloutRule()

    def check(self) -> None:
        """What the types cannot say.

        Raises:
            InvalidValue: with `param` for the field.
        """
        _check_rollout(self.rollout)
        _check_retrain(self.retrain)


def _check_rollout(rule: RolloutRule) -> None:
    steps = rule.steps
    if list(steps) != sorted(set(steps)) or not steps[0] > 0:
        raise InvalidValue("rollout.steps must be weights above 0, each larger than the last", param="rollout")
    if steps[-1] >= 1:
        raise InvalidValue(
            "rollout.steps must lie below 1: a new version that has all sessions leaves none of the stable version to "
            "be held against. Leave the 1 out; after the last step the version is promoted, and serves everyone",
            param="rollout",
        )
    least_h = len(steps) * rule.least_minutes / 60
    if least_h > rule.longest_h:
        raise InvalidValue(
            f"{len(steps)} steps of rollout.least_minutes take {least_h:g} h, and after rollout.longest_h, "
            f"{rule.longest_h:g} h, a rollout is undecided: make the steps fewer or shorter, or longest_h longer",
            param="rollout",
        )


def _check_retrain(rule: RetrainRule) -> None:
    if rule.budget is not None and not math.isfinite(rule.budget):
        raise InvalidValue("retrain.budget must be a finite number", param="retrain")
    for name, said in (("sources", rule.sources), ("trusted_keys", rule.trusted_keys)):
        if repeated := [each for each in said if said.count(each) > 1]:
            raise InvalidValue(f"retrain.{name} has {repeated[0]!r} more than once; say it once", param="retrain")
    if rule.hours is not None and rule.hours[0] == rule.hours[1]:
        raise InvalidValue(
            f"retrain.hours must be two different hours, such as 22,6, not {rule.hours[0]} twice; none is all day",
            param="retrain",
        )
    if unknown := rule.job.keys() - {"hyperparameters", "ostler"}:
        raise InvalidValue(
            f"retrain.job may have `hyperparameters` and `ostler`, not {sorted(unknown)[0]!r}", param="retrain"
        )
    if len(msgspec.json.encode(rule.job)) > LARGEST_JOB:
        raise InvalidValue(f"retrain.job may have {LARGEST_JOB} bytes at most", param="retrain")


def policy_number(stored: dict[str, Any] | None) -> int:
    """The number of the policy that the database holds; 0 where it holds nothing."""
    return 0 if stored is None else int(stored["number"])


def stored_policy(stored: dict[str, Any] | None, quality: QualityRule) -> Policy:
    """What the database holds, with the adapter's quality rule; the defaults where it holds nothing."""
    if stored is None:
        return Policy(quality=quality)
    known = {name: stored[name] for name in ("mode", "retrain", "rollout") if name in stored}
    return msgspec.structs.replace(msgspec.convert(known, Policy), quality=quality)
