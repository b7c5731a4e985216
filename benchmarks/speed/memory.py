"""What a gateway holds in memory: at rest, and with a thousand streams open at once."""

from benchmarks.speed.growth import LEAST, MOST, Size
from benchmarks.speed.processes import MIB, Cores, cores
from benchmarks.speed.report import Found, at_most, none
from benchmarks.speed.rounds import Figures, take_turns, values_of
from benchmarks.speed.stock import Stock
from benchmarks.speed.streaming import GAP_S, SPREAD_S, most_memory
from benchmarks.speed.streams import watch
from benchmarks.speed.systems import Ostler
from benchmarks.speed.trial import chat, trial

STREAMS = 1000
_MB = 1e6
_GOAL_MB = 200


async def held(size: Size, cores: Cores) -> Figures:
    """One turn: resident memory before the streams and the most with them, in MB of 10^6 bytes."""
    async with trial(Ostler(size.name, stock=Stock(adapters=size.adapters, keys=size.keys)), cores) as bench:
        at_rest, serving = bench.memory_mib, bench.serving
        await bench.set_upstreams(gap_s=GAP_S)
        body = chat(serving.model, stream=True)
        async with most_memory(bench) as seen:
            streams = await watch(serving.url, body, serving.headers, count=STREAMS, spread_s=SPREAD_S)
    return {"rest_mb": at_rest * MIB / _MB, "most_mb": max(seen) * MIB / _MB, "broken": streams.broken}


async def memories(rounds: int, _: float) -> Found:
    """A gateway's memory with little and with much in it."""
    place, sizes = cores(), (LEAST, MOST)
    turns = await take_turns(sizes, lambda size: held(size, place), rounds=rounds)
    rows = [
        [size.name, *(found[name].shown(0) for name in ("rest_mb", "most_mb", "broken"))]
        for size, found in zip(sizes, turns, strict=True)
    ]
    full = turns[-1]
    goals = [
        at_most(f"resident memory, MB, at {STREAMS:,} streams with {MOST.name}", _GOAL_MB, full["most_mb"], 0),
        none(f"{STREAMS:,} streams with {MOST.name}: broken", full["broken"]),
    ]
    text = (
        f"Resident memory of the process in MB of 10^6 bytes: after some requests, and the most while {STREAMS:,}"
        " streams have an event each 50 ms."
    )
    columns = ["Ostler with", "at rest, MB", f"with {STREAMS:,} streams, MB", "streams broken"]
    values = values_of((each.name for each in sizes), turns)
    return Found("7-memory", "Memory", text, columns, rows, goals, values=values)
