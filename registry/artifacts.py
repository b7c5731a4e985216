"""The artifact store: files that never change, under the SHA-256 of their canonical content, behind fsspec.

An artifact is a folder ``sha256/<digest>/`` with files, such as an adapter's or a golden set's, and a
``manifest.json`` that names each file with its SHA-256 and size. The digest is the manifest's own SHA-256, so it covers
every byte. On a local disk the folder appears in one rename; in an object store the manifest is written last. Either
way, what lacks a manifest is not there.

On a local disk, and in copies of a remote store's artifacts, adapters are as readable as the process' umask has it: an
engine may run as another user. Anything else may hold what users said, so only this process' user can read it; that
goes for an adapter's probes, too, which no engine reads.
"""

import contextlib
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from registry.artifact_files import MANIFEST, ArtifactReader, object_store_failures
from registry.errors import StoreFailure
from registry.probes import PROBES_FILE

CONFIG = "adapter_config.json"
STALE_AFTER_S = 3600.0


@dataclass(frozen=True, slots=True)
class Artifact:
    """Content in the store: its digest (SHA-256, hex) and its size."""

    digest: str
    size_bytes: int


def canonical_json(value: object) -> bytes:
    """One spelling for one value: keys sorted, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def artifact_of(files: Mapping[str, bytes | Path]) -> Artifact:
    """What `ArtifactStore.put_files` will make of these files, without storing anything.

    Raises:
        StoreFailure: a file cannot be read.
    """
    with store_failures("be written"):
        return _artifact({"files": {name: _entry(files[name]) for name in sorted(files)}})


class ArtifactStore:
    """Files by digest.

    Args:
        url: a folder, or any URL that fsspec knows (``s3://bucket/prefix``).
        cache: where copies of a remote store's artifacts, and unfinished work, are kept.
    """

    def __init__(self, url: str, cache: Path) -> None:
        found: tuple[AbstractFileSystem, str] = url_to_fs(url)
        self._fs, self._root = found[0], found[1].rstrip("/")
        self._local = isinstance(self._fs, LocalFileSystem)
        self._reader = ArtifactReader(url)
        self._cache = cache

    @property
    def folder(self) -> Path | None:
        """The store's folder; None if it is not on this machine's disks."""
        return Path(self._root) if self._local else None

    def put(self, folder: Path, files: Iterable[str], config: Mapping[str, Any]) -> Artifact:
        """Store the named files of `folder`, with `config` as the adapter's configuration; again is no second copy.

        Raises:
            StoreFailure: the store could not be written; nothing of it can be seen.
        """
        with self._workspace() as staged, object_store_failures("be written"):
            for name in files:
                shutil.copyfile(folder / name, staged / name)
            (staged / CONFIG).write_bytes(canonical_json(config))
            return self._keep(staged)

    def put_files(self, files: Mapping[str, bytes | Path]) -> Artifact:
        """Store files by their names, whatever they are: contents, or files of this machine; again is no second copy.

        Raises:
            StoreFailure: the store could not be written; nothing of it can be seen.
        """
        with self._workspace() as staged, object_store_failures("be written"):
            for name, content in files.items():
                if isinstance(content, Path):
                    shutil.copyfile(content, staged / name)
                else:
                    (staged / name).write_bytes(content)
            return self._keep(staged)

    def fetch(self, digest: str, copies: Path | None = None) -> Path:
        """The folder on this machine with the artifact's files, held against the digest each time.

        Of a remote store it is a copy in the cache, or in `copies` for those that throw it away again.

        Raises:
            StoreFailure: it is not there, cannot be read, or its content is not what the digest says.
        """
        folder = Path(self._path(digest)) if self._local else (copies or self._cache / "sha256") / digest
        with object_store_failures("be read"):
            if not self._local and not (folder / MANIFEST).exists():
                self._download(digest, folder)
            _verify(folder, digest)
        return folder

    def holds(self, digest: str) -> bool:
        """Whether the store has the artifact, as far as a look at its manifest's place tells.

        Raises:
            StoreFailure: the store does not answer.
        """
        with object_store_failures("be read"):
            return bool(self._fs.exists(self._path(digest, MANIFEST)))

    def remove(self, digest: str) -> None:
        """Delete content that nothing refers to any more, such as an old report; none there is none to delete.

        Raises:
            StoreFailure: the store could not be written.
        """
        with object_store_failures("be written"):
            for name in (MANIFEST, ""):  # what lacks a manifest is not there, however far this comes
                if self._fs.exists(self._path(digest, name)):
                    self._fs.rm(self._path(digest, name), recursive=True)
            if not self._local:
                shutil.rmtree(self._cache / "sha256" / digest, ignore_errors=True)

    def sweep(self) -> None:
        """Delete what interrupted work left behind more than an hour ago."""
        for leftover in self._staging().glob("*"):
            with contextlib.suppress(OSError):
                if time.time() - leftover.stat().st_mtime > STALE_AFTER_S:
                    shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()

    @contextlib.contextmanager
    def _workspace(self) -> Iterator[Path]:
        """A folder for unfinished work, on the store's own disk where that is local."""
        folder = self._staging() / uuid.uuid4().hex
        with store_failures("be written"):
            self._staging().mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _staging(self) -> Path:
        return (Path(self._root) if self._local else self._cache) / ".staging"

    def _path(self, digest: str, *names: str) -> str:
        return "/".join((self._root, "sha256", digest, *names))

    def _keep(self, staged: Path) -> Artifact:
        """Give finished files their manifest and their place."""
        manifest = _describe(staged)
        artifact = _artifact(manifest)
        (staged / MANIFEST).write_bytes(canonical_json(manifest))
        _close(staged)
        if not self._fs.exists(self._path(artifact.digest, MANIFEST)):
            self._publish(staged, artifact.digest, manifest)
        return artifact

    def _publish(self, staged: Path, digest: str, manifest: Mapping[str, Any]) -> None:
        if not self._local:
            for name in (*manifest["files"], MANIFEST):
                self._fs.put_file(str(staged / name), self._path(digest, name))
            return
        target = Path(self._path(digest))
        target.parent.mkdir(parents=True, exist_ok=True)
        for file in staged.iterdir():
            _sync(file)
        with contextlib.suppress(OSError):  # another push of the same content may have been first
            staged.rename(target)
            _sync(target.parent)
        if not (target / MANIFEST).exists():
            raise OSError("the artifact could not be put in place")

    def _download(self, digest: str, folder: Path) -> None:
        with self._workspace() as staged:
            for name in (*self._reader.manifest(digest).files, MANIFEST):
                self._fs.get_file(self._path(digest, name), str(staged / name))
            _verify(staged, digest)
            _close(staged)
            folder.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(OSError):
                staged.rename(folder)


def _describe(folder: Path) -> dict[str, Any]:
    """The manifest of a folder's files."""
    files = sorted(file for file in folder.iterdir() if file.name != MANIFEST)
    return {"files": {file.name: _entry(file) for file in files}}


def _entry(content: bytes | Path) -> dict[str, Any]:
    if isinstance(content, Path):
        return {"sha256": _sha256(content), "size": content.stat().st_size}
    return {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}


def _artifact(manifest: Mapping[str, Any]) -> Artifact:
    return Artifact(_digest(manifest), sum(entry["size"] for entry in manifest["files"].values()))


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(manifest)).hexdigest()


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _verify(folder: Path, digest: str) -> None:
    if not folder.is_dir():
        raise StoreFailure(f"the artifact store lacks the content {digest[:12]}")
    if _digest(_describe(folder)) != digest:
        raise StoreFailure(f"the content stored as {digest[:12]} is damaged: it does not have that digest")


def _close(folder: Path) -> None:
    """Let nobody else read what may hold what users said."""
    is_adapter = (folder / CONFIG).exists()
    for file in folder.iterdir():
        if not is_adapter or file.name == PROBES_FILE:
            file.chmod(0o600)
    if not is_adapter:
        folder.chmod(0o700)


def _sync(path: Path) -> None:
    """Make a file, or a folder's entries, survive a loss of power."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def store_failures(what: str) -> Iterator[None]:
    """Turn the file system's errors, whose texts hold paths, into ours."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else type(error).__name__
        raise StoreFailure(f"the artifact store could not {what}: {reason}") from error
