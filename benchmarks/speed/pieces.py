"""The pieces of the whole measurement: what each measures, and what its table says."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

from benchmarks.speed import (
    clients,
    engine,
    growth,
    instructions,
    libraries,
    memory,
    profile,
    recording,
    swapping,
    workers,
)
from benchmarks.speed.processes import cores
from benchmarks.speed.report import Found, at_least, at_most, none
from benchmarks.speed.requests import CLIENTS, requests_of
from benchmarks.speed.rounds import Figure, difference, ratio, take_turns
from benchmarks.speed.streaming import AT_ONCE, fast_streams, paced_streams
from benchmarks.speed.systems import DIRECT, LITELLM, NGINX, OSTLER, PORTKEY, Ostler, System
from demo import BASE_DIR

Rounds = int
ALL: Sequence[System] = (DIRECT, NGINX, OSTLER, LITELLM, PORTKEY)


async def requests(rounds: Rounds, seconds: float) -> Found:
    """Requests that are no streams, at 1, 32 and 256 clients."""
    place = cores()
    turns = await take_turns(
        ALL, lambda each: requests_of(each, place, clients=CLIENTS, seconds=seconds), rounds=rounds
    )
    direct, nginx, ostler, litellm, portkey = turns
    rows = [
        [
            f"{system.name}, {count} clients",
            found[f"per_s@{count}"].shown(0),
            ratio(found[f"per_s@{count}"], nginx[f"per_s@{count}"]).shown(3),
            found[f"p50_ms@{count}"].shown(),
            found[f"p99_ms@{count}"].shown(),
            found[f"cpu_s_per_1000@{count}"].shown(3),
            found["memory_mib"].shown(0),
        ]
        for system, found in zip(ALL, turns, strict=True)
        for count in CLIENTS
    ]
    goals = [
        at_least("requests/s, against nginx as bare proxy", 0.30, ratio(ostler["per_s@32"], nginx["per_s@32"])),
        at_least("requests/s, against LiteLLM's proxy", 40, ratio(ostler["per_s@32"], litellm["per_s@32"]), 1),
        at_least("requests/s, against Portkey's gateway", 6, ratio(ostler["per_s@32"], portkey["per_s@32"]), 1),
        at_most("ms added at 1 client, p50", 0.3, difference(ostler["p50_ms@1"], direct["p50_ms@1"])),
    ]
    columns = ["system", "requests/s", "of nginx", "p50, ms", "p99, ms", "CPU s per 1,000", "memory, MiB"]
    text = "Closed loops of requests of 500 bytes with answers of 900, by wrk."
    return Found("1-requests", "Requests without streaming", text, columns, rows, goals)


async def parts(rounds: Rounds, seconds: float) -> Found:
    """What each part of Ostler costs: with it switched off."""
    place = cores()
    stocks = OSTLER.stock
    variants = [
        OSTLER,
        Ostler("no limits", stock=replace(stocks, limited=False)),
        Ostler("no canary", stock=replace(stocks, canary=False)),
        Ostler("no prices", stock=replace(stocks, priced=False)),
        Ostler("no metrics", without=("metrics",)),
        Ostler("no recorder", without=("recorder",)),
        Ostler("no usage", without=("budgets",)),
        Ostler(
            "none of them",
            stock=replace(stocks, limited=False, canary=False, priced=False),
            without=("metrics", "recorder", "budgets"),
        ),
    ]
    turns = await take_turns(
        variants, lambda each: requests_of(each, place, clients=(32,), seconds=seconds), rounds=rounds
    )
    rows = [
        [
            variant.name,
            found["per_s@32"].shown(0),
            ratio(found["per_s@32"], turns[0]["per_s@32"]).shown(2),
            found["cpu_s_per_1000@32"].shown(3),
        ]
        for variant, found in zip(variants, turns, strict=True)
    ]
    columns = ["Ostler with", "requests/s", "of all features", "CPU s per 1,000"]
    return Found("2-parts", "Ostler's parts, switched off one by one", "At 32 clients.", columns, rows)


async def streams(rounds: Rounds, seconds: float) -> Found:
    """Streams of 64 events as fast as possible."""
    place, least = cores(), AT_ONCE[0]
    counts: dict[System, Sequence[int]] = {DIRECT: AT_ONCE, NGINX: AT_ONCE, OSTLER: AT_ONCE, LITELLM: (least,)}
    turns = await take_turns(
        list(counts), lambda each: fast_streams(each, place, counts=counts[each], seconds=seconds), rounds=rounds
    )
    by_system = dict(zip(counts, turns, strict=True))
    nginx, ostler, litellm = by_system[NGINX], by_system[OSTLER], by_system[LITELLM]
    rows = [
        [
            f"{system.name}, {count:,} at once",
            found[f"per_s@{count}"].shown(0),
            ratio(found[f"per_s@{count}"], nginx[f"per_s@{count}"]).shown(3),
            found[f"cpu_s_per_1000@{count}"].shown(2),
        ]
        for system, found in by_system.items()
        for count in counts[system]
    ]
    name = f"per_s@{least}"
    goals = [
        at_least("streams/s of 64 events, against nginx", 0.8, ratio(ostler[name], nginx[name])),
        at_least("streams/s of 64 events, against LiteLLM's proxy", 50, ratio(ostler[name], litellm[name]), 1),
    ]
    text = (
        "The upstream sends each event in a packet of its own, as fast as it can; the goals are for 64 at once. Of more"
        " streams at once LiteLLM ends too few within a run to be counted. Portkey is not among them: on Node 20 it"
        " answers each stream of an upstream of its own with 500 (`TypeError: immutable`)."
    )
    columns = ["system", "streams/s", "of nginx", "CPU s per 1,000"]
    return Found("3-streams", "Streams as fast as possible", text, columns, rows, goals)


async def paced(rounds: Rounds, _: float) -> Found:
    """Streams with an event each 50 ms, up to a thousand at once."""
    place, systems = cores(), (DIRECT, NGINX, OSTLER)
    turns = await take_turns(systems, lambda each: paced_streams(each, place), rounds=rounds)
    direct, ostler = turns[0], turns[2]
    rows = [
        [f"{system.name}, {count:,} streams", *_added(found, direct, count), found[f"broken@{count}"].shown(0)]
        for system, found in zip(systems, turns, strict=True)
        for count in AT_ONCE
    ]
    most = max(AT_ONCE)
    added = difference(ostler[f"gap_ms_p99@{most}"], direct[f"gap_ms_p99@{most}"])
    goals = [
        at_most(f"{most:,} paced streams: gap added, p99, ms", 10, added),
        none(f"{most:,} paced streams: broken", ostler[f"broken@{most}"]),
    ]
    text = (
        "An event each 50 ms. Late is from an event's sending to its reading; the gap's error is by how much the time"
        " between two events differs from that at which they were sent. With nothing in between the table has what was"
        " seen, and for the systems what they add to that of the same round."
    )
    columns = ["system", "first byte p50, ms", "p99", "late p50, ms", "p99", "gap's error p50, ms", "p99", "broken"]
    return Found("4-paced", "Paced streams", text, columns, rows, goals)


def _added(found: Mapping[str, Figure], direct: Mapping[str, Figure], count: int) -> list[str]:
    """What a system adds to each time of its streams; of nothing in between, the times themselves."""
    names = [f"{time}_ms_{percent}@{count}" for time in ("first", "late", "gap") for percent in ("p50", "p99")]
    if found is direct:
        return [found[name].shown() for name in names]
    return [difference(found[name], direct[name]).shown() for name in names]


async def sizes(rounds: Rounds, seconds: float) -> Found:
    """What a request costs with more adapters, keys and replicas."""
    place = cores()
    turns = await take_turns(growth.SIZES, lambda size: growth.cost(size, place, seconds=seconds), rounds=rounds)
    by_size = dict(zip(growth.SIZES, turns, strict=True))
    least = by_size[growth.LEAST]["cpu_s_per_1000"]
    rows = [
        [
            size.name,
            found["cpu_s_per_1000"].shown(3),
            ratio(found["cpu_s_per_1000"], least).shown(2),
            found["memory_mib"].shown(0),
        ]
        for size, found in by_size.items()
    ]
    most = ratio(by_size[growth.MOST]["cpu_s_per_1000"], least)
    goals = [at_most("CPU per 1,000 requests at 1,000 adapters and 10,000 keys, against 1 and 10", 1.05, most)]
    columns = ["Ostler with", "CPU s per 1,000", "of the first", "memory, MiB"]
    return Found("5-growth", "Growth", "At 32 clients.", columns, rows, goals)


async def real_engine(rounds: Rounds, _: float) -> Found:
    """Real vLLM, direct and through Ostler."""
    place = cores()
    async with engine.doors(place) as pair:

        async def measure(door: engine.Door) -> dict[str, float]:
            return dict(
                await engine.serve_benchmark(
                    door, tokenizer=str(BASE_DIR), clients=engine.CLIENTS, prompts=engine.PROMPTS, seed=1
                )
            )

        direct, through = await take_turns(pair, measure, rounds=rounds)
    names = ("requests_per_s", "tokens_per_s", "first_token_ms", "token_ms")
    rows = [
        [door.name, *(found[name].shown() for name in names)]
        for door, found in zip(pair, (direct, through), strict=True)
    ]
    goals = [
        at_least(
            "real vLLM through Ostler against direct: throughput",
            0.97,
            ratio(through["tokens_per_s"], direct["tokens_per_s"]),
            3,
        ),
        at_most(
            "real vLLM: time to first token added, p50, ms",
            2.0,
            difference(through["first_token_ms"], direct["first_token_ms"]),
        ),
    ]
    columns = ["way", "requests/s", "tokens/s", "first token p50, ms", "time per token p50, ms"]
    text = f"vLLM's own serving benchmark, {engine.CLIENTS} clients, prompts of 64 and answers of 32 tokens."
    return Found("12-engine", "Real vLLM", text, columns, rows, goals)


PIECES: dict[str, Callable[[Rounds, float], Awaitable[Found]]] = {
    "profile": profile.profiles,
    "requests": requests,
    "parts": parts,
    "streams": streams,
    "paced": paced,
    "growth": sizes,
    "workers": workers.workers,
    "memory": memory.memories,
    "swap": swapping.swaps,
    "libraries": libraries.servers,
    "clients": clients.clients,
    "recorder": recording.recording,
    "engine": real_engine,
    "instructions": instructions.instructions,
}
