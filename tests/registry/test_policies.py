"""Policies: numbered, never rewritten, changed wholly or not at all, and one with the quality rule."""

import asyncio
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from registry.catalog import Scope
from registry.errors import InvalidValue, NotFound
from registry.monitoring import Monitoring
from registry.policies import Policy, RetrainRule, RolloutRule, stored_policy
from registry.registry import Registry
from tests.registry.faults import Crash, Fault, Faults

with_ = msgspec.structs.replace
STEPS = 16  # more than such a change takes


def mode(wanted: Any) -> Any:
    """A change of the mode."""
    return lambda policy: with_(policy, mode=wanted)


async def numbers(registry: Registry) -> list[int]:
    """Those of the adapter's policies, newest first."""
    return [row.number for row in await registry.policy_history("support")]


async def test_an_adapter_has_the_defaults_until_somebody_says_something(three: Registry) -> None:
    """Number 0, without a history."""
    adapter = (await three.catalog()).adapters["support"]
    assert (adapter.policy, adapter.policy_number) == (Policy(), 0)
    assert await numbers(three) == []


async def test_each_change_is_a_numbered_policy(three: Registry) -> None:
    """Who, why and all of it stay; the same again takes no number, and the audit log has what changed."""
    rules = RolloutRule(steps=(0.1, 0.5), errors=None), RetrainRule(hours=(22, 6), job={"ostler": {"rank": 8}})
    await three.change_policy("support", mode("act"), actor="ann", reason="we trust it")
    await three.change_policy("support", lambda now: with_(now, rollout=rules[0], retrain=rules[1]), actor="bob")
    changes = await three.change_number()
    await three.change_policy("support", mode("act"), actor="eve", reason="again")
    assert await three.change_number() == changes
    adapter = (await three.catalog()).adapters["support"]
    assert adapter.policy == Policy(mode="act", rollout=rules[0], retrain=rules[1])
    assert adapter.policy_number == 2
    second, first = await three.policy_history("support")
    assert (first.number, first.actor, first.reason) == (1, "ann", "we trust it")
    assert stored_policy(first.policy, Policy().quality) == Policy(mode="act")
    assert (second.number, second.actor) == (2, "bob")
    assert await three.policy_history("support", before=2) == [first]
    newest, before = await three.audit(limit=2)
    assert (before.action, before.subject, before.detail) == (
        "set_policy",
        "adapter:support",
        {"reason": "we trust it"},
    )
    assert newest.before is not None
    assert newest.after is not None
    assert (newest.before["rollout"]["errors"], newest.after["rollout"]["errors"]) == (0.05, None)


async def test_the_quality_rule_is_one_however_it_is_changed(three: Registry) -> None:
    """Either way it gets a number, and the other one says the same; what else is watched has none."""
    await three.change_policy(
        "support", lambda policy: with_(policy, quality=with_(policy.quality, drop=0.2)), actor="ann"
    )
    adapter = (await three.catalog()).adapters["support"]
    assert adapter.monitoring.quality.drop == adapter.policy.quality.drop == 0.2
    await three.change_monitoring("support", lambda now: with_(now, capture=0.5), actor="ann")
    assert await numbers(three) == [1]
    await three.change_monitoring("support", lambda now: with_(now, quality=with_(now.quality, drop=0.3)), actor="bob")
    adapter = (await three.catalog()).adapters["support"]
    assert (adapter.policy.quality.drop, adapter.policy_number, adapter.monitoring.capture) == (0.3, 2, 0.5)
    newest, first = await three.policy_history("support")
    assert (newest.policy["quality"]["drop"], first.policy["quality"]["drop"]) == (0.3, 0.2)
    assert (newest.actor, newest.policy["mode"]) == ("bob", "advise")


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"rollout": RolloutRule(steps=(0.5, 0.1))}, "rollout"),
        ({"rollout": RolloutRule(steps=(0.1, 0.1))}, "rollout"),
        ({"rollout": RolloutRule(steps=(0.0, 0.1))}, "rollout"),
        ({"rollout": RolloutRule(steps=(0.05, 0.25, 0.5, 1.0))}, "rollout"),
        ({"rollout": RolloutRule(steps=(1.0,))}, "rollout"),
        ({"rollout": RolloutRule(least_minutes=30.0, longest_h=1.4)}, "rollout"),
        ({"rollout": RolloutRule(steps=())}, "policy"),
        ({"retrain": RetrainRule(hours=(5, 5))}, "retrain"),
        ({"retrain": RetrainRule(sources=("correction", "correction"))}, "retrain"),
        ({"retrain": RetrainRule(trusted_keys=("key_1", "key_1"))}, "retrain"),
        ({"retrain": RetrainRule(trusted_keys=("nonsense",))}, "retrain.trusted_keys"),
        ({"rollout": RolloutRule(least_sessions=0)}, "policy"),
        ({"retrain": RetrainRule(budget=float("inf"))}, "retrain"),
        ({"retrain": RetrainRule(job={"model": "x"})}, "retrain"),
        ({"retrain": RetrainRule(job={"ostler": {"x": "x" * 20_000}})}, "retrain"),
        ({"quality": with_(Policy().quality, drop=2.0)}, "quality.drop"),
        ({"quality": with_(Policy().quality, drop=1.0)}, "quality.drop"),
        ({"quality": with_(Policy().quality, drop=0.0)}, "quality.drop"),
        ({"quality": with_(Policy().quality, level=0.05, drop=0.05)}, "quality.level"),
        ({"quality": with_(Policy().quality, against="base", level=-0.95, drop=0.05)}, "quality.level"),
        ({"mode": "sometimes"}, "policy"),
    ],
)
async def test_what_makes_no_sense_is_refused(three: Registry, wrong: dict[str, Any], param: str) -> None:
    """With the field; nothing is changed then."""
    with pytest.raises(InvalidValue) as refused:
        await three.change_policy("support", lambda policy: with_(policy, **wrong), actor="ann")
    assert refused.value.param == param
    assert (await three.catalog()).adapters["support"].policy_number == 0


