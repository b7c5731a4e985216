"""Fine-tuning jobs over HTTP: as OpenAI's SDK sees them, asked for once, followed, stopped, and each key's own."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gateway.settings import GatewaySettings
from registry.database import connect
from registry.tuning.events import Events
from registry.tuning.jobs import Jobs
from tests.conftest import RunningGateway
from tests.gateway.answers import error_of, new_key, stranger
from tests.gateway.test_schema import schemathesis
from tests.gateway.tuning.asking import JOBS, bearer, create, created, sent
from tests.registry.tuning.checkpoints import add_checkpoint
from tests.registry.tuning.telling import tell

ROOT = Path(__file__).parents[3]
OLD_SDK = Path(sys.prefix, "openai-2")
SHORT = ("--phases", "coverage", "--max-examples", "3")
RULE: dict[str, Any] = {
    "scorers": [{"scorer": "exact_match", "options": {}}],
    "alpha": 0.05,
    "least_gain": 0.0,
    "perplexity_margin": 0.05,
    "retention_margin": 0.1,
    "refusal_margin": 0.1,
    "latency_ratio": 1.5,
    "sets": {"retention": {"name": "Ostler's own", "digest": "a" * 64, "rows": 205}},
}
OURS = {"ostler": {"adapter": "support"}}


@pytest.fixture
async def jobs(gateway: RunningGateway) -> AsyncIterator[Jobs]:
    """What a tuner sees of the gateway's jobs."""
    database = connect(gateway.app.state.settings.database)
    yield Jobs(database)
    await database.dispose()


async def run_sdk(gateway: RunningGateway, major: int) -> None:
    """Walk through jobs with OpenAI's SDK, in a process of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    paths = [str(OLD_SDK)] if major == 2 else []
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.gateway.tuning.sdk_jobs", str(major), gateway.url, gateway.key),
        cwd=ROOT,
        env=kept | {"PYTHONPATH": os.pathsep.join([*paths, str(ROOT)]), "NO_PROXY": "127.0.0.1"},
        stderr=asyncio.subprocess.PIPE,
    )
    _, told = await process.communicate()
    assert process.returncode == 0, told.decode()


async def test_openais_older_sdk_asks_for_jobs(gateway: RunningGateway) -> None:
    """Each of its calls, its paging and its errors."""
    await run_sdk(gateway, 2)


class TestOnPostgreSQL:
    """What only the other database could trip over."""

    @pytest.fixture
    def gateway_settings(self, gateway_settings: GatewaySettings, postgres_url: str) -> GatewaySettings:
        """The same gateway on PostgreSQL."""
        return gateway_settings.model_copy(update={"database_url": postgres_url})

    async def test_openais_newer_sdk_asks_for_jobs(self, gateway: RunningGateway) -> None:
        """As the older one does, on SQLite."""
        await run_sdk(gateway, 3)

    async def test_one_idempotency_key_is_one_job(self, gateway: RunningGateway) -> None:
        """However many ask at once."""
        await assert_one_job(gateway)


async def assert_one_job(gateway: RunningGateway) -> None:
    """Ask for the same with one idempotency key, all at once."""
    body = OURS | {"training_file": await sent(gateway)}
    asking = (create(gateway, body, **{"idempotency-key": "once"}) for _ in range(8))
    answers = await asyncio.gather(*asking)
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len({answer.json()["seed"] for answer in answers}) == 1, "the one that was drawn first"
    assert len((await gateway.http.get(JOBS)).json()["data"]) == 1


async def test_one_idempotency_key_is_one_job(gateway: RunningGateway) -> None:
    """However many ask at once."""
    await assert_one_job(gateway)


async def test_an_idempotency_key_answers_whatever_changed_since(two: RunningGateway) -> None:
    """The file is gone and another version serves: it is still the job that was asked for then."""
    file_id = await sent(two)
    body = {"model": "support", "training_file": file_id, "ostler": {}}
    job = (await create(two, body, **{"idempotency-key": "once"})).json()
    await two.http.post(f"{JOBS}/{job['id']}/cancel")
    assert (await two.http.delete(f"/v1/files/{file_id}")).is_success
    assert (await two.promote("support", 2)).is_success
    again = await create(two, body, **{"idempotency-key": "once"})
    assert (again.status_code, again.json()["id"], again.json()["ostler"]["start_from"]) == (200, job["id"], 1)


async def test_an_idempotency_key_is_of_one_request_and_one_key(gateway: RunningGateway) -> None:
    """Another request with it is refused for good; another API key's is its own."""
    file_id = await sent(gateway)
    body, header = OURS | {"training_file": file_id}, {"idempotency-key": "once"}
    job = (await create(gateway, body, **header)).json()
    response = await create(gateway, body | {"seed": 3}, **header)
    error = error_of(response)
    assert (response.status_code, error["param"]) == (422, "idempotency-key")
    assert job["id"] in error["message"]
    assert response.headers["x-should-retry"] == "false"
    secret, _ = await new_key(gateway, scopes=["tuning"])
    assert (await create(gateway, body, secret, **header)).json()["id"] != job["id"]
    for wrong in ("", "k" * 256):
        response = await create(gateway, body, **{"idempotency-key": wrong})
        assert (response.status_code, error_of(response)["param"]) == (422, "idempotency-key")


