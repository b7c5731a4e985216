"""Files that are there: the calls of OpenAI's SDK, downloads, other tenants, files that jobs need, or nobody."""

import asyncio
import os
import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from sqlalchemy import update

from gateway.settings import GatewaySettings
from gateway.tuning.sweeping import sweep_files
from registry.catalog import Scope
from registry.database import connect, writing
from registry.errors import StoreFailure
from registry.tuning.files import Files
from registry.tuning.jobs import Asker, Jobs
from registry.tuning.orders import GateOrder, TuningOrder
from registry.tuning.tables import FileRow
from tests.conftest import RunningGateway, until
from tests.gateway.answers import error_of, new_key, stranger
from tests.gateway.tuning.forms import END, FORM, LIMIT, PURPOSE, left, part, send, sent

ROOT = Path(__file__).parents[3]
OLD_SDK = Path(sys.prefix, "openai-2")


@pytest.fixture
def gateway_settings(gateway_settings: GatewaySettings) -> GatewaySettings:
    """A gateway that takes files of 1 MiB."""
    return gateway_settings.model_copy(update={"max_file_bytes": LIMIT})


async def run_sdk(gateway: RunningGateway, major: int) -> None:
    """Walk through files with OpenAI's SDK, in a process of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    paths = [str(OLD_SDK)] if major == 2 else []
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.gateway.tuning.sdk_files", str(major), gateway.url, gateway.key),
        cwd=ROOT,
        env=kept | {"PYTHONPATH": os.pathsep.join([*paths, str(ROOT)]), "NO_PROXY": "127.0.0.1"},
        stderr=asyncio.subprocess.PIPE,
    )
    _, told = await process.communicate()
    assert process.returncode == 0, told.decode()


@pytest.mark.parametrize("major", [2, 3])
async def test_openais_sdk_sends_and_gets_files(gateway: RunningGateway, major: int) -> None:
    """Each of its calls, its paging and its errors; and nothing is left in the end."""
    await run_sdk(gateway, major)
    assert left(gateway) == []


class TestOnPostgreSQL:
    """What only the other database could trip over."""

    @pytest.fixture
    def gateway_settings(self, gateway_settings: GatewaySettings, postgres_url: str) -> GatewaySettings:
        """The same gateway on PostgreSQL."""
        return gateway_settings.model_copy(update={"database_url": postgres_url})

    async def test_openais_sdk_sends_and_gets_files(self, gateway: RunningGateway) -> None:
        """As on SQLite."""
        await run_sdk(gateway, 3)
        assert left(gateway) == []

    async def test_what_it_cannot_hold_is_refused(self, gateway: RunningGateway) -> None:
        """NUL and long texts are 4xx in names and parameters, and a file's name loses what it cannot hold."""
        for path in ("/v1/files/%00", "/v1/files/a%00b/content", "/v1/files/" + "x" * 5000, "/v1/files/%ff"):
            assert (await gateway.http.get(path)).status_code == 404, path
        assert (await gateway.http.delete("/v1/files/%00")).status_code == 404
        for name in ("after", "purpose", "order", "limit"):
            assert (await gateway.http.get("/v1/files", params={name: "\0"})).status_code == 400, name
        form = PURPOSE + part("file", b"rows", filename="a\0b.jsonl") + END
        kept = await gateway.http.post("/v1/files", content=form, headers=FORM)
        assert (kept.status_code, kept.json()["filename"]) == (200, "ab.jsonl")


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=10001", "limit=x", "order=up", "after=" + "x" * 100, "purpose=" + "x" * 100]
)
async def test_a_list_with_wrong_parameters_is_refused(shared_gateway: RunningGateway, query: str) -> None:
    """400 that names it; as many as OpenAI has are let through."""
    response = await shared_gateway.http.get(f"/v1/files?{query}")
    assert (response.status_code, error_of(response)["param"]) == (400, query.partition("=")[0])
    assert (await shared_gateway.http.get("/v1/files?limit=10000&order=asc&purpose=other")).json() == {
        "object": "list",
        "data": [],
        "has_more": False,
        "first_id": None,
        "last_id": None,
    }


