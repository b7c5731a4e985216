"""How adapters are watched, and how good they are, as the admin API tells it."""

import random
from pathlib import Path
from typing import Any

import pytest

from monitors.judging.quality import QualityJob
from registry.monitoring import QualityRule
from tests.conftest import RunningGateway
from tests.gateway.answers import error_of, new_key, stranger
from tests.monitors.judging.rows import NOW, observe, workshop

MONITORING = "/admin/v1/adapters/support/monitoring"
QUALITY = "/admin/v1/adapters/support/quality"
SCHEMA = {"scorer": "json_schema", "options": {"schema": {"type": "object"}}}
LONG = {"scorer": "json_schema", "options": {"schema": {"enum": ["x" * 70_000]}}}


async def changed(gateway: RunningGateway, **order: Any) -> Any:
    """How it is watched after a change."""
    response = await gateway.http.patch(MONITORING, json=order)
    assert response.status_code == 200, response.text
    return response.json()


async def test_an_adapter_is_watched_by_the_defaults_at_first(two: RunningGateway) -> None:
    """Nothing is captured, and what clients say decides."""
    found = (await two.http.get(MONITORING)).json()
    assert found.keys() == {"capture", "capture_days", "scorers", "quality", "drift", "golden_every_h"}
    assert (found["capture"], found["scorers"]) == (0, [])
    assert found["quality"]["scorer"] == "feedback"


async def test_a_change_touches_only_what_it_says(two: RunningGateway) -> None:
    """Also within the rules; it holds at once, and the audit log has it."""
    first = await changed(two, capture=0.25, scorers=[SCHEMA, {"scorer": "judge", "options": {"share": 0.1}}])
    second = await changed(two, quality={"scorer": "json_schema", "level": 0.9}, drift={"window_rows": 500})
    third = await changed(two, quality={"drop": 0.1, "level": None})
    assert [choice["scorer"] for choice in first["scorers"]] == ["json_schema", "judge"]
    assert second == first | {
        "quality": first["quality"] | {"scorer": "json_schema", "level": 0.9},
        "drift": first["drift"] | {"window_rows": 500},
    }
    assert third == second | {"quality": second["quality"] | {"drop": 0.1, "level": None}}
    assert (await two.http.get(MONITORING)).json() == third
    assert two.app.state.directory.catalog.adapters["support"].monitoring.quality.drop == 0.1
    (entry,) = (await two.http.get("/admin/v1/audit", params={"limit": 1})).json()["data"]
    assert (entry["action"], entry["subject"]) == ("set_monitoring", "adapter:support")
    assert entry["before"]["quality"]["drop"] == 0.05


@pytest.mark.parametrize(
    ("order", "status", "param", "says"),
    [
        ({"scorers": [{"scorer": "nonsense"}]}, 422, "scorers", "exact_match, "),
        ({"scorers": [{"scorer": "likelihood"}]}, 422, "scorers", "there are"),
        ({"scorers": [{"scorer": "feedback"}]}, 422, "scorers", "always"),
        ({"scorers": [SCHEMA, SCHEMA]}, 422, "scorers", "once"),
        ({"scorers": [{"scorer": "json_schema", "options": {}}]}, 422, None, "schema"),
        ({"scorers": [{"scorer": "regex", "options": {"pattern": "("}}]}, 422, None, "regex"),
        ({"scorers": [{"scorer": "judge", "options": {"share": 2}}]}, 422, "scorers", "share"),
        ({"scorers": [{"scorer": "judge", "options": {"shares": 1}}]}, 422, "scorers", "shares"),
        ({"scorers": [LONG]}, 400, "scorers", "65536"),
        ({"quality": {"scorer": "valid_json"}}, 422, "quality.scorer", "feedback"),
        ({"quality": {"level": 1.5}}, 400, "quality.level", "from -1 to 1"),
        ({"capture": -1}, 400, "capture", "0"),
        ({"captures": 1}, 400, "captures", "captures"),
    ],
)
async def test_what_makes_no_sense_is_refused(
    shared_two: RunningGateway, order: dict[str, Any], status: int, param: str | None, says: str
) -> None:
    """With the field, and what would be right; nothing is changed then."""
    before = (await shared_two.http.get(MONITORING)).json()
    response = await shared_two.http.patch(MONITORING, json=order)
    error = error_of(response)
    assert response.status_code == status, response.text
    assert says in error["message"]
    assert param is None or error["param"] == param
    assert (await shared_two.http.get(MONITORING)).json() == before


@pytest.mark.parametrize("depth", [300, 100_000])
async def test_endless_nesting_is_refused_or_kept(two: RunningGateway, depth: int) -> None:
    """It never breaks the gateway."""
    nested = "[" * depth + "]" * depth
    body = '{"scorers": [{"scorer": "json_schema", "options": {"schema": {"enum": ' + nested + "}}}]}"
    response = await two.http.patch(MONITORING, content=body, headers={"content-type": "application/json"})
    assert response.status_code in (200, 400, 422)
    assert (await two.http.get(MONITORING)).status_code == 200


async def test_a_scorer_that_decides_cannot_be_taken_away(two: RunningGateway) -> None:
    """Unless the rule is changed with it."""
    await changed(two, scorers=[SCHEMA], quality={"scorer": "json_schema"})
    refused = await two.http.patch(MONITORING, json={"scorers": []})
    assert (refused.status_code, error_of(refused)["param"]) == (422, "quality.scorer")
    assert (await changed(two, scorers=[], quality={"scorer": "feedback"}))["scorers"] == []


