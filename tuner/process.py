"""Runs a child process: reads what it tells, stops it when asked, and leaves nothing of it behind."""

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import IO

import msgspec

from tuner.control import Control
from tuner.errors import Cause, ChildCrashed, Interrupted, JobFailed
from tuner.messages import Done, Failed, Message, Step, Stopped, decode

log = logging.getLogger(__name__)

_LONGEST_LINE = 1 << 20
_TAIL_LINES = 40
_LAST_LINES_S = 1.0
Listener = Callable[[Message], Awaitable[None]]


async def run_child(
    command: Sequence[str],
    environment: Mapping[str, str],
    listen: Listener,
    control: Control,
    *,
    grace_s: Mapping[Cause, float],
) -> Done:
    """Run a command to its end and hand on what it tells; its last word.

    It is the leader of a process group, all of which is gone afterwards. Its standard input is a pipe that closes when
    it is over and when this process ends, however it ends.

    `grace_s` are, by why the job is to stop, the seconds between SIGTERM and SIGKILL, in which the child may finish its
    step and save what it has. For other causes, and while it has told of no step yet, it is killed at once.

    Raises:
        JobFailed: the child said that it cannot be done.
        Interrupted: it was stopped.
        ChildCrashed: it ended without a last word.
    """
    child = _start(command, environment)
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    has_begun = False

    async def hear(message: Message) -> None:
        nonlocal has_begun
        has_begun = has_begun or isinstance(message, Step)
        await listen(message)

    def grace_for(cause: Cause) -> float:
        return grace_s.get(cause, 0.0) if has_begun else 0.0

    async with _reading(child.stdout) as stdout, _reading(child.stderr) as stderr:
        keeping_tail = asyncio.create_task(_keep_tail(stderr, tail))
        stopping = asyncio.create_task(_stop_when_asked(child, control, grace_for))
        others = [stopping, asyncio.create_task(_outlived(child))]
        try:
            last = await _listen(stdout, hear)
        finally:
            _end(child)
            await _exit_of(child)
            await asyncio.wait({keeping_tail}, timeout=_LAST_LINES_S)
            for task in (*others, keeping_tail):
                task.cancel()
            await asyncio.gather(*others, keeping_tail, return_exceptions=True)
    return _last_word(last, child.returncode, control, tail)


def _start(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    # Not asyncio's own subprocess: uvloop's puts no child in a process group, and the others' waits for whoever else
    # holds the child's output. And not a session of its own, in which its niceness would count for nothing.
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        env=dict(environment),
        process_group=0,
    )


def _last_word(last: Message | None, code: int, control: Control, tail: Sequence[str]) -> Done:
    if isinstance(last, Failed):
        raise JobFailed(last.code, last.message, last.param)
    if isinstance(last, Done):
        return last
    if control.cause is not None:
        raise Interrupted(control.cause)
    if isinstance(last, Stopped):  # by a signal of somebody who stops all of this tuner's processes
        raise Interrupted("shutdown")
    log.warning("a child process ended with code %s; its last lines were:\n%s", code, "\n".join(tail))
    raise ChildCrashed(f"the process that did it ended unexpectedly ({_how(code)})")


@contextlib.asynccontextmanager
async def _reading(pipe: IO[bytes] | None) -> AsyncIterator[asyncio.StreamReader]:
    """A pipe's end as a stream."""
    assert pipe is not None
    reader = asyncio.StreamReader(limit=_LONGEST_LINE)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    try:
        yield reader
    finally:
        transport.close()


async def _listen(stdout: asyncio.StreamReader, listen: Listener) -> Message | None:
    """Hand on every message; the last one if it is a last word."""
    last: Message | None = None
    while True:
        try:
            line = await stdout.readline()
            if not line:
                return last
            message = decode(line)
        except (ValueError, msgspec.DecodeError):  # a line that is too long, or no message
            log.warning("a child process said something that is no message")
            continue
        if isinstance(message, Done | Failed | Stopped):
            last = message
        await listen(message)


async def _keep_tail(stderr: asyncio.StreamReader, tail: deque[str]) -> None:
    while chunk := await stderr.read(1 << 16):  # by chunks, as a progress bar may have no line's end
        tail.extend(chunk.decode(errors="replace").splitlines())


async def _stop_when_asked(
    child: subprocess.Popen[bytes], control: Control, grace_for: Callable[[Cause], float]
) -> None:
    if grace_s := grace_for(await control.wait()):
        _signal(child, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await control.wait_until_dropped()
    _signal(child, signal.SIGKILL)


async def _outlived(child: subprocess.Popen[bytes]) -> None:
    """End what a child leaves running, which would hold its output open."""
    await _exit_of(child)
    _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill the child's group, and have what is in other groups notice that nobody is there for it any more."""
    _signal(child, signal.SIGKILL)
    assert child.stdin is not None
    child.stdin.close()


def _signal(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, number)


async def _exit_of(child: subprocess.Popen[bytes]) -> None:
    """Wait until the child has ended, and take its exit code."""
    if child.returncode is not None:
        return
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    descriptor = os.pidfd_open(child.pid)
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
        child.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    word = signal.Signals(-code).name
    return f"{word}, as when memory runs out" if word == "SIGKILL" else word
