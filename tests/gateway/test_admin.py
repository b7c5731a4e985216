"""The admin API before a fake engine: pushes good and bad, changes, history, keys, and what operators may see."""

import asyncio
import fcntl
import hashlib
import io
import json
import sqlite3
import tarfile
import zipfile
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest

from gateway.admin import sweep_uploads
from gateway.errors import Unauthenticated
from gateway.settings import GatewaySettings
from gateway.web import loopback_or_key_guard
from registry.catalog import Catalog
from tests.conftest import RunningGateway, tar_of, until
from tests.registry.lora_samples import Q0_A, Q0_B, Tensors, config, safetensors_bytes, tensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
GOOD: dict[str, bytes] = {CONFIG: json.dumps(config()).encode(), WEIGHTS: safetensors_bytes(tensors())}


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The envelope's content; every refusal has one, with a request id."""
    error: dict[str, Any] = response.json()["error"]
    assert {"message", "type", "param", "code"} <= error.keys()
    assert response.headers["x-request-id"]
    assert response.headers["x-should-retry"] in ("true", "false")
    return error


async def adapters(gateway: RunningGateway) -> Any:
    """The list of adapters."""
    response = await gateway.http.get("/admin/v1/adapters")
    assert response.json().keys() == {"data", "has_more"}
    return response.json()["data"]


def uploads(gateway: RunningGateway) -> list[Path]:
    """What lies in the folder of unfinished uploads."""
    return list((gateway.app.state.settings.cache / "uploads").rglob("*"))


def artifacts(gateway: RunningGateway) -> set[str]:
    """The digests in the artifact store; unfinished work counts, too."""
    home = gateway.app.state.settings.home
    return {path.name for folder in ("sha256", ".staging") for path in (home / "artifacts" / folder).glob("*")}


# Pushing


def tar(files: dict[str, bytes], *more: tarfile.TarInfo, mode: Any = "w") -> bytes:
    """A tar of these files, and of members that are no files."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for info in more:
            archive.addfile(info)
    return packed.getvalue()


def tar_link(kind: bytes, target: str) -> tarfile.TarInfo:
    """A symbolic or hard link."""
    info = tarfile.TarInfo("adapter_link")
    info.type, info.linkname = kind, target
    return info


def zipped(files: dict[str, bytes], *, link: str = "") -> bytes:
    """A zip of these files, and of a symbolic link."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
        if link:
            info = zipfile.ZipInfo("adapter_link")
            info.external_attr = 0o120777 << 16
            archive.writestr(info, link)
    return packed.getvalue()


def configured(**changes: Any) -> bytes:
    """A push with another configuration."""
    return tar(GOOD | {CONFIG: json.dumps(config(**changes)).encode()})


def weighted(change: Callable[[Tensors], None]) -> bytes:
    """A push with other weights."""
    values = tensors()
    change(values)
    return tar(GOOD | {WEIGHTS: safetensors_bytes(values)})


def _renamed(values: Tensors) -> None:
    for side in (Q0_A, Q0_B):
        values[side.replace("layers.0", "layers.7")] = values.pop(side)


def _misshapen(values: Tensors) -> None:
    values[Q0_B] = np.ones((31, 4), dtype="float32")


def _set(value: float) -> Callable[[Tensors], None]:
    def change(values: Tensors) -> None:
        values[Q0_A][0, 0] = value

    return change


