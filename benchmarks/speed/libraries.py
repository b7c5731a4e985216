"""Which server a gateway could stand on: uvicorn with its protocol and with Ostler's, and granian; with a small app."""

import contextlib
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from benchmarks.speed.installing import GRANIAN, GRANIAN_VERSION
from benchmarks.speed.processes import Command, Cores, cores, running
from benchmarks.speed.report import Found
from benchmarks.speed.rounds import Figures, ratio, take_turns, values_of
from benchmarks.speed.systems import PATH, Serving, Setting, System
from benchmarks.speed.trial import trial
from tests.ports import free_port

CLIENTS = 32
APP = "benchmarks.speed.hello:app"
_ROOT = Path(__file__).parents[2]
_US_PER_MS = 1000


@dataclass(frozen=True, slots=True)
class Server(System):
    """A server with an app of its own, and no upstream.

    Attributes:
        command: how it is run, without the address.
    """

    command: tuple[str, ...] = ()

    @contextlib.asynccontextmanager
    async def serving(self, setting: Setting) -> AsyncIterator[Serving]:
        """Run it for the block."""
        port, folder = free_port(), Path(tempfile.mkdtemp(dir=setting.folder))
        url = f"http://127.0.0.1:{port}"
        argv = (*self.command, "--host", "127.0.0.1", "--port", str(port), APP)
        command = Command(argv, setting.cores, {"PYTHONPATH": str(_ROOT)}, ready=url)
        async with running(command, folder / "log") as process:
            yield Serving(f"{url}{PATH}", {}, process)


def _uvicorn(name: str, http: str) -> Server:
    version_and_parts = f"uvicorn {version('uvicorn')} ({name}, uvloop)"
    options = ("--loop", "uvloop", "--http", http, "--no-access-log", "--log-level", "error", "--no-proxy-headers")
    return Server(version_and_parts, (sys.executable, "-m", "uvicorn", *options))


SERVERS = (
    _uvicorn("httptools", "httptools"),
    _uvicorn("Ostler's own protocol", "ostler.http1:Connection"),
    Server(
        f"granian {GRANIAN_VERSION} (uvloop)",
        (
            *(str(GRANIAN), "--interface", "asgi", "--loop", "uvloop", "--http", "1", "--workers", "1", "--no-ws"),
            *("--runtime-threads", "1", "--no-access-log", "--log-level", "error"),
        ),
    ),
)


async def cost(server: System, cores: Cores, *, seconds: float) -> Figures:
    """One turn of a server: answers and streams a second, the processor time of each, and its memory."""
    found: dict[str, float] = {}
    async with trial(server, cores) as bench:
        for name, is_stream in (("plain", False), ("stream", True)):
            pressed = await bench.press(clients=CLIENTS, seconds=seconds, stream=is_stream)
            found |= {
                f"{name}_per_s": pressed.load.per_s,
                f"{name}_p99_ms": pressed.load.p99_ms,
                f"{name}_cpu_us": pressed.cpu_s_per_1000 * _US_PER_MS,
            }
        found["memory_mib"] = bench.memory_mib
    return found


async def servers(rounds: int, seconds: float) -> Found:
    """The servers with the same app."""
    place = cores()
    turns = await take_turns(SERVERS, lambda each: cost(each, place, seconds=seconds), rounds=rounds)
    rows = [
        [
            server.name,
            found["plain_per_s"].shown(0),
            ratio(found["plain_per_s"], turns[0]["plain_per_s"]).shown(),
            found["plain_p99_ms"].shown(),
            found["plain_cpu_us"].shown(0),
            found["stream_per_s"].shown(0),
            found["stream_cpu_us"].shown(0),
            found["memory_mib"].shown(0),
        ]
        for server, found in zip(SERVERS, turns, strict=True)
    ]
    columns = ["server", "answers/s", "of uvicorn", "p99, ms", "CPU us each", "streams/s", "CPU us each", "memory, MiB"]
    text = (
        f"An app that reads the request and sends 900 bytes, or 64 events one by one, at {CLIENTS} clients: what is the"
        " server's own part of a request."
    )
    values = values_of((each.name for each in SERVERS), turns)
    return Found("9-servers", "Servers", text, columns, rows, values=values)
