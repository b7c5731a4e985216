"""Unpacks an archive that a stranger uploaded.

The archive is walked twice: first its list of members is judged as a whole, then the files that passed are
written. Nothing is believed that a header says about sizes; what counts is what really comes out.
"""

import errno
import gzip
import io
import re
import stat
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

from registry.errors import InvalidAdapter

_CHUNK = 256 * 1024
_LONGEST_NAME = 255  # bytes of UTF-8, one part of a path
_LONGEST_PATH = 1024
# Longest pax or GNU long-name record, in bytes: tarfile reads these into memory before anyone sees the member.
_LONGEST_TAR_RECORD = 64 * 1024
# zipfile reads the whole directory of the archive with one call; its other reads are far smaller than this.
_LARGEST_ZIP_READ = 1024 * 1024
_TAR_RECORDS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)

Parts = tuple[str, ...]  # of a path: ('checkpoint', 'adapter_config.json')


@dataclass(frozen=True)
class UnpackLimits:
    """How much an archive may hold: members of any kind, and bytes of all files once unpacked."""

    max_members: int = 256
    max_bytes: int = 4 * 1024**3


@dataclass(frozen=True)
class _Member:
    """One entry; `open` gives its content and works only until the walk goes on to the next one."""

    name: str
    kind: str  # "file", "folder", or what else it is, in words
    size: int  # bytes, as the header says
    open: Callable[[], IO[bytes]]


def unpack(archive: Path, into: Path, *, limits: UnpackLimits) -> None:
    """Write the files of a tar, tar.gz or zip into the empty folder `into`, without a single top folder.

    Raises InvalidAdapter when the archive is damaged or holds anything but plain files in plain folders; `into`
    may then hold some of the files, for the caller to throw away.
    """
    walk = _recognise(archive)
    with _damage_refused():
        targets = _plan(walk(archive, limits), limits)
        _extract(walk(archive, limits), targets, into, limits)


def _recognise(archive: Path) -> Callable[[Path, UnpackLimits], Iterator[_Member]]:
    """The walk for the archive's format, told by its first bytes and never by its name."""
    with archive.open("rb") as file:
        head = file.read(512)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _walk_zip
    if head.startswith(b"\x1f\x8b") or head[257:262] == b"ustar":
        return _walk_tar
    raise InvalidAdapter(
        "the upload is no archive that is known here; send the adapter's folder as .tar, .tar.gz or .zip",
        reason="archive_format",
    )


@contextmanager
def _damage_refused() -> Iterator[None]:
    """Turn what the archive libraries raise over damaged bytes into InvalidAdapter; a full disk stays an OSError."""
    try:
        yield
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, ValueError, OverflowError) as exc:
        raise _damaged() from exc
    except (NotImplementedError, RecursionError, IndexError, KeyError) as exc:
        raise _damaged() from exc
    except OSError as exc:
        # gzip reports damage as an OSError without a number, and a seek to nowhere has EINVAL.
        if exc.errno not in (None, errno.EINVAL):
            raise
        raise _damaged() from exc


def _damaged() -> InvalidAdapter:
    return InvalidAdapter(
        "the archive is damaged or cut short; pack the adapter's folder again and send the whole of it",
        reason="archive_damaged",
    )


def _too_large(limits: UnpackLimits) -> InvalidAdapter:
    return InvalidAdapter(
        f"the archive unpacks to more than {limits.max_bytes} bytes; send only the adapter's files",
        reason="archive_too_large",
    )


def _too_many(limits: UnpackLimits) -> InvalidAdapter:
    return InvalidAdapter(
        f"the archive holds more than {limits.max_members} members; send only the adapter's files",
        reason="archive_too_many_members",
    )


# --- the two formats -------------------------------------------------------------------------------------------


class _TarInfo(tarfile.TarInfo):
    """Header that tells damage from the end; tarfile itself takes a damaged header for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            info = super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # the zero block that ends a whole archive
            raise
        except tarfile.HeaderError as exc:
            raise _damaged() from exc
        if info.type in _TAR_RECORDS and info.size > _LONGEST_TAR_RECORD:
            raise _damaged()
        return info


class _Counted(io.RawIOBase):
    """Reader that refuses to give more than `limit` bytes, so that no bomb is unpacked even while it is listed."""

    def __init__(self, source: io.BufferedIOBase, limit: int, limits: UnpackLimits) -> None:
        self._source = source
        self._left = limit
        self._limits = limits

    def read(self, size: int = -1) -> bytes:
        block = self._source.read(size)
        self._left -= len(block)
        if self._left < 0:
            raise _too_large(self._limits)
        return block


def _walk_tar(archive: Path, limits: UnpackLimits) -> Iterator[_Member]:
    """Each member of a tar or tar.gz in order, as a stream."""
    headers = (limits.max_members + 16) * 4096
    with archive.open("rb") as file:
        plain = gzip.GzipFile(fileobj=file) if file.peek(2)[:2] == b"\x1f\x8b" else file
        source = _Counted(plain, limits.max_bytes + headers, limits)
        with tarfile.open(fileobj=source, mode="r|", tarinfo=_TarInfo) as tar:
            for info in tar:
                yield _tar_member(tar, info)
        while source.read(_CHUNK):  # to the end, where gzip's checksum is
            pass


def _tar_member(tar: tarfile.TarFile, info: tarfile.TarInfo) -> _Member:
    def content() -> IO[bytes]:
        return tar.extractfile(info) or io.BytesIO()

    kinds = {
        "folder": info.isdir(),
        "symbolic link": info.issym(),
        "hard link": info.islnk(),
        "sparse file": info.issparse(),
        "device or pipe": info.isdev(),
        "file": info.isreg(),
    }
    kind = next((kind for kind, fits in kinds.items() if fits), "member of an unknown kind")
    return _Member(info.name, kind, info.size, content)


class _ZipFile(io.FileIO):
    """File that refuses the one huge read with which zipfile would take in a huge directory."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > _LARGEST_ZIP_READ:
            raise InvalidAdapter(
                f"the archive's list of members is over {_LARGEST_ZIP_READ} bytes long; send only the adapter's files",
                reason="archive_too_many_members",
            )
        return super().read(size) or b""