BAD_PUSHES: dict[str, tuple[bytes, str, str | None, str | None]] = {
    "no adapter": (tar({"README.md": b"hello"}), "config_missing", CONFIG, None),
    "no weights": (tar({CONFIG: GOOD[CONFIG]}), "weights_missing", WEIGHTS, None),
    "no archive": (b"hello", "archive_format", None, None),
    "nothing": (b"", "archive_format", None, None),
    "not LoRA": (configured(peft_type="PROMPT_TUNING"), "peft_type", CONFIG, None),
    "other base": (configured(base_model_name_or_path="/home/me/other"), "base_mismatch", CONFIG, None),
    "rank": (configured(r=32), "rank_too_large", CONFIG, None),
    "DoRA": (configured(use_dora=True), "dora_unsupported", CONFIG, None),
    "modules_to_save": (configured(modules_to_save=["lm_head"]), "modules_to_save_unsupported", CONFIG, None),
    "bias": (configured(bias="all"), "bias_unsupported", CONFIG, None),
    "rank_pattern": (configured(rank_pattern={"q_proj": 2}), "rank_pattern_unsupported", CONFIG, None),
    "pickle": (
        tar({CONFIG: GOOD[CONFIG], "adapter_model.bin": b"\x80\x04."}),
        "weights_are_pickle",
        "adapter_model.bin",
        None,
    ),
    "names": (weighted(_renamed), "module_unknown", WEIGHTS, Q0_A.replace("layers.0", "layers.7")),
    "shapes": (weighted(_misshapen), "shape_mismatch", WEIGHTS, Q0_B),
    "NaN": (weighted(_set(np.nan)), "not_finite", WEIGHTS, Q0_A),
    "Inf": (weighted(_set(-np.inf)), "not_finite", WEIGHTS, Q0_A),
    "tar with ..": (tar(GOOD | {"../adapter_x": b"x"}), "archive_member_name", "../adapter_x", None),
    "tar, absolute": (tar(GOOD | {"/root/x": b"x"}), "archive_member_name", "/root/x", None),
    "tar, symlink": (
        tar(GOOD, tar_link(tarfile.SYMTYPE, "/etc/passwd")),
        "archive_member_kind",
        "adapter_link",
        None,
    ),
    "tar, hard link": (tar(GOOD, tar_link(tarfile.LNKTYPE, CONFIG)), "archive_member_kind", "adapter_link", None),
    "zip with ..": (zipped(GOOD | {"a/../../x": b"x"}), "archive_member_name", "a/../../x", None),
    "zip, absolute": (zipped(GOOD | {"/root/x": b"x"}), "archive_member_name", "/root/x", None),
    "zip, symlink": (zipped(GOOD, link="/etc/passwd"), "archive_member_kind", "adapter_link", None),
    "cut tar": (tar(GOOD)[:-4000], "archive_damaged", None, None),
    "cut tar.gz": (tar(GOOD, mode="w:gz")[:-30], "archive_damaged", None, None),
    "bomb": (tar(GOOD | {"adapter_x": bytes(9 << 20)}, mode="w:gz"), "archive_too_large", None, None),
}


@pytest.mark.parametrize(
    ("archive", "reason", "file", "tensor"), [pytest.param(*case, id=name) for name, case in BAD_PUSHES.items()]
)
async def test_a_bad_push_is_refused_and_leaves_nothing(
    two: RunningGateway, archive: bytes, reason: str, file: str | None, tensor: str | None
) -> None:
    """422 with reason, file and tensor, nothing of this machine, and everything is as it was."""
    before, stored = await adapters(two), artifacts(two)
    for name in ("support", "other"):
        response = await two.http.post(f"/admin/v1/adapters/{name}/versions", content=archive)
        error = error_of(response)
        assert response.status_code == 422, response.text
        assert (error["code"], error["reason"]) == ("invalid_adapter", reason)
        assert (error["file"], error["tensor"]) == (file, tensor)
        assert file is None or file in error["message"]
        for secret in (str(two.app.state.settings.home.parent), "/tmp", "/etc/passwd", "/home/me", "Traceback"):
            assert secret not in response.text
    assert await adapters(two) == before
    assert uploads(two) == []
    assert artifacts(two) == stored