async def test_a_download_is_named_and_harmless(gateway: RunningGateway) -> None:
    """Whatever the file holds, a browser keeps it as a file and shows nothing of it."""
    file_id = (await send(gateway, b"<script>", name='../x"é.html')).json()["id"]
    answer = await gateway.http.get(f"/v1/files/{file_id}/content")
    assert answer.content == b"<script>"
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-length"] == "8"
    assert answer.headers["content-disposition"].startswith("attachment; ")
    assert unquote(answer.headers["content-disposition"]).endswith("''x\"é.html")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-request-id"]


async def test_a_download_that_has_begun_is_not_cut_off_by_a_deletion(gateway: RunningGateway) -> None:
    """What is deleted meanwhile is sent whole."""
    rows = os.urandom(LIMIT)
    file_id = await sent(gateway, rows)
    async with gateway.http.stream("GET", f"/v1/files/{file_id}/content") as answer:
        pieces = answer.aiter_bytes(1 << 16)
        got = await anext(pieces)
        assert (await gateway.http.delete(f"/v1/files/{file_id}")).status_code == 200
        got += b"".join([piece async for piece in pieces])
    assert got == rows
    assert left(gateway) == []


async def test_damaged_content_is_not_handed_out(gateway: RunningGateway) -> None:
    """503, and no path."""
    file_id = await sent(gateway)
    (stored,) = (gateway.app.state.settings.home / "artifacts/sha256").glob("*/content")
    stored.write_bytes(b"other")
    response = await gateway.http.get(f"/v1/files/{file_id}/content")
    assert (response.status_code, error_of(response)["code"]) == (503, "artifact_store_unavailable")
    assert str(stored.parent.parent) not in response.text


def files_calls(file_id: str) -> Iterable[tuple[str, str]]:
    """Every call about one file."""
    for method, path in (("GET", "{}"), ("GET", "{}/content"), ("GET", "?after={}"), ("DELETE", "{}")):
        yield method, f"/v1/files{'' if path[0] == '?' else '/'}{path}".format(file_id)


async def test_another_tenants_file_is_none(gateway: RunningGateway) -> None:
    """To a key with a list of adapters every call answers as about one that never was; its own it has."""
    alpha, alpha_key = await new_key(gateway, scopes=["tuning"], adapters=["alpha"])
    beta, _ = await new_key(gateway, scopes=["tuning"], adapters=["alpha", "beta"])
    whole, _ = await new_key(gateway, scopes=["tuning"])
    form: dict[str, Any] = {"data": {"purpose": "evals"}, "files": {"file": ("a", b"alpha")}}
    made = (await stranger(gateway, alpha, "POST", "/v1/files", **form)).json()["id"]

    async def ask(secret: str, file_id: str) -> list[tuple[int, str]]:
        answers = [await stranger(gateway, secret, *call) for call in files_calls(file_id)]
        return [(answer.status_code, answer.text.replace(file_id, "ID")) for answer in answers]

    never = await ask(beta, "file-0123456789abcdef01234567")
    assert await ask(beta, made) == never
    assert {status for status, _ in never} == {404}
    assert (await stranger(gateway, beta, path="/v1/files")).json()["data"] == []
    for secret in (alpha, whole, gateway.key):
        listed = await stranger(gateway, secret, path="/v1/files")
        assert [file["id"] for file in listed.json()["data"]] == [made]
        assert (await stranger(gateway, secret, path=f"/v1/files/{made}/content")).content == b"alpha"
    await gateway.http.post(f"/admin/v1/keys/{alpha_key['id']}/rotate")
    assert (await stranger(gateway, alpha, "DELETE", f"/v1/files/{made}")).status_code == 200


@pytest.mark.parametrize("scope", list(Scope))
async def test_files_need_the_scope_tuning(gateway: RunningGateway, scope: Scope) -> None:
    """Or admin; nothing of what others send is kept, nor of what comes without a key."""
    secret, _ = await new_key(gateway, scopes=[scope])
    form: dict[str, Any] = {"data": {"purpose": "fine-tune"}, "files": {"file": ("a", b"rows")}}
    response = await stranger(gateway, secret, "POST", "/v1/files", **form)
    assert response.status_code == (200 if scope in (Scope.TUNING, Scope.ADMIN) else 403)
    assert len((await gateway.http.get("/v1/files")).json()["data"]) == (response.status_code == 200)
    nobody = await stranger(gateway, "sk-ostler-none", "POST", "/v1/files", **form)
    assert (nobody.status_code, error_of(nobody)["code"]) == (401, "invalid_api_key")