def _walk_zip(archive: Path, _: UnpackLimits) -> Iterator[_Member]:
    """Each member of a zip, in the order of its directory."""
    with _ZipFile(archive) as file, zipfile.ZipFile(file) as pack:
        for info in pack.infolist():
            yield _zip_member(pack, info)


def _zip_member(pack: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member:
    def content() -> IO[bytes]:
        return pack.open(info)

    # orig_filename, because zipfile cuts `filename` at a NUL byte.
    name = info.orig_filename
    mode = stat.S_IFMT(info.external_attr >> 16)
    if info.flag_bits & 0x1:
        kind = "encrypted file"
    elif stat.S_ISLNK(mode):
        kind = "symbolic link"
    elif mode not in (0, stat.S_IFREG, stat.S_IFDIR):
        kind = "device or pipe"
    elif name.endswith("/"):
        kind = "folder"
    elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        kind = "file with an unusual compression"
    else:
        kind = "file"
    return _Member(name, kind, info.file_size, content)


# --- judging the members ---------------------------------------------------------------------------------------


def _plan(members: Iterable[_Member], limits: UnpackLimits) -> dict[str, Parts]:
    """Where each file goes: from its name in the archive to the parts of its path below the folder."""
    names = _Names()
    targets: dict[str, Parts] = {}
    size = 0
    for count, member in enumerate(members, start=1):
        if count > limits.max_members:
            raise _too_many(limits)
        parts = _safe_parts(member.name)
        if _is_junk(parts):
            continue
        _require_plain(member)
        size += member.size
        if size > limits.max_bytes:
            raise _too_large(limits)
        names.add(parts, is_file=member.kind == "file")
        if member.kind == "file":
            targets[member.name] = parts
    if not targets:
        raise InvalidAdapter("the archive holds no file; pack the adapter's folder", reason="archive_empty")
    return _without_top_folder(targets)


def _safe_parts(name: str) -> Parts:
    """The parts of a member's name; refuses every name that could lead out of the folder or deceive a reader."""
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    problem = None
    if name.startswith("/") or re.match("[A-Za-z]:", name):
        problem = "is an absolute path"
    elif "\\" in name:
        problem = "holds a backslash"
    elif ".." in parts:
        problem = "leads out of its folder"
    elif not name.isprintable():
        problem = "holds characters that cannot be printed"
    elif any(len(part.encode()) > _LONGEST_NAME for part in parts) or len(name) > _LONGEST_PATH:
        problem = "is too long"
    if problem:
        raise InvalidAdapter(
            f"the archive's member {name!a:.120} {problem}; name members relative to the adapter's folder",
            reason="archive_member_name",
            file=name[:_LONGEST_PATH] if name.isprintable() else None,
        )
    return parts


def _is_junk(parts: Parts) -> bool:
    """Whether macOS put the member there; also the archive's own top entry `./`, which has no parts."""
    return not parts or "__MACOSX" in parts or parts[-1] == ".DS_Store" or parts[-1].startswith("._")


def _require_plain(member: _Member) -> None:
    if member.kind not in ("file", "folder"):
        raise InvalidAdapter(
            f"the archive's member {member.name!a:.120} is a {member.kind}; only plain files and folders are taken",
            reason="archive_member_kind",
            file=member.name,
        )


class _Names:
    """The names seen so far, to refuse two that are one and the same on some file system."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[str, bool]] = {}

    def add(self, parts: Parts, *, is_file: bool) -> None:
        for depth in range(1, len(parts)):
            self._add_one(parts[:depth], is_file=False)
        self._add_one(parts, is_file=is_file)

    def _add_one(self, parts: Parts, *, is_file: bool) -> None:
        name = "/".join(parts)
        key = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
        if key not in self._seen:
            self._seen[key] = (name, is_file)
        elif self._seen[key] != (name, False) or is_file:
            raise InvalidAdapter(
                f"the archive holds both {self._seen[key][0]!a:.120} and {name!a:.120}, which are one and the same "
                "name on some file systems; keep one of them",
                reason="archive_duplicate_name",
                file=name,
            )


def _without_top_folder(targets: dict[str, Parts]) -> dict[str, Parts]:
    """The same targets one level higher, if all of them lie in one folder."""
    tops = {parts[0] if len(parts) > 1 else None for parts in targets.values()}
    if len(tops) > 1 or None in tops:
        return targets
    return {name: parts[1:] for name, parts in targets.items()}


# --- writing ---------------------------------------------------------------------------------------------------


def _extract(members: Iterable[_Member], targets: dict[str, Parts], into: Path, limits: UnpackLimits) -> None:
    left = limits.max_bytes
    into.mkdir(parents=True, exist_ok=True)
    for member in members:
        if member.name not in targets or member.kind != "file":
            continue
        target = into.joinpath(*targets[member.name])
        target.parent.mkdir(parents=True, exist_ok=True)
        left -= _copy(member, target, left, limits)


def _copy(member: _Member, target: Path, left: int, limits: UnpackLimits) -> int:
    """Write one file and return its size in bytes; refuses it once it is larger than `left`."""
    written = 0
    # "x": whatever stands there already, a link for instance, is never written through.
    with member.open() as source, target.open("xb") as file:
        while block := source.read(_CHUNK):
            written += len(block)
            if written > left:
                raise _too_large(limits)
            file.write(block)
    return written
