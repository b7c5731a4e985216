"""Streams of 64 events: how many a second as fast as possible, and how late each event is when they are paced."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from benchmarks.speed.processes import Cores
from benchmarks.speed.rounds import Figures
from benchmarks.speed.streams import watch
from benchmarks.speed.systems import System
from benchmarks.speed.trial import Trial, chat, trial

AT_ONCE = (64, 256, 1000)
GAP_S, SPREAD_S = 0.05, 1.0
_LOOK_EVERY_S = 0.25


async def fast_streams(system: System, cores: Cores, *, counts: Sequence[int] = AT_ONCE, seconds: float) -> Figures:
    """One turn of a system: whole streams a second, as fast as the upstream can, and what a thousand cost."""
    found: dict[str, float] = {}
    async with trial(system, cores) as bench:
        for count in counts:
            pressed = await bench.press(clients=count, seconds=seconds, stream=True)
            found |= {f"per_s@{count}": pressed.load.per_s, f"cpu_s_per_1000@{count}": pressed.cpu_s_per_1000}
    return found


async def paced_streams(system: System, cores: Cores, *, counts: Sequence[int] = AT_ONCE) -> Figures:
    """One turn of a system: when first bytes and events of paced streams come, for each number of streams at once."""
    found: dict[str, float] = {}
    async with trial(system, cores) as bench:
        await bench.set_upstreams(gap_s=GAP_S)
        asked, serving = chat(bench.serving.model, stream=True), bench.serving
        for count in counts:
            async with most_memory(bench) as memory:
                seen = await watch(serving.url, asked, serving.headers, count=count, spread_s=SPREAD_S)
            found |= {
                f"first_ms_p50@{count}": seen.first_ms_p50,
                f"first_ms_p99@{count}": seen.first_ms_p99,
                f"late_ms_p50@{count}": seen.late_ms_p50,
                f"late_ms_p99@{count}": seen.late_ms_p99,
                f"gap_ms_p50@{count}": seen.gap_ms_p50,
                f"gap_ms_p99@{count}": seen.gap_ms_p99,
                f"broken@{count}": seen.broken,
                f"memory_mib@{count}": max(memory),
            }
    return found


@contextlib.asynccontextmanager
async def most_memory(bench: Trial) -> AsyncIterator[list[float]]:
    """The system's memory, MiB, looked at again and again for the block."""
    found = [bench.memory_mib]

    async def look() -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            found.append(bench.memory_mib)

    task = asyncio.create_task(look())
    try:
        yield found
    finally:
        task.cancel()