async def test_a_file_that_a_job_needs_is_not_deleted(gateway: RunningGateway) -> None:
    """409 that names the job and that the SDK does not send again; once the job has ended it can be."""
    database = connect(gateway.app.state.settings.database)
    train, check, asked = [await sent(gateway, content) for content in (b"1", b"2", b"3")]
    order = TuningOrder(
        "support", "tiny", training_file=train, validation_file=check, gate=GateOrder(retention_file=asked)
    )
    job, _ = await Jobs(database).create(order, "tiny", Asker("key_0", "test"))
    for file_id in (train, check, asked):
        response = await gateway.http.delete(f"/v1/files/{file_id}")
        error = error_of(response)
        assert (response.status_code, error["code"]) == (409, "conflict")
        assert job.id in error["message"]
        assert response.headers["x-should-retry"] == "false"
        assert (await gateway.http.get(f"/v1/files/{file_id}/content")).status_code == 200
    await Jobs(database).wish(job.id, "cancel", actor="test")
    for file_id in (train, check, asked):
        assert (await gateway.http.delete(f"/v1/files/{file_id}")).status_code == 200
    await database.dispose()


async def test_files_are_audited(gateway: RunningGateway) -> None:
    """Who sent one, and who deleted it."""
    secret, key = await new_key(gateway, scopes=["tuning"])
    file_id = await sent(gateway)
    assert (await stranger(gateway, secret, "DELETE", f"/v1/files/{file_id}")).status_code == 200
    entries = (await gateway.http.get("/admin/v1/audit", params={"limit": 20})).json()["data"]
    told = [(entry["action"], entry["actor"]) for entry in entries if entry["subject"] == f"file:{file_id}"]
    assert [action for action, _ in told] == ["delete_file", "create_file"]
    assert told[0][1] == f"team ({key['id']})"


async def test_a_file_that_goes_while_a_job_is_asked_for_is_missing(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused as if it had gone before, with the field that names it."""
    file_id = await sent(gateway)
    create = Jobs.create

    async def late(jobs: Jobs, *arguments: Any, **named: Any) -> Any:
        assert (await gateway.http.delete(f"/v1/files/{file_id}")).status_code == 200
        return await create(jobs, *arguments, **named)

    monkeypatch.setattr(Jobs, "create", late)
    body = {"model": "tiny", "training_file": file_id, "ostler": {"adapter": "support"}}
    response = await gateway.http.post("/v1/fine_tuning/jobs", json=body)
    assert (response.status_code, error_of(response)["param"]) == (400, "training_file")
    assert (await gateway.http.get("/v1/fine_tuning/jobs")).json()["data"] == []


async def test_a_gateway_sweeps_again_and_again(gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file whose time is over is gone at once, and its content soon, also after a sweep that failed."""
    file_id, stays = await sent(gateway, b"over"), await sent(gateway, b"stays")
    database = connect(gateway.app.state.settings.database)
    table = FileRow.__table__  # type: ignore[attr-defined]
    over = update(table).where(table.c.id == file_id).values(expires_at=datetime.now(UTC) - timedelta(seconds=1))
    async with writing(database) as connection:
        await connection.execute(over)
    assert (await gateway.http.get(f"/v1/files/{file_id}")).status_code == 404
    files = Files(database, gateway.app.state.registry.store)
    sweep, failures = files.sweep, [StoreFailure("away"), ValueError("odd"), ConnectionError("away")]

    async def sometimes() -> None:
        if failures:
            raise failures.pop()
        await sweep()

    monkeypatch.setattr(files, "sweep", sometimes)
    sweeping = asyncio.create_task(sweep_files(files, 0.01))
    await until(lambda: len(left(gateway)) == 1)
    sweeping.cancel()
    assert (await gateway.http.get(f"/v1/files/{stays}/content")).content == b"stays"
    await database.dispose()
