"""The artifact store: content by digest, whole or not at all, on a folder and on an object store."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from registry.artifacts import ArtifactStore
from registry.errors import StoreFailure

FILES = ("adapter_config.json", "adapter_model.safetensors")
CONFIG = {"r": 4, "target_modules": ["q_proj", "v_proj"]}


@pytest.fixture(params=["folder", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder, and an object store's stand-in that fsspec brings."""
    if request.param == "folder":
        return str(tmp_path / "artifacts")
    fsspec.filesystem("memory").store.clear()
    return "memory://bucket/ostler"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """An adapter's folder; its configuration is stored as it is given, not as it stands here."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / FILES[0]).write_text("{}")
    (folder / FILES[1]).write_bytes(b"weights" * 100)
    (folder / "optimizer.pt").write_bytes(b"not part of it")
    return folder


def test_what_is_put_can_be_fetched(url: str, source: Path, tmp_path: Path) -> None:
    """The named files alone, byte for byte, the configuration in its canonical form."""
    store = ArtifactStore(url, tmp_path / "cache")
    artifact = store.put(source, FILES, CONFIG)
    folder = store.fetch(artifact.digest)
    assert {file.name for file in folder.iterdir()} == {*FILES, "manifest.json"}
    assert (folder / FILES[1]).read_bytes() == b"weights" * 100
    assert json.loads((folder / FILES[0]).read_text()) == CONFIG
    assert artifact.size_bytes == sum((folder / name).stat().st_size for name in FILES)


def test_the_digest_is_of_the_content_alone(url: str, source: Path, tmp_path: Path) -> None:
    """Another order of keys is the same content, another byte is not."""
    store = ArtifactStore(url, tmp_path / "cache")
    first = store.put(source, FILES, CONFIG)
    assert store.put(source, FILES, dict(reversed(CONFIG.items()))) == first
    (source / FILES[1]).write_bytes(b"weights" * 99 + b"weighty")
    assert store.put(source, FILES, CONFIG).digest != first.digest


def test_the_source_can_change_afterwards(url: str, source: Path, tmp_path: Path) -> None:
    """What is stored is a copy."""
    store = ArtifactStore(url, tmp_path / "cache")
    digest = store.put(source, FILES, CONFIG).digest
    with (source / FILES[1]).open("r+b") as weights:
        weights.write(b"WEIGHTS")
    assert ArtifactStore(url, tmp_path / "other-cache").fetch(digest).joinpath(FILES[1]).read_bytes()[:7] == b"weights"


@pytest.fixture
def usual_umask() -> Iterator[None]:
    """Others may read new files."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.usefixtures("usual_umask")
def test_only_adapters_are_readable_by_others(url: str, source: Path, tmp_path: Path) -> None:
    """An engine may run as another user; what users said is for this one alone, and so is unfinished work."""
    store = ArtifactStore(url, tmp_path / "cache")
    adapter = store.fetch(store.put(source, FILES, CONFIG).digest)
    said = store.fetch(store.put_files({"content": b"what a user said", "copied": source / FILES[1]}).digest)
    assert {oct(path.stat().st_mode & 0o777) for path in (adapter, adapter.parent)} == {"0o755"}
    assert {oct(file.stat().st_mode & 0o777) for file in adapter.iterdir()} == {"0o644"}
    assert oct(said.stat().st_mode & 0o777) == "0o700"
    assert {oct(file.stat().st_mode & 0o777) for file in said.iterdir()} == {"0o600"}
    (staging,) = tmp_path.rglob(".staging")
    assert oct(staging.stat().st_mode & 0o777) == "0o700"


@pytest.mark.usefixtures("usual_umask")
def test_an_adapters_probes_are_readable_by_nobody_else(url: str, source: Path, tmp_path: Path) -> None:
    """They are prompts, and no engine reads them; what it reads it can."""
    (source / "probes.json").write_text("{}")
    store = ArtifactStore(url, tmp_path / "cache")
    folder = store.fetch(store.put(source, (*FILES, "probes.json"), CONFIG).digest)
    modes = {file.name: oct(file.stat().st_mode & 0o777) for file in folder.iterdir()}
    assert modes == dict.fromkeys((*FILES, "manifest.json"), "0o644") | {"probes.json": "0o600"}
    assert oct(folder.stat().st_mode & 0o777) == "0o755"


@pytest.mark.parametrize("fails_at", [0, 1, 2])
def test_an_interrupted_put_leaves_nothing_to_be_seen(
    url: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    """Whichever write fails; putting it again afterwards makes it whole."""
    store = ArtifactStore(url, tmp_path / "cache")
    digest = ArtifactStore(str(tmp_path / "elsewhere"), tmp_path / "cache").put(source, FILES, CONFIG).digest
    calls = 0

    def failing(real: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > fails_at:
                raise OSError(28, "No space left on device")
            return real(*arguments, **options)

        return call

    with monkeypatch.context() as patched:
        patched.setattr(store._fs, "put_file", failing(store._fs.put_file))
        patched.setattr("registry.artifacts._sync", failing(lambda _: None))
        with pytest.raises(StoreFailure, match="No space left"):
            store.put(source, FILES, CONFIG)
    with pytest.raises(StoreFailure):
        ArtifactStore(url, tmp_path / "fresh-cache").fetch(digest)
    assert store.put(source, FILES, CONFIG).digest == digest
    assert ArtifactStore(url, tmp_path / "fresh-cache").fetch(digest).is_dir()


@pytest.mark.parametrize("damage", ["changed", "missing", "added"])
def test_damaged_content_is_not_given_out(url: str, source: Path, tmp_path: Path, damage: str) -> None:
    """A flipped byte, a missing file and a file too many are all found."""
    store = ArtifactStore(url, tmp_path / "cache")
    digest = store.put(source, FILES, CONFIG).digest
    place = store._path(digest)
    match damage:
        case "changed":
            store._fs.pipe_file(f"{place}/{FILES[1]}", b"weightx" * 100)
        case "missing":
            store._fs.rm_file(f"{place}/{FILES[1]}")
        case _:
            store._fs.pipe_file(f"{place}/{FILES[0]}", b'{"r": 8}')
    with pytest.raises(StoreFailure) as refused:
        ArtifactStore(url, tmp_path / "fresh-cache").fetch(digest)
    assert str(tmp_path) not in str(refused.value)


def test_unknown_content_is_not_there(url: str, tmp_path: Path) -> None:
    """And the message holds no path."""
    with pytest.raises(StoreFailure) as refused:
        ArtifactStore(url, tmp_path / "cache").fetch("0" * 64)
    assert str(tmp_path) not in str(refused.value)


def test_sweep_takes_what_was_left_long_ago_and_nothing_else(source: Path, tmp_path: Path) -> None:
    """Another gateway may be at work in the same store."""
    store = ArtifactStore(str(tmp_path / "artifacts"), tmp_path / "cache")
    digest = store.put(source, FILES, CONFIG).digest
    old, new = (store._staging() / name for name in ("old", "new"))
    for folder in (old, new):
        folder.mkdir(parents=True)
    long_ago = time.time() - 7200
    os.utime(old, (long_ago, long_ago))
    store.sweep()
    assert (old.exists(), new.exists()) == (False, True)
    assert store.fetch(digest).is_dir()