@pytest.mark.parametrize("archive", [tar(GOOD), tar(GOOD, mode="w:gz"), zipped(GOOD)], ids=["tar", "tar.gz", "zip"])
async def test_a_push_makes_a_version_and_the_same_again_does_not(gateway: RunningGateway, archive: bytes) -> None:
    """201 with the version, then 200 with the same one; only the content counts, not how it is packed."""
    path = "/admin/v1/adapters/support/versions"
    pushed = await gateway.http.post(path, content=archive, params={"note": "first"})
    assert pushed.status_code == 201
    version = pushed.json()["version"]
    assert pushed.json() == {"adapter": "support", "created": True, "version": version}
    assert (version["number"], version["state"], version["note"]) == (1, "registered", "first")
    assert version["engine_name"] == f"support@1-{version['digest'][:8]}"
    for again in (archive, tar({f"folder/{name}": content for name, content in GOOD.items()})):
        repeated = await gateway.http.post(path, content=again)
        assert repeated.status_code == 200
        assert repeated.json() == {"adapter": "support", "created": False, "version": version}
    (adapter,) = await adapters(gateway)
    assert adapter["versions"] == [version]
    assert adapter["deployment"] is None
    assert uploads(gateway) == []


async def test_a_pushed_version_does_not_serve_until_it_is_promoted(gateway: RunningGateway) -> None:
    """Its adapter's name is unknown to clients before; the version's own name is not."""
    await gateway.push("support", 1.0)
    assert (await gateway.chat("support")).status_code == 404
    assert (await gateway.chat("support@1")).status_code == 200


async def test_base_states_what_the_config_does_not(gateway: RunningGateway) -> None:
    """`base` overrules the name that a trainer wrote, and an unknown one is refused."""
    path, archive = "/admin/v1/adapters/support/versions", configured(base_model_name_or_path="/home/me/local")
    assert (await gateway.http.post(path, content=archive)).status_code == 422
    assert error_of(await gateway.http.post(path, content=archive, params={"base": "huge"}))["param"] == "base"
    assert (await gateway.http.post(path, content=archive, params={"base": "tiny"})).status_code == 201


async def test_a_name_that_no_adapter_may_have_is_refused(gateway: RunningGateway) -> None:
    """422 before the upload is read; a base model's name is one of them."""
    for name in ("tiny", "Support", "-x", "a" * 64, "a b", "a@1", "ä"):
        response = await gateway.http.post(f"/admin/v1/adapters/{name}/versions", content=tar(GOOD))
        assert (response.status_code, error_of(response)["code"]) == (422, "invalid_name"), name
    assert await adapters(gateway) == []


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_push_that_breaks_off_leaves_nothing(two: RunningGateway, chunked: bool) -> None:
    """Half an upload and a closed connection: no version, and no file once the gateway has noticed."""
    before, stored = await adapters(two), artifacts(two)
    half = tar(GOOD)[:6000]
    length = "transfer-encoding: chunked" if chunked else f"content-length: {2 * len(half)}"
    head = (
        f"POST /admin/v1/adapters/support/versions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {two.key}\r\n{length}"
    )
    body = b"%x\r\n%s\r\n" % (len(half), half) if chunked else half
    where = urlsplit(two.url)
    _, writer = await asyncio.open_connection(where.hostname, where.port)
    writer.write(head.encode() + b"\r\n\r\n" + body)
    await writer.drain()
    await until(lambda: [file for file in uploads(two) if file.name == "upload"])
    assert await adapters(two) == before
    writer.close()
    await until(lambda: uploads(two) == [])
    assert await adapters(two) == before
    assert artifacts(two) == stored
    assert (await two.promote("support", 3)).status_code == 404


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_push_over_the_limit_is_refused(two: RunningGateway, chunked: bool) -> None:
    """413, told as an answer and not as a broken connection, whether the size was announced or not."""
    before = await adapters(two)
    content = bytes(9 << 20)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(content), 1 << 20):
            yield content[start : start + (1 << 20)]

    response = await two.http.post("/admin/v1/adapters/support/versions", content=pieces() if chunked else content)
    assert (response.status_code, error_of(response)["code"]) == (413, "request_too_large")
    assert str(8 << 20) in error_of(response)["message"]
    assert (await adapters(two), uploads(two)) == (before, [])


