"""Keeps the processes of `ostler up` running, and leaves none behind. Linux only.

Each child runs on a leash (`ostler.leash`). The supervisor starts it, writes its output to a log, restarts it
with growing pauses when it dies or stops answering, and ends it together with all that it started.

    SupervisorError
    |-- ChildFailed      a child died again and again and was never healthy
    `-- AlreadyRunning   another `ostler up` holds the state folder
"""

import asyncio
import contextlib
import fcntl
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

from ostler import leash

CHECK_TIMEOUT_S = 5.0
CHECK_UNTIL_HEALTHY_S = 0.5
TAIL_BYTES = 16_384
TAIL_LINES = 20


class SupervisorError(Exception):
    """Anything that ends the supervision."""


class ChildFailed(SupervisorError):
    """A child died again and again without ever being healthy; `log_tail` holds its last lines."""

    def __init__(self, name: str, exit_code: int, log_tail: tuple[str, ...]) -> None:
        super().__init__(f"{name} did not start (exit code {exit_code})")
        self.name, self.exit_code, self.log_tail = name, exit_code, log_tail


class AlreadyRunning(SupervisorError):
    """Another supervisor holds the state folder."""


@dataclass(frozen=True, slots=True)
class Command:
    """What to run: `env` is added to this process's environment, the variables named in `drop` are left out.

    `niceness` is how far it stands back for others where the cores are busy, 0 to 19.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    drop: tuple[str, ...] = ()
    niceness: int = 0


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds of pause before a restart: doubled with each death, from the first again after a healthy while."""

    first_s: float = 1.0
    longest_s: float = 30.0
    reset_after_s: float = 60.0

    def pause_s(self, deaths: int) -> float:
        """The pause after the given number of deaths in a row."""
        return min(self.first_s * 2.0 ** min(deaths - 1, 32), self.longest_s)


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """One process to keep running. Without `is_healthy` it counts as healthy once it has lived for `settle_s`."""

    name: str
    command: Command
    log_path: Path
    is_healthy: Callable[[], Awaitable[bool]] | None = None  # an exception or 5 s without an answer count as no
    start_timeout_s: float = 600.0
    unhealthy_after_s: float = 60.0
    stop_grace_s: float = 10.0  # from SIGTERM to SIGKILL
    settle_s: float = 3.0
    check_every_s: float = 5.0
    backoff: Backoff = Backoff()
    give_up_after: int = 3  # deaths in a row, as long as it was never healthy
    log_bytes: int = 10_000_000  # of each file
    log_files: int = 3  # the current one included


@dataclass(frozen=True, slots=True)
class ChildEvent:
    """A change of a child's state. `exit_code` is 128 + signal for a process that a signal ended."""

    name: str
    kind: Literal["started", "healthy", "died", "restarting", "stopped"]
    pid: int | None = None  # of the leash
    exit_code: int | None = None
    pause_s: float | None = None
    reason: str | None = None  # why the supervisor itself ended it
    log_tail: tuple[str, ...] = ()


class RotatingLog:
    """Appends bytes to a file; a full one becomes `.1`, that one `.2` and so on. Keeps the last lines at hand."""

    def __init__(self, path: Path, max_bytes: int, files: int) -> None:
        self._path, self._max_bytes, self._files = path, max_bytes, files
        self._tail = b""
        path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, data: bytes) -> None:
        """Appends. A full disk loses lines of the log, and must not stop the child."""
        self._tail = (self._tail + data)[-TAIL_BYTES:]
        with contextlib.suppress(OSError):
            if self._path.exists() and self._path.stat().st_size + len(data) > self._max_bytes:
                self._rotate()
            with self._path.open("ab") as file:
                file.write(data)

    def forget_tail(self) -> None:
        """Makes `tail` start anew, for the next run."""
        self._tail = b""

    def tail(self) -> tuple[str, ...]:
        """The last lines since `forget_tail`."""
        return tuple(self._tail.decode(errors="replace").splitlines()[-TAIL_LINES:])

    def _rotate(self) -> None:
        for number in range(self._files - 1, 0, -1):
            older = self._path.with_name(f"{self._path.name}.{number}")
            newer = self._path.with_name(f"{self._path.name}.{number - 1}") if number > 1 else self._path
            if newer.exists():
                newer.replace(older)
        self._path.unlink(missing_ok=True)  # only there if a single file is kept


