"""What a request costs in instructions, counted by valgrind: a busy machine changes times, and hardly these.

Each system runs under valgrind's callgrind, which counts only between two moments: from before the first of some
requests, which come one after the other, until the last is answered and recorded. What the system spends at rest in
the same time is taken off, and Ostler runs by `benchmarks.speed.steady`, so that it is little. What the kernel does
for a system is not counted.
"""

import asyncio
import json
import math
import re
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path

import aiohttp

from benchmarks.speed.growth import MOST
from benchmarks.speed.installing import install_valgrind
from benchmarks.speed.processes import Cores, Running, cores
from benchmarks.speed.report import Found
from benchmarks.speed.rounds import Figure, ratio, values_of
from benchmarks.speed.stock import Stock
from benchmarks.speed.systems import NGINX, OSTLER, Nginx, Ostler, Serving
from benchmarks.speed.trial import chat, trial
from benchmarks.speed.upstream import EVENTS

REQUESTS, STREAMS = 200, 50
"""In each count; as many records are written together."""
_MOST_TIMES = 2
"""More counts of one process say nothing new."""
LOOP, MOST_PLACES, OTHER = "Python's interpreter loop", 12, "others"
_GAP_S = 0.001
"""Between a stream's events: enough to be passed on one by one, though valgrind is slow."""
_LOOK_EVERY_S, _IDLE_S = 0.5, 0.1
"""A process that took no more processor time between two looks is idle."""
_WARM_UPS = 2
"""So often the same goes before, uncounted: SQLite reads the statement that writes records anew the second time."""
_REST_S, _ANSWERS_WITHIN_S = 1.0, 60.0
_THOUSAND = 1000
_NAME = re.compile(r"(?P<kind>c?(?:ob|fn))=\((?P<number>\d+)\)(?: (?P<name>.*))?")
_COST = re.compile(r"[+*-]?\d*(?: (?P<cost>\d+))?$")
_OPTIONS = ("--quiet", "--tool=callgrind", "--instr-atstart=no")
_STILL = {"OSTLER_POLL_S": "3600", "OSTLER_FOLLOW_S": "3600", "PYTHONHASHSEED": "0"}
_HOOKS = ("metrics", "recorder", "budgets")
_LOOP_FUNCTION = "_PyEval_EvalFrameDefault"
Spent = Counter[str]
"""Instructions by the place in which they were."""


def spent_in(dump: Iterable[str]) -> Spent:
    """Instructions by library, from a file of callgrind's; Python's interpreter loop is a place of its own.

    A function's own costs follow its name, line by line. The line after `calls=` has what a called function took, which
    stands under that one's name, too. A name stands only where it is new; from then on its number does.
    """
    found: Spent = Counter()
    names: dict[tuple[str, str], str] = {}
    now = {"ob": "", "fn": ""}
    is_of_a_call = False
    for line in dump:
        if named := _NAME.match(line):
            kind = named["kind"]
            known = kind[-2:], named["number"]
            if named["name"]:
                names[known] = named["name"].rstrip()
            if kind in now:
                now[kind] = names[known]
        elif line.startswith("calls="):
            is_of_a_call = True
        elif cost := _COST.match(line):
            if not is_of_a_call:
                found[_place(now["ob"], now["fn"])] += int(cost["cost"] or 0)
            is_of_a_call = False
    return +found


def _place(library: str, function: str) -> str:
    if function.startswith(_LOOP_FUNCTION):
        return LOOP
    folder, _, packaged = library.rpartition("/site-packages/")
    name = packaged if folder else library.rpartition("/")[2]
    return re.split(r"/|\.cpython|\.abi3|\.so", name)[0]


def per_request(counts: Sequence[Spent], requests: int) -> Figure:
    """Thousands of instructions of one request, in each count."""
    return Figure(tuple(count.total() / requests / _THOUSAND for count in counts))


def largest(counts: Sequence[Spent]) -> list[tuple[str, list[Spent]]]:
    """The places where most is spent, with the counts of each; the last has all the others."""
    names = [name for name, _ in sum(counts, Spent()).most_common(MOST_PLACES)]
    found = [(name, [Spent({name: count[name]}) for count in counts]) for name in names]
    rest = [Spent({OTHER: count.total() - sum(count[name] for name in names)}) for count in counts]
    return [*found, (OTHER, rest)]


@dataclass(frozen=True, slots=True)
class Count:
    """What a process spent in some time."""

    spent: Spent
    seconds: float


def without_rest(count: Count, at_rest: Count) -> Spent:
    """What it would not have spent at rest, where it does things by the clock."""
    share = count.seconds / at_rest.seconds
    return Spent({place: spent - round(at_rest.spent[place] * share) for place, spent in count.spent.items()})


