"""Streams of 64 events: how many a second as fast as possible, and how late each event is when they are paced."""

from collections.abc import Sequence

from benchmarks.speed.processes import Cores
from benchmarks.speed.rounds import Figures
from benchmarks.speed.streams import Streams, watch
from benchmarks.speed.systems import System
from benchmarks.speed.trial import Trial, chat, trial
from benchmarks.speed.upstream import EVENTS

AT_ONCE = (64, 256, 1000)
FEW = 16
"""Paced streams that a slow system still keeps up with."""
GAP_S, SPREAD_S = 0.05, 1.0
_TAKES_S = SPREAD_S + EVENTS * GAP_S
DISTURBED_MS = 20.0


async def fast_streams(system: System, cores: Cores, *, counts: Sequence[int], seconds: float) -> Figures:
    """One turn of a system: whole streams a second, as fast as the upstream can, and what a thousand cost."""
    found: dict[str, float] = {}
    async with trial(system, cores) as bench:
        for count in counts:
            pressed = await bench.press(clients=count, seconds=seconds, stream=True)
            found |= {
                f"per_s@{count}": pressed.load.per_s,
                f"cpu_s_per_1000@{count}": pressed.cpu_s_per_1000,
                f"peak_mib@{count}": bench.peak_mib,
            }
    return found


async def paced_streams(system: System, cores: Cores, *, counts: Sequence[int], seconds: float) -> Figures:
    """One turn of a system: when first bytes and events of paced streams come, for each number of streams at once."""
    found: dict[str, float] = {}
    async with trial(system, cores) as bench:
        for count in counts:
            seen = await open_streams(bench, count, seconds)
            found |= {
                f"first_ms_p50@{count}": seen.first_ms_p50,
                f"first_ms_p99@{count}": seen.first_ms_p99,
                f"late_ms_p50@{count}": seen.late_ms_p50,
                f"late_ms_p99@{count}": seen.late_ms_p99,
                f"gap_ms_p50@{count}": seen.gap_ms_p50,
                f"gap_ms_p99@{count}": seen.gap_ms_p99,
                f"broken@{count}": seen.broken,
                f"peak_mib@{count}": bench.peak_mib,
            }
    return found


async def open_streams(bench: Trial, count: int, seconds: float) -> Streams:
    """Have so many paced streams at once, as often as fits in that time, and at least once."""
    await bench.set_upstreams(gap_s=GAP_S)
    serving, times = bench.serving, max(1, int(seconds / _TAKES_S))
    body = chat(serving.model, stream=True)
    return await watch(serving.url, body, serving.headers, count=count, spread_s=SPREAD_S, times=times)


def is_disturbed(direct: Figures) -> bool:
    """Whether something else held up this machine while streams were watched with nothing in between."""
    return any(value > DISTURBED_MS for name, value in direct.items() if name.startswith("gap_ms_p99@"))
