"""The pieces of the whole measurement: what each measures, and what its table says."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

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
from benchmarks.speed.rounds import Figure, Figures, difference, ratio, take_turns, values_of
from benchmarks.speed.streaming import AT_ONCE, DISTURBED_MS, FEW, fast_streams, is_disturbed, paced_streams
from benchmarks.speed.systems import DIRECT, LITELLM, NGINX, OSTLER, PORTKEY, Ostler, System
from demo import BASE_DIR

Rounds = int
ALL: Sequence[System] = (DIRECT, NGINX, OSTLER, LITELLM, PORTKEY)
_NO_PORTKEY = (
    "Portkey is not among them: on Node 20, 22 and 24 it answers each stream of an upstream of its own with 500"
    " (`TypeError: immutable`: it changes headers that Node's fetch does not let it change)."
)


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
            *(found[f"{name}_ms@{count}"].shown() for name in ("p50", "p99", "mean")),
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
    columns = ["system", "requests/s", "of nginx", "p50, ms", "p99, ms", "mean, ms", "CPU s per 1,000", "memory, MiB"]
    text = (
        "Closed loops of requests of 500 bytes with answers of 900, by wrk. The mean is clients by requests/s (Little's"
        " law). Where it is far above the p50, clients waited long, some until the run was over: requests that were not"
        " answered by then are missing from p50 and p99."
    )
    values = values_of((each.name for each in ALL), turns)
    return Found("1-requests", "Requests without streaming", text, columns, rows, goals, values=values)


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
        Ostler("no budgets", without=("budgets",)),
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
    values = values_of((each.name for each in variants), turns)
    return Found("2-parts", "Ostler's parts, switched off one by one", "At 32 clients.", columns, rows, values=values)


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
            *([""] * 3 if system is DIRECT else _costs(found, nginx, count)),
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
        "The upstream sends each event in a packet of its own, as fast as it can; the goals are for 64 at once. What"
        " falls behind reads several events at once and passes them on in one write, so the load has less to read."
        " Load and upstream, which share their cores, are the limit here: that is how a system can have more streams a"
        " second than nginx, and even than nothing in between. What it takes itself shows in its processor time. Memory"
        " is the most that it has had so far. Of more streams at once LiteLLM ends too few within a run to be counted."
        f" {_NO_PORTKEY}"
    )
    columns = ["system", "streams/s", "of nginx", "CPU s per 1,000", "of nginx", "memory, MiB"]
    values = values_of((each.name for each in counts), turns)
    return Found("3-streams", "Streams as fast as possible", text, columns, rows, goals, values=values)


def _costs(found: Mapping[str, Figure], nginx: Mapping[str, Figure], count: int) -> list[str]:
    """What streams took of a system: processor time, also against nginx, and memory."""
    cpu_s = found[f"cpu_s_per_1000@{count}"]
    return [cpu_s.shown(2), ratio(cpu_s, nginx[f"cpu_s_per_1000@{count}"]).shown(), found[f"peak_mib@{count}"].shown(0)]


async def paced(rounds: Rounds, seconds: float) -> Found:
    """Streams with an event each 50 ms, up to a thousand at once."""
    place, most, all_counts = cores(), max(AT_ONCE), (FEW, *AT_ONCE)
    counts: dict[System, Sequence[int]] = dict.fromkeys((DIRECT, NGINX, OSTLER), all_counts)
    counts[LITELLM] = (FEW, min(AT_ONCE))
    tries: list[bool] = []

    def disturbed(found: Sequence[Figures]) -> bool:
        tries.append(is_disturbed(found[0]))
        return tries[-1]

    turns = await take_turns(
        list(counts),
        lambda each: paced_streams(each, place, counts=counts[each], seconds=seconds),
        rounds=rounds,
        is_disturbed=disturbed,
    )
    by_system = dict(zip(counts, turns, strict=True))
    direct, ostler = by_system[DIRECT], by_system[OSTLER]
    rows = [
        [f"{system.name}, {count:,} streams", *_times(found, direct, count)]
        for system, found in by_system.items()
        for count in counts[system]
    ]
    added = difference(ostler[f"gap_ms_p99@{most}"], direct[f"gap_ms_p99@{most}"])
    goals = [
        at_most(f"{most:,} paced streams: gap added, p99, ms", 10, added),
        none(f"{most:,} paced streams: broken", ostler[f"broken@{most}"]),
    ]
    text = (
        "An event each 50 ms. Late is from an event's sending to its reading; the gap's error is by how much the time"
        " between two events differs from that at which they were sent. *Added* is against nothing in between in the"
        f" same round. A round in which nothing in between has itself an error above {DISTURBED_MS:.0f} ms (p99) is"
        f" measured again, at most twice; this happened {len(tries) - rounds} times here, and {sum(tries)} of all"
        f" {len(tries)} measured were so. Memory is the most that a system has had so far. {_NO_PORTKEY}"
    )
    columns = ["system", "first byte p50, ms", "added", "p99, ms", "added", "late p99, ms"]
    columns += ["gap's error p50, ms", "added", "p99, ms", "added", "broken", "memory, MiB"]
    values = values_of((each.name for each in counts), turns)
    return Found("4-paced", "Paced streams", text, columns, rows, goals, values=values)


def _times(found: Mapping[str, Figure], direct: Mapping[str, Figure], count: int) -> list[str]:
    """When a system's streams and their events came, what it adds to that, and what they took of it."""

    def both(name: str) -> list[str]:
        name = f"{name}@{count}"
        return [found[name].shown(), "" if found is direct else difference(found[name], direct[name]).shown()]

    late, broken = found[f"late_ms_p99@{count}"].shown(), found[f"broken@{count}"].shown(0)
    memory = "" if found is direct else found[f"peak_mib@{count}"].shown(0)
    first, gap = (*both("first_ms_p50"), *both("first_ms_p99")), (*both("gap_ms_p50"), *both("gap_ms_p99"))
    return [*first, late, *gap, broken, memory]


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
    values = values_of((each.name for each in growth.SIZES), turns)
    return Found("5-growth", "Growth", "At 32 clients.", columns, rows, goals, values=values)