class TestFull:
    """A key's jobs wait in a queue that ends somewhere."""

    @pytest.fixture
    def gateway_settings(self, gateway_settings: GatewaySettings) -> GatewaySettings:
        """A gateway that takes two jobs of a key."""
        return gateway_settings.model_copy(update={"max_open_jobs": 2})

    async def test_a_key_has_so_many_jobs_open(self, gateway: RunningGateway) -> None:
        """One more is refused, not to be sent again; another key's is not, nor one after another has ended."""
        first, _ = await created(gateway), await created(gateway)
        response = await create(gateway, OURS)
        error = error_of(response)
        assert (response.status_code, error["code"]) == (409, "conflict")
        assert "2 fine-tuning jobs of this API key are open" in error["message"]
        assert response.headers["x-should-retry"] == "false"
        secret, _ = await new_key(gateway, scopes=["tuning"])
        await created(gateway, secret=secret)
        await gateway.http.post(f"{JOBS}/{first['id']}/cancel")
        await created(gateway)


async def test_a_job_shows_how_far_it_is(gateway: RunningGateway, jobs: Jobs) -> None:
    """Each state as OpenAI names it, with what is known in it."""
    asked = await created(gateway)

    async def shown() -> dict[str, Any]:
        job: dict[str, Any] = (await gateway.http.get(f"{JOBS}/{asked['id']}")).json()
        return job

    soon = datetime.now(UTC) + timedelta(seconds=90)
    await jobs.claim("one", bases=["tiny"], lease_s=60)
    job = await shown()
    assert (job["status"], job["ostler"]["attempt"]) == ("validating_files", 1)
    assert job["ostler"]["started_at"] >= job["created_at"]
    await jobs.note(asked["id"], "one", state="running", stage="training", dataset="d" * 64, estimated_finish=soon)
    job = await shown()
    assert (job["status"], job["ostler"]["stage"], job["ostler"]["dataset"]) == ("running", "training", "d" * 64)
    assert job["estimated_finish"] == int(soon.timestamp())
    await jobs.renew(asked["id"], "one", lease_s=-1)
    assert (await shown())["estimated_finish"] is None, "its tuner was lost, and nobody goes on yet"
    await jobs.renew(asked["id"], "one", lease_s=60)
    wished = (await gateway.http.post(f"{JOBS}/{asked['id']}/pause")).json()
    assert (wished["status"], wished["ostler"]["wanted"]) == ("running", "pause")
    await jobs.end(asked["id"], "one", "paused", "The job is paused", attempt=0)
    job = await shown()
    assert (job["status"], job["ostler"]["state"], job["estimated_finish"]) == ("queued", "paused", None)
    await gateway.http.post(f"{JOBS}/{asked['id']}/resume")
    await jobs.claim("two", bases=["tiny"], lease_s=60)
    told = {"version": 3, "fine_tuned_model": "support@3", "trained_tokens": 4000, "result_file": "file-9"}
    await jobs.end(asked["id"], "two", "succeeded", "done", **told)
    job = await shown()
    assert (job["status"], job["fine_tuned_model"], job["trained_tokens"]) == ("succeeded", "support@3", 4000)
    assert (job["result_files"], job["error"], job["ostler"]["candidate"]) == (["file-9"], None, "support@3")
    assert job["finished_at"] >= job["created_at"]


