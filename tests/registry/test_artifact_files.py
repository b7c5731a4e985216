"""Stored files read one by one: each byte is held against the digest, and whatever fails is told in our own words."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from s3fs import S3FileSystem
from s3fs.errors import translate_boto_error

from registry.artifact_files import ArtifactReader
from registry.artifacts import Artifact, ArtifactStore, canonical_json
from registry.errors import StoreFailure

WEIGHTS = os.urandom(5000)


@pytest.fixture
def artifact(store: ArtifactStore) -> Artifact:
    """Two files in the store."""
    return store.put_files({"weights": WEIGHTS, "probes.json": b"{}", "empty": b""})


@pytest.fixture
def reader(store: ArtifactStore) -> ArtifactReader:
    """Reads that store."""
    return ArtifactReader(str(store.folder))


@pytest.fixture
def folder(store: ArtifactStore, artifact: Artifact) -> Path:
    """Where the artifact lies."""
    return store.fetch(artifact.digest)


@pytest.fixture(params=[7, 5000, 8 << 20])
def part_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Parts that are small, as large as the file, and larger."""
    monkeypatch.setattr("registry.artifact_files._PART_BYTES", request.param)
    size: int = request.param
    return size


def test_a_file_comes_in_parts(reader: ArtifactReader, artifact: Artifact, part_bytes: int) -> None:
    """Which are the file, whatever their size; an empty one has none."""
    manifest = reader.manifest(artifact.digest)
    assert manifest.size_bytes == artifact.size_bytes == 5002
    parts = list(reader.parts(artifact.digest, "weights", manifest.files["weights"]))
    assert b"".join(parts) == WEIGHTS
    assert max(map(len, parts)) <= part_bytes
    assert list(reader.parts(artifact.digest, "empty", manifest.files["empty"])) == []


def test_one_file_is_read_without_the_others(reader: ArtifactReader, artifact: Artifact, folder: Path) -> None:
    """None if there is no such file, and none that is over what the reader takes."""
    (folder / "weights").unlink()
    assert reader.read(artifact.digest, "probes.json", 10) == b"{}"
    assert reader.read(artifact.digest, "other.json", 10) is None
    with pytest.raises(StoreFailure, match=r"probes.json of the content \w{12} has 2 bytes, over 1"):
        reader.read(artifact.digest, "probes.json", 1)


@pytest.mark.parametrize("change", [b"x" + WEIGHTS[1:], WEIGHTS[:-1] + b"x"])
def test_another_byte_is_found(reader: ArtifactReader, artifact: Artifact, folder: Path, change: bytes) -> None:
    """Wherever it is."""
    (folder / "weights").write_bytes(change)
    with pytest.raises(StoreFailure, match="is damaged"):
        reader.read(artifact.digest, "weights", 10_000)


def test_a_file_that_is_cut_off_is_told(reader: ArtifactReader, artifact: Artifact, folder: Path) -> None:
    """With how much of it came."""
    (folder / "weights").write_bytes(WEIGHTS[:4000])
    with pytest.raises(StoreFailure, match="gave 4000 of 5000 bytes of weights"):
        reader.read(artifact.digest, "weights", 10_000)


def test_a_manifest_that_is_not_the_digests_is_refused(
    reader: ArtifactReader, artifact: Artifact, folder: Path, store: ArtifactStore
) -> None:
    """Nothing is read by it; and none there is told apart."""
    manifest = folder / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b"weights", b"weighty"))
    with pytest.raises(StoreFailure, match="is damaged"):
        reader.manifest(artifact.digest)
    with pytest.raises(StoreFailure, match="lacks the content 000000000000"):
        reader.manifest("0" * 64)