@pytest.mark.parametrize("path", [MONITORING, QUALITY])
async def test_only_admins_see_it_and_only_what_exists(two: RunningGateway, path: str) -> None:
    """Another key is refused, also for an adapter of its own; an unknown adapter is not found."""
    secret, _ = await new_key(two, adapters=["support"])
    assert (await stranger(two, secret, path=path)).status_code == 403
    unknown = await two.http.get(path.replace("support", "never"))
    assert (unknown.status_code, error_of(unknown)["code"]) == (404, "not_found")


async def test_quality_without_scores_is_not_enough_data(two: RunningGateway) -> None:
    """Of what is deployed; an adapter without a deployment has no version to tell of."""
    found = (await two.http.get(QUALITY)).json()
    assert [(each["version"], each["serves"], each["verdict"]) for each in found["versions"]] == [
        (1, "stable", "not enough data")
    ]
    await two.push("other", 3.0)
    assert (await two.http.get("/admin/v1/adapters/other/quality")).json()["versions"] == []


async def test_quality_tells_what_the_tests_know(two: RunningGateway, tmp_path: Path) -> None:
    """Each version's scores beside the base's and the stable version's, with the verdicts."""
    await changed(two, quality={"level_observations": 50, "drop": 0.1, "alarm_every": 1000})
    rng = random.Random(1)
    database = two.app.state["database"]
    await observe(database, [float(rng.random() < 0.9) for _ in range(200)], version=1)
    await observe(database, [0.5] * 100, version=1, against="base")
    await observe(database, [float(rng.random() < 0.9) for _ in range(20)], version=2)
    stable = two.app.state.directory.catalog.adapters["support"].stable.engine_name
    await observe(database, [-0.4] * 100, version=2, against=stable)
    await QualityJob(workshop(database, tmp_path)).run(await two.registry.catalog(), NOW)
    found = (await two.http.get(QUALITY)).json()
    assert found["rule"]["level_observations"] == 50
    two_, one = found["versions"]
    assert (two_["version"], two_["serves"], two_["verdict"]) == (2, None, "not enough data")
    assert (one["version"], one["serves"], one["verdict"]) == (1, "stable", "as expected")
    (own,) = one["scorers"]
    assert own["low"] < own["mean"] < own["high"]
    assert (own["observations"], own["watch"]["alarm"], own["watch"]["gathered"]) == (200, False, 50)
    (base,) = own["differences"]
    assert (base["against"], base["verdict"]) == ("base", "better")
    assert base["low"] > 0
    assert base["evidence_better"] >= base["evidence_needed"] == 20
    (beside,) = two_["scorers"][0]["differences"]
    assert (beside["against"], beside["verdict"]) == (stable, "worse")
    assert two_["scorers"][0]["watch"]["level"] is None


async def test_the_bounds_of_the_api_are_those_of_the_registry(two: RunningGateway) -> None:
    """What the document allows at its edges is taken."""
    edges = {"level": 1, "level_observations": 10, "drop": 0.999, "alarm_every": 10**12, "alpha": 0.5}
    drift = {"every_h": 0, "window_rows": 20, "reference_rows": 50, "false_alarms_per_week": 1e-6}
    found = await changed(two, quality=edges, drift=drift, capture_days=1 / 24, golden_every_h=8760)
    assert found["quality"] == {"scorer": QualityRule().scorer, "against": "level", **edges}
    found = await changed(two, quality={"against": "base", "level": -0.9, "drop": 0.05})
    assert (found["quality"]["against"], found["quality"]["level"]) == ("base", -0.9)
    refused = await two.http.patch(MONITORING, json={"quality": {"against": "level"}})
    assert (refused.status_code, refused.json()["error"]["param"]) == (422, "quality.level")


async def test_quality_may_be_the_gain_on_the_base(two: RunningGateway, tmp_path: Path) -> None:
    """Then the watch is over the differences, and the scores themselves are measured only."""
    await changed(two, quality={"against": "base", "level": 0.5, "drop": 0.1, "alarm_every": 1000})
    database = two.app.state["database"]
    await observe(database, [1.0] * 60, version=1)
    await observe(database, [0.1] * 60, version=1, against="base")
    await QualityJob(workshop(database, tmp_path)).run(await two.registry.catalog(), NOW)
    (found,) = (await two.http.get(QUALITY)).json()["versions"]
    assert found["verdict"] == "quality lost"
    (own,) = found["scorers"]
    assert own["verdict"] == "measured only"
    assert (own["watch"]["against"], own["watch"]["level"], own["watch"]["alarm"]) == ("base", 0.5, True)


async def test_changes_at_once_all_stay(two: RunningGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever changes another field at the same moment, at this gateway or another one that has not heard of it."""
    directory = two.app.state.directory

    async def behind() -> None:
        """As another gateway that hears of nothing."""

    with monkeypatch.context() as deaf:
        deaf.setattr(directory, "refresh", behind)
        for order in ({"capture": 0.5}, {"golden_every_h": 12}, {"quality": {"drop": 0.2}}):
            assert (await two.http.patch(MONITORING, json=order)).status_code == 200
    await directory.refresh()
    found = (await two.http.get(MONITORING)).json()
    assert (found["capture"], found["golden_every_h"], found["quality"]["drop"]) == (0.5, 12, 0.2)