async def test_a_rejected_job_says_by_what(gateway: RunningGateway, jobs: Jobs) -> None:
    """It failed, its version is named as a candidate alone."""
    asked = await created(gateway)
    await jobs.claim("one", bases=["tiny"], lease_s=60)
    error = {"code": "rejected_by_gate", "message": "quality: no better", "param": None}
    await jobs.end(asked["id"], "one", "failed", "The job failed", version=3, error=error)
    job = (await gateway.http.get(f"{JOBS}/{asked['id']}")).json()
    assert (job["status"], job["error"], job["fine_tuned_model"]) == ("failed", error, None)
    assert job["ostler"]["candidate"] == "support@3"


async def test_the_rule_and_what_came_of_it_are_the_jobs_own(gateway: RunningGateway, jobs: Jobs) -> None:
    """The rule as soon as it stands; the report, without what only its page draws, where one job is asked for."""
    secret, _ = await new_key(gateway, scopes=["tuning"], adapters=["support", "tiny"])
    asked = await created(gateway)
    page = "<!doctype html><p>\u00e9".encode()
    path, registry = f"{JOBS}/{asked['id']}", gateway.registry

    async def shown() -> dict[str, Any]:
        ours: dict[str, Any] = (await stranger(gateway, secret, path=path)).json()["ostler"]
        return ours

    assert (asked["ostler"]["rule"], await shown()) == (None, asked["ostler"])
    no_report = await stranger(gateway, secret, path=f"{path}/report")
    assert (no_report.status_code, error_of(no_report)["code"]) == (404, "not_found")
    await jobs.claim("one", bases=["tiny"], lease_s=60)
    pushed = await registry.push("support", gateway.adapter_folder(3.0), actor="tuner", base="tiny", lineage={})
    await jobs.note(asked["id"], "one", state="running", rule=RULE, version=pushed.version.number)
    ours = await shown()
    assert (ours["rule"], "report" in ours) == (RULE, False)
    stored = registry.store.put_files({"report.html": page})
    report = {"format": 1, "passed": False, "reason": "no better", "sets": RULE["sets"], "parts": [{"name": "quality"}]}
    kept = report | {"plots": {"labels": []}, "page": stored.digest}
    await registry.judge("support", pushed.version.number, passed=False, report=kept, actor="tuner")
    assert (await shown())["report"] == report
    listed = (await stranger(gateway, secret, path=JOBS)).json()["data"]
    assert "report" not in listed[0]["ostler"]
    response = await stranger(gateway, secret, path=f"{path}/report")
    assert (response.status_code, response.content) == (200, page)
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["content-security-policy"].startswith("sandbox; default-src 'none'")


async def test_a_job_that_no_gate_has_judged_is_resumed_to_be_evaluated(gateway: RunningGateway, jobs: Jobs) -> None:
    """As when the engine was away; its error is told no more."""
    asked = await created(gateway)
    await jobs.claim("one", bases=["tiny"], lease_s=60)
    error = {"code": "evaluation_failed", "message": "nobody answered", "param": None}
    await jobs.end(asked["id"], "one", "failed", "The job failed", version=3, error=error)
    resumed = await gateway.http.post(f"{JOBS}/{asked['id']}/resume")
    assert resumed.status_code == 200
    job = resumed.json()
    assert (job["status"], job["finished_at"], job["ostler"]["candidate"]) == ("queued", None, "support@3")
    assert not (job["error"] or {}).get("code")


