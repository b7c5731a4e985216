"""What may be uploaded: plain files in a tar, tar.gz or zip, and nothing that reaches beyond its folder."""

import gzip
import io
import random
import stat
import struct
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.archive import UnpackLimits, _extract, _Member, unpack
from registry.errors import InvalidAdapter

LIMITS = UnpackLimits(max_members=10, max_bytes=100_000)
FILES = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights", "sub/README.md": b"hello"}


def tar_of(files: dict[str, bytes]) -> bytes:
    """A tar of plain files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            add(tar, name, content)
    return buffer.getvalue()


def add(tar: tarfile.TarFile, name: str, content: bytes = b"x", kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
    """Add one member of any kind to a tar."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(content)
    tar.addfile(info, io.BytesIO(content))


def tgz_of(files: dict[str, bytes]) -> bytes:
    """A tar.gz of plain files."""
    return gzip.compress(tar_of(files), mtime=0)


def zip_of(files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip of plain files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as pack:
        for name, content in files.items():
            pack.writestr(name, content)
    return buffer.getvalue()


FORMATS = pytest.mark.parametrize("pack", [tar_of, tgz_of, zip_of])


def unpacked(content: bytes, folder: Path, limits: UnpackLimits = LIMITS) -> dict[str, bytes]:
    """Unpack into folder/into and return what was written there."""
    (folder / "upload").write_bytes(content)
    unpack(folder / "upload", folder / "into", limits=limits)
    into = folder / "into"
    return {path.relative_to(into).as_posix(): path.read_bytes() for path in into.rglob("*") if path.is_file()}


def refused(content: bytes, folder: Path, limits: UnpackLimits = LIMITS) -> InvalidAdapter:
    """The refusal, having seen that it names no path of the machine and that nothing was written elsewhere."""
    with pytest.raises(InvalidAdapter) as caught:
        unpacked(content, folder, limits)
    assert str(folder) not in caught.value.message
    assert {path.name for path in folder.iterdir()} <= {"upload", "into"}
    return caught.value


@FORMATS
def test_unpacks_files_and_folders(pack: Callable[[dict[str, bytes]], bytes], tmp_path: Path) -> None:
    """The files of each format come out as they went in."""
    assert unpacked(pack(FILES), tmp_path) == FILES


@FORMATS
@pytest.mark.parametrize("prefix", ["checkpoint/", "./", "./checkpoint/"])
def test_strips_one_top_folder(pack: Callable[[dict[str, bytes]], bytes], prefix: str, tmp_path: Path) -> None:
    """A single top folder, or `./`, is left out."""
    assert unpacked(pack({prefix + name: content for name, content in FILES.items()}), tmp_path) == FILES


@FORMATS
def test_keeps_two_top_folders(pack: Callable[[dict[str, bytes]], bytes], tmp_path: Path) -> None:
    """Two top folders stay as they are."""
    files = {"a/x": b"1", "b/x": b"2"}
    assert unpacked(pack(files), tmp_path) == files


@FORMATS
def test_ignores_what_macos_adds(pack: Callable[[dict[str, bytes]], bytes], tmp_path: Path) -> None:
    """Finder's files neither come out nor count as a second top folder."""
    files = {"top/a": b"1", "__MACOSX/top/._a": b"j", "top/.DS_Store": b"j", "top/._b": b"j"}
    assert unpacked(pack(files), tmp_path) == {"a": b"1"}


def test_unpacks_what_shutil_packs(tmp_path: Path) -> None:
    """Folder entries, as ordinary tools write them, are no obstacle."""
    import shutil

    source = tmp_path / "source" / "checkpoint" / "sub"
    source.mkdir(parents=True)
    (source / "a").write_text("1")
    for kind in ("tar", "gztar", "zip"):
        home = tmp_path / kind
        home.mkdir()
        packed = shutil.make_archive(str(home / "x"), kind, tmp_path / "source", "checkpoint")
        content = Path(packed).read_bytes()
        Path(packed).unlink()
        assert unpacked(content, home) == {"sub/a": b"1"}


@FORMATS
@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "a/../../evil",
        "/evil",
        "//evil",
        "C:/evil",
        "c:evil",
        "a\\..\\evil",
        "\\\\host\\x",
        "a/..",
        "a\nb",
        "x" * 300,
    ],
)
def test_refuses_names_that_lead_away(pack: Callable[[dict[str, bytes]], bytes], name: str, tmp_path: Path) -> None:
    """A member's name that leaves the folder or deceives the reader is refused, and named."""
    error = refused(pack({"ok": b"1", name: b"x"}), tmp_path)
    assert error.reason == "archive_member_name"
    assert ascii(name)[:40] in error.message
    assert not list((tmp_path / "into").glob("*"))