async def test_pushes_at_the_same_time_get_one_number_each(gateway: RunningGateway) -> None:
    """Five contents at once, each sent twice: five versions, numbered without a gap."""
    archives = [tar_of(gateway.adapter_folder(scale)) for scale in (1.0, 2.0, 3.0, 4.0, 5.0)]
    path = "/admin/v1/adapters/support/versions"
    answers = await asyncio.gather(*(gateway.http.post(path, content=archive) for archive in archives * 2))
    assert sorted(answer.status_code for answer in answers) == [200] * 5 + [201] * 5
    (adapter,) = await adapters(gateway)
    assert [version["number"] for version in adapter["versions"]] == [1, 2, 3, 4, 5]


# Deployments


WRONG_CHANGES: list[tuple[Any, str | None, str]] = [
    ({"stabel": 2}, "stabel", "unknown field"),
    ({"stable": 2, "canary": {"version": 1}}, "canary", "unknown field"),
    ({"reason": "why"}, "stable", "missing"),
    ({"stable": "two"}, "stable", "`int`"),
    ({"stable": 2.5}, "stable", "`int`"),
    ({"stable": True}, "stable", "`int`"),
    ({"stable": None}, "stable", "`int`"),
    ({"stable": 0}, "stable", ">= 1"),
    ({"stable": 10**30}, "stable", "<="),
    ({"stable": 2, "reason": 5}, "reason", "`str`"),
    ({"stable": 2, "reason": "x" * 1001}, "reason", "1000"),
    ({"stable": 2, "reason": "a\0b"}, "reason", "regex"),
    ([2], None, "`object`"),
    (None, None, "must be a JSON object"),
]


async def test_a_wrong_change_names_the_field(two: RunningGateway) -> None:
    """400 with the field in `param`, in the client's words for it, and nothing changed."""
    before = await adapters(two)
    for body, field, says in WRONG_CHANGES:
        response = await two.http.patch("/admin/v1/adapters/support/deployment", json=body)
        error = error_of(response)
        assert (response.status_code, error["param"], error["code"]) == (400, field, "invalid_request"), body
        assert says in error["message"]
    assert await adapters(two) == before


async def test_a_change_that_is_no_json_is_refused(two: RunningGateway) -> None:
    """With the same code as on the inference endpoints."""
    for content in (b'{"stable": 2', b"\xff", b"stable=2"):
        response = await two.http.patch("/admin/v1/adapters/support/deployment", content=content)
        assert (response.status_code, error_of(response)["code"]) == (400, "invalid_json")


async def test_what_does_not_exist_is_404(two: RunningGateway) -> None:
    """Adapter, version, revision, key and path, each named."""
    change = "/admin/v1/adapters/{}/deployment"
    for call, code, says in (
        (two.http.get("/admin/v1/adapters/nobody"), "not_found", "'nobody'"),
        (two.http.get("/admin/v1/adapters/nobody/history"), "not_found", "'nobody'"),
        (two.http.patch(change.format("nobody"), json={"stable": 1}), "not_found", "'nobody'"),
        (two.http.patch(change.format("support"), json={"stable": 9}), "not_found", "9"),
        (two.http.post("/admin/v1/adapters/support/rollback", json={"to": 9}), "not_found", "9"),
        (two.http.delete("/admin/v1/keys/key_0"), "not_found", "key_0"),
        (two.http.get("/admin/v1/nothing"), "path_not_found", "/admin/v1/nothing"),
        (two.http.get("/admin/v1/adapters/a%2Fb"), "path_not_found", "a/b"),
        (two.http.get("/admin/v1/adapters/%00/history"), "path_not_found", "NUL"),
    ):
        response = await call
        error = error_of(response)
        assert (response.status_code, error["code"]) == (404, code), response.request.url
        assert says in error["message"]


