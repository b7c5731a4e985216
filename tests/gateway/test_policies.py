"""Policies as the admin API shows, changes and looks back on them."""

from typing import Any

import msgspec
import pytest

from gateway.admin.policies import PolicyPatch, RetrainPatch, RolloutPatch
from registry.policies import Policy, RetrainRule, RolloutRule
from tests.conftest import RunningGateway
from tests.gateway.answers import error_of, new_key, stranger

POLICY = "/admin/v1/adapters/support/policy"
JOB = {"hyperparameters": {"n_epochs": 2}, "ostler": {"rank": 8, "gate": {"alpha": 0.1}}}


async def changed(gateway: RunningGateway, **order: Any) -> Any:
    """The policy after a change."""
    response = await gateway.http.patch(POLICY, json=order)
    assert response.status_code == 200, response.text
    return response.json()


async def history(gateway: RunningGateway, **params: Any) -> Any:
    """The adapter's policies."""
    return (await gateway.http.get(f"{POLICY}/history", params=params)).json()


async def test_the_defaults_are_shown_at_first(two: RunningGateway) -> None:
    """Under the number 0: Ostler says what it would do, and does nothing."""
    found = (await two.http.get(POLICY)).json()
    assert found == {"number": 0, **msgspec.to_builtins(Policy()), "retrain": msgspec.to_builtins(RetrainRule())} | {
        "rollout": {**msgspec.to_builtins(RolloutRule()), "steps": [0.05, 0.25, 0.5]},
        "retrain": {**msgspec.to_builtins(RetrainRule()), "sources": ["correction", "accepted"], "trusted_keys": []},
        "warnings": [],
    }
    assert (await history(two)) == {"data": [], "has_more": False}


async def test_a_change_touches_only_what_it_says(two: RunningGateway) -> None:
    """Also within the parts; each has a number, who made it and why, and holds at once."""
    trusted = [(await new_key(two))[1]["id"]]
    first = await changed(two, mode="act", rollout={"steps": [0.1, 0.5], "errors": None}, reason="we trust it")
    second = await changed(two, retrain={"hours": [22, 6], "budget": 50, "job": JOB}, quality={"drop": 0.1})
    third = await changed(two, retrain={"hours": None, "trusted_keys": trusted})
    assert (first["number"], first["mode"], first["rollout"]["steps"]) == (1, "act", [0.1, 0.5])
    assert first["rollout"]["least_sessions"] == 50
    assert second == first | {
        "number": 2,
        "retrain": first["retrain"] | {"hours": [22, 6], "budget": 50, "job": JOB},
        "quality": first["quality"] | {"drop": 0.1},
    }
    assert third == second | {
        "number": 3,
        "retrain": second["retrain"] | {"hours": None, "trusted_keys": trusted},
    }
    assert (await two.http.get(POLICY)).json() == third
    assert (await changed(two, mode="act")) == third, "what changes nothing has no number"
    found = await history(two, limit=2)
    assert ([each["number"] for each in found["data"]], found["has_more"]) == ([3, 2], True)
    (oldest,) = (await history(two, before=2))["data"]
    assert oldest | {"warnings": first["warnings"]} == first | {
        name: oldest[name] for name in ("actor", "reason", "created_at")
    }
    assert oldest["reason"] == "we trust it"


async def test_acting_without_captured_prompts_is_warned_of(two: RunningGateway) -> None:
    """Whenever the policy is shown, as nothing would ever be trained; not once prompts are captured."""
    (warning,) = (await changed(two, mode="act"))["warnings"]
    assert "`ostler monitoring support --capture 1`" in warning
    assert (await two.http.get(POLICY)).json()["warnings"] == [warning]
    await two.http.patch("/admin/v1/adapters/support/monitoring", json={"capture": 0.5})
    assert (await two.http.get(POLICY)).json()["warnings"] == []


async def test_the_quality_rule_is_that_of_the_monitoring(two: RunningGateway) -> None:
    """Whichever is changed, both say the same, and it stands in the policy's history."""
    await changed(two, quality={"drop": 0.2})
    monitoring = (await two.http.get("/admin/v1/adapters/support/monitoring")).json()
    assert monitoring["quality"]["drop"] == 0.2
    await two.http.patch("/admin/v1/adapters/support/monitoring", json={"quality": {"drop": 0.3}})
    assert (await two.http.get(POLICY)).json()["quality"]["drop"] == 0.3
    assert [each["quality"]["drop"] for each in (await history(two))["data"]] == [0.3, 0.2]


