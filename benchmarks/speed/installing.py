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
LITELLM = FOLDER / "litellm" / "bin" / "litellm"
PORTKEY = FOLDER / "portkey" / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
_FROM_APT = {"wrk": "wrk", "nginx": "nginx-light", "node": "nodejs", "npm": "npm"}


def install() -> None:
    """See that all is there.

    Raises:
        SystemExit: something cannot be had; the message says what.
    """
    _from_apt([package for program, package in _FROM_APT.items() if shutil.which(program) is None])
    if not LITELLM.exists():
        _run(sys.executable, "-m", "venv", str(LITELLM.parents[1]))
        _run(str(LITELLM.parent / "pip"), "install", "--quiet", f"litellm[proxy]=={LITELLM_VERSION}")
    if not PORTKEY.exists():
        _run(
            "npm", "install", "--silent", "--prefix", str(FOLDER / "portkey"), f"@portkey-ai/gateway@{PORTKEY_VERSION}"
        )


def _from_apt(packages: list[str]) -> None:
    if not packages:
        return
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise SystemExit(
            f"missing: {' '.join(packages)} (with Debian or Ubuntu: sudo apt-get install {' '.join(packages)})"
        )
    _run("apt-get", "update", "-qq")
    _run("apt-get", "install", "--yes", "-qq", "--no-install-recommends", *packages)


def _run(*argv: str) -> None:
    try:
        subprocess.run(argv, check=True, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"this failed: {' '.join(argv)} ({error.returncode})") from None
