"""Requests that are no streams: how many a second, how long each takes, and what that costs."""

from collections.abc import Sequence

from benchmarks.speed.processes import Cores
from benchmarks.speed.rounds import Figures
from benchmarks.speed.systems import System
from benchmarks.speed.trial import trial

CLIENTS = (1, 32, 256)


async def requests_of(system: System, cores: Cores, *, clients: Sequence[int], seconds: float) -> Figures:
    """One turn of a system: requests a second, latencies, processor time and memory, for each number of clients."""
    found: dict[str, float] = {}
    async with trial(system, cores) as bench:
        for count in clients:
            pressed = await bench.press(clients=count, seconds=seconds)
            found |= {
                f"per_s@{count}": pressed.load.per_s,
                f"p50_ms@{count}": pressed.load.p50_ms,
                f"p99_ms@{count}": pressed.load.p99_ms,
                f"mean_ms@{count}": count / pressed.load.per_s * 1000,
                f"cpu_s_per_1000@{count}": pressed.cpu_s_per_1000,
            }
        found["memory_mib"] = bench.memory_mib
    return found
