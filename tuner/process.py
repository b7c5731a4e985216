"""Runs a child process: reads what it tells, stops it when asked, and leaves nothing of it behind."""

import asyncio
import contextlib
import logging
import os
import signal
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from tuner.control import Control
from tuner.errors import ChildCrashed, Interrupted, JobFailed
from tuner.messages import Done, Failed, Message, Stopped, decode

log = logging.getLogger(__name__)

_LONGEST_LINE = 1 << 20
_TAIL_LINES = 40
Listener = Callable[[Message], Awaitable[None]]


async def run_child(
    command: Sequence[str],
    environment: Mapping[str, str],
    listen: Listener,
    control: Control,
    *,
    grace_s: float,
) -> Done:
    """Run a command to its end and hand on what it tells; its last word.

    When the job is to stop, the child gets SIGTERM and has `grace_s` seconds to finish its step and save what it has;
    one that is cancelled or lost has nothing to save. It is the leader of a process group, all of which is gone
    afterwards. Its standard input is a pipe that closes when this process ends, however it ends.

    Raises:
        JobFailed: the child said that it cannot be done.
        Interrupted: it was stopped.
        ChildCrashed: it ended without a last word.
    """
    child = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=dict(environment),
        limit=_LONGEST_LINE,
        process_group=0,  # not a session of its own, in which its niceness would count for nothing
    )
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    stderr = asyncio.create_task(_keep_tail(child, tail))
    stopper = asyncio.create_task(_stop_when_asked(child, control, grace_s))
    try:
        last = await _listen(child, listen)
        code = await child.wait()
    finally:
        stopper.cancel()
        _kill(child, signal.SIGKILL)
        await child.wait()
        await asyncio.gather(stopper, stderr, return_exceptions=True)
    if isinstance(last, Failed):
        raise JobFailed(last.code, last.message, last.param)
    if isinstance(last, Done):
        return last
    if control.cause is not None:
        raise Interrupted(control.cause)
    log.warning("a child process ended with code %s; its last lines were:\n%s", code, "\n".join(tail))
    raise ChildCrashed(f"the process that did it ended unexpectedly ({_how(code)})")


async def _listen(child: asyncio.subprocess.Process, listen: Listener) -> Message | None:
    """Hand on every message; the last one if it is a last word."""
    assert child.stdout is not None
    last: Message | None = None
    async for line in child.stdout:
        try:
            message = decode(line)
        except msgspec.DecodeError:
            log.warning("a child process said something that is no message")
            continue
        if isinstance(message, Done | Failed | Stopped):
            last = message
        await listen(message)
    return last


async def _keep_tail(child: asyncio.subprocess.Process, tail: deque[str]) -> None:
    assert child.stderr is not None
    while chunk := await child.stderr.read(1 << 16):  # by chunks, as a progress bar may have no line's end
        tail.extend(chunk.decode(errors="replace").splitlines())


async def _stop_when_asked(child: asyncio.subprocess.Process, control: Control, grace_s: float) -> None:
    cause = await control.wait()
    if cause in ("pause", "shutdown"):
        _kill(child, signal.SIGTERM)
        await asyncio.sleep(grace_s)
    _kill(child, signal.SIGKILL)


def _kill(child: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, number)


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    word = signal.Signals(-code).name
    return f"{word}, as when memory runs out" if word == "SIGKILL" else word
