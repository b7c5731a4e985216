"""Stored artifacts file by file and part by part: for who needs only one of the files, or counts what each costs.

A digest is its manifest's own SHA-256, and the manifest has that of each file. So each byte that is read here is held
against the digest, whatever the rest of the artifact is like.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from registry.errors import RegistryError, StoreFailure

MANIFEST = "manifest.json"
_PART_BYTES = 8 << 20
_NO_SUCH_KEY = "NoSuchKey"


class FileEntry(msgspec.Struct, frozen=True):
    """One file: its SHA-256 (hex) and its size in bytes."""

    sha256: str
    size: int


class Manifest(msgspec.Struct, frozen=True):
    """An artifact's files by name."""

    files: dict[str, FileEntry]

    @property
    def size_bytes(self) -> int:
        """All files together."""
        return sum(entry.size for entry in self.files.values())


class ArtifactReader:
    """Reads a store's artifacts.

    Args:
        url: a folder, or any URL that fsspec knows (``s3://bucket/prefix``).

    Raises:
        ValueError, ImportError: fsspec does not know such URLs, or lacks the package for them.
    """

    def __init__(self, url: str) -> None:
        found: tuple[AbstractFileSystem, str] = url_to_fs(url)
        self._fs, self._root = found[0], found[1].rstrip("/")

    def manifest(self, digest: str) -> Manifest:
        """What the artifact consists of.

        Raises:
            StoreFailure: it is not there, cannot be read, or is not what the digest says.
        """
        try:
            with object_store_failures("be read"):
                content: bytes = self._fs.cat_file(self._path(digest, MANIFEST))
        except StoreFailure as failure:
            if isinstance(failure.__cause__, FileNotFoundError):
                raise StoreFailure(f"the artifact store lacks the content {digest[:12]}") from failure
            raise
        if hashlib.sha256(content).hexdigest() != digest:
            raise _damaged(digest)
        return _decoded(content, digest)

    def parts(self, digest: str, name: str, entry: FileEntry) -> Iterator[bytes]:
        """A file's content in parts of some megabytes; what came is right only once this ends without an error.

        Raises:
            StoreFailure: it cannot be read, breaks off, or is not what the manifest says.
        """
        hashed, came = hashlib.sha256(), 0
        while came < entry.size:
            with object_store_failures("be read"):
                part: bytes = self._fs.cat_file(
                    self._path(digest, name), start=came, end=min(came + _PART_BYTES, entry.size)
                )
            if not part:
                raise StoreFailure(f"the artifact store gave {came} of {entry.size} bytes of {name} of {digest[:12]}")
            hashed.update(part)
            came += len(part)
            yield part
        if hashed.hexdigest() != entry.sha256:
            raise _damaged(digest)

    def read(self, digest: str, name: str, longest: int) -> bytes | None:
        """One file's content; None if the artifact has no such file.

        Raises:
            StoreFailure: it cannot be read, is not what the digest says, or is over `longest` bytes.
        """
        entry = self.manifest(digest).files.get(name)
        if entry is None:
            return None
        if entry.size > longest:
            raise StoreFailure(f"{name} of the content {digest[:12]} has {entry.size} bytes, over {longest}")
        return b"".join(self.parts(digest, name, entry))

    def reach(self) -> None:
        """Ask the store for what it cannot have.

        Raises:
            StoreFailure: it does not answer, its folder or bucket is not there, or it does not know who asks.
        """
        with object_store_failures("be read"):
            try:
                self._fs.cat_file(self._path("0" * 64, MANIFEST))
            except (FileNotFoundError, PermissionError) as error:
                if not self._is_only_missing(error):
                    raise

    def _is_only_missing(self, error: OSError) -> bool:
        """Whether the store is there, and only what it was asked for is not."""
        if isinstance(self._fs, LocalFileSystem):
            return isinstance(error, FileNotFoundError) and Path(self._root).is_dir()
        # An object store's libraries have one exception for what is not there and for a bucket that is not, and one for
        # all that is refused. Who may read, but not list, is refused what is not there.
        answer = getattr(error.__cause__, "response", None) or {}
        return answer.get("Error", {}).get("Code", _NO_SUCH_KEY) in (_NO_SUCH_KEY, "404", "AccessDenied", "403")

    def _path(self, digest: str, name: str) -> str:
        return f"{self._root}/sha256/{digest}/{name}"


def _decoded(content: bytes, digest: str) -> Manifest:
    try:
        manifest = msgspec.json.decode(content, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _damaged(digest) from error
    if any("/" in name or "\0" in name or name in ("", ".", "..", MANIFEST) for name in manifest.files):
        raise _damaged(digest)
    return manifest


def _damaged(digest: str) -> StoreFailure:
    return StoreFailure(f"the content stored as {digest[:12]} is damaged: it does not have that digest")


@contextlib.contextmanager
def object_store_failures(what: str) -> Iterator[None]:
    """Turn all that fsspec's file systems raise, whose texts hold paths and addresses, into ours.

    Their libraries have errors of their own: an S3 server that is away is no OSError.
    """
    try:
        yield
    except RegistryError:
        raise
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        reason = os.strerror(number) if number else type(error).__name__
        raise StoreFailure(f"the artifact store could not {what}: {reason}") from error
