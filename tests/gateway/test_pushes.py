"""Pushes before a fake engine: good ones and bad ones, cut off ones and many at once."""

import asyncio
import fcntl
import io
import json
import tarfile
import zipfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from gateway.admin.uploads import sweep_uploads
from tests.conftest import RunningGateway, tar_of, until
from tests.gateway.answers import adapters, error_of
from tests.registry.lora_samples import Q0_A, Q0_B, Tensors, config, safetensors_bytes, tensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
GOOD: dict[str, bytes] = {CONFIG: json.dumps(config()).encode(), WEIGHTS: safetensors_bytes(tensors())}


def uploads(gateway: RunningGateway) -> list[Path]:
    """What lies in the folder of unfinished uploads."""
    return list((gateway.app.state.settings.cache / "uploads").rglob("*"))


def artifacts(gateway: RunningGateway) -> set[str]:
    """The digests in the artifact store; unfinished work counts, too."""
    home = gateway.app.state.settings.home
    return {path.name for folder in ("sha256", ".staging") for path in (home / "artifacts" / folder).glob("*")}


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
    shared_two: RunningGateway, archive: bytes, reason: str, file: str | None, tensor: str | None
) -> None:
    """422 with reason, file and tensor, nothing of this machine, and everything is as it was."""
    before, stored = await adapters(shared_two), artifacts(shared_two)
    for name in ("support", "other"):
        response = await shared_two.http.post(f"/admin/v1/adapters/{name}/versions", content=archive)
        error = error_of(response)
        assert response.status_code == 422, response.text
        assert (error["code"], error["reason"]) == ("invalid_adapter", reason)
        assert (error["file"], error["tensor"]) == (file, tensor)
        assert file is None or file in error["message"]
        for secret in (str(shared_two.app.state.settings.home.parent), "/tmp", "/etc/passwd", "/home/me", "Traceback"):
            assert secret not in response.text
    assert await adapters(shared_two) == before
    assert uploads(shared_two) == []
    assert artifacts(shared_two) == stored


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

    monkeypatch.setattr("gateway.admin.uploads.unpack", full)
    content = tar_of(two.adapter_folder(5.0))
    response = await two.http.post("/admin/v1/adapters/support/versions", content=content)
    error = error_of(response)
    assert (response.status_code, error["code"]) == (503, "artifact_store_unavailable")
    assert "No space left on device" in error["message"]
    assert str(two.app.state.settings.cache) not in response.text
    assert list((two.app.state.settings.cache / "uploads").iterdir()) == []
    assert len((await two.http.get("/admin/v1/adapters/support")).json()["versions"]) == 2