@dataclass(slots=True)
class _Callgrind:
    """Callgrind in a process.

    Attributes:
        pid: the process.
        files: what the names of its files begin with.
        counts: how many it wrote.
    """

    pid: int
    files: Path
    counts: int = 0

    async def counted(self, work: Awaitable[None]) -> Count:
        """What the process does while something is awaited."""
        await self.order("--zero")
        began = time.monotonic()
        await work
        await self.order("--dump")
        seconds = time.monotonic() - began
        self.counts += 1
        file = self.files.with_name(f"{self.files.name}.{self.pid}.{self.counts}")
        with file.open() as dump:
            spent = spent_in(dump)
        file.unlink()
        return Count(spent, seconds)

    async def order(self, *order: str) -> None:
        """Have it do something.

        Raises:
            RuntimeError: it did not.
        """
        process = await asyncio.create_subprocess_exec(
            "callgrind_control", *order, str(self.pid), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        try:
            async with asyncio.timeout(_ANSWERS_WITHIN_S):
                said = (await process.communicate())[0].decode(errors="replace")
        except TimeoutError:
            process.kill()
            said = "no answer"
        if "OK." not in said:
            raise RuntimeError(f"callgrind_control {' '.join(order)}: {' '.join(said.split())[-500:]}")


@dataclass(frozen=True, slots=True)
class Counted:
    """What is counted.

    Attributes:
        system: under what it runs is said here.
        requests: in one count.
        is_stream: whether they are streams.
    """

    system: Nginx | Ostler
    requests: int = REQUESTS
    is_stream: bool = False

    async def counts(self, cores: Cores, folder: Path, *, times: int) -> list[Spent]:
        """What these requests cost, so many times."""
        files = folder / "calls"
        system = replace(self.system, under=("valgrind", *_OPTIONS, f"--callgrind-out-file={files}.%p"))
        async with trial(system, cores, warm_up=False) as bench, aiohttp.ClientSession() as http:
            assert bench.serving.process is not None
            await bench.set_upstreams(gap_s=_GAP_S)
            callgrind = _Callgrind(bench.serving.process.pid, files)
            for _ in range(_WARM_UPS):
                await self._ask(http, bench.serving)
            await callgrind.order("--instr=on")
            at_rest = await callgrind.counted(asyncio.sleep(_REST_S))
            counts = [await callgrind.counted(self._ask(http, bench.serving)) for _ in range(times)]
        return [without_rest(each, at_rest) for each in counts]

    async def _ask(self, http: aiohttp.ClientSession, serving: Serving) -> None:
        """Ask, and wait until that is written down, too.

        Raises:
            RuntimeError: a request failed.
        """
        body = json.dumps(chat(serving.model, stream=self.is_stream)).encode()
        headers = {"content-type": "application/json", **serving.headers}
        for _ in range(self.requests):
            async with http.post(serving.url, data=body, headers=headers) as answer:
                said = await answer.read()
                if answer.status != HTTPStatus.OK:
                    raise RuntimeError(f"{self.system.name}: a request failed: {said[-500:]!r}")
        assert serving.process is not None
        await _until_idle(serving.process)


async def _until_idle(process: Running) -> None:
    """What is done after the answers is done, too."""
    before, used = -math.inf, process.cpu_s
    while used - before > _IDLE_S:
        await asyncio.sleep(_LOOK_EVERY_S)
        before, used = used, process.cpu_s


def _ostler(name: str, stock: Stock = OSTLER.stock, *, without: Sequence[str] = (), requests: int = REQUESTS) -> Ostler:
    program = ("benchmarks.speed.steady", str(requests), ",".join(without))
    return Ostler(name, stock=stock, settings=_STILL, program=program)


_STREAM = f"a stream of {EVENTS} events"
FULL = Counted(_ostler("Ostler"))
ALL = (
    Counted(NGINX),
    Counted(Nginx(f"nginx, {_STREAM}"), STREAMS, is_stream=True),
    FULL,
    Counted(_ostler(f"Ostler, {_STREAM}", requests=STREAMS), STREAMS, is_stream=True),
    Counted(_ostler("Ostler, no limits", Stock(limited=False))),
    Counted(_ostler("Ostler, no canary", Stock(canary=False))),
    Counted(_ostler("Ostler, no prices", Stock(priced=False))),
    Counted(_ostler("Ostler, no metrics", without=["metrics"])),
    Counted(_ostler("Ostler, no recorder", without=["recorder"])),
    Counted(_ostler("Ostler, no budgets", without=["budgets"])),
    Counted(_ostler("Ostler, none of them", Stock(limited=False, canary=False, priced=False), without=_HOOKS)),
    Counted(_ostler(f"Ostler, {MOST.name}", Stock(adapters=MOST.adapters, keys=MOST.keys))),
)


async def instructions(rounds: int, _: float) -> Found:
    """A request of Ostler, with and without its parts and by library, one of nginx, and a stream of both."""
    install_valgrind()
    place, times = cores(), min(rounds, _MOST_TIMES)
    with tempfile.TemporaryDirectory(prefix="ostler-bench-") as made:
        counts = {each: await each.counts(place, Path(made), times=times) for each in ALL}
    return found_of(counts, times)


def found_of(counts: Mapping[Counted, Sequence[Spent]], times: int) -> Found:
    """The table of so many counts of each."""
    full = per_request(counts[FULL], FULL.requests)
    figures = {each.system.name: per_request(found, each.requests) for each, found in counts.items()}
    figures |= {f"of it: {name}": per_request(found, FULL.requests) for name, found in largest(counts[FULL])}
    rows = [[name, figure.shown(1), ratio(figure, full).shown(3)] for name, figure in figures.items()]
    text = (
        f"By valgrind's callgrind, in user space, at 1 client: {REQUESTS} requests or {STREAMS} streams with what"
        f" writes them down, {times} times in one process, after twice as many that are not counted. A stream's events"
        " come 1 ms apart; how many are read together depends on the machine. *Of it* is Ostler's request by library."
    )
    columns = ["request", "thousand instructions", "of Ostler's"]
    values = values_of(figures, [{"thousands": figure} for figure in figures.values()])
    return Found("13-instructions", "Instructions", text, columns, rows, values=values)
