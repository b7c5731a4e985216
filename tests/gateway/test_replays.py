"""Dry runs of policies, as the admin API takes them."""

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.tables import ObservationRow
from tests.conftest import RunningGateway
from tests.gateway.answers import error_of

CHECK = "/admin/v1/adapters/support/policy/check"
OBSERVATIONS: Any = ObservationRow.__table__  # type: ignore[attr-defined]


async def test_a_policy_is_tried_on_what_was_recorded(two: RunningGateway) -> None:
    """With the changes that are said, and without changing anything."""
    database: AsyncEngine = two.app.state["database"]
    values = [1.0] * 30 + [0.0] * 30
    usual = {"adapter": "support", "version": 1, "scorer": "feedback", "against": "level"}
    async with database.begin() as connection:
        for number, value in enumerate(values):
            row = usual | {"session": f"s{number}", "value": value, "created_at": datetime.now(UTC)}
            await connection.execute(OBSERVATIONS.insert().values(**row))
    plain = await two.http.post(CHECK)
    assert plain.status_code == 200, plain.text
    assert (plain.json()["observations"], plain.json()["alarms"], plain.json()["mode"]) == (60, [], "advise")
    assert datetime.fromisoformat(plain.json()["observed_until"]) <= datetime.now(UTC)
    order = {"mode": "act", "quality": {"level": 0.9, "alarm_every": 1000}, "days": 1}
    found = (await two.http.post(CHECK, json=order)).json()
    assert (found["mode"], found["alarms"][0]["version"], found["alarms"][0]["level"]) == ("act", 1, 0.9)
    assert [each["outcome"] for each in found["decisions"]] == ["no_enough_rows"]
    assert (await two.http.get(CHECK.removesuffix("/check"))).json()["number"] == 0
    assert (await two.http.get("/admin/v1/decisions")).json()["data"] == []


@pytest.mark.parametrize(
    ("order", "status"),
    [
        ({"days": 0}, 400),
        ({"days": 91}, 400),
        ({"rollout": {"steps": [0.5, 0.1]}}, 422),
        ({"quality": {"scorer": "valid_json"}}, 422),
        ({"retrain": {"job": {"model": "tiny"}}}, 422),
        ({"weeks": 1}, 400),
    ],
)
async def test_what_could_not_be_stored_is_not_tried(two: RunningGateway, order: dict[str, Any], status: int) -> None:
    """By the same rules as a change of the policy."""
    refused = await two.http.post(CHECK, json=order)
    assert refused.status_code == status, refused.text
    assert error_of(refused)["message"]


async def test_an_adapter_that_there_is_not_is_not_found(two: RunningGateway) -> None:
    """As everywhere."""
    assert (await two.http.post(CHECK.replace("support", "nobody"), json={})).status_code == 404
