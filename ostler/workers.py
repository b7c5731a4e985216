"""Several processes of one gateway on one port: `ostler gateway --workers N`.

The parent listens and serves nothing. Its workers inherit the socket, so a connection waits for whichever worker is
free, and none is lost when a worker dies. The first worker starts alone: what is wrong with the settings is told once.

    a worker dies       another takes its place, after a pause that grows
    SIGTERM to worker   it drains (`ostler.draining`), and another takes its place at once
    SIGTERM to parent   each worker drains; a second one stops them at once
    parent is killed    the kernel sends each worker SIGTERM: they drain and end

    python -m ostler.workers MODULE:FACTORY ...     is one worker
"""

import argparse
import asyncio
import contextlib
import ctypes
import fcntl
import functools
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
STARTED, DRAINING = b"S", b"D"  # what a worker tells its parent
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
        self._workers: set[_Worker] = set()
        self._started = asyncio.Event()
        self._stopping = asyncio.Event()
        self._exit_code = 0

    async def run(self) -> int:
        """Run until a signal, or until it is clear that no worker can start; the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        first = asyncio.create_task(self._keep())
        await _first_of(self._started, self._stopping)
        others = [asyncio.create_task(self._keep()) for _ in range(self._count - 1)]
        await asyncio.gather(first, *others)
        await asyncio.gather(*(worker.watching for worker in self._workers))
        return self._exit_code

    def _stop(self) -> None:
        """Tell each worker; the second time they take it as `at once`."""
        again = self._stopping.is_set()
        self._stopping.set()
        self._listening.close()  # or the kernel would go on to take connections for nobody
        for worker in self._workers:
            if again or not worker.draining.is_set():  # one that drains would take it for its second
                worker.terminate()

    async def _keep(self) -> None:
        """Keep one worker serving: one that dies or drains is followed by another."""
        deaths = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            worker = await self._launch()
            await _first_of(worker.draining, worker.ended)
            if not self._started.is_set():
                await worker.watching
                self._fail(worker.exit_code)
            elif worker.ended.is_set() and not self._stopping.is_set():
                deaths = 1 if time.monotonic() - began >= self._backoff.reset_after_s else deaths + 1
                await self._pause(worker, self._backoff.pause_s(deaths))

    def _fail(self, code: int) -> None:
        """The first worker could not start."""
        if not self._stopping.is_set():
            self._exit_code = code if code > 0 else 1
            self._stop()

    async def _pause(self, worker: "_Worker", seconds: float) -> None:
        logger.warning("worker %d %s; another one starts in %g s", worker.pid, worker.fate, seconds)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    async def _launch(self) -> "_Worker":
        reader, writer = os.pipe()
        inherited = (self._listening.fileno(), writer)
        numbers = ("--parent", os.getpid(), "--socket", inherited[0], "--tell", inherited[1])
        graces = ("--delay", self._grace.delay_s, "--drain", self._grace.drain_s)
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "ostler.workers", self._factory),
                *map(str, numbers + graces),
                pass_fds=inherited,
                stdin=asyncio.subprocess.DEVNULL,
                process_group=0,  # Ctrl-C is for the parent; with its own word it would be the second, `at once`
            )
        except BaseException:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        worker = _Worker(process, reader, self._started, self._note_end)
        self._workers.add(worker)
        if self._stopping.is_set():
            worker.terminate()
        return worker

    def _note_end(self, worker: "_Worker") -> None:
        self._workers.discard(worker)
        self._on_death(worker.pid)
        if self._stopping.is_set():
            self._exit_code = self._exit_code or int(worker.exit_code not in ENDED_IN_ORDER)
        elif worker.draining.is_set():
            logger.info("worker %d %s", worker.pid, worker.fate)


class _Worker:
    """A worker's process as its parent sees it. The worker writes what happens to it into a pipe.

    Attributes:
        draining: whether it has been told to stop and has said so.
        ended: whether it has ended; then it has an `exit_code`.
        watching: runs until then.
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        pipe: int,
        started: asyncio.Event,
        on_end: Callable[["_Worker"], None],
    ) -> None:
        self.pid = process.pid
        self.exit_code = 0
        self.draining, self.ended = asyncio.Event(), asyncio.Event()
        self._process, self._pipe, self._started, self._on_end = process, pipe, started, on_end
        asyncio.get_running_loop().add_reader(pipe, self._hear)
        self.watching = asyncio.create_task(self._watch())

    @property
    def fate(self) -> str:
        """How it ended, in words."""
        return "stopped" if self.exit_code in ENDED_IN_ORDER else f"died (exit code {self.exit_code})"

    def terminate(self) -> None:
        """Have it drain, or stop at once if it does."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()

    def _hear(self) -> None:
        match os.read(self._pipe, 1):
            case b"":
                asyncio.get_running_loop().remove_reader(self._pipe)
            case word if word == STARTED:
                self._started.set()
            case _:
                logger.info("worker %d drains", self.pid)
                self.draining.set()

    async def _watch(self) -> None:
        self.exit_code = await self._process.wait()
        asyncio.get_running_loop().remove_reader(self._pipe)
        os.close(self._pipe)
        self.ended.set()
        self._on_end(self)


async def _first_of(*events: asyncio.Event) -> None:
    """Wait for one of the events."""
    waiting = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()


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
    for name in ("parent", "socket", "tell"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("delay", "drain"):
        parser.add_argument(f"--{name}", type=float, required=True)
    options = parser.parse_args(arguments)
    _end_with(options.parent)
    app = import_from_string(options.factory)()
    listening = socket.socket(fileno=options.socket)
    grace = Grace(options.delay, options.drain)
    tell = functools.partial(_tell, options.tell)
    return serve(
        app,
        grace,
        listening=listening,
        on_started=functools.partial(tell, STARTED),
        on_draining=functools.partial(tell, DRAINING),
    )


def _end_with(parent: int) -> None:
    """Get SIGTERM from the kernel when the parent dies, however it does."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it died before the line above
        sys.exit(1)


def _tell(descriptor: int, word: bytes) -> None:
    with contextlib.suppress(OSError):  # the parent may be gone
        os.write(descriptor, word)


if __name__ == "__main__":
    sys.exit(main())