@contextlib.contextmanager
def claim(folder: Path) -> Iterator[None]:
    """Holds the folder for this process, so that nobody takes our children for leftovers."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise AlreadyRunning(f"another `ostler up` is using {folder}") from exc
        yield


class Child:
    """Runs one process again and again until it is told to stop."""

    def __init__(self, spec: ChildSpec, folder: Path, on_event: Callable[[ChildEvent], None]) -> None:
        self._spec, self._on_event = spec, on_event
        self._pid_file = folder / f"{spec.name}{leash.PID_FILE_SUFFIX}"
        self._log = RotatingLog(spec.log_path, spec.log_bytes, spec.log_files)
        self._stopping = asyncio.Event()
        self._healthy_since: float | None = None
        self._was_ever_healthy = False
        self._traces = leash.Traces(uuid.uuid4().hex, (0, 0))

    def ask_to_stop(self) -> None:
        """Makes `run` end the process and return."""
        self._stopping.set()

    async def run(self) -> None:
        """Keeps the process running until `ask_to_stop`; raises `ChildFailed` if it cannot be started."""
        deaths = 0
        while not self._stopping.is_set():
            exit_code, reason = await self._live()
            if self._stopping.is_set():
                break
            deaths = 1 if self._was_healthy_for(self._spec.backoff.reset_after_s) else deaths + 1
            self._tell("died", exit_code=exit_code, reason=reason, log_tail=self._log.tail())
            if not self._was_ever_healthy and deaths >= self._spec.give_up_after:
                raise ChildFailed(self._spec.name, exit_code, self._log.tail())
            await self._pause(self._spec.backoff.pause_s(deaths))
        self._tell("stopped")

    async def _pause(self, seconds: float) -> None:
        self._tell("restarting", pause_s=seconds)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    async def _live(self) -> tuple[int, str | None]:
        """One run of the process; returns its exit code, and why it was ended if the supervisor did it."""
        process = self._launch()
        assert process.stdout
        pump = asyncio.create_task(self._pump(process.stdout))
        health = asyncio.create_task(self._watch_health())
        others = [asyncio.create_task(_exit_of(process)), asyncio.create_task(self._stopping.wait())]
        try:
            await asyncio.wait((health, *others), return_when=asyncio.FIRST_COMPLETED)
            reason = health.result() if health.done() else None
        finally:
            for task in (health, *others):
                task.cancel()
            await asyncio.wait((health, *others))
            await self._end(process)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CHECK_TIMEOUT_S):
                    await pump
        code = process.returncode or 0
        return (code if code >= 0 else 128 - code), reason

    def _launch(self) -> subprocess.Popen[bytes]:
        spec, mark = self._spec, uuid.uuid4().hex
        kept = {name: value for name, value in os.environ.items() if name not in spec.command.drop}
        options = ("--grace", str(spec.stop_grace_s), "--nice", str(spec.command.niceness))
        # Not asyncio's own subprocess: its `wait` does not return while anyone holds the output, which is just
        # what happens when the leash is killed, and it kills the leash when the event loop is torn down.
        process = subprocess.Popen(
            # Isolated and without site-packages: the leash needs neither, and starts sooner.
            [sys.executable, "-I", "-S", leash.__file__, *options, "--", *spec.command.argv],
            # Lines that a Python child holds back in a buffer are lost when it is killed.
            env={**kept, "PYTHONUNBUFFERED": "1", **spec.command.env, leash.MARK_VARIABLE: mark},
            stdin=subprocess.PIPE,  # never written to: its end tells the leash that we are gone
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for us; we stop the children in order
        )
        stat = leash.read_stat(process.pid)
        self._traces = leash.Traces(mark, (process.pid, stat.start_time if stat else 0))
        self._save_traces()
        self._healthy_since = None
        self._log.forget_tail()
        self._tell("started", pid=process.pid)
        return process

    async def _pump(self, output: IO[bytes]) -> None:
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), output
        )
        with contextlib.closing(transport):
            while data := await reader.read(65_536):
                self._log.write(data)

    async def _watch_health(self) -> str:
        """Follows the process's health; returns why it has to be restarted."""
        spec, started = self._spec, time.monotonic()
        answered = started
        while True:
            now_healthy, now = await self._is_healthy(started), time.monotonic()
            if now_healthy:
                answered = now
                self._note_healthy(now)
            elif self._healthy_since is None and now - started > spec.start_timeout_s:
                return f"not healthy within {spec.start_timeout_s:g} s of its start"
            elif self._healthy_since is not None and now - answered > spec.unhealthy_after_s:
                return f"no healthy answer for {spec.unhealthy_after_s:g} s"
            await self._note_members()
            await asyncio.sleep(spec.check_every_s if self._healthy_since else CHECK_UNTIL_HEALTHY_S)

    async def _is_healthy(self, started: float) -> bool:
        if self._spec.is_healthy is None:
            return time.monotonic() - started >= self._spec.settle_s
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                return await self._spec.is_healthy()
        except Exception:  # refused, reset, timed out: whatever it is, the child gave no good answer
            return False

    def _note_healthy(self, now: float) -> None:
        if self._healthy_since is None:
            self._healthy_since, self._was_ever_healthy = now, True
            self._tell("healthy", pid=self._traces.leash[0])

    async def _note_members(self) -> None:
        traces = await asyncio.to_thread(self._traces.seen_now)
        if traces != self._traces:
            self._traces = traces
            self._save_traces()

    def _save_traces(self) -> None:
        with contextlib.suppress(OSError):  # a full disk must not end what runs well
            self._traces.save(self._pid_file)

    def _was_healthy_for(self, seconds: float) -> bool:
        return self._healthy_since is not None and time.monotonic() - self._healthy_since >= seconds

    async def _end(self, process: subprocess.Popen[bytes]) -> None:
        """Makes sure that the process and all that it started are gone."""
        if process.poll() is None:
            process.terminate()
            try:
                async with asyncio.timeout(self._spec.stop_grace_s + 2 * leash.KILL_PATIENCE_S):
                    await _exit_of(process)
            except TimeoutError:
                process.kill()
                await _exit_of(process)
        assert process.stdin
        process.stdin.close()
        await asyncio.to_thread(leash.end_all, self._traces.find, leash.LEFTOVER_GRACE_S)
        self._pid_file.unlink(missing_ok=True)

    def _tell(self, kind: Literal["started", "healthy", "died", "restarting", "stopped"], **details: object) -> None:
        self._on_event(ChildEvent(self._spec.name, kind, **details))  # type: ignore[arg-type]


