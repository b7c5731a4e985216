"""One engine among several: whether it answers, how busy it is, and what the others may know of it."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

from gateway.directory import Directory
from gateway.engines.breaker import Breaker
from gateway.engines.breaker import State as BreakerState
from gateway.engines.engine import Engine, EngineStats
from gateway.engines.failures import EngineDown, EngineRefused, EngineStopping
from gateway.engines.managing import Manager
from gateway.engines.picking import Seen
from gateway.engines.residency import Residency
from gateway.errors import EngineUnavailable
from monitors.metrics import Metrics
from registry.catalog import Version

log = logging.getLogger(__name__)

State = Literal["down", "loading", "ready", "asleep"]
_FAILURES_UNTIL_DOWN = 3
_RETRY_AFTER_S = 5.0
_LEAST_PAUSE_S = 0.02


@dataclass(frozen=True, slots=True)
class ReplicaReport:
    """What operators see of a replica.

    Attributes:
        url: the engine's address, for operators alone.
        in_flight: requests that this gateway has there.
        idle_s: seconds since it last had a request, as far as this gateway knows.
        running, waiting: requests in the engine, by its own count; None if it does not say.
        kv_cache_usage: share of the KV cache in use, 0 to 1.
        retry_in_s: seconds until a replica that is left alone is tried again.
        checked_at: when it last answered, seconds since the epoch; None if never.
    """

    id: str
    url: str
    pool: str
    state: State
    breaker: BreakerState
    retry_in_s: float | None
    in_flight: int
    idle_s: float
    running: int | None
    waiting: int | None
    kv_cache_usage: float | None
    resident: tuple[str, ...]
    loading: tuple[str, ...]
    problem: str | None
    checked_at: float | None


class Lease:
    """A use of a replica, on which a version stays resident meanwhile; a block, after which it is over."""

    __slots__ = ("_name", "replica")

    def __init__(self, replica: "Replica", name: str | None) -> None:
        self.replica = replica
        self._name = name

    def __enter__(self) -> "Replica":
        return self.replica

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.replica.release(self._name)


class Replica:
    """One engine, its state and its versions.

    Args:
        breaker: how long to leave it alone after it failed.
        at_home: the deployed versions that this replica is home to, hottest first.
        at_rest: whether the engine at a URL is out of service, so that somebody else can use its GPU.
        on_change: called when it begins to answer, so that who waits for a replica looks again.
        on_stats: hears how busy the engine is.
        idle_s: after how long without use a version that nothing refers to is unloaded.
    """

    def __init__(
        self,
        engine: Engine,
        residency: Residency,
        directory: Directory,
        metrics: Metrics,
        *,
        breaker: Breaker,
        at_home: Callable[[str], list[Version]],
        at_rest: Callable[[str], bool],
        on_change: Callable[[], None],
        on_stats: Callable[[EngineStats], None],
        probe_timeout_s: float,
        idle_s: float,
    ) -> None:
        self.id = residency.id
        self.pool = engine.base
        self.engine = engine
        self.residency = residency
        self.state: State = "down"
        self.problem: str | None = "the engine has not answered yet"
        self.in_flight = 0
        self.stats = EngineStats()
        self._directory = directory
        self._metrics = metrics
        self._breaker = breaker
        self._at_home = at_home
        self._at_rest = at_rest
        self._on_change = on_change
        self._on_stats = on_stats
        self._probe_timeout_s = probe_timeout_s
        self._idle_s = idle_s
        self._answering = False
        self._settled = False
        self._in_doubt = False
        self._wake = asyncio.Event()
        self._failures = 0
        self._told: str | None = None
        self._checked_at: float | None = None
        self._others_load = 0
        self._used_at = time.monotonic()
        self._drained_at = 0.0

    # What others see

    def seen(self) -> Seen:
        """This replica as the picker sees it."""
        load = self.in_flight + self._others_load
        residency = self.residency
        return Seen(self.id, self.pool, self.takes_requests, self._settled, load, residency.resident, residency.loading)

    @property
    def manager(self) -> Manager:
        """What loads and unloads in the engine, and has it sleep."""
        return self.residency.manager

    @property
    def is_settled(self) -> bool:
        """Whether it takes requests and has got its versions."""
        return self.takes_requests and self._settled

    @property
    def is_asleep(self) -> bool:
        """Whether it is out of service for somebody, and its engine is there; it will serve again by itself."""
        return self._is_at_rest and self.state != "down"

    @property
    def _is_at_rest(self) -> bool:
        return self._at_rest(self.engine.url)

    @property
    def takes_requests(self) -> bool:
        """Whether it answers, and serves nobody else meanwhile."""
        return self._answering and not self._at_rest(self.engine.url)

    @property
    def idle_s(self) -> float:
        """Seconds since it last had a request, as far as this gateway knows."""
        return 0.0 if self.in_flight else time.monotonic() - self._used_at

    def is_drained(self, since: float) -> bool:
        """Whether nobody has used the engine any more when it was last looked at, after `since` (`time.monotonic`)."""
        return self.in_flight == 0 and not self.residency.is_loading and self._drained_at > since

    def report(self) -> ReplicaReport:
        """This replica as operators see it."""
        return ReplicaReport(
            id=self.id,
            url=self.engine.url,
            pool=self.pool,
            state=self.state,
            breaker=self._breaker.state,
            retry_in_s=self._breaker.retry_in_s,
            in_flight=self.in_flight,
            idle_s=self.idle_s,
            running=self.stats.running,
            waiting=self.stats.waiting,
            kv_cache_usage=self.stats.kv_cache_usage,
            resident=tuple(sorted(self.residency.resident)),
            loading=tuple(sorted(self.residency.loading - self.residency.resident)),
            problem=self.problem,
            checked_at=self._checked_at,
        )

    # Use

    def lease_now(self, version: Version | None) -> "Lease | None":
        """As `lease`, if `version` is there and nothing must be waited for; else None."""
        if not self.takes_requests:
            return None
        if version is None:
            self.in_flight += 1
            return Lease(self, None)
        if not self.residency.hold_resident(version.engine_name):
            return None
        self.in_flight += 1
        return Lease(self, version.engine_name)

    async def lease(self, version: Version | None, deadline: float, *, lasting: bool = False) -> "Lease":
        """Hold `version` resident, loading it first if need be; None is the base model.

        `lasting` is for what is to stay beyond the lease, as `Residency.hold` says.

        Raises:
            EngineUnavailable: it is down, or went down meanwhile.
            VersionNotServable: the engine refuses the version, or it failed its proof.
        """
        if not self.takes_requests:
            raise EngineUnavailable("the engine is not available now", retry_after_s=_RETRY_AFTER_S)
        self.in_flight += 1
        if version is None:
            return Lease(self, None)
        try:
            await self.residency.hold(version, deadline, lasting=lasting)
        except BaseException:
            self.release(None)
            raise
        return Lease(self, version.engine_name)

    def release(self, name: str | None) -> None:
        """End a use; `name` is the engine name that was held for it."""
        if name is not None:
            self.residency.let_go(name)
        self.in_flight -= 1
        self._used_at = time.monotonic()

    def suspect(self, *, in_doubt: bool = False) -> None:
        """Look at the engine now rather than at the next turn; `in_doubt` has it answer as the base model, too."""
        self._in_doubt |= in_doubt
        self._wake.set()

    def has_lost(self, version: Version) -> None:
        """The engine lacks a version that we believed it to have; it is loaded again when it is needed."""
        self.residency.forget(version.engine_name)
        self.suspect()

    def refused_connection(self) -> None:
        """Nothing listens there any more."""
        self._set_down("the engine does not accept connections")
        self.suspect()

    def fails(self) -> None:
        """Not even its base model answers."""
        self._set_down("the engine does not answer")
        self.suspect(in_doubt=True)

    def is_stopping(self) -> None:
        """It takes nothing new any more, as it is about to end; what it has begun goes on."""
        self._set_down("the engine is stopping")
        self.suspect()

    async def base_answers(self) -> bool:
        """Whether the base model does. If not, whatever else fails there is the engine's fault, and it is looked at."""
        try:
            await self.engine.probe(self.pool, self._probe_timeout_s)
        except (EngineDown, EngineRefused):
            self.suspect(in_doubt=True)
            return False
        return True

    # Watching

    async def watch(self, pause_s: float) -> None:
        """Follow the engine for ever: notice when it goes and, when it is back, give it its versions."""
        while True:
            self._wake.clear()
            try:
                await self._look()
                self._failures = 0
                self._breaker.succeeded()
            except (EngineDown, EngineRefused, EngineUnavailable) as error:
                self._fail(error)
            except Exception:
                log.exception("looking at engine %s failed", self.id)
            self._show()
            await self._pause(pause_s)

    async def _pause(self, pause_s: float) -> None:
        """What is down is left alone for its breaker's pause; what is up is looked at sooner if something is amiss."""
        left_alone = self._breaker.retry_in_s
        if left_alone is not None:
            await asyncio.sleep(left_alone)
            return
        await asyncio.sleep(min(pause_s, _LEAST_PAUSE_S))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._wake.wait()

    def _fail(self, error: Exception) -> None:
        self._failures += 1
        # A busy engine may miss one look; one that nobody listens for is gone, and one that says so is about to be.
        is_gone = isinstance(error, EngineStopping) or (isinstance(error, EngineDown) and not error.sent)
        if is_gone or self._failures >= _FAILURES_UNTIL_DOWN:
            self._set_down(error.reason if isinstance(error, EngineRefused) else "the engine does not answer")
        if not self._answering:
            self._breaker.failed(certain=True)

    def _set_down(self, problem: str) -> None:
        if problem != self._told:
            log.warning("engine %s at %s is down: %s", self.id, self.engine.url, problem)
            self._told = problem
        self.state, self.problem = "down", problem
        self._answering = self._settled = False
        self._others_load = 0
        self.stats = EngineStats()
        self.residency.clear()
        self._show()

    async def _look(self) -> None:
        if self._is_at_rest:
            await self._look_at_rest()
            return
        if self.state == "asleep":
            self.residency.clear()  # what it has must prove itself anew
        had, asked_at = self.residency.resident, time.monotonic()
        loaded = await self.engine.models()
        self.residency.saw(loaded, had, asked_at)
        if not self._answering or self._in_doubt:
            await self._have_base_answer(loaded)
        await self._look_at_load()
        if not self._settled:
            await self._settle(loaded)
        refused = await self.residency.bring_in(self._missing())
        self._set_ready("; ".join(refused) or None)
        await self.residency.bring_in(self._warm())
        if self.residency.may_tidy:
            await self.residency.tidy(await self.engine.models(), idle_s=self._idle_s)

    async def _look_at_load(self) -> None:
        before = self.in_flight
        self.stats = await self.engine.stats()
        # What the engine has beyond our own requests is other gateways'.
        self._others_load = max(0, (self.stats.running or 0) + (self.stats.waiting or 0) - before)
        if self._others_load:
            self._used_at = time.monotonic()
        self._checked_at = time.time()
        self._on_stats(self.stats)

    async def _look_at_rest(self) -> None:
        """Leave the engine alone: what is asleep can neither load nor answer."""
        self.state, self.problem = "asleep", None
        self._answering = self._settled = False
        looked_at = time.monotonic()
        await self._look_at_load()
        if not self.stats.running and not self.stats.waiting:
            self._drained_at = looked_at

    async def _have_base_answer(self, loaded: Iterable[str]) -> None:
        """An engine that just came up, or that fails on requests: let the base answer, which also warms it."""
        if not self._answering:
            self.state, self.problem = "loading", "the engine is being warmed up"
        if await self._sleeps():
            log.info("engine %s is woken", self.id)
            await self.manager.wake_up(self._probe_timeout_s)
        if self.engine.base not in loaded:
            known = ", ".join(sorted(name for name in loaded if "@" not in name))
            raise EngineRefused(404, f"the engine serves {known}, not {self.engine.base}")
        doubted, self._in_doubt = self._in_doubt, False  # a doubt that comes meanwhile asks for a look of its own
        try:
            await self.engine.probe(self.engine.base, self._probe_timeout_s)
        except (EngineDown, EngineRefused):
            self._in_doubt |= doubted
            self._failures = max(self._failures, _FAILURES_UNTIL_DOWN - 1) if doubted else self._failures
            raise
        self._breaker.succeeded()
        self.residency.engine_answers()
        if not self._answering:
            self._answering = True
            self._on_change()

    async def _sleeps(self) -> bool:
        """Whether it sleeps; one of which that cannot be told is taken for awake, as it may serve all the same."""
        try:
            return bool(await self.manager.is_sleeping())
        except (EngineDown, EngineRefused):
            return False

    async def _settle(self, loaded: Iterable[str]) -> None:
        """Give an engine its versions before it gets requests for them: what it has already, then what is deployed."""
        self.state, self.problem = "loading", "the deployed versions are being loaded"
        known = (self._directory.catalog.version(name) for name in loaded)
        await self.residency.bring_in([version for version in known if version is not None])
        await self.residency.bring_in(self._missing())
        self._settled = True
        self._on_change()

    def _set_ready(self, problem: str | None) -> None:
        if self.state != "ready":
            log.info("engine %s is ready, versions loaded: %d", self.id, len(self.residency.resident))
        self.state, self.problem, self._told = "ready", problem, None

    def _missing(self) -> list[Version]:
        """The deployed versions that belong here and are not, as far as there is room."""
        resident, room = self.residency.resident, self.residency.slots - self.residency.count
        if room <= 0:
            return []
        missing = [version for version in self._at_home(self.id) if version.engine_name not in resident]
        return missing[:room]

    def _warm(self) -> list[Version]:
        """What a rollback would need, as far as there is room."""
        catalog, resident = self._directory.catalog, self.residency.resident
        room = self.residency.slots - self.residency.count
        if room <= 0:
            return []
        found = (catalog.version(name) for name in sorted(self._directory.warm - resident))
        here = [
            version for version in found if version is not None and catalog.adapters[version.adapter].base == self.pool
        ]
        return here[:room]

    def _show(self) -> None:
        metrics = self._metrics
        metrics.engine_ready.labels(self.id).set(self.state == "ready")
        metrics.replica_asleep.labels(self.id).set(self.is_asleep)
        metrics.replica_breaker.labels(self.id).set(self._breaker.state != "closed")
        metrics.replica_running.labels(self.id).set(self.stats.running or 0)
        metrics.replica_waiting.labels(self.id).set(self.stats.waiting or 0)
        metrics.replica_kv_cache.labels(self.id).set(self.stats.kv_cache_usage or 0.0)