async def real_engine(rounds: Rounds, seconds: float) -> Found:
    """Real vLLM, direct and through Ostler."""
    prompts = max(engine.CLIENTS, round(engine.PROMPTS_PER_S * seconds))
    async with engine.doors(cores()) as (pair, gateway):

        async def measure(door: engine.Door) -> Figures:
            return await engine.serve_benchmark(
                door, gateway, tokenizer=str(BASE_DIR), clients=engine.CLIENTS, prompts=prompts, seed=1
            )

        turns = await take_turns(pair, measure, rounds=rounds)
    direct, through = turns
    names = ("requests_per_s", "tokens_per_s", "first_token_ms", "token_ms", "cpu_s_per_1000", "cpu_us_per_token")
    rows = [[door.name, *(found[name].shown() for name in names)] for door, found in zip(pair, turns, strict=True)]
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
    columns += ["gateway's CPU s per 1,000", "and us per token"]
    text = (
        f"vLLM's own serving benchmark, {engine.CLIENTS} clients, {prompts} prompts of {engine.PROMPT_TOKENS} tokens a"
        f" run, answers of {engine.ANSWER_TOKENS}. Ostler has all features on: a key with limits of every kind, prices,"
        f" and a canary, which gets {engine.CANARY:.0%}. The gateway's processor time is that while the prompts"
        " were asked; in the direct way it is for looking after the engine alone."
    )
    values = values_of((each.name for each in pair), turns)
    return Found("12-engine", "Real vLLM", text, columns, rows, goals, values=values)


@dataclass(frozen=True, slots=True)
class Piece:
    """One piece.

    Attributes:
        measure: in so many rounds, for so many seconds each.
        uses: what it runs beside Ostler, of which the versions are told.
        least_rounds: with fewer, what it finds is not for the page.
    """

    measure: Callable[[Rounds, float], Awaitable[Found]]
    uses: Sequence[str] = ()
    least_rounds: Rounds = 3


_ALL = ("wrk", "nginx", "LiteLLM", "Portkey", "Node")
PIECES: dict[str, Piece] = {
    "profile": Piece(profile.profiles, ("wrk", "py-spy")),
    "instructions": Piece(instructions.instructions, ("nginx", "valgrind"), least_rounds=1),
    "requests": Piece(requests, _ALL),
    "parts": Piece(parts, ("wrk",)),
    "streams": Piece(streams, ("wrk", "nginx", "LiteLLM")),
    "paced": Piece(paced, ("wrk", "nginx", "LiteLLM"), least_rounds=5),
    "growth": Piece(sizes, ("wrk",)),
    "workers": Piece(workers.workers, ("wrk", "Valkey"), least_rounds=5),
    "memory": Piece(memory.memories, ("wrk",)),
    "swap": Piece(swapping.swaps, ("wrk",)),
    "libraries": Piece(libraries.servers, ("wrk", "granian")),
    "clients": Piece(clients.clients, ("httpx",)),
    "recorder": Piece(recording.recording, ("PostgreSQL",)),
    "engine": Piece(real_engine, ("vLLM",)),
}