@FORMATS
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("config.json", "CONFIG.json"),
        ("caf\u00e9", "cafe\u0301"),
        ("stra\u00dfe", "STRASSE"),
        ("a", "./a"),
        ("a", "a/b"),
        ("a/b", "a"),
        ("Sub/a", "sub/b"),
    ],
)
def test_refuses_names_that_clash(
    pack: Callable[[dict[str, bytes]], bytes], first: str, second: str, tmp_path: Path
) -> None:
    """Two names that are one on some file system are refused, and the second is named."""
    error = refused(pack({first: b"1", second: b"2"}), tmp_path)
    assert error.reason == "archive_duplicate_name"
    assert error.file is not None


def test_refuses_the_same_name_twice(tmp_path: Path) -> None:
    """The same name twice is refused in both formats."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        add(tar, "a", b"1")
        add(tar, "a", b"2")
    assert refused(buffer.getvalue(), tmp_path).reason == "archive_duplicate_name"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as pack:
        pack.writestr("a", b"1")
        with pytest.warns(UserWarning, match="Duplicate name"):
            pack.writestr("a", b"2")
    assert refused(buffer.getvalue(), tmp_path).file == "a"


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (tarfile.SYMTYPE, "symbolic link"),
        (tarfile.LNKTYPE, "hard link"),
        (tarfile.CHRTYPE, "device"),
        (tarfile.BLKTYPE, "device"),
        (tarfile.FIFOTYPE, "pipe"),
        (tarfile.CONTTYPE, None),
        (b"Z", "unknown"),
    ],
)
def test_refuses_tar_members_that_are_no_files(kind: bytes, word: str | None, tmp_path: Path) -> None:
    """Links, devices and pipes in a tar are refused, by name and kind; contiguous files are files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        add(tar, "member", b"", kind, "/etc/passwd")
    if word is None:
        assert unpacked(buffer.getvalue(), tmp_path) == {"member": b""}
        return
    error = refused(buffer.getvalue(), tmp_path)
    assert (error.reason, error.file) == ("archive_member_kind", "member")
    assert word in error.message


def test_refuses_a_file_written_through_a_link(tmp_path: Path) -> None:
    """A link to the outside followed by a file below it writes nothing outside."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        add(tar, "door", b"", tarfile.SYMTYPE, str(tmp_path))
        add(tar, "door/evil")
    assert refused(buffer.getvalue(), tmp_path).reason == "archive_member_kind"


@pytest.mark.parametrize(
    ("mode", "word"), [(stat.S_IFLNK, "symbolic link"), (stat.S_IFIFO, "pipe"), (stat.S_IFCHR, "device")]
)
def test_refuses_zip_members_that_are_no_files(mode: int, word: str, tmp_path: Path) -> None:
    """Links, devices and pipes in a zip are refused."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as pack:
        info = zipfile.ZipInfo("member")
        info.external_attr = (mode | 0o644) << 16
        pack.writestr(info, "/etc/passwd")
    error = refused(buffer.getvalue(), tmp_path)
    assert (error.reason, error.file) == ("archive_member_kind", "member")
    assert word in error.message


def test_refuses_encrypted_zips(tmp_path: Path) -> None:
    """A zip member with the encryption flag is refused before anything is written."""
    content = bytearray(zip_of({"secret": b"x"}, zipfile.ZIP_STORED))
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    error = refused(bytes(content), tmp_path)
    assert error.reason == "archive_member_kind"
    assert "encrypted" in error.message


