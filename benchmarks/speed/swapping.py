"""Promotes and rollbacks while clients ask: how long each takes, and what the clients see of it.

    cold        the new version was never loaded: it is loaded, proves that it acts, is written down, and flipped to
    warm        it is resident already
    rollback    what served before is resident, too

The upstream takes `LOAD_S` for a load, and refuses what is not loaded. A request was asked during a flip if any moment
between the order and its answer lies between its own start and end; all others are held against these.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urljoin

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.speed.processes import Cores, cores
from benchmarks.speed.report import Found, none
from benchmarks.speed.rounds import Figures, difference, take_turns, values_of
from benchmarks.speed.stock import MODEL, OPERATOR, Stock
from benchmarks.speed.streams import percentile
from benchmarks.speed.systems import Ostler, Serving
from benchmarks.speed.trial import chat, trial

CLIENTS, FLIPS = 16, 20
LOAD_S = 0.02
KINDS, QUIET = ("cold", "warm", "rollback"), "none"
_PAUSE_S = 0.1
_LOADS, _PROOFS = "ostler_version_load_seconds", "ostler_version_proof_seconds"
_CHANGES = "ostler_deployment_change_seconds"
_SETTINGS = {"OSTLER_ENGINE_SLOTS": str(2 * FLIPS)}
"""So that what was loaded stays: unloading is not what is measured."""


@dataclass(frozen=True, slots=True)
class Span:
    """A request or a flip, from its start to its end, by the machine's monotonic clock, seconds."""

    began: float
    ended: float

    @property
    def ms(self) -> float:
        """How long it took."""
        return (self.ended - self.began) * 1000

    def overlaps(self, other: "Span") -> bool:
        """Whether both were under way at one moment."""
        return self.began <= other.ended and other.began <= self.ended


class Crowd:
    """Clients that ask one after the other, for as long as a block lasts.

    Attributes:
        asked: the requests that were answered.
        failed: those that were not, or not with 200.
    """

    def __init__(self, http: aiohttp.ClientSession, serving: Serving) -> None:
        self._http, self._serving = http, serving
        self.asked: list[Span] = []
        self.failed = 0

    @contextlib.asynccontextmanager
    async def asking(self) -> AsyncIterator[None]:
        """Ask for the block; what is under way at its end is waited for."""
        over = asyncio.Event()
        clients = [asyncio.create_task(self._ask_until(over)) for _ in range(CLIENTS)]
        try:
            yield
        finally:
            over.set()
            await asyncio.gather(*clients)

    async def _ask_until(self, over: asyncio.Event) -> None:
        body, headers = chat(self._serving.model, stream=False), self._serving.headers
        while not over.is_set():
            began = time.perf_counter()
            try:
                async with self._http.post(self._serving.url, json=body, headers=headers) as response:
                    await response.read()
                    is_right = response.status == 200
            except aiohttp.ClientError:
                is_right = False
            self.asked.append(Span(began, time.perf_counter()))
            self.failed += not is_right


class Operator:
    """Changes what the adapter serves, and reads how long the gateway took for it."""

    def __init__(self, http: aiohttp.ClientSession, serving: Serving) -> None:
        self._http, self._url = http, serving.url
        self._headers = {"authorization": f"Bearer {OPERATOR}"}

    async def promote(self, number: int) -> Span:
        """Have a version serve."""
        return await self._order("PATCH", "deployment", {"stable": number, "reason": "benchmark"})

    async def roll_back(self) -> Span:
        """Have the version before serve again."""
        return await self._order("POST", "rollback", {"reason": "benchmark"})

    async def _order(self, method: str, what: str, order: dict[str, object]) -> Span:
        url = urljoin(self._url, f"/admin/v1/adapters/{MODEL}/{what}")
        began = time.perf_counter()
        async with self._http.request(method, url, json=order, headers=self._headers) as response:
            said = await response.text()
        if response.status != 200:
            raise RuntimeError(f"{method} {what} was refused with {response.status}: {said[:500]}")
        return Span(began, time.perf_counter())

    async def spent(self) -> dict[str, float]:
        """What the gateway has counted so far: seconds of all loads and proofs, and of all changes and rollbacks."""
        async with self._http.get(urljoin(self._url, "/metrics"), headers=self._headers) as response:
            response.raise_for_status()
            exposed = await response.text()
        return {
            "load": total(exposed, _LOADS),
            "proof": total(exposed, _PROOFS),
            "change": total(exposed, _CHANGES, action="change"),
            "rollback": total(exposed, _CHANGES, action="rollback"),
        }


def total(exposed: str, name: str, **labels: str) -> float:
    """The sum of a histogram over all that has these labels, from metrics as Prometheus reads them."""
    samples = (sample for family in text_string_to_metric_families(exposed) for sample in family.samples)
    return sum(each.value for each in samples if each.name == f"{name}_sum" and labels.items() <= each.labels.items())


