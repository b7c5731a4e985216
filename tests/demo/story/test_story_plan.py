"""What the story asks of the gateway is what the gateway takes."""

import msgspec
import pytest

from demo.story.plan import Plan
from gateway.admin.monitoring import MonitoringPatch
from gateway.admin.policies import PolicyPatch, patched, require_sound_job
from monitors.loop.material import LONGEST_REASON
from registry.policies import Policy

PLANS = {"full": Plan(), "fast": Plan.fast()}


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_the_policy_is_one(plan: Plan) -> None:
    """By the same checks as a person's, with the job that it asks for; it acts, and nothing of it waits for an hour."""
    order = msgspec.convert(plan.policy(), PolicyPatch)
    require_sound_job(order)
    policy = patched(Policy(), order)
    policy.check()
    assert policy.mode == "act"
    assert policy.retrain.least_rows == plan.rows
    assert policy.rollout.holdback_h * 3600 < 60
    assert len(plan.policy()["reason"]) <= LONGEST_REASON


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_the_monitoring_is_one(plan: Plan) -> None:
    """It captures all, scores by what the policy decides by, and drift can be judged once the world shifts."""
    order = plan.monitoring()
    msgspec.convert(order, MonitoringPatch)
    assert order["capture"] == 1.0
    assert {"scorer": plan.policy()["quality"]["scorer"]} in order["scorers"]
    assert order["drift"]["window_rows"] + order["drift"]["reference_rows"] <= plan.before
    assert plan.level_from <= plan.before