async def test_history_comes_in_pages(two: RunningGateway) -> None:
    """Newest first, each revision once, with who and why; `before` goes on where a page ended."""
    for number in (2, 1, 2, 1):
        await two.http.patch("/admin/v1/adapters/support/deployment", json={"stable": number, "reason": f"to {number}"})
    path = "/admin/v1/adapters/support/history"
    found: list[Any] = []
    before: dict[str, int] = {}
    for _ in range(3):
        page = (await two.http.get(path, params={"limit": 2, **before})).json()
        found += page["data"]
        before = {"before": found[-1]["revision"]}
        assert page["has_more"] is (found[-1]["revision"] > 1)
    assert [row["revision"] for row in found] == [5, 4, 3, 2, 1]
    assert [row["stable"] for row in found] == [1, 2, 1, 2, 1]
    assert [row["previous_stable"] for row in found] == [2, 1, 2, 1, None]
    assert found[0]["reason"] == "to 1"
    assert found[0]["actor"].startswith("test (key_")
    assert (await two.http.get(path, params={"limit": 5})).json() == {"data": found, "has_more": False}
    wrong: list[dict[str, Any]] = [{"limit": 0}, {"limit": 1001}, {"before": 0}, {"before": 10**20}, {"limit": "x"}]
    for params in wrong:
        refused = await two.http.get(path, params=params)
        assert (refused.status_code, error_of(refused)["param"]) == (400, next(iter(params)))


# Keys


async def stranger(
    gateway: RunningGateway, secret: str, method: str = "GET", path: str = "/v1/models"
) -> httpx.Response:
    """A call with another key."""
    return await gateway.http.request(method, path, headers={"authorization": f"Bearer {secret}"})


async def new_key(gateway: RunningGateway, **fields: Any) -> tuple[str, dict[str, Any]]:
    """A new key's secret and what lists show of it."""
    response = await gateway.http.post("/admin/v1/keys", json={"name": "team", **fields})
    assert response.status_code == 201, response.text
    assert response.json().keys() == {"secret", "key"}
    return response.json()["secret"], response.json()["key"]


async def test_a_keys_secret_is_shown_once_and_stored_as_a_hash(gateway: RunningGateway) -> None:
    """It stands in the answer, in no list and in no table; its SHA-256 does."""
    secret, key = await new_key(gateway)
    listed = await gateway.http.get("/admin/v1/keys")
    assert key in listed.json()["data"]
    assert secret not in listed.text
    with sqlite3.connect(gateway.app.state.settings.home / "ostler.db") as database:
        stored = "\n".join(database.iterdump())
    assert secret not in stored
    assert secret.removeprefix("sk-ostler-") not in stored
    assert hashlib.sha256(secret.encode()).hexdigest() in stored
    for file in gateway.app.state.settings.home.glob("ostler.db*"):
        assert secret.encode() not in file.read_bytes()


async def test_a_revoked_key_is_refused_at_once(gateway: RunningGateway) -> None:
    """Revoking answers when it holds; the key stays in the list with the moment, and revoking again changes nothing."""
    secret, key = await new_key(gateway)
    assert (await stranger(gateway, secret)).status_code == 200
    revoked = await gateway.http.delete(f"/admin/v1/keys/{key['id']}")
    response = await stranger(gateway, secret)
    assert (response.status_code, error_of(response)["code"]) == (401, "invalid_api_key")
    assert revoked.json()["revoked_at"] is not None
    assert (await gateway.http.delete(f"/admin/v1/keys/{key['id']}")).json() == revoked.json()
    assert revoked.json() in (await gateway.http.get("/admin/v1/keys")).json()["data"]


async def test_a_key_ends_when_it_expires(gateway: RunningGateway) -> None:
    """Without anyone doing anything."""
    soon = datetime.now(UTC) + timedelta(seconds=0.4)
    secret, key = await new_key(gateway, expires_at=soon.isoformat())
    assert datetime.fromisoformat(key["expires_at"]) == soon

    async def expired() -> bool:
        return (await stranger(gateway, secret)).status_code == 401

    assert (await stranger(gateway, secret)).status_code == 200
    await until(expired)
    assert datetime.now(UTC) >= soon
    assert "expired" in error_of(await stranger(gateway, secret))["message"]


