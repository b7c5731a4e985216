"""All replicas: who of them serves a request, and what is ready where."""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from gateway.directory import Directory
from gateway.engines.breaker import Breaker, Breakers, State
from gateway.engines.discovery import listed, look_up
from gateway.engines.engine import Engine, EngineStats
from gateway.engines.failures import EngineDown, EngineRefused
from gateway.engines.heat import Heat
from gateway.engines.loading import Loader
from gateway.engines.managing import Manager
from gateway.engines.picking import Need, Snapshot, home_ids, pick
from gateway.engines.proof import Prover
from gateway.engines.replica import Lease, Replica, ReplicaReport
from gateway.engines.residency import Residency
from gateway.errors import DeadlineExceeded, EngineUnavailable, VersionNotServable
from gateway.settings import GatewaySettings, PoolSettings
from monitors.metrics import Metrics
from registry.catalog import Version
from registry.names import parse_pinned

log = logging.getLogger(__name__)

_RETRY_AFTER_S = 5.0
_LOOK_UP_EVERY_S = 5.0
_NOT_FOUND = 404
_BREAKS_OF_A_VERSION = 2
_PAUSE_AFTER_BREAKS_S = 300.0
"""Engines take minutes to start: two that a version broke are to be back before a third one tries it."""
_LONGEST_REPLICA_PAUSE_S = 10.0
"""A replica that restarts should not wait for longer to be noticed, whatever versions that fail have to."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether the gateway can serve, and what it cannot, in words that name no adapter and no machine."""

    ready: bool
    problems: list[str]