@pytest.mark.parametrize(
    ("order", "status", "param", "says"),
    [
        ({"mode": "sometimes"}, 400, "mode", "'act', 'advise' or 'off'"),
        ({"rollout": {"step": [0.1]}}, 400, "rollout.step", "there is no field"),
        ({"rollout": {"steps": [0.5, 0.1]}}, 422, "rollout", "larger than the last"),
        ({"rollout": {"steps": [0.05, 0.25, 0.5, 1]}}, 422, "rollout", "after the last step the version is promoted"),
        ({"rollout": {"longest_h": 0.4}}, 422, "rollout", "3 steps of rollout.least_minutes take 0.5 h"),
        ({"retrain": {"hours": [5, 5]}}, 422, "retrain", "none is all day"),
        ({"retrain": {"sources": ["accepted", "accepted"]}}, 422, "retrain", "more than once"),
        ({"retrain": {"trusted_keys": ["nonsense"]}}, 422, "retrain.trusted_keys", "ostler keys list"),
        ({"quality": {"drop": 1}}, 400, "quality.drop", "1"),
        ({"quality": {"level": 0.03}}, 422, "quality.level", "no alarm could ever come"),
        ({"rollout": {"steps": []}}, 400, "rollout.steps", "1 to 20 items"),
        ({"rollout": {"holdback": 0.6}}, 400, "rollout.holdback", "0.5"),
        ({"retrain": {"hours": [22]}}, 400, "retrain.hours", "2 items or null"),
        ({"retrain": {"least_rows": 9}}, 400, "retrain.least_rows", "10"),
        ({"retrain": {"sources": ["hearsay"]}}, 400, "retrain.sources[0]", "'accepted', 'correction' or 'teacher'"),
        ({"retrain": {"job": {"model": "tiny"}}}, 422, "retrain.job", "model"),
        ({"retrain": {"job": {"hyperparameters": {"n_epochs": 0}}}}, 422, "retrain.job", "n_epochs"),
        ({"retrain": {"job": {"ostler": {"adapter": "other"}}}}, 422, "retrain.job", "ostler.adapter"),
        ({"retrain": {"job": {"ostler": {"decision": 1}}}}, 422, "retrain.job", "ostler.decision"),
        ({"retrain": {"job": {"ostler": {"x" * 20_000: 1}}}}, 400, "retrain.job", "16384"),
        ({"quality": {"scorer": "valid_json"}}, 422, "quality.scorer", "feedback"),
        ({"quality": {"level": -0.5}}, 422, "quality.level", "0"),
        ({"reason": "a\0b"}, 400, "reason", ""),
    ],
)
async def test_what_makes_no_sense_is_refused(
    shared_two: RunningGateway, order: dict[str, Any], status: int, param: str | None, says: str
) -> None:
    """With the field, and what would be right; nothing is changed then."""
    response = await shared_two.http.patch(POLICY, json=order)
    error = error_of(response)
    assert response.status_code == status, response.text
    assert says in error["message"]
    assert param is None or error["param"] == param
    assert (await shared_two.http.get(POLICY)).json()["number"] == 0


@pytest.mark.parametrize("depth", [300, 5_000, 100_000])
async def test_endless_nesting_is_refused(shared_two: RunningGateway, depth: int) -> None:
    """It never breaks the gateway."""
    body = '{"retrain": {"job": {"ostler": ' + "[" * depth + "]" * depth + "}}}"
    response = await shared_two.http.patch(POLICY, content=body, headers={"content-type": "application/json"})
    assert response.status_code in (400, 422)
    assert (await shared_two.http.get(POLICY)).status_code == 200


@pytest.mark.parametrize("path", [POLICY, f"{POLICY}/history"])
async def test_only_admins_see_it_and_only_what_exists(two: RunningGateway, path: str) -> None:
    """Another key is refused, also for an adapter of its own; an unknown adapter is not found."""
    secret, _ = await new_key(two, adapters=["support"])
    assert (await stranger(two, secret, path=path)).status_code == 403
    unknown = await two.http.get(path.replace("support", "never"))
    assert (unknown.status_code, error_of(unknown)["code"]) == (404, "not_found")
    assert (await two.http.patch(POLICY.replace("support", "never"), json={"mode": "act"})).status_code == 404


@pytest.mark.parametrize(
    ("body", "rule"), [(RetrainPatch, RetrainRule), (RolloutPatch, RolloutRule), (PolicyPatch, Policy)]
)
def test_the_bodies_are_the_rules(body: type[msgspec.Struct], rule: type[msgspec.Struct]) -> None:
    """Each field of a rule can be changed, and its default is taken back as it is shown."""
    fields = {field.name for field in msgspec.structs.fields(body)} - {"reason"}
    assert fields == {field.name for field in msgspec.structs.fields(rule)}
    default: Any = msgspec.to_builtins(rule())
    read = msgspec.convert(msgspec.json.decode(msgspec.json.encode(default)), body)
    assert (
        msgspec.json.decode(msgspec.json.encode(read)).items()
        >= msgspec.json.decode(msgspec.json.encode(default)).items()
    )


EDGES: list[tuple[str, str, Any, Any]] = [
    ("retrain", "least_rows", 10, 9),
    ("retrain", "least_rows", 10_000_000, 10_000_001),
    ("retrain", "most_of_one_key", 1, 1.01),
    ("retrain", "most_of_one_key", 1e-9, 0),
    ("retrain", "cool_down_h", 8_760, 8_761),
    ("retrain", "budget", 0, -1),
    ("retrain", "hours", [0, 23], [0, 24]),
    ("rollout", "steps", [1], [1.1]),
    ("rollout", "least_sessions", 1, 0),
    ("rollout", "least_minutes", 525_600, 525_601),
    ("rollout", "longest_h", 8_760, 0),
    ("rollout", "errors", 0.999, 1),
    ("rollout", "latency_ratio", 1, 0.9),
    ("rollout", "cost_ratio", 100, 101),
    ("rollout", "guard_alpha", 1e-9, 0),
    ("rollout", "holdback", 0.5, 0.6),
    ("rollout", "holdback_h", 0, -1),
]


@pytest.mark.parametrize(("part", "field", "allowed", "refused"), EDGES)
def test_the_bounds_are_the_registrys(part: str, field: str, allowed: Any, refused: Any) -> None:
    """What the document allows at its edges is taken by both, and what lies beyond by neither."""
    msgspec.convert({part: {field: allowed}}, PolicyPatch)
    msgspec.convert({part: {field: allowed}}, Policy)
    for kind in (PolicyPatch, Policy):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({part: {field: refused}}, kind)
