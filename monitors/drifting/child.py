"""Starts the child process that holds windows against references, and sees that it ends."""

import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from monitors.drifting.task import Result, Task

LIMIT_S = 600.0
_PREFIX = "drift-"
_ABANDONED_S = 3600.0
_COMMAND = (sys.executable, "-m", "monitors.drift")


class ChildFailed(Exception):
    """The child gave no result. The message says why and holds nothing of what it was given."""


@dataclass(frozen=True, slots=True)
class Judged:
    """The child's result and its HTML report."""

    result: Result
    report: bytes


async def judge_apart(
    task: Task, scratch: Path, *, command: tuple[str, ...] = _COMMAND, limit_s: float = LIMIT_S
) -> Judged:
    """Have a task done in a process of its own; what is handed over is deleted again, whatever happens.

    Raises:
        ChildFailed
    """
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=scratch))
    try:
        task = msgspec.structs.replace(task, report=str(folder / "report.html"))
        await asyncio.to_thread((folder / "task").write_bytes, msgspec.json.encode(task))
        await _run(command, folder, limit_s)
        return await asyncio.to_thread(_read, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep(scratch: Path) -> None:
    """Delete what a monitor that was killed left behind."""
    for folder in scratch.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(folder)


async def _run(command: tuple[str, ...], folder: Path, limit_s: float) -> None:
    child = await asyncio.create_subprocess_exec(
        *command,
        str(folder / "task"),
        str(folder / "result"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=_environment(),
    )
    try:
        async with asyncio.timeout(limit_s):
            _, said = await child.communicate()
    except TimeoutError:
        raise ChildFailed(f"the process that computes it did not end within {limit_s:g} s") from None
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if child.returncode != 0:
        raise ChildFailed(f"the process that computes it ended with status {child.returncode}{_kind(said)}")


def _kind(said: bytes) -> str:
    """The kind of error, which the child says in a last line of one word; longer ones may quote what it was given."""
    last = said.decode(errors="replace").splitlines()[-1:]
    return f" ({last[0]})" if last and last[0].isidentifier() else ""


def _environment() -> dict[str, str]:
    """Ours without keys and addresses; one core, and no word to Evidently's makers."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("OSTLER_")}
    return own | {"DO_NOT_TRACK": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def _read(folder: Path) -> Judged:
    try:
        result = msgspec.json.decode((folder / "result").read_bytes(), type=Result)
        return Judged(result, (folder / "report.html").read_bytes())
    except (OSError, msgspec.MsgspecError):
        raise ChildFailed("the process that computes it left no result") from None
