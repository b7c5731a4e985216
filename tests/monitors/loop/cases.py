"""What a decision is made from, as a test wants it: a stable version 1, and all well unless said otherwise."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec import structs

from monitors.loop.seen import Comparison, Held, Labels, Quality, Seen
from monitors.loop.state import LoopState, Rollout
from registry.catalog import Canary, Deployment
from registry.policies import Policy, RetrainRule, RolloutRule

NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
EARLIER = NOW - timedelta(hours=1)
POLICY = Policy("act", rollout=RolloutRule(cost_ratio=1.5))
GOOD = Held(n=500, mean=0.0, low=-0.03, high=0.03, not_worse=True, evidence_not_worse=30.0)
WORSE = Held(n=500, mean=-0.2, low=-0.25, high=-0.15, worse=True, evidence_worse=50.0)
OPEN = Held(n=500, mean=-0.02, low=-0.06, high=0.02, evidence_not_worse=3.0)
OVER = Held(n=100, mean=0.6, low=0.5, high=0.7, worse=True)


def with_retrain(**values: Any) -> Policy:
    """The policy, with these fields of its retrain rule."""
    return structs.replace(POLICY, retrain=structs.replace(RetrainRule(), **values))


def with_rollout(**values: Any) -> Policy:
    """The policy, with these fields of its rollout rule."""
    return structs.replace(POLICY, rollout=structs.replace(POLICY.rollout, **values))


def quality(**values: Any) -> Quality:
    """Of version 1, which lost quality."""
    lost = Quality(1, "feedback", 900, level=0.9, recent=0.7, low=0.6, high=0.8, ratio=1.0, alarm=True, alarms=1)
    return replace(lost, **values)


def watched(**values: Any) -> Seen:
    """While version 1 is watched: quality was lost, and all that a training needs is there."""
    labels = Labels(rows=500, found=500, heaviest_key="k1", heaviest_share=0.3, agreed=True)
    found = Seen(NOW, Deployment(3, 1), changed_by="ada", quality=quality(), labels=labels)
    return replace(found, **values)


def rolling(**values: Any) -> Seen:
    """While version 2 is the canary, at the last weight."""
    found = Seen(NOW, Deployment(7, 1, Canary(2, 0.5)), comparison=Comparison(GOOD))
    return replace(found, **values)


def held_back(**values: Any) -> Seen:
    """After version 2 was promoted, with a share held back on version 1."""
    found = Seen(NOW, Deployment(8, 2, Canary(1, 0.05, holdback=True)), comparison=Comparison(GOOD))
    return replace(found, **values)


def rollout_state(phase: Any = "rolling_out", **values: Any) -> LoopState:
    """With version 2 against version 1, at the last step, begun an hour ago."""
    rollout = structs.replace(Rollout(2, 1, EARLIER, EARLIER, step=2), **values)
    revision = 7 if phase == "rolling_out" else 8
    return LoopState(phase, cycle=4, since=EARLIER, revision=revision, job="job-4", rollout=rollout)


TUNING = LoopState("tuning", cycle=4, since=EARLIER, revision=3, job="job-4", labels_until=EARLIER)