def test_refuses_unusual_zip_compression(tmp_path: Path) -> None:
    """LZMA, whose dictionary may take gigabytes, is refused."""
    assert refused(zip_of({"a": b"x"}, zipfile.ZIP_LZMA), tmp_path).reason == "archive_member_kind"


def test_refuses_names_cut_by_nul(tmp_path: Path) -> None:
    """A NUL byte in a zip's name is seen, though zipfile hides what follows it."""
    content = zip_of({"good_evil": b"x"}).replace(b"good_evil", b"good\0evil")
    assert refused(content, tmp_path).reason == "archive_member_name"


@FORMATS
def test_refuses_too_many_members(pack: Callable[[dict[str, bytes]], bytes], tmp_path: Path) -> None:
    """One member over the limit is too many."""
    ten = {f"file{number}": b"" for number in range(10)}
    assert len(unpacked(pack(ten), tmp_path)) == 10
    assert refused(pack(ten | {"more": b""}), tmp_path).reason == "archive_too_many_members"


@FORMATS
def test_refuses_too_many_bytes(pack: Callable[[dict[str, bytes]], bytes], tmp_path: Path) -> None:
    """All files together may be as large as the limit and no larger."""
    assert unpacked(pack({"a": b"1" * 60_000, "b": b"2" * 40_000}), tmp_path)
    assert refused(pack({"a": b"1" * 60_000, "b": b"2" * 40_001}), tmp_path).reason == "archive_too_large"


def test_counts_what_really_comes_out_of_a_zip(tmp_path: Path) -> None:
    """A zip bomb whose headers claim one byte writes no more than it claimed."""
    content = zip_of({"bomb": b"\0" * 10_000_000}).replace(struct.pack("<L", 10_000_000), struct.pack("<L", 1))
    assert refused(content, tmp_path).reason in ("archive_too_large", "archive_damaged")
    assert sum(path.stat().st_size for path in (tmp_path / "into").iterdir()) <= LIMITS.max_bytes


def test_counts_whatever_the_reader_gives(tmp_path: Path) -> None:
    """A member that gives more than its header says is stopped at the limit of the whole archive."""
    members = [_Member(name, "file", 1, lambda: io.BytesIO(b"1" * 60_000)) for name in ("a", "b")]
    with pytest.raises(InvalidAdapter) as caught:
        _extract(members, {"a": ("a",), "b": ("b",)}, tmp_path, LIMITS)
    assert caught.value.reason == "archive_too_large"


def test_stops_a_gzip_bomb_after_the_archive(tmp_path: Path) -> None:
    """Endless zeros behind the end of the tar are not unpacked to their end."""
    bomb = gzip.compress(tar_of({"a": b"1"}) + b"\0" * 50_000_000)
    assert refused(bomb, tmp_path).reason == "archive_too_large"


def test_refuses_a_huge_tar_record_unread(tmp_path: Path) -> None:
    """A pax record, which tarfile would take into memory, is refused by its size."""
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 80_000
    content = info.tobuf() + b"\0" * 80_384 + tar_of({"a": b"1"})
    assert refused(content, tmp_path).reason == "archive_damaged"