async def _exit_of(process: subprocess.Popen[bytes]) -> None:
    """Waits until the process has ended, and takes its exit code."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    descriptor = os.pidfd_open(process.pid)
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
        process.poll()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


class Supervisor:
    """Runs children until told to stop. They start together, in no order, and stop in reverse order, one by one."""

    def __init__(
        self,
        specs: Sequence[ChildSpec],
        state_folder: Path,
        on_event: Callable[[ChildEvent], None] = lambda _: None,
        *,
        claimed: bool = False,  # whether the caller holds the folder's `claim`
    ) -> None:
        self._folder, self._claimed = state_folder, claimed
        self._specs, self._on_event = specs, on_event

    async def run(self, stop: asyncio.Event) -> None:
        """Returns when `stop` is set and every process is gone; first ends what an earlier supervisor left.

        Raises `ChildFailed` once a child cannot be started, after the others were stopped, and `AlreadyRunning`.
        """
        with contextlib.nullcontext() if self._claimed else claim(self._folder):
            await asyncio.to_thread(leash.end_leftovers, self._folder)
            children = [Child(spec, self._folder, self._on_event) for spec in self._specs]
            running = [(child, asyncio.create_task(child.run())) for child in children]
            stopped = asyncio.create_task(stop.wait())
            try:
                await asyncio.wait((stopped, *(task for _, task in running)), return_when=asyncio.FIRST_COMPLETED)
            finally:
                stopped.cancel()
                for child, task in reversed(running):
                    child.ask_to_stop()
                    await asyncio.wait((task,))
            for _, task in running:
                task.result()
