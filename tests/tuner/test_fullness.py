"""A full disk is told as one, whatever the library that met it says."""

import errno
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from registry.errors import StoreFailure
from tuner.fullness import is_full
from tuner.messages import Failed, Message, decode

_TORCH = "[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"


def caused(error: Exception, cause: Exception) -> Exception:
    """An error with what it came from."""
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), True),
        (RuntimeError("Error while serializing: I/O error: Disk quota exceeded (os error 122)"), True),
        (RuntimeError("write(): fd 3 failed with No space left on device"), True),
        (caused(StoreFailure("it could not be written"), OSError(errno.ENOSPC, "")), True),
        (OSError(errno.EIO, "Input/output error"), False),
        (RuntimeError("CUDA error (os error 281)"), False),
        (RuntimeError(_TORCH), False),  # where there is space, it is something else
    ],
)
def test_a_full_disk_is_known_by_its_error(tmp_path: Path, error: Exception, full: bool) -> None:
    """Of the system, of safetensors, of torch, or of the store."""
    assert is_full(error, tmp_path) == full


def test_torchs_archive_is_cut_off_by_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says nothing of space, so the disk is asked."""
    monkeypatch.setattr("os.statvfs", lambda _: type("Disk", (), {"f_bavail": 1, "f_frsize": 4096})())
    assert is_full(RuntimeError(_TORCH), tmp_path)
    assert not is_full(RuntimeError("something else"), tmp_path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        shutil.which("mount") is None
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], check=False, capture_output=True
        ).returncode
    ):
        pytest.skip("nothing can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("how", ["safetensors", "torch"])
def test_a_child_on_a_disk_that_is_full_says_so(small_disk: Path, how: str) -> None:
    """On a real one, with what checkpoints are really written by."""
    code = f"""
import sys
import tuner.child
def save(task, workspace, teller):
    import safetensors.torch, torch
    weights = {{"weight": torch.zeros(1 << 18)}}
    file = workspace.folder / "weights"
    safetensors.torch.save_file(weights, file) if {how == "safetensors"} else torch.save(weights, file)
tuner.child._do = save
sys.argv = ["child", {str(small_disk)!r}]
sys.exit(tuner.child.main())
"""
    (small_disk / "task.json").write_bytes(msgspec.json.encode(_task()))
    pipe = subprocess.PIPE
    child = subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, process_group=0)
    assert child.stdin is not None
    assert child.stdout is not None
    with child, child.stdin:  # a child ends with its group when its input does
        said: Message = decode(child.stdout.readlines()[-1])
    assert isinstance(said, Failed)
    assert said.code == "disk_full"


def _task() -> object:
    from tests.tuner.works import ORDER
    from tuner.workspace import CheckTask

    return CheckTask(order=ORDER, base_model="", start_from=None)
