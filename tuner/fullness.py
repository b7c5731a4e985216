"""Whether an error tells of a full disk, however the library that met it says so."""

import errno
import os

_ERRORS = (errno.ENOSPC, errno.EDQUOT)
_WORDS = tuple(word.lower() for number in _ERRORS for word in (f"os error {number})", os.strerror(number)))
"""Rust's libraries, such as safetensors, and torch's write() raise errors of their own with these words."""
_TORCH_WRITES = "inline_container"
"""torch.save says of a full disk only that its archive has another length than it wrote."""
_LEAST_FREE_BYTES = 1 << 20


def is_full(error: BaseException, folder: str | os.PathLike[str] | None = None) -> bool:
    """Whether a disk is full, by an error or by what it came from.

    Args:
        error: what was raised.
        folder: where the work wrote to, if that is known: torch's error tells of a full disk if this one is.
    """
    found: BaseException | None = error
    while found is not None:
        if _says_so(found) or (folder is not None and _has_no_space(found, folder)):
            return True
        found = found.__cause__ or found.__context__
    return False


def _says_so(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in _ERRORS:
        return True
    said = str(error).lower()
    return any(word in said for word in _WORDS)


def _has_no_space(error: BaseException, folder: str | os.PathLike[str]) -> bool:
    if _TORCH_WRITES not in str(error):
        return False
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize < _LEAST_FREE_BYTES