class Fleet:
    """The replicas of all pools.

    Args:
        make_engine: makes a client of the engine at a URL, for a base model.
        make_manager: makes what loads and unloads in an engine of a pool.
        may_unload: whether this gateway is the one that makes room in the engines.

    Attributes:
        breakers: which versions fail on the engines, by engine name.
        heat: how much each version is used.
        on_pressure: called when requests wait in an engine.
        at_rest: whether the engine at a URL is out of service for a while; see `gateway.engines.resting`.
        wait_s: how long a request waits for a replica when none answers.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        directory: Directory,
        metrics: Metrics,
        *,
        make_engine: Callable[[str, str], Engine],
        make_manager: Callable[[Engine, PoolSettings], Manager],
        may_unload: Callable[[], bool],
    ) -> None:
        self._settings = settings
        self._directory = directory
        self._metrics = metrics
        self._make_engine = make_engine
        self._make_manager = make_manager
        self._may_unload = may_unload
        self.wait_s = settings.engine_wait_s
        self._pools = {pool.base: pool for pool in settings.all_pools}
        self._replicas: dict[str, Replica] = {}
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._begun = time.monotonic()
        self._been_ready: set[str] = set()
        self._news = asyncio.Event()
        self._doubts: Counter[str] = Counter()
        self._checks: dict[str, asyncio.Task[None]] = {}
        self._breaks: Counter[str] = Counter()
        """How many engines went away in a row while they loaded a version."""
        self.heat = Heat()
        self.on_pressure: Callable[[], None] = lambda: None
        self.at_rest: Callable[[str], bool] = lambda _: False
        self.breakers = Breakers(self._breaker, self._tell_of_breaker)

    # What others see

    @property
    def resident(self) -> frozenset[str]:
        """The engine names that are resident on some replica."""
        return frozenset().union(*(replica.residency.resident for replica in self._replicas.values()))

    def replica(self, id: str) -> Replica:
        """The replica of that id.

        Raises:
            KeyError
        """
        return self._replicas[id]

    def others_that_serve(self, id: str) -> list[Replica]:
        """The other replicas of the same pool that take requests and have got their versions.

        Raises:
            KeyError
        """
        pool = self._replicas[id].pool
        return [one for one in self._replicas.values() if one.pool == pool and one.id != id and one.is_settled]

    def reports(self) -> list[ReplicaReport]:
        """Each replica as operators see it."""
        return [replica.report() for replica in self._replicas.values()]

    def readiness(self) -> Readiness:
        """Ready once each pool has had a replica that answers and has got its versions, and while one pool has.

        So a new gateway gets no requests before it can serve all, and a pool that fails takes no other one with it. A
        pool that is down from the start is waited for as long as a load may take. One whose replicas are all asleep is
        ready, too: that takes force, and clients wait until one is woken.
        """
        problems = {base: problem for base in self._pools if (problem := self._problem_of(base))}
        self._been_ready |= self._pools.keys() - problems.keys()
        waits = (
            self._pools.keys() - self._been_ready and time.monotonic() < self._begun + self._settings.probe_timeout_s
        )
        return Readiness(not waits and len(problems) < len(self._pools), list(problems.values()))

    def _problem_of(self, base: str) -> str | None:
        """Why a pool serves nothing now; None if it does."""
        own = [replica for replica in self._replicas.values() if replica.pool == base]
        is_all_asleep = bool(own) and all(replica.is_asleep for replica in own)
        if is_all_asleep or any(replica.is_settled for replica in own):
            return None
        states = ", ".join(sorted({replica.problem or replica.state for replica in own})) or "none is known"
        return f"no engine of {base} is ready: {states}"

    def snapshot(self) -> Snapshot:
        """All replicas as of now."""
        seen = tuple([replica.seen() for replica in self._replicas.values()])
        return Snapshot(seen, self._settings.homes, self._settings.home_bound)

    def _saw_stats(self, stats: EngineStats) -> None:
        """Requests wait in an engine: what can wait gives way."""
        if stats.waiting:
            self.on_pressure()

    def is_busy(self) -> bool:
        """Whether requests wait in some engine, or one has more than its bound."""
        return any(
            (replica.stats.waiting or 0) > 0 or replica.seen().load >= self._settings.home_bound
            for replica in self._replicas.values()
        )

    # Use

    def lease_now(self, version: Version | None, need: Need, *, counts: bool = True) -> Lease | None:
        """As `lease`, if nothing must be waited for; else None."""
        replica = self._pick(need)
        if replica is None or (lease := replica.lease_now(version)) is None:
            return None
        if version is not None and counts:
            self._count(version, replica)
        return lease

    async def lease(self, version: Version | None, need: Need, deadline: float, *, counts: bool = True) -> Lease:
        """Pick a replica and hold `version` resident on it, waiting for a replica if none answers.

        Use that does not `count` keeps no version loaded: a shadow's, or a request's second.

        Raises:
            EngineUnavailable: none answers, and none came back in time; or the one picked went away, and then the
                error bears its id as `replica`.
            VersionNotServable: the replica refuses the version. The error bears the replica's id as `replica`.
        """
        replica = await self._picked(need, deadline)
        if version is not None and counts:
            self._count(version, replica)
        return await _leased(replica, version, deadline)

    def _count(self, version: Version, replica: Replica) -> None:
        self.heat.use(version.engine_name)
        self._metrics.looked_up(version.adapter, is_hit=version.engine_name in replica.residency.resident)

    async def _picked(self, need: Need, deadline: float) -> Replica:
        give_up = min(deadline, time.monotonic() + self.wait_s)
        while True:
            news = self._news
            replica = self._pick(need)
            if replica is not None:
                return replica
            try:
                async with asyncio.timeout(max(0.0, give_up - time.monotonic())):
                    await news.wait()
            except TimeoutError:
                if give_up == deadline:
                    raise DeadlineExceeded("no engine came in time for the request's deadline") from None
                raise EngineUnavailable(
                    "no engine is available now; one may be starting", retry_after_s=_RETRY_AFTER_S
                ) from None

    def _pick(self, need: Need) -> Replica | None:
        taking = [one for one in self._replicas.values() if one.pool == need.pool and one.takes_requests]
        if len(taking) == 1:
            return taking[0]
        choice = pick(self.snapshot(), need) if taking else None
        return self._replicas[choice.replica] if choice is not None else None

    def has_untried(self, need: Need) -> bool:
        """Whether a replica that was not tried yet could serve this."""
        return any(
            one.takes_requests and one.pool == need.pool and one.id not in need.tried for one in self._replicas.values()
        )

    def can_serve_now(self, need: Need) -> bool:
        """Whether a replica answers that has what is needed, so that nothing must be waited for."""
        for one in self._replicas.values():
            has_it = need.name is None or need.name in one.residency.resident
            if has_it and one.pool == need.pool and one.takes_requests:
                return True
        return False

    def doubt(self, version: Version, replica: Replica) -> None:
        """A request for a version failed on an engine that is well; after some, the version has to answer itself.

        What clients send may fail by its own fault, so their failures alone never take a version from others.
        """
        name = version.engine_name
        self._doubts[name] += 1
        enough = self._doubts[name] >= self._settings.breaker_failures or not self.breakers.is_closed(name)
        if enough and name not in self._checks:
            self._doubts[name] = 0
            self._checks[name] = asyncio.create_task(self._check(version, replica))
            self._checks[name].add_done_callback(lambda _: self._checks.pop(name, None))

    async def _check(self, version: Version, doubted: Replica) -> None:
        """Leave a version alone only if it fails on every engine that has it and is well."""
        name = version.engine_name
        others = [
            one
            for one in self._replicas.values()
            if one is not doubted and one.pool == doubted.pool and one.is_settled and name in one.residency.resident
        ]
        failed: list[Replica] = []
        for replica in (doubted, *others):
            answers = await self._answers(name, replica)
            if answers:
                self.breakers.succeeded(name)
                for other in failed:
                    other.has_lost(version)  # it has to prove itself there anew
                return
            if answers is False:
                failed.append(replica)
        if failed:
            self.breakers.failed(name, certain=True)

    async def _answers(self, name: str, replica: Replica) -> bool | None:
        """Whether a version answers on an engine; None if that says nothing, as the engine itself is not well."""
        try:
            await replica.engine.probe(name, self._settings.probe_timeout_s)
        except EngineDown:
            replica.suspect()
            return None
        except EngineRefused as refused:
            # The base is asked after it: an engine that began to fail in between must not speak against the version.
            if refused.status == _NOT_FOUND or not await replica.base_answers():
                return None
            log.warning("%s fails on engine %s: %s", name, replica.id, refused.reason)
            return False
        return True

    @contextlib.asynccontextmanager
    async def everywhere(self, versions: Iterable[Version], pool: str, deadline: float) -> AsyncIterator[list[Replica]]:
        """Hold versions resident, and proven, on all their healthy home replicas for the block.

        Raises:
            EngineUnavailable: no home answers, and none came back in time.
            VersionNotServable: one of them refuses a version.
        """
        wanted = list(versions)
        async with contextlib.AsyncExitStack() as stack:
            held: list[Replica] = []
            for version in wanted:
                found = await self.healthy_homes(version, pool, deadline)
                ready = [self._hold(stack, replica, version, deadline) for replica in found]
                outcomes = await asyncio.gather(*ready, return_exceptions=True)
                _require_success(outcomes)
                held += found
            yield held

    async def _hold(
        self, stack: contextlib.AsyncExitStack, replica: Replica, version: Version, deadline: float
    ) -> None:
        stack.enter_context(await _leased(replica, version, deadline, lasting=True))

    async def healthy_homes(self, version: Version, pool: str, deadline: float) -> list[Replica]:
        """The home replicas of a version that answer; if none does, another replica that does.

        Raises:
            EngineUnavailable, DeadlineExceeded: none answers, and none came back in time.
        """
        need = Need(pool, version.engine_name, version.engine_name)
        await self._picked(need, deadline)  # waits until at least one answers
        snapshot = self.snapshot()
        at_home = home_ids(snapshot, pool, version.engine_name)
        found = [one.id for one in snapshot.replicas if one.id in at_home and one.answering]
        return [self._replicas[each] for each in found] or [await self._picked(need, deadline)]

    # Following the replicas

    async def run(self) -> None:
        """Watch the replicas, and those that come and go by DNS, for ever."""
        try:
            for base, engines in listed(tuple(self._pools.values())).items():
                self._arrange(self._pools[base], engines)
            while True:
                for pool in self._pools.values():
                    if pool.engine_dns and (engines_now := await look_up(pool)) is not None:
                        self._arrange(pool, engines_now)
                await asyncio.sleep(_LOOK_UP_EVERY_S)
        finally:
            for watch in self._watches.values():
                watch.cancel()
            await asyncio.gather(*self._watches.values(), return_exceptions=True)
            for replica in self._replicas.values():
                replica.engine.close()

    def _arrange(self, pool: PoolSettings, engines: Mapping[str, str]) -> None:
        """Have these replicas in a pool, and no others."""
        own = {replica.id for replica in self._replicas.values() if replica.pool == pool.base}
        for gone in own - engines.keys():
            log.info("engine %s is gone", gone)
            self._watches.pop(gone).cancel()
            self._replicas.pop(gone).engine.close()  # requests that it still serves end on it
            self._metrics.forget_replica(gone)
        for new in sorted(engines.keys() - own):
            self._replicas[new] = self._replica(new, pool, self._make_engine(engines[new], pool.base))
            self._watches[new] = asyncio.create_task(self._replicas[new].watch(self._settings.poll_s))

    def _replica(self, id: str, pool: PoolSettings, engine: Engine) -> Replica:
        settings = self._settings
        loader = Loader(
            id,
            engine,
            self._make_manager(engine, pool),
            Prover(settings.probe_tolerance, settings.probe_min_difference),
            timeout_s=settings.probe_timeout_s,
            on_proven=self._metrics.proofs.labels(id).observe,
            on_down=lambda: replica.fails(),  # noqa: PLW0108 - it is made later
        )
        residency = Residency(
            id,
            loader,
            self._directory,
            self._metrics,
            self.heat,
            slots=pool.engine_slots,
            may_load=self.breakers.allows,
            may_unload=self._may_unload,
            on_loaded=self._works,
            on_broke=self._broke,
            on_trouble=lambda: replica.suspect(in_doubt=True),
        )
        longest = min(settings.breaker_longest_s, _LONGEST_REPLICA_PAUSE_S)
        replica = Replica(
            engine,
            residency,
            self._directory,
            self._metrics,
            breaker=Breaker(1, settings.breaker_pause_s, longest),
            at_home=self._at_home,
            at_rest=self.at_rest,
            on_change=self._changed,
            on_stats=self._saw_stats,
            probe_timeout_s=settings.probe_timeout_s,
            idle_s=settings.idle_unload_s,
        )
        return replica

    def _works(self, name: str) -> None:
        del self._breaks[name]
        self.breakers.succeeded(name)

    def _broke(self, name: str) -> None:
        """An engine may be at fault for one load that it did not survive, but not two; nor a version that serves."""
        self._breaks[name] += 1
        if self._breaks[name] >= _BREAKS_OF_A_VERSION and name not in self.resident:
            self.breakers.failed(name, certain=True, least_s=_PAUSE_AFTER_BREAKS_S)

    def _at_home(self, id: str) -> list[Version]:
        """The deployed versions that a replica is home to, hottest first."""
        replica = self._replicas.get(id)
        if replica is None:
            return []
        snapshot, catalog = self.snapshot(), self._directory.catalog
        found = []
        for name in self._directory.deployed:
            version = catalog.version(name)
            if version is None or catalog.adapters[version.adapter].base != replica.pool:
                continue
            if id in home_ids(snapshot, replica.pool, name):
                found.append(version)
        return sorted(found, key=lambda version: (-self.heat.of(version.engine_name), version.engine_name))

    def _changed(self) -> None:
        """Have who waits for a replica look again."""
        self._news.set()
        self._news = asyncio.Event()

    def _breaker(self) -> Breaker:
        settings = self._settings
        return Breaker(settings.breaker_failures, settings.breaker_pause_s, settings.breaker_longest_s)

    def _tell_of_breaker(self, name: str, state: State) -> None:
        is_open = state == "open"
        pinned = parse_pinned(name)
        if pinned is not None:
            self._metrics.version_breaker.labels(pinned.adapter, str(pinned.number)).set(is_open)
        log.log(logging.WARNING if is_open else logging.INFO, "%s %s", name, "fails" if is_open else "serves again")


async def _leased(replica: Replica, version: Version | None, deadline: float, *, lasting: bool = False) -> Lease:
    """A lease of a replica; an error says which one refused the version, or went away."""
    try:
        return await replica.lease(version, deadline, lasting=lasting)
    except (VersionNotServable, EngineUnavailable) as error:
        error.replica = error.replica or replica.id
        raise


def _require_success(outcomes: Sequence[BaseException | None]) -> None:
    """One refusal fails all; that a replica went away meanwhile only matters if none is left."""
    failures = [outcome for outcome in outcomes if outcome is not None]
    outages = [failure for failure in failures if isinstance(failure, EngineUnavailable)]
    for failure in failures:
        if failure not in outages:
            raise failure
    if outages and len(outages) == len(outcomes):
        raise outages[0]