def test_refuses_a_huge_zip_directory_unread(tmp_path: Path) -> None:
    """A zip's list of members that would take much memory is refused, however few members it has."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as pack:
        for number in range(10):
            info = zipfile.ZipInfo(f"file{number}")
            info.comment, info.extra = b"c" * 65_535, b"\xfe\xfe\xf0\xff" + b"e" * 65_520
            pack.writestr(info, b"")
    assert refused(buffer.getvalue(), tmp_path).reason == "archive_too_many_members"


def test_refuses_sparse_files(tmp_path: Path) -> None:
    """A sparse file, whose size is invented by its header, is refused."""
    content = tar_of({"hole": b""})
    info = tarfile.TarInfo("hole")
    info.type = tarfile.GNUTYPE_SPARSE
    content = info.tobuf(tarfile.GNU_FORMAT) + content[512:]
    assert refused(content, tmp_path).reason in ("archive_member_kind", "archive_damaged")


@FORMATS
def test_refuses_empty_archives(pack: Callable[[dict[str, bytes]], bytes], tmp_path: Path) -> None:
    """An archive without any file is refused as empty."""
    assert pack is tar_of or refused(pack({}), tmp_path).reason == "archive_empty"
    assert refused(pack({".DS_Store": b"x"}), tmp_path).reason == "archive_empty"


@pytest.mark.parametrize("content", [b"", b"hello", b"7z\xbc\xaf\x27\x1c" + b"x" * 600, b"BZh9" + b"x" * 600])
def test_refuses_other_formats(content: bytes, tmp_path: Path) -> None:
    """What is neither tar, tar.gz nor zip is refused with the formats that are taken."""
    error = refused(content, tmp_path)
    assert error.reason == "archive_format"
    assert ".tar.gz" in error.message


def test_refuses_gzip_without_a_tar(tmp_path: Path) -> None:
    """A gzipped file that is no tar is refused."""
    assert refused(gzip.compress(b"hello" * 300), tmp_path).reason == "archive_damaged"


@FORMATS
def test_refuses_every_truncation(pack: Callable[[dict[str, bytes]], bytes], tmp_path: Path) -> None:
    """No archive that was cut short passes, wherever it was cut before its end marker."""
    noise = random.Random(1).randbytes(3000)
    content = pack({"a": noise, "b": noise})
    # A tar ends with zero blocks of which the first is enough.
    last = len(content.rstrip(b"\0")) if pack is tar_of else len(content) - 1
    for length in range(0, last, 97):
        refused(content[:length], tmp_path)
        remove_files(tmp_path / "into")


def test_refuses_a_tar_cut_between_members(tmp_path: Path) -> None:
    """A tar cut exactly after a member is refused, though each header in it is whole."""
    assert refused(tar_of({"a": b"1", "b": b"2"})[:1024], tmp_path).reason == "archive_damaged"


def test_refuses_a_tar_with_a_damaged_second_header(tmp_path: Path) -> None:
    """A damaged header is not taken for the end of the archive."""
    content = bytearray(tar_of({"a": b"1", "b": b"2"}))
    content[1024 + 150] ^= 0xFF
    assert refused(bytes(content), tmp_path).reason == "archive_damaged"


def test_checks_the_sum_of_a_gzip(tmp_path: Path) -> None:
    """A tar.gz whose checksum is wrong is refused, though the tar in it is whole."""
    content = bytearray(tgz_of(FILES))
    content[-8] ^= 0xFF
    assert refused(bytes(content), tmp_path).reason == "archive_damaged"


def test_keeps_a_file_that_stands_there(tmp_path: Path) -> None:
    """A link that already stands at the target is never written through."""
    (tmp_path / "into").mkdir()
    (tmp_path / "upload").write_bytes(tar_of({"a": b"1"}))
    (tmp_path / "into" / "a").symlink_to(tmp_path / "outside")
    with pytest.raises(FileExistsError):
        unpack(tmp_path / "upload", tmp_path / "into", limits=LIMITS)
    assert not (tmp_path / "outside").exists()


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([tar_of, tgz_of, zip_of]),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4),
    st.integers(0, 3000),
)
def test_damage_is_refused_or_harmless(
    pack: Callable[[dict[str, bytes]], bytes], flips: list[tuple[int, int]], cut: int
) -> None:
    """Bytes changed and cut anywhere lead to InvalidAdapter or to files below the folder, never to anything else."""
    content = bytearray(pack(FILES))
    for position, value in flips:
        content[position % len(content)] = value
    with tempfile.TemporaryDirectory() as folder:
        with suppress(InvalidAdapter):
            unpacked(bytes(content[: len(content) - cut]), Path(folder))
        assert {path.name for path in Path(folder).iterdir()} <= {"upload", "into"}


def remove_files(folder: Path) -> None:
    """Empty the folder for the next attempt."""
    for path in folder.glob("*"):
        path.unlink()