async def test_events_and_checkpoints_are_followed_page_after_page(gateway: RunningGateway, jobs: Jobs) -> None:
    """In OpenAI's lists, newest first; the best checkpoint of a job that succeeded is its model."""
    asked = await created(gateway)
    events = Events(jobs._engine)
    await jobs.claim("one", bases=["tiny"], lease_s=60)
    for step in (1, 2, 3):
        await tell(events, asked["id"], f"Step {step}", data={"step": step, "train_loss": 1 / step})
        metrics = {"step": float(step), "full_valid_loss": 1.0}
        await add_checkpoint(events, asked["id"], step, f"{step}" * 64, metrics, is_best=step == 2)
    await tell(events, asked["id"], "careful", level="warn")
    path = f"{JOBS}/{asked['id']}"
    page = (await gateway.http.get(f"{path}/events", params={"limit": 2})).json()
    assert (page["object"], page["has_more"]) == ("list", True)
    newest, step = page["data"]
    assert (newest["level"], newest["type"], newest["data"], newest["message"]) == ("warn", "message", None, "careful")
    assert (step["type"], step["data"]) == ("metrics", {"step": 3, "train_loss": 1 / 3})
    assert (page["first_id"], page["last_id"]) == (newest["id"], step["id"])
    rest = (await gateway.http.get(f"{path}/events", params={"after": step["id"]})).json()
    assert ([event["message"] for event in rest["data"]][:2], rest["has_more"]) == (["Step 2", "Step 1"], False)
    page = (await gateway.http.get(f"{path}/checkpoints", params={"limit": 2})).json()
    assert [each["step_number"] for each in page["data"]] == [3, 2]
    assert page["has_more"]
    assert page["data"][0] == page["data"][0] | {
        "object": "fine_tuning.job.checkpoint",
        "fine_tuned_model_checkpoint": "support:ckpt-step-3",
        "fine_tuning_job_id": asked["id"],
        "metrics": {"step": 3.0, "full_valid_loss": 1.0},
        "ostler": {"is_best": False, "kept": True},
    }
    rest = (await gateway.http.get(f"{path}/checkpoints", params={"after": page["last_id"]})).json()
    assert [(each["step_number"], each["ostler"]["kept"]) for each in rest["data"]] == [(1, False)]
    await jobs.end(asked["id"], "one", "succeeded", "done", version=4, fine_tuned_model="support@4")
    page = (await gateway.http.get(f"{path}/checkpoints")).json()
    names = [each["fine_tuned_model_checkpoint"] for each in page["data"]]
    assert names == ["support:ckpt-step-3", "support@4", "support:ckpt-step-1"]


WRONG_QUERIES: list[tuple[str, Any, int, str]] = [
    ("", {"limit": 0}, 400, "limit"),
    ("", {"limit": 101}, 400, "limit"),
    ("", {"after": "ftjob-0"}, 404, "after"),
    ("", {"metadata": "none"}, 400, "metadata"),
    ("", {"metadata": "null", "metadata[k]": "v"}, 400, "metadata"),
    ("", [("metadata[k]", "v"), ("metadata[k]", "w")], 400, "metadata"),
    ("/events", {"limit": 0}, 400, "limit"),
    ("/events", {"limit": 1001}, 400, "limit"),
    ("/events", {"after": "7"}, 404, "after"),
    ("/events", {"after": "ftevent-" + "9" * 30}, 404, "after"),
    ("/checkpoints", {"limit": 101}, 400, "limit"),
    ("/checkpoints", {"after": "ftckpt-0"}, 404, "after"),
]


async def test_a_wrong_query_is_refused(gateway: RunningGateway) -> None:
    """With the parameter's name, never with an empty list that looks like an answer."""
    job = await created(gateway)
    for list_of, query, status, param in WRONG_QUERIES:
        response = await gateway.http.get(f"{JOBS}/{job['id']}{list_of}" if list_of else JOBS, params=query)
        assert (response.status_code, error_of(response)["param"]) == (status, param), (list_of, query)


async def test_every_change_is_audited(gateway: RunningGateway) -> None:
    """With the API key that made it."""
    secret, key = await new_key(gateway, scopes=["tuning"])
    job = await created(gateway, secret=secret)
    for deed in ("pause", "resume", "cancel"):
        response = await gateway.http.post(f"{JOBS}/{job['id']}/{deed}", headers=bearer(secret))
        assert response.status_code == 200
    entries = (await gateway.http.get("/admin/v1/audit", params={"limit": 4})).json()["data"]
    assert [entry["action"] for entry in entries] == ["cancel_job", "resume_job", "pause_job", "create_job"]
    assert {entry["actor"] for entry in entries} == {f"team ({key['id']})"}
    assert {entry["subject"] for entry in entries} == {f"job:{job['id']}"}


