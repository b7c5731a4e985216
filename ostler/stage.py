"""An `ostler up` of its own for the demo's story: a folder and ports for itself, and gone when its block ends."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ostler import leash
from ostler.client import ADDRESS_FILE, KEY_FILE, CommandFailed
from ostler.supervisor import AlreadyRunning, claim

READY_WITHIN_S = 300.0
_LOOK_EVERY_S = 0.2
_STOP_S = 40.0
_SHOWN_LINES = 12
SETTINGS = {
    # Looks that pause for seconds elsewhere pause for one here: the story has minutes.
    "OSTLER_SCORE_EVERY_S": "1",
    "OSTLER_LOOP_EVERY_S": "1",
    "OSTLER_TUNER_POLL_S": "1",
    "OSTLER_ENGINE_SLOTS": "8",
    # Nobody asks for the likelihood of answers here.
    "OSTLER_LIKELIHOOD_PER_MINUTE": "0",
}
"""What the story's processes are told beside where they are."""
_FREE_PORTS = ("OSTLER_PORT", "OSTLER_ENGINE_PORT", "OSTLER_MONITOR_PORT", "OSTLER_TUNER_PORT")


@dataclass(frozen=True, slots=True)
class Stage:
    """Where the story plays."""

    url: str
    key: str
    folder: Path


@contextmanager
def stage(folder: Path) -> Iterator[Stage]:
    """Serve the demo from a fresh folder for as long as the block lasts. What it leaves there can be looked at.

    Raises:
        CommandFailed: it does not get ready; the message has its last lines.
    """
    with _claimed(folder), (folder / "up.log").open("wb") as log:
        for part in ("home", "cache"):
            shutil.rmtree(folder / part, ignore_errors=True)
        (folder / "home").mkdir(mode=0o700)
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", leash.__file__, "--grace", str(_STOP_S), "--", *_COMMAND],
            env=_environment(folder),
            cwd=folder / "home",  # else an ostler.toml of the caller's folder would name his database
            stdin=subprocess.PIPE,  # never written to: its end tells the leash that we are gone
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the story, which ends its stage in order
        )
        try:
            yield _wait_until_ready(process, folder)
        finally:
            _stop(process)


@contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """Hold the folder, so that another story does not take it away from this one."""
    try:
        with claim(folder):
            yield
    except AlreadyRunning:
        raise CommandFailed(f"another `ostler demo` is under way in {folder}") from None


_COMMAND = (sys.executable, "-m", "ostler", "up")


def _environment(folder: Path) -> dict[str, str]:
    """The caller's environment without its settings of other gateways."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OSTLER_")}
    own = {"OSTLER_HOME": str(folder / "home"), "OSTLER_CACHE": str(folder / "cache")}
    return kept | own | dict.fromkeys(_FREE_PORTS, "0") | SETTINGS


def _wait_until_ready(process: subprocess.Popen[bytes], folder: Path) -> Stage:
    """It writes its address once it serves."""
    address, deadline = folder / "home" / ADDRESS_FILE, time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise CommandFailed(f"`ostler up` ended before it was ready:{_last_lines(folder)}")
        if address.exists() and (url := address.read_text().strip()):
            return Stage(url, (folder / "home" / KEY_FILE).read_text().strip(), folder)
        time.sleep(_LOOK_EVERY_S)
    raise CommandFailed(f"`ostler up` was not ready after {READY_WITHIN_S:.0f} s:{_last_lines(folder)}")


def _last_lines(folder: Path) -> str:
    lines = (folder / "up.log").read_text(errors="replace").splitlines()
    return "".join(f"\n    {line}" for line in lines[-_SHOWN_LINES:] if "sk-" not in line)


def _stop(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_S + leash.LEFTOVER_GRACE_S + leash.KILL_PATIENCE_S)
    assert process.stdin is not None
    process.stdin.close()
