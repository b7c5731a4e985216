"""Golden sets over HTTP: pushed, listed and run, with every wrong row told."""

import json
from typing import Any

from tests.conftest import RunningGateway
from tests.gateway.answers import error_of

SETS = "/admin/v1/adapters/support/golden-sets"
RUNS = "/admin/v1/adapters/support/evaluations"


def lines(*answers: str) -> bytes:
    """A set with these references."""
    rows = (
        {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": answer}]}
        for n, answer in enumerate(answers)
    )
    return b"\n".join(json.dumps(row).encode() for row in rows)


async def push(gateway: RunningGateway, *answers: str, **params: Any) -> Any:
    """Push a set; the answer."""
    response = await gateway.http.post(SETS, content=lines(*answers), params=params)
    assert response.is_success, response.text
    return response.json()


async def test_a_set_is_pushed_once_and_listed(two: RunningGateway) -> None:
    """201 and then 200 for the same content; the audit log has it once."""
    first = await push(two, "a", "b", scorers=["rouge_l", "exact_match"], note="both")
    response = await two.http.post(SETS, content=lines("a", "b"), params={"scorers": ["rouge_l", "exact_match"]})
    assert (response.status_code, response.json()["golden_set"]) == (200, first["golden_set"])
    assert first["created"] is True
    assert (await push(two, "a", "b"))["golden_set"]["number"] == 2
    page = (await two.http.get(SETS, params={"limit": 1})).json()
    assert page["has_more"] is True
    (newest,) = page["data"]
    assert [choice["scorer"] for choice in newest["scorers"]] == ["exact_match", "token_f1"]
    (older,) = (await two.http.get(SETS, params={"before": 2})).json()["data"]
    assert older == first["golden_set"]
    assert (older["rows"], older["note"], len(older["digest"])) == (2, "both", 64)
    audit = (await two.http.get("/admin/v1/audit")).json()["data"]
    assert [entry["action"] for entry in audit].count("push_golden_set") == 2


async def test_wrong_rows_are_told_by_line(two: RunningGateway) -> None:
    """And nothing is registered."""
    response = await two.http.post(SETS, content=lines("a") + b"\n{}\n[]\n" + lines("b"))
    error = error_of(response)
    assert (response.status_code, error["code"]) == (422, "invalid_golden_set")
    assert error["message"].startswith("2 of 4 lines cannot be used: line 2: ")
    assert "line 3: " in error["message"]
    assert (await two.http.get(SETS)).json()["data"] == []
    response = await two.http.post(SETS, content=lines("a"), params={"scorers": ["nice"]})
    assert (response.status_code, error_of(response)["param"]) == (422, "scorers")
    assert error_of(await two.http.post(SETS))["message"].startswith("the golden set has no rows")


async def test_runs_are_queued_listed_and_shown(two: RunningGateway) -> None:
    """Stable and base unless others are named; the version that is meant stands in the run."""
    await push(two, "a")
    response = await two.http.post(RUNS)
    assert response.status_code == 202
    base, stable = response.json()["data"]
    assert [(run["version"], run["state"], run["golden_set"]) for run in (base, stable)] == [
        (None, "queued", 1),
        (1, "queued", 1),
    ]
    assert (base["model"], base["batch"], base["reason"]) == ("tiny", stable["batch"], "requested")
    (second,) = (await two.http.post(RUNS, json={"versions": [2, 2], "golden_set": 1})).json()["data"]
    assert second["model"].startswith("support@2-")
    listed = (await two.http.get(RUNS)).json()["data"]
    assert [run["id"] for run in listed] == [second["id"], stable["id"], base["id"]]
    (oldest,) = (await two.http.get(RUNS, params={"before": stable["id"]})).json()["data"]
    assert oldest == base
    shown = (await two.http.get(f"{RUNS}/{stable['id']}")).json()
    assert shown == stable | {"items": None}


async def test_what_is_not_there_cannot_be_run(two: RunningGateway) -> None:
    """No adapter, set, version, canary or run of that name; an unknown word or field is refused."""
    refused = [
        (await two.http.post(RUNS), 409),
        (await two.http.post(RUNS, json={"golden_set": 1}), 404),
        (await two.http.post(RUNS, json={"versions": [9]}), 404),
        (await two.http.post(RUNS, json={"versions": ["canary"]}), 409),
        (await two.http.post(RUNS, json={"versions": ["best"]}), 400),
        (await two.http.post(RUNS, json={"versions": []}), 400),
        (await two.http.post(RUNS, json={"version": 1}), 400),
        (await two.http.get(f"{RUNS}/none"), 404),
    ]
    for path in (SETS, RUNS):
        gone = path.replace("support", "nobody")
        refused += [(await two.http.get(gone), 404), (await two.http.post(gone, content=lines("a")), 404)]
    for response, status in refused[:-1]:
        assert response.status_code == status, response.text
        assert error_of(response)["message"]
    assert refused[-1][0].status_code in (400, 404)