async def test_a_job_that_has_ended_is_not_changed(gateway: RunningGateway, jobs: Jobs) -> None:
    """409, not to be sent again."""
    asked = await created(gateway)
    await jobs.claim("one", bases=["tiny"], lease_s=60)
    await jobs.end(asked["id"], "one", "succeeded", "done")
    for deed in ("cancel", "pause", "resume"):
        response = await gateway.http.post(f"{JOBS}/{asked['id']}/{deed}")
        assert (response.status_code, response.headers["x-should-retry"]) == (409, "false")
        assert "is succeeded" in error_of(response)["message"]


async def test_a_bound_key_sees_the_jobs_of_its_adapters_alone(gateway: RunningGateway) -> None:
    """Whoever asked for them; any other answers as one that never was, on each way, and in each list."""
    secret, _ = await new_key(gateway, scopes=["tuning"], adapters=["support", "tiny"])
    mine, other = await created(gateway), await created(gateway, {"ostler": {"adapter": "billing"}})
    listed = (await stranger(gateway, secret, path=JOBS)).json()
    assert [job["id"] for job in listed["data"]] == [mine["id"]]
    assert (await stranger(gateway, secret, path=f"{JOBS}/{mine['id']}")).json()["id"] == mine["id"]

    async def everything_about(job_id: str) -> list[tuple[int, str]]:
        calls = [("GET", ""), ("GET", "/events"), ("GET", "/checkpoints"), ("GET", "/report")]
        calls += [("POST", f"/{deed}") for deed in ("cancel", "pause", "resume")]
        answers = [await stranger(gateway, secret, method, f"{JOBS}/{job_id}{path}") for method, path in calls]
        answers.append(await stranger(gateway, secret, path=JOBS, params={"after": job_id}))
        return [(answer.status_code, answer.text.replace(job_id, "JOB")) for answer in answers]

    told = await everything_about(other["id"])
    assert told == await everything_about("ftjob-" + "0" * 24)
    assert {status for status, _ in told} == {404}
    assert (await gateway.http.get(f"{JOBS}/{other['id']}")).json()["ostler"]["wanted"] == "run"
    assert (await stranger(gateway, secret, "POST", f"{JOBS}/{mine['id']}/cancel")).json()["status"] == "cancelled"


async def test_a_key_that_lost_its_adapter_lost_its_jobs(gateway: RunningGateway) -> None:
    """Also those that itself asked for, and by their idempotency key."""
    secret, key = await new_key(gateway, scopes=["tuning"], adapters=["support", "tiny"])
    body = OURS | {"training_file": await sent(gateway, secret=secret)}
    job = (await create(gateway, body, secret, **{"idempotency-key": "once"})).json()
    await gateway.http.patch(f"/admin/v1/keys/{key['id']}", json={"adapters": ["billing", "tiny"]})
    assert (await stranger(gateway, secret, path=f"{JOBS}/{job['id']}")).status_code == 404
    assert (await create(gateway, body, secret, **{"idempotency-key": "once"})).status_code == 404
    assert (await stranger(gateway, secret, path=JOBS)).json()["data"] == []


async def test_jobs_need_a_key_for_tuning(gateway: RunningGateway) -> None:
    """Before anything is looked up."""
    secret, _ = await new_key(gateway, scopes=["inference", "feedback"])
    for method, path in (("POST", JOBS), ("GET", JOBS), ("GET", f"{JOBS}/ftjob-0"), ("POST", f"{JOBS}/x/cancel")):
        response = await stranger(gateway, secret, method, path)
        assert (response.status_code, error_of(response)["code"]) == (403, "insufficient_permissions")


async def test_the_document_tells_of_a_job_that_is_there(gateway: RunningGateway, tmp_path: Path) -> None:
    """Whatever is asked about it: no answer outside of the OpenAPI document."""
    job = await created(gateway)
    there = {"fine_tuning_job_id": job["id"]}
    found = await schemathesis(gateway, tmp_path, there, "--include-path-regex", "^/v1/fine_tuning/jobs/", *SHORT)
    assert not found, found
    assert (await gateway.http.get(f"{JOBS}/{job['id']}")).json()["status"] == "cancelled", "it was reached"


async def test_a_large_body_is_refused(gateway: RunningGateway) -> None:
    """Long before it would be an order."""
    response = await gateway.http.post(JOBS, json={"model": "m" * (300 << 10)})
    assert response.status_code == 413
