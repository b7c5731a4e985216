"""One system on trial: it serves before upstreams of its own, and is asked."""

import contextlib
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from benchmarks.speed.load import Load, press
from benchmarks.speed.processes import Command, Cores, Running, running
from benchmarks.speed.systems import Serving, Setting, System
from tests.ports import free_port

PROMPT = "Where is my parcel? The order is 4711, and it should have been here on Monday. " * 4
_WARM_UP_S, _WARM_UP_CLIENTS, _WARM_UPS = 2.0, 8, 10


class NoAnswer(RuntimeError):
    """A system answered nothing in the time that it had."""


def chat(model: str, *, stream: bool) -> dict[str, object]:
    """A chat request of about 500 bytes; with a user, as chats have one."""
    messages = [{"role": "system", "content": "You are of help."}, {"role": "user", "content": PROMPT}]
    return {"model": model, "messages": messages, "max_tokens": 64, "stream": stream, "user": "session-17"}


@dataclass(frozen=True, slots=True)
class Pressed:
    """What one load found, and what it cost the system: processor seconds for a thousand answers."""

    load: Load
    cpu_s_per_1000: float


@dataclass(frozen=True, slots=True)
class Trial:
    """A system that serves, with where its load is to run.

    Attributes:
        upstreams: their ports.
        folder: for what is needed as long as it serves.
    """

    name: str
    serving: Serving
    cores: Cores
    upstreams: list[int]
    folder: Path

    async def press(self, *, clients: int, seconds: float, stream: bool = False) -> Pressed:
        """Have so many clients ask for so long.

        Raises:
            NoAnswer: none was answered in that time.
            RuntimeError: a request failed.
        """
        before = self.cpu_s
        load = await press(
            self.serving.url,
            chat(self.serving.model, stream=stream),
            self.serving.headers,
            clients=clients,
            seconds=seconds,
            cores=self.cores.others,
            folder=self.folder,
        )
        if load.failed:
            raise RuntimeError(f"{self.name}: {load.failed} of {load.requests} requests failed")
        if not load.requests:
            raise NoAnswer(f"{self.name}: no answer to {clients} clients within {seconds:g} s")
        return Pressed(load, (self.cpu_s - before) / load.requests * 1000)

    async def set_upstreams(self, **values: float) -> None:
        """Have the upstreams act so from now on, see `benchmarks.speed.upstream.Upstream`."""
        async with aiohttp.ClientSession() as http:
            for port in self.upstreams:
                async with http.post(f"http://127.0.0.1:{port}/set", json=values) as response:
                    response.raise_for_status()

    @property
    def cpu_s(self) -> float:
        """Processor time that the system has used so far, seconds."""
        return self.serving.process.cpu_s if self.serving.process else 0.0

    @property
    def memory_mib(self) -> float:
        """The system's resident memory, MiB."""
        return self.serving.process.memory_mib if self.serving.process else 0.0

    @property
    def peak_mib(self) -> float:
        """The most that it has had so far, MiB."""
        return self.serving.process.peak_mib if self.serving.process else 0.0


@contextlib.asynccontextmanager
async def trial(system: System, cores: Cores, *, engines: int = 1, warm_up: bool = True) -> AsyncIterator[Trial]:
    """A system before so many upstreams, for the block; it has answered some requests already."""
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ostler-bench-")))
        ports = [free_port() for _ in range(engines)]
        for port in ports:
            await stack.enter_async_context(_upstream(port, folder, cores))
        serving = await stack.enter_async_context(system.serving(Setting(folder, cores.measured, ports)))
        found = Trial(system.name, serving, cores, ports, folder)
        if warm_up:
            await _warm_up(found)
        yield found


async def _warm_up(bench: Trial) -> None:
    """Have it answer; some systems load half of themselves at the first request, which takes as long as it does."""
    for left in reversed(range(_WARM_UPS)):
        try:
            await bench.press(clients=_WARM_UP_CLIENTS, seconds=_WARM_UP_S)
            return
        except NoAnswer:
            if not left:
                raise


@contextlib.asynccontextmanager
async def _upstream(port: int, folder: Path, cores: Cores) -> AsyncIterator[Running]:
    argv = (sys.executable, "-m", "benchmarks.speed.upstream", "--port", str(port))
    command = Command(argv, cores.others, ready=f"http://127.0.0.1:{port}/health")
    async with running(command, folder / f"upstream-{port}.log") as process:
        yield process
