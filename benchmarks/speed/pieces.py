"""The pieces of the whole measurement: what each measures, and what its table says."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from benchmarks.speed import engine, growth
from benchmarks.speed.processes import cores
from benchmarks.speed.report import Found, Goal
from benchmarks.speed.requests import CLIENTS, requests_of
from benchmarks.speed.rounds import Figure, difference, ratio, take_turns
from benchmarks.speed.streaming import AT_ONCE, PACED, fast_streams, paced_streams
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
        _at_least("requests/s, against nginx as bare proxy", 0.30, ratio(ostler["per_s@32"], nginx["per_s@32"])),
        _at_least("requests/s, against LiteLLM's proxy", 40, ratio(ostler["per_s@32"], litellm["per_s@32"]), 1),
        _at_least("requests/s, against Portkey's gateway", 6, ratio(ostler["per_s@32"], portkey["per_s@32"]), 1),
        _at_most("ms added at 1 client, p50", 0.3, difference(ostler["p50_ms@1"], direct["p50_ms@1"])),
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
    place, systems = cores(), (DIRECT, NGINX, OSTLER, LITELLM)
    turns = await take_turns(systems, lambda each: fast_streams(each, place, seconds=seconds), rounds=rounds)
    nginx, ostler, litellm = turns[1], turns[2], turns[3]
    rows = [
        [
            system.name,
            found["per_s"].shown(0),
            ratio(found["per_s"], nginx["per_s"]).shown(2),
            found["cpu_s_per_1000"].shown(2),
        ]
        for system, found in zip(systems, turns, strict=True)
    ]
    goals = [
        _at_least("streams/s of 64 events, against nginx", 0.8, ratio(ostler["per_s"], nginx["per_s"])),
        _at_least("streams/s of 64 events, against LiteLLM's proxy", 50, ratio(ostler["per_s"], litellm["per_s"]), 1),
    ]
    text = (
        f"{AT_ONCE} clients; the upstream sends each event in a packet of its own, as fast as it can. Portkey is not"
        " among them: on Node 20 it answers each stream of an upstream of its own with 500 (`TypeError: immutable`)."
    )
    columns = ["system", "streams/s", "of nginx", "CPU s per 1,000"]
    return Found("3-streams", "Streams as fast as possible", text, columns, rows, goals)


async def paced(rounds: Rounds, _: float) -> Found:
    """Streams with an event each 50 ms, up to a thousand at once."""
    place, systems = cores(), (DIRECT, NGINX, OSTLER)
    turns = await take_turns(systems, lambda each: paced_streams(each, place), rounds=rounds)
    direct, ostler = turns[0], turns[2]
    rows = []
    for system, found in zip(systems, turns, strict=True):
        for count in PACED:
            names = ("first_ms_p50", "first_ms_p99", "late_ms_p50", "late_ms_p99", "gap_ms_p50", "gap_ms_p99")
            rows.append(
                [
                    f"{system.name}, {count:,} streams",
                    *(found[f"{name}@{count}"].shown() for name in names),
                    found[f"broken@{count}"].shown(0),
                ]
            )
    most = max(PACED)
    broken = max(ostler[f"broken@{most}"].values)
    added = difference(ostler[f"gap_ms_p99@{most}"], direct[f"gap_ms_p99@{most}"])
    goal = _at_most(f"{most:,} paced streams: gap added, p99, ms", 10, added)
    goals = [
        goal,
        Goal(f"{most:,} paced streams: broken", "none", f"{broken:.0f}", broken == 0),
    ]
    text = (
        "An event each 50 ms. Late is from an event's sending to its reading; the gap's error is by how much the time"
        " between two events differs from that at which they were sent."
    )
    columns = ["system", "first byte p50, ms", "p99", "late p50, ms", "p99", "gap's error p50, ms", "p99", "broken"]
    return Found("4-paced", "Paced streams", text, columns, rows, goals)


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
    goals = [_at_most("CPU per 1,000 requests at 1,000 adapters and 10,000 keys, against 1 and 10", 1.05, most)]
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
        _at_least(
            "real vLLM through Ostler against direct: throughput",
            0.97,
            ratio(through["tokens_per_s"], direct["tokens_per_s"]),
            3,
        ),
        _at_most(
            "real vLLM: time to first token added, p50, ms",
            2.0,
            difference(through["first_token_ms"], direct["first_token_ms"]),
        ),
    ]
    columns = ["way", "requests/s", "tokens/s", "first token p50, ms", "time per token p50, ms"]
    text = f"vLLM's own serving benchmark, {engine.CLIENTS} clients, prompts of 64 and answers of 32 tokens."
    return Found("6-engine", "Real vLLM", text, columns, rows, goals)


def _at_least(measure: str, goal: float, found: Figure, digits: int = 2) -> Goal:
    return Goal(measure, f"at least {goal:g}", found.shown(digits), found.median >= goal)


def _at_most(measure: str, goal: float, found: Figure, digits: int = 2) -> Goal:
    return Goal(measure, f"at most {goal:g}", found.shown(digits), found.median <= goal)


PIECES: dict[str, Callable[[Rounds, float], Awaitable[Found]]] = {
    "requests": requests,
    "parts": parts,
    "streams": streams,
    "paced": paced,
    "growth": sizes,
    "engine": real_engine,
}
