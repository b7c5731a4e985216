"""Looks at drift through the admin API: listed, asked for, and their reports opened in a browser."""

from datetime import UTC, datetime, timedelta

from monitors.drifting import runs as drift_runs
from monitors.drifting.runs import DriftRun
from registry.database import connect
from tests.conftest import RunningGateway

NOW = datetime(2026, 11, 3, 12, 0, tzinfo=UTC)
COLUMN = {
    "name": "prompt",
    "method": "mean_distance",
    "statistic": 0.6,
    "threshold": 0.3,
    "p_value": 1e-9,
    "drifted": True,
    "rows": 50,
    "reference_rows": 100,
}


async def look(gateway: RunningGateway, number: int, report: str | None = None) -> None:
    """A look at version 1, the `number`-th."""
    at = NOW + timedelta(hours=number)
    run = DriftRun("support", 1, at, at, 50, 100, "first requests", "drift", columns=(COLUMN,), report=report)
    database = connect(gateway.app.state.settings.database)
    async with database.begin() as connection:
        assert await drift_runs.store_run(connection, run, "a rule", None, at)
    await database.dispose()


async def test_looks_are_listed_newest_first(two: RunningGateway) -> None:
    """Page by page, with the columns' verdicts; an adapter that is not there has none."""
    path = "/admin/v1/adapters/support/drift"
    assert (await two.http.get(path)).json() == {"data": [], "has_more": False}
    for number in range(3):
        await look(two, number)
    page = (await two.http.get(path, params={"limit": 2})).json()
    assert page["has_more"]
    assert [each["window_end"][11:13] for each in page["data"]] == ["14", "13"]
    assert page["data"][0]["columns"] == [COLUMN]
    assert page["data"][0] | {"report": None, "outcome": "drift"} == page["data"][0]
    rest = (await two.http.get(path, params={"before": page["data"][-1]["id"]})).json()
    assert [each["window_end"][11:13] for each in rest["data"]] == ["12"]
    assert not rest["has_more"]
    assert (await two.http.get("/admin/v1/adapters/nobody/drift")).status_code == 404
    assert (await two.http.post("/admin/v1/adapters/nobody/drift")).status_code == 404


async def test_a_look_is_asked_for_through_the_database(two: RunningGateway) -> None:
    """Where the monitor finds the mark, until it has answered it."""
    asked = await two.http.post("/admin/v1/adapters/support/drift")
    assert asked.status_code == 202
    assert asked.json()["adapter"] == "support"
    database = connect(two.app.state.settings.database)
    async with database.begin() as connection:
        mark = await drift_runs.asked_for(connection, "support")
        assert datetime.fromisoformat(mark) == datetime.fromisoformat(asked.json()["asked_at"])
        await drift_runs.answer_look(connection, "support", "an older one")
        assert await drift_runs.asked_for(connection, "support") == mark
        await drift_runs.answer_look(connection, "support", mark)
        assert await drift_runs.asked_for(connection, "support") == ""
    await database.dispose()


async def test_a_report_opens_and_can_reach_nothing(two: RunningGateway) -> None:
    """As HTML, in a sandbox; what was never there, is not kept or was lost is not found or said to be lost."""
    kept = two.registry.store.put_files({"report.html": b"<html>\xc3\xa9</html>"}).digest
    for number, report in enumerate((None, kept, "0" * 64)):
        await look(two, number, report)
    lost, whole, none = (await two.http.get("/admin/v1/adapters/support/drift")).json()["data"]
    assert none["report"] is None
    found = await two.http.get(whole["report"])
    assert (found.status_code, found.text) == (200, "<html>é</html>")
    assert found.headers["content-type"] == "text/html; charset=utf-8"
    policy = found.headers["content-security-policy"]
    assert policy.startswith("sandbox allow-scripts; default-src 'none'")
    assert "allow-same-origin" not in policy
    for missing in (f"/admin/v1/drift/{none['id']}/report", "/admin/v1/drift/no/report"):
        answer = await two.http.get(missing)
        assert (answer.status_code, answer.headers["content-type"]) == (404, "application/json")
    answer = await two.http.get(lost["report"])
    assert answer.status_code == 503
    assert (await two.http.get(whole["report"], headers={"authorization": ""})).status_code == 401