WRONG_KEYS: list[tuple[dict[str, Any], str]] = [
    ({"name": ""}, "name"),
    ({"name": "x" * 81}, "name"),
    ({"name": "a\0b"}, "name"),
    ({"role": "king"}, "role"),
    ({"role": "admin", "adapters": ["support"]}, "adapters"),
    ({"adapters": "support"}, "adapters"),
    ({"expires_at": "tomorrow"}, "expires_at"),
    ({"expires_at": "2030-01-01T00:00:00"}, "expires_at"),
    ({"roles": ["admin"]}, "roles"),
]


async def test_a_wrong_order_of_a_key_names_the_field(gateway: RunningGateway) -> None:
    """400, and no key is made."""
    for fields, param in WRONG_KEYS:
        response = await gateway.http.post("/admin/v1/keys", json={"name": "team", **fields})
        assert (response.status_code, error_of(response)["param"]) == (400, param), fields
    assert len((await gateway.http.get("/admin/v1/keys")).json()["data"]) == 1


async def test_no_admin_path_is_open_to_clients(two: RunningGateway) -> None:
    """Every one that the schema names: 403 with a client's key, 401 without any, and nothing happened."""
    client, _ = await new_key(two)
    paths = (await two.http.get("/schema")).json()["paths"]
    calls = [(method, path) for path in paths if path.startswith("/admin/") for method in paths[path]]
    assert len(calls) >= 9
    before = await adapters(two), (await two.http.get("/admin/v1/keys")).json()
    for method, path in calls:
        filled = path.format(name="support", key_id="key_0")
        refused = await stranger(two, client, method, filled)
        assert (refused.status_code, error_of(refused)["code"]) == (403, "insufficient_permissions"), path
        nobody = await httpx.AsyncClient().request(method, two.url + filled)
        assert (nobody.status_code, error_of(nobody)["code"]) == (401, "missing_api_key"), path
    assert (await adapters(two), (await two.http.get("/admin/v1/keys")).json()) == before


# Operations


