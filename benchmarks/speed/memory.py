"""What a gateway holds in memory: at rest, and with a thousand streams open at once."""

from benchmarks.speed.growth import LEAST, MOST, Size
from benchmarks.speed.processes import MIB, Cores, cores
from benchmarks.speed.report import Found, at_most, none
from benchmarks.speed.rounds import Figures, take_turns, values_of
from benchmarks.speed.stock import Stock
from benchmarks.speed.streaming import open_streams
from benchmarks.speed.systems import Ostler
from benchmarks.speed.trial import trial

STREAMS = 1000
_MB = 1e6
_GOAL_MB = 200


async def held(size: Size, cores: Cores, *, seconds: float) -> Figures:
    """One turn: resident memory before the streams and the most with them, in MB of 10^6 bytes."""
    async with trial(Ostler(size.name, stock=Stock(adapters=size.adapters, keys=size.keys)), cores) as bench:
        at_rest = bench.memory_mib
        streams = await open_streams(bench, STREAMS, seconds)
        return {"rest_mb": at_rest * MIB / _MB, "most_mb": bench.peak_mib * MIB / _MB, "broken": streams.broken}


async def memories(rounds: int, seconds: float) -> Found:
    """A gateway's memory with little and with much in it."""
    place, sizes = cores(), (LEAST, MOST)
    turns = await take_turns(sizes, lambda size: held(size, place, seconds=seconds), rounds=rounds)
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
        "Resident memory of the process in MB of 10^6 bytes: after some requests, and the most that it has had since it"
        f" began, as the kernel keeps it, when {STREAMS:,} streams with an event each 50 ms have come to their end."
    )
    columns = ["Ostler with", "at rest, MB", f"with {STREAMS:,} streams, MB", "streams broken"]
    values = values_of((each.name for each in sizes), turns)
    return Found("7-memory", "Memory", text, columns, rows, goals, values=values)