async def swap(system: Ostler, cores: Cores, *, seconds: float) -> Figures:
    """One turn: flips of all kinds under load, and what clients saw in them and without them."""
    connector = aiohttp.TCPConnector(limit=0)
    async with trial(system, cores) as bench, aiohttp.ClientSession(connector=connector) as http:
        await bench.set_upstreams(load_s=LOAD_S)
        crowd, operator = Crowd(http, bench.serving), Operator(http, bench.serving)
        async with crowd.asking():
            await asyncio.sleep(seconds)
            flips, figures = await _flip(operator, system.stock.spares)
    return {**figures, **seen_by_clients(crowd.asked, flips), "failed": crowd.failed}


async def _flip(operator: Operator, spares: Sequence[int]) -> tuple[dict[str, list[Span]], Figures]:
    """All flips by their kind, and of each kind the gateway's own times, milliseconds of a flip."""
    flips: dict[str, list[Span]] = {kind: [] for kind in KINDS}
    at_first = await operator.spent()
    for number in spares:
        flips["cold"].append(await operator.promote(number))
        await asyncio.sleep(_PAUSE_S)
    then = await operator.spent()
    for _ in spares:
        flips["warm"].append(await operator.promote(spares[0]))
        await asyncio.sleep(_PAUSE_S)
        flips["rollback"].append(await operator.roll_back())
        await asyncio.sleep(_PAUSE_S)
    at_last = await operator.spent()

    def each_ms(name: str, since: dict[str, float], until: dict[str, float], count: int) -> float:
        return (until[name] - since[name]) / count * 1000

    count = len(spares)

    def both_ms(since: dict[str, float], until: dict[str, float], count: int) -> tuple[float, float]:
        return each_ms("load", since, until, count), each_ms("proof", since, until, count)

    loads = {"cold": both_ms(at_first, then, count), "warm": both_ms(then, at_last, 2 * count)}
    changes = {
        "cold": each_ms("change", at_first, then, count),
        "warm": each_ms("change", then, at_last, count),
        "rollback": each_ms("rollback", then, at_last, count),
    }
    figures: dict[str, float] = {}
    for kind in KINDS:
        whole, proof = loads.get(kind, loads["warm"])
        figures |= {f"load_ms@{kind}": whole - proof, f"proof_ms@{kind}": proof}
        figures |= {f"rest_ms@{kind}": changes[kind] - whole}
    return flips, figures


def seen_by_clients(asked: Sequence[Span], flips: Mapping[str, Sequence[Span]]) -> Figures:
    """How long flips took, and the requests that were under way in them, by kind; and all others as `none`."""
    found: dict[str, float] = {}
    touched: set[Span] = set()
    for kind, spans in flips.items():
        during = [request for request in asked if any(request.overlaps(flip) for flip in spans)]
        touched.update(during)
        times = [flip.ms for flip in spans]
        found |= {f"flip_ms_p50@{kind}": percentile(times, 50), f"flip_ms_most@{kind}": max(times)}
        found |= _latencies(kind, during)
    return found | _latencies(QUIET, [request for request in asked if request not in touched])


def _latencies(kind: str, requests: Sequence[Span]) -> dict[str, float]:
    times = [request.ms for request in requests]
    return {
        f"requests@{kind}": len(times),
        f"p50_ms@{kind}": percentile(times, 50),
        f"p99_ms@{kind}": percentile(times, 99),
    }


async def swaps(rounds: int, seconds: float) -> Found:
    """Promotes, cold and warm, and rollbacks under load."""
    place = cores()
    system = Ostler("Ostler", stock=Stock(spare=FLIPS), settings=_SETTINGS)
    (found,) = await take_turns([system], lambda each: swap(each, place, seconds=seconds), rounds=rounds)
    rows = [
        [
            f"{kind}",
            *(found[f"{name}@{kind}"].shown(1) for name in ("flip_ms_p50", "flip_ms_most")),
            *(found[f"{name}@{kind}"].shown(1) for name in ("load_ms", "proof_ms", "rest_ms", "p50_ms", "p99_ms")),
            difference(found[f"p99_ms@{kind}"], found[f"p99_ms@{QUIET}"]).shown(1),
        ]
        for kind in KINDS
    ]
    quiet = [found[f"{name}@{QUIET}"].shown(1) for name in ("p50_ms", "p99_ms")]
    rows.append(["no flip", "", "", "", "", "", *quiet, ""])
    text = (
        f"{FLIPS} flips of each kind in a round, with {CLIENTS} clients that ask all the time; the engine takes"
        f" {LOAD_S * 1000:.0f} ms to load a version. Cold is a promote of a version that was never loaded, warm of one"
        " that is resident. Load, proof and *the rest* (plan, transaction, flip) are the gateway's own means, the"
        " flip is from the operator's order to its answer. The clients' times are of the requests that were under way"
        " in flips of that kind."
    )
    columns = ["flip", "p50, ms", "longest", "load", "proof", "the rest", "requests p50, ms", "p99", "added p99"]
    goals = [none("swaps under load: failed requests", found["failed"])]
    values = values_of([system.name], [found])
    return Found("8-swap", "Swaps under load", text, columns, rows, goals, values=values)