async def test_the_schema_is_whole(gateway: RunningGateway) -> None:
    """OpenAPI with inference and admin paths; references lead somewhere, names are unique, errors are ours."""
    response = await gateway.http.get("/schema")
    schema = json.loads(response.text)
    assert schema["openapi"].startswith("3.1")
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"):
        assert schema["paths"][path]["post"]["requestBody"]["required"]
    for path, method in (
        ("/v1/models", "get"),
        ("/admin/v1/adapters", "get"),
        ("/admin/v1/adapters/{name}/versions", "post"),
        ("/admin/v1/adapters/{name}/deployment", "patch"),
        ("/admin/v1/adapters/{name}/rollback", "post"),
        ("/admin/v1/adapters/{name}/history", "get"),
        ("/admin/v1/keys/{key_id}", "delete"),
        ("/readyz", "get"),
    ):
        assert method in schema["paths"][path]
    for part in response.text.split('"$ref":"')[1:]:
        found = schema
        for step in part.partition('"')[0].removeprefix("#/").split("/"):
            found = found[step]
    operations = [operation for path in schema["paths"].values() for operation in path.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    for operation in operations:
        for status, answer in operation["responses"].items():
            if status >= "400":
                assert "error" in answer["content"]["application/json"]["schema"]["properties"]
    push = schema["paths"]["/admin/v1/adapters/{name}/versions"]["post"]
    assert {"200", "201"} <= push["responses"].keys()
    assert "requestBody" in push


async def test_health_needs_no_key(gateway: RunningGateway) -> None:
    """And says nothing of the machine, ready or not."""
    async with httpx.AsyncClient(base_url=gateway.url) as nobody:
        assert (await nobody.get("/livez")).json() == {"status": "ok", "problems": []}
        assert (await nobody.get("/readyz")).status_code == 200
        await gateway.engine.stop()
        await until(lambda: gateway.app.state.replica.state == "down")
        assert (await nobody.get("/livez")).status_code == 200
        ready = await nobody.get("/readyz")
    assert ready.status_code == 503
    assert str(gateway.engine.port) not in ready.text


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"])
def test_metrics_are_open_on_this_machine(host: str) -> None:
    """However loopback is written."""
    loopback_or_key_guard(_connection(host), None)  # type: ignore[arg-type]


@pytest.mark.parametrize("host", ["10.0.0.7", "192.168.127.1", "::2", "2001:db8::1", "::ffff:10.0.0.1", "", None])
def test_metrics_need_a_key_from_elsewhere(host: str | None) -> None:
    """A connection without an address counts as one from elsewhere."""
    with pytest.raises(Unauthenticated):
        loopback_or_key_guard(_connection(host), None)  # type: ignore[arg-type]


def _connection(host: str | None) -> Any:
    client = None if host is None else SimpleNamespace(host=host)
    directory = SimpleNamespace(catalog=Catalog(change=0))
    app = SimpleNamespace(state=SimpleNamespace(directory=directory))
    return SimpleNamespace(client=client, headers={}, app=app, state=SimpleNamespace())


async def test_unexpected_failures_tell_nothing(two: RunningGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """500 in the envelope with the request's id; no words of the exception, no stack, no path."""

    async def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError(f"password 1234 in {__file__}")

    registry = two.app.state.registry
    for name in ("history", "rollback_version", "list_keys", "create_key", "revoke_key", "push", "promote"):
        monkeypatch.setattr(registry, name, broken)
    monkeypatch.setattr(two.app.state.replica.engine, "forward", broken)
    for call in (
        two.http.get("/admin/v1/adapters/support/history"),
        two.http.post("/admin/v1/adapters/support/rollback"),
        two.http.get("/admin/v1/keys"),
        two.http.post("/admin/v1/keys", json={"name": "team"}),
        two.http.delete("/admin/v1/keys/key_0"),
        two.http.post("/admin/v1/adapters/support/versions", content=tar(GOOD)),
        two.promote("support", 2),
        two.chat("support"),
    ):
        response = await call
        error = error_of(response)
        assert (response.status_code, error["code"], error["type"]) == (500, "internal_error", "server_error")
        assert not any(word in response.text for word in ("password", "RuntimeError", "Traceback", ".py", "/"))
    assert uploads(two) == []


async def test_a_database_that_is_away_stops_changes_and_nothing_else(two: RunningGateway) -> None:
    """Requests are served from memory; changes are 503 in the envelope, and possible again when it is back."""
    home: Path = two.app.state.settings.home
    registry = two.app.state.registry
    # The gateway opens its database anew, and finds a folder in its place.
    await registry._sessions.kw["bind"].dispose()
    away = home / "away"
    away.mkdir()
    for file in home.glob("ostler.db*"):
        file.rename(away / file.name)
    (home / "ostler.db").mkdir()
    await until(lambda: not two.app.state.directory.reachable)

    for model in ("support", "support@2", "tiny"):
        assert (await two.chat(model)).status_code == 200
    assert (await two.http.get("/readyz")).status_code == 200
    assert (await two.http.get("/v1/models")).status_code == 200
    assert (await adapters(two))[0]["deployment"]["stable"] == 1
    for call in (
        two.promote("support", 2),
        two.http.post("/admin/v1/adapters/support/rollback"),
        two.http.post("/admin/v1/keys", json={"name": "team"}),
        two.http.get("/admin/v1/keys"),
        two.http.post("/admin/v1/adapters/support/versions", content=tar_of(two.adapter_folder(3.0))),
    ):
        response = await call
        assert (response.status_code, error_of(response)["code"]) == (503, "database_unavailable")
        assert response.headers["x-should-retry"] == "true"
        assert not any(word in response.text for word in ("sqlite", str(home), "SELECT", "UPDATE"))
    assert (await two.chat("support")).headers["x-ostler-version"] == "1"

    (home / "ostler.db").rmdir()
    for file in away.iterdir():
        file.rename(home / file.name)
    await until(lambda: two.app.state.directory.reachable)
    assert (await two.promote("support", 2)).status_code == 200
    assert (await two.chat("support")).headers["x-ostler-version"] == "2"


class TestOnPostgreSQL:
    """What only the other database could trip over."""

    @pytest.fixture
    def gateway_settings(self, gateway_settings: GatewaySettings, postgres_url: str) -> GatewaySettings:
        """The same gateway on PostgreSQL."""
        return gateway_settings.model_copy(update={"database_url": postgres_url})

    async def test_texts_and_numbers_that_it_cannot_hold_are_refused(self, two: RunningGateway) -> None:
        """NUL and numbers beyond its integers are 4xx, never 500."""
        rollback = "/admin/v1/adapters/{}/rollback"
        for call in (
            two.http.post(rollback.format("support"), json={"to": 2**31}),
            two.http.post(rollback.format("support"), json={"reason": "\0"}),
            two.http.post(rollback.format("%00")),
            two.http.get("/admin/v1/adapters/support/history", params={"before": 2**31}),
            two.http.get("/admin/v1/adapters/%00/history"),
            two.http.delete("/admin/v1/keys/%00"),
            two.http.post("/admin/v1/keys", json={"name": "\0"}),
            two.http.post("/admin/v1/adapters/x/versions", params={"note": "\0"}, content=tar(GOOD)),
            two.http.patch("/admin/v1/adapters/support/deployment", json={"stable": 2**31}),
        ):
            response = await call
            assert response.status_code in (400, 404), response.text
            assert error_of(response)["type"] == "invalid_request_error"
        assert (await two.http.delete("/admin/v1/keys/" + "x" * 5000)).status_code == 404
        assert (await two.http.get("/admin/v1/adapters/support/history")).json()["data"][0]["revision"] == 1


@pytest.mark.parametrize(
    "moment", ["2020-01-01T00:00:00+00:00", "9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+12:00"]
)
async def test_a_key_expires_in_a_future_that_the_calendar_knows(gateway: RunningGateway, moment: str) -> None:
    """A moment in the past, or at the calendar's ends, is refused by its field."""
    response = await gateway.http.post("/admin/v1/keys", json={"name": "late", "expires_at": moment})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "expires_at")


async def test_a_body_nested_beyond_reading_is_refused(gateway: RunningGateway) -> None:
    """It is the client's mistake, not ours."""
    response = await gateway.http.post("/admin/v1/keys", content=b'{"name":' + b"[" * 5000)
    assert (response.status_code, response.json()["error"]["type"]) == (400, "invalid_request_error")


async def test_only_uploads_of_dead_gateways_are_swept(gateway: RunningGateway, tmp_path: Path) -> None:
    """A push that another gateway has under way goes on."""
    uploads = tmp_path / "swept" / "uploads"
    for name in ("dead", "alive"):
        (uploads / name).mkdir(parents=True)
        (uploads / name / "lock").touch()
        (uploads / name / "upload").write_bytes(b"half")
    with (uploads / "alive" / "lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        sweep_uploads(tmp_path / "swept")
        assert [left.name for left in uploads.iterdir()] == ["alive"]


async def test_a_push_onto_a_full_disk_says_so(two: RunningGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """503 with the reason and no path; nothing is registered, and what was written is gone."""

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", str(two.app.state.settings.cache))

    monkeypatch.setattr("gateway.admin.unpack", full)
    content = tar_of(two.adapter_folder(5.0))
    response = await two.http.post("/admin/v1/adapters/support/versions", content=content)
    error = error_of(response)
    assert (response.status_code, error["code"]) == (503, "artifact_store_unavailable")
    assert "No space left on device" in error["message"]
    assert str(two.app.state.settings.cache) not in response.text
    assert list((two.app.state.settings.cache / "uploads").iterdir()) == []
    assert len((await two.http.get("/admin/v1/adapters/support")).json()["versions"]) == 2
