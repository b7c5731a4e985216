"""Processes on chosen cores: what is measured has one core to itself, and all that it needs runs on the others."""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import aiohttp
import psutil

READY_WITHIN_S = 180.0
_STOPS_WITHIN_S = 20.0
MIB = 2**20
ALLOWED = sorted(os.sched_getaffinity(0))
"""Before the benchmark itself moves to where the load is."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Which cores do what.

    Attributes:
        measured: that of the system under test; several for what has several workers.
        others: those of the load and the upstream.
    """

    measured: tuple[int, ...]
    others: tuple[int, ...]


def cores(measured: int = 1) -> Cores:
    """So many cores for what is measured, and the others for the rest; on a machine with too few, all for all.

    Raises:
        RuntimeError: there is but one core, on which nothing can be told apart.
    """
    if len(ALLOWED) < 2:
        raise RuntimeError("benchmarks need two cores: one for what is measured, one for the load and the upstream")
    rest = tuple(ALLOWED[measured:]) or tuple(ALLOWED)
    return Cores(tuple(ALLOWED[:measured]), rest)


@dataclass(frozen=True, slots=True)
class Command:
    """What to run, and on which cores.

    Attributes:
        ready: an address that answers below 500 once it serves; empty if nothing is to be waited for.
    """

    argv: tuple[str, ...]
    cores: Sequence[int]
    env: Mapping[str, str] = field(default_factory=dict)
    ready: str = ""


class Running:
    """A process that runs, with all that it started."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process

    @property
    def cpu_s(self) -> float:
        """Processor time used so far, by its children too, seconds."""
        return sum(self.cpu_s_by_process.values())

    @property
    def cpu_s_by_process(self) -> dict[int, float]:
        """The same for each process by itself, by its id."""
        return {each.pid: sum(each.cpu_times()[:2]) for each in self._all()}

    @property
    def main_thread_cpu_s(self) -> float:
        """That of the first thread of the process that was started, where Python runs its event loop."""
        return sum(each.user_time + each.system_time for each in self._process.threads() if each.id == self.pid)

    @property
    def pid(self) -> int:
        """The id of the process that was started."""
        return int(self._process.pid)

    @property
    def memory_mib(self) -> float:
        """Resident memory, MiB; what several of its processes share counts in each."""
        return sum(each.memory_info().rss for each in self._all()) / MIB

    @property
    def peak_mib(self) -> float:
        """The most resident memory that it has had since it began, MiB: the sum of each process's own peak."""
        return sum(_peak_kib(each.pid) for each in self._all()) * 1024 / MIB

    def below(self, *arguments: str) -> "Running":
        """The process that it started, itself or by others, with just these arguments.

        Raises:
            RuntimeError: there is none.
        """
        for each in self._all():
            if each.cmdline()[1:] == list(arguments):
                return Running(each)
        raise RuntimeError(f"no process runs {' '.join(arguments)}")

    def _all(self) -> list[psutil.Process]:
        return [self._process, *self._process.children(recursive=True)]


def _peak_kib(pid: int) -> int:
    """As the kernel has it, which misses no moment."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


@contextlib.asynccontextmanager
async def running(command: Command, log: Path) -> AsyncIterator[Running]:
    """A process for as long as the block lasts; what it says goes into `log`.

    Raises:
        RuntimeError: it ended, or did not serve in time; with the last it said.
    """
    with log.open("wb") as said:
        process = _start(command, said)
    try:
        if command.ready:
            await _until_ready(process, command, log)
        yield Running(psutil.Process(process.pid))
    finally:
        await _end(process)


def _start(command: Command, said: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        pinned(command.cores, *command.argv),
        env={**os.environ, **command.env},
        stdout=said,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def pinned(cores: Sequence[int], *argv: str) -> tuple[str, ...]:
    """The same command, on these cores alone."""
    return ("taskset", "--cpu-list", ",".join(map(str, cores)), *argv)


async def _until_ready(process: subprocess.Popen[bytes], command: Command, log: Path) -> None:
    try:
        async with asyncio.timeout(READY_WITHIN_S), aiohttp.ClientSession() as http:
            while process.poll() is None:
                with contextlib.suppress(aiohttp.ClientError):
                    async with http.get(command.ready) as response:
                        if response.status < 500:
                            return
                await asyncio.sleep(0.1)
    except TimeoutError:
        pass
    raise RuntimeError(f"{command.argv[0]} does not serve; it said last:\n{log.read_text(errors='replace')[-2000:]}")


async def _end(process: subprocess.Popen[bytes]) -> None:
    """End its whole session: some systems leave workers behind."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        async with asyncio.timeout(_STOPS_WITHIN_S):
            await asyncio.to_thread(process.wait, _STOPS_WITHIN_S)
    except (TimeoutError, subprocess.TimeoutExpired):
        pass
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await asyncio.to_thread(process.wait)
