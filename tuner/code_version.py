"""Which code runs. It is read once, as a process starts: what lies on the disk later is not what runs."""

import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

_ROOT = Path(__file__).parent.parent
_GIT_TIMEOUT_S = 10


class CodeVersion(msgspec.Struct, frozen=True):
    """Ostler's version; with the commit, and whether files were changed since, where it runs from its repository."""

    version: str | None
    commit: str | None = None
    changed: bool | None = None


def code_on_disk(root: Path = _ROOT) -> CodeVersion:
    """The code that a process which starts now runs."""
    found = installed_version("ostler")
    if not (root / ".git").exists():  # an installed package may lie in somebody else's repository
        return CodeVersion(found)
    changes = _git(root, "status", "--porcelain", "--untracked-files=no")
    return CodeVersion(found, _git(root, "rev-parse", "HEAD"), None if changes is None else bool(changes))


def installed_version(package: str) -> str | None:
    """The version of an installed package; None if there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(root: Path, *arguments: str) -> str | None:
    command = ("git", "-C", str(root), *arguments)
    try:
        found = subprocess.run(command, capture_output=True, check=True, text=True, timeout=_GIT_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