@pytest.fixture(params=["/escaped", "../escaped", "a/../../escaped", "..", ".", "", "nul\0", "manifest.json"])
def strange(request: pytest.FixtureRequest, store: ArtifactStore) -> str:
    """The digest of a manifest, itself without a flaw, with a name that is none of a file beside it."""
    entry = {"sha256": hashlib.sha256(b"owned").hexdigest(), "size": 5}
    manifest = canonical_json({"files": {request.param: entry}})
    digest = hashlib.sha256(manifest).hexdigest()
    assert store.folder is not None
    (store.folder / "sha256" / digest).mkdir(parents=True)
    (store.folder / "sha256" / digest / "manifest.json").write_bytes(manifest)
    return digest


def test_a_manifest_names_files_beside_it_only(
    strange: str, store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever can write a store cannot write elsewhere by it: neither who reads file by file nor who copies all."""
    with pytest.raises(StoreFailure, match="is damaged"):
        ArtifactReader(str(store.folder)).manifest(strange)
    remote = ArtifactStore(str(store.folder), tmp_path / "copies")
    monkeypatch.setattr(remote, "_local", False)
    asked: list[str] = []
    monkeypatch.setattr(remote._fs, "get_file", lambda *paths: asked.append(str(paths)))
    with pytest.raises(StoreFailure, match="is damaged"):
        remote.fetch(strange)
    assert asked == []


def test_a_store_that_answers_is_reached(reader: ArtifactReader, artifact: Artifact) -> None:
    """Also one that has nothing yet."""
    reader.reach()
    ArtifactReader("memory://nothing-here").reach()


def test_a_folder_that_is_not_there_is_not_reached(tmp_path: Path) -> None:
    """Such as that of a volume that was not mounted."""
    with pytest.raises(StoreFailure, match="could not be read: No such file or directory"):
        ArtifactReader(str(tmp_path / "mount")).reach()


class ServersAnswer(Exception):
    """An error as the library below s3fs raises it."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.response = {"Error": {"Code": code}}


@pytest.mark.parametrize(
    ("code", "is_reached"),
    [
        ("NoSuchKey", True),
        ("AccessDenied", True),  # what is not there is refused to who may not list
        ("NoSuchBucket", False),
        ("InvalidAccessKeyId", False),
        ("SignatureDoesNotMatch", False),
        ("ExpiredToken", False),
    ],
)
def test_a_wrong_bucket_and_wrong_credentials_are_told(
    reader: ArtifactReader, monkeypatch: pytest.MonkeyPatch, code: str, is_reached: bool
) -> None:
    """Though s3fs raises the same for them as for a file that is not there, or not for this reader."""

    def refuse(_path: str) -> bytes:
        raise translate_boto_error(ServersAnswer(code))

    monkeypatch.setattr(reader, "_fs", SimpleNamespace(cat_file=refuse))
    if is_reached:
        reader.reach()
    else:
        with pytest.raises(StoreFailure, match="the artifact store could not be read"):
            reader.reach()


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An S3 server where nobody listens, asked once only."""
    S3FileSystem.clear_instance_cache()  # so that none is taken that knows another server
    for name, value in (
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9"),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "very-secret"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("AWS_MAX_ATTEMPTS", "1"),
    ):
        monkeypatch.setenv(name, value)
    yield "s3://bucket/ostler"
    S3FileSystem.clear_instance_cache()


def test_an_s3_server_that_is_away_is_a_failure_of_the_store(away: str, tmp_path: Path) -> None:
    """Its library's errors are no OSErrors; none of them shows an address."""
    reader, store = ArtifactReader(away), ArtifactStore(away, tmp_path / "cache")
    for what, fails in (
        ("read", lambda: reader.manifest("0" * 64)),
        ("read", reader.reach),
        ("read", lambda: store.holds("0" * 64)),
        ("written", lambda: store.put_files({"file": b"content"})),
    ):
        with pytest.raises(StoreFailure, match=f"the artifact store could not be {what}") as failure:
            fails()
        assert "127.0.0.1" not in failure.value.message
    assert not list((tmp_path / "cache" / ".staging").iterdir())
