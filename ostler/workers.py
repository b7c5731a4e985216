"""Several processes of one gateway on one port: `ostler gateway --workers N`.

The parent listens and serves nothing. Its workers inherit the socket, so a connection waits for whichever worker is
free, and none is lost when a worker dies. The first worker starts alone: what is wrong with the settings is told once.

    a worker dies       another takes its place, after a pause that grows
    SIGTERM to parent   each worker drains (`ostler.draining`); a second one stops them at once
    parent is killed    the kernel sends each worker SIGTERM: they drain and end

    python -m ostler.workers MODULE:FACTORY ...     is one worker
"""

import argparse
import asyncio
import contextlib
import ctypes
import fcntl
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from uvicorn.importer import import_from_string

from ostler.draining import Grace, serve
from ostler.leash import PR_SET_PDEATHSIG
from ostler.supervisor import Backoff

METRICS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
BACKOFF = Backoff(first_s=0.5)
ENDED_IN_ORDER = (0, -signal.SIGTERM)  # the latter before it had begun to listen for signals

logger = logging.getLogger(__name__)


class Workers:
    """Keeps `count` workers running on a socket; `factory` names a function that makes their app.

    `on_death` is called with the process id of each worker that has ended.
    """

    def __init__(
        self,
        factory: str,
        listening: socket.socket,
        count: int,
        grace: Grace,
        on_death: Callable[[int], None] = lambda _: None,
        backoff: Backoff = BACKOFF,
    ) -> None:
        self._factory, self._listening, self._count, self._grace = factory, listening, count, grace
        self._on_death, self._backoff = on_death, backoff
        self._processes: set[asyncio.subprocess.Process] = set()
        self._started = asyncio.Event()
        self._stopping = asyncio.Event()
        self._exit_code = 0

    async def run(self) -> int:
        """Run until a signal, or until it is clear that no worker can start; the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        with _pipe() as (ready, ready_writer):
            loop.add_reader(ready, self._started.set)
            first = asyncio.create_task(self._keep(ready_writer))
            await self._until_started_or_stopping()
            loop.remove_reader(ready)  # one worker's byte says it all
            others = [asyncio.create_task(self._keep(ready_writer)) for _ in range(self._count - 1)]
            await asyncio.gather(first, *others)
        return self._exit_code

    def _stop(self) -> None:
        """Tell each worker; the second time they take it as `at once`."""
        self._stopping.set()
        self._listening.close()  # or the kernel would go on to take connections for nobody
        for process in self._processes:
            _terminate(process)

    async def _until_started_or_stopping(self) -> None:
        waiting = [asyncio.create_task(event.wait()) for event in (self._started, self._stopping)]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()

    async def _keep(self, ready_writer: int) -> None:
        """Keep one worker running."""
        deaths = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            process = await self._launch(ready_writer)
            code = await self._end_of(process)
            if self._stopping.is_set():
                self._exit_code = self._exit_code or int(code not in ENDED_IN_ORDER)
                return
            if not self._started.is_set():
                self._exit_code = code if code > 0 else 1
                self._stop()
                return
            deaths = 1 if time.monotonic() - began >= self._backoff.reset_after_s else deaths + 1
            await self._pause(process.pid, code, self._backoff.pause_s(deaths))

    async def _pause(self, pid: int, code: int, seconds: float) -> None:
        logger.warning("worker %d died (exit code %d); another one starts in %g s", pid, code, seconds)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    async def _launch(self, ready_writer: int) -> asyncio.subprocess.Process:
        inherited = (self._listening.fileno(), ready_writer)
        numbers = ("--parent", os.getpid(), "--socket", inherited[0], "--ready", inherited[1])
        graces = ("--delay", self._grace.delay_s, "--drain", self._grace.drain_s)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ostler.workers", self._factory),
            *map(str, numbers + graces),
            pass_fds=inherited,
            stdin=asyncio.subprocess.DEVNULL,
            process_group=0,  # Ctrl-C is for the parent; with its own word it would be the second, `at once`
        )
        self._processes.add(process)
        if self._stopping.is_set():
            _terminate(process)
        return process

    async def _end_of(self, process: asyncio.subprocess.Process) -> int:
        code = await process.wait()
        self._processes.discard(process)
        self._on_death(process.pid)
        return code


def _terminate(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()


@contextlib.contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    try:
        yield reader, writer
    finally:
        os.close(reader)
        os.close(writer)


@contextlib.contextmanager
def metrics_folder(cache: Path) -> Iterator[Path]:
    """A fresh folder in which prometheus-client adds up the metrics of all workers, named in the environment.

    Removes those that a killed parent left behind.
    """
    folders = cache / "metrics"
    folders.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        with _locked(folders):  # nobody sweeps a folder away before it is locked
            _sweep(folders)
            folder = stack.enter_context(tempfile.TemporaryDirectory(dir=folders, ignore_cleanup_errors=True))
            stack.enter_context(_locked(Path(folder)))
        os.environ[METRICS_VARIABLE] = folder
        stack.callback(os.environ.pop, METRICS_VARIABLE, None)
        yield Path(folder)


@contextlib.contextmanager
def _locked(folder: Path, flags: int = 0) -> Iterator[None]:
    """Hold a folder's lock, which ends with this process; BlockingIOError with LOCK_NB if another holds it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | flags)
        yield
    finally:
        os.close(descriptor)


def _sweep(folders: Path) -> None:
    for folder in folders.iterdir():
        with contextlib.suppress(OSError), _locked(folder, fcntl.LOCK_NB):
            shutil.rmtree(folder)


def main(arguments: list[str] | None = None) -> int:
    """Be one worker; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m ostler.workers", description="One worker of a gateway.")
    parser.add_argument("factory", help="MODULE:FUNCTION that makes the app")
    for name in ("parent", "socket", "ready"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("delay", "drain"):
        parser.add_argument(f"--{name}", type=float, required=True)
    options = parser.parse_args(arguments)
    _end_with(options.parent)
    app = import_from_string(options.factory)()
    listening = socket.socket(fileno=options.socket)
    grace = Grace(options.delay, options.drain)
    return serve(app, grace, listening=listening, on_started=lambda: _say_ready(options.ready))


def _end_with(parent: int) -> None:
    """Get SIGTERM from the kernel when the parent dies, however it does."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it died before the line above
        sys.exit(1)


def _say_ready(descriptor: int) -> None:
    os.write(descriptor, b"1")
    os.close(descriptor)


if __name__ == "__main__":
    sys.exit(main())