async def test_a_key_is_trusted_by_its_id(three: Registry) -> None:
    """Its name is answered with the id that is meant; one that is trusted already stays, though it is revoked."""
    key, _ = await three.create_key(name="backend", scopes=frozenset({Scope.INFERENCE}), actor="ann")
    other, _ = await three.create_key(name="other", scopes=frozenset({Scope.INFERENCE}), actor="ann")

    def trusting(*ids: str) -> Any:
        return lambda now: with_(now, retrain=with_(now.retrain, trusted_keys=ids))

    with pytest.raises(InvalidValue, match=key.id):
        await three.change_policy("support", trusting("backend"), actor="ann")
    await three.change_policy("support", trusting(other.id), actor="ann")
    await three.revoke_key(other.id, actor="ann")
    await three.change_policy("support", trusting(other.id, key.id), actor="ann")
    assert (await three.catalog()).adapters["support"].policy.retrain.trusted_keys == (other.id, key.id)


async def test_the_last_step_is_followed_by_the_promotion(three: Registry) -> None:
    """Who writes 1 as the last step, as most people would, is told to leave it out, and why."""
    rule = RolloutRule(steps=(0.05, 0.25, 0.5, 1.0))
    with pytest.raises(InvalidValue, match="after the last step the version is promoted"):
        await three.change_policy("support", lambda now: with_(now, rollout=rule), actor="ann")


async def test_what_the_caller_refuses_is_not_changed(three: Registry) -> None:
    """It is asked with how the adapter would be watched, within the change; an unknown adapter has no policy."""

    def check(monitoring: Monitoring) -> None:
        raise InvalidValue(f"no {monitoring.quality.scorer}", param="quality.scorer")

    bleu = with_(Policy().quality, scorer="bleu")
    with pytest.raises(InvalidValue, match="no bleu"):
        await three.change_policy("support", lambda now: with_(now, quality=bleu), actor="ann", check=check)
    assert await numbers(three) == []
    for asked in (three.change_policy("never", mode("act"), actor="ann"), three.policy_history("never")):
        with pytest.raises(NotFound):
            await asked


async def test_changes_at_once_all_stay(three: Registry) -> None:
    """Each has its number, and the newest holds them all."""
    fields = {"least_rows": 11, "cool_down_h": 1.0, "approval": True, "most_of_one_key": 0.5}

    def changing(field: str) -> Any:
        return lambda policy: with_(policy, retrain=with_(policy.retrain, **{field: fields[field]}))

    await asyncio.gather(*(three.change_policy("support", changing(field), actor="ann") for field in fields))
    assert await numbers(three) == [4, 3, 2, 1]
    assert (await three.catalog()).adapters["support"].policy.retrain == RetrainRule(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("cancels", [False, True], ids=["error", "cancelled"])
async def test_a_change_broken_off_anywhere(three: Registry, database: AsyncEngine, cancels: bool) -> None:
    """The policy, its number and the quality rule are all changed or all not, and the next change finds no lock."""
    faults, broken = Faults(database), 0
    for step in range(1, STEPS):
        before = (await three.catalog()).adapters["support"]
        quality = with_(before.policy.quality, drop=step / 100)
        wanted = with_(before.policy, quality=quality, retrain=RetrainRule(least_rows=10 + step))

        def change(_: Policy, wanted: Policy = wanted) -> Policy:
            return wanted

        faults.now = Fault(step, cancels)
        try:
            await asyncio.create_task(three.change_policy("support", change, actor="ann"))
        except (Crash, asyncio.CancelledError):
            broken += 1
        faults.now = None
        after = (await three.catalog()).adapters["support"]
        changed = replace(
            before,
            policy=wanted,
            policy_number=before.policy_number + 1,
            monitoring=with_(before.monitoring, quality=quality),
        )
        assert after in (before, changed)
        assert (await numbers(three))[:1] == [after.policy_number] * (after.policy_number > 0)
        async with asyncio.timeout(5):
            await three.change_policy("support", change, actor="bob")
        assert (await three.catalog()).adapters["support"] == changed
    assert 5 <= broken < STEPS - 1
