"""What a comparison needs beyond the project's own environment.

It goes into `.bench/`, or by apt where it is no package of Python or Node; pinned, so that a later run measures the
same.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / ".bench"
LITELLM_VERSION, PORTKEY_VERSION = "1.106.2", "1.15.2"
GRANIAN_VERSION, PY_SPY_VERSION = "2.8.7", "0.4.3"
LITELLM = FOLDER / "litellm" / "bin" / "litellm"
PORTKEY = FOLDER / "portkey" / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
GRANIAN = FOLDER / "granian" / "bin" / "granian"
PY_SPY = FOLDER / "py-spy" / "bin" / "py-spy"
_FROM_PYPI = {
    LITELLM: f"litellm[proxy]=={LITELLM_VERSION}",
    GRANIAN: f"granian[uvloop]=={GRANIAN_VERSION}",
    PY_SPY: f"py-spy=={PY_SPY_VERSION}",
}
"""A program -> the package that brings it, each into an environment of its own."""
_FROM_APT = {"wrk": "wrk", "nginx": "nginx-light", "node": "nodejs", "npm": "npm"}


def install() -> None:
    """See that all is there.

    Raises:
        SystemExit: something cannot be had; the message says what.
    """
    _from_apt([package for program, package in _FROM_APT.items() if shutil.which(program) is None])
    for program, package in _FROM_PYPI.items():
        if not program.exists():
            _run(sys.executable, "-m", "venv", str(program.parents[1]))
            _run(str(program.parent / "pip"), "install", "--quiet", package)
    if not PORTKEY.exists():
        _run(
            "npm", "install", "--silent", "--prefix", str(FOLDER / "portkey"), f"@portkey-ai/gateway@{PORTKEY_VERSION}"
        )


def install_valgrind() -> None:
    """See that it is there; only one piece needs it.

    Raises:
        RuntimeError: it cannot be had; the message says what is missing.
    """
    try:
        _from_apt(["valgrind"] if shutil.which("callgrind_control") is None else [])
    except SystemExit as missing:
        raise RuntimeError(str(missing)) from None


def _from_apt(packages: list[str]) -> None:
    if not packages:
        return
    missing = f"missing: {' '.join(packages)} (with Debian or Ubuntu: sudo apt-get install {' '.join(packages)})"
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise SystemExit(missing)
    try:
        _run("apt-get", "update", "-qq")
        _run("apt-get", "install", "--yes", "-qq", "--no-install-recommends", *packages)
    except SystemExit as failed:
        raise SystemExit(f"{missing}; {failed}") from None


def _run(*argv: str) -> None:
    try:
        subprocess.run(argv, check=True, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"this failed: {' '.join(argv)} ({error.returncode})") from None
