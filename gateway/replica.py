"""One engine and what is loaded in it: versions come in when they are needed and leave when nobody needs them.

A version is used under a `Lease`. What is leased is never unloaded, so a request that began on a version ends on it.
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Literal

from gateway.directory import Directory
from gateway.engine import Engine, EngineDown, EngineRefused
from gateway.errors import DeadlineExceeded, EngineUnavailable, VersionNotServable
from monitors.metrics import Metrics
from registry.artifacts import ArtifactStore
from registry.catalog import Version
from registry.errors import StoreFailure

log = logging.getLogger(__name__)

State = Literal["down", "loading", "ready"]
_RETRY_AFTER_S = 5.0
_FAILURES_UNTIL_DOWN = 3
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0


@dataclass(frozen=True, slots=True)
class Setback:
    """Why a version could not be loaded, and when to try again; times are on `time.monotonic`'s clock, in seconds."""

    reason: str
    pause_s: float
    until: float

    @classmethod
    def after(cls, earlier: "Setback | None", reason: str) -> "Setback":
        """The next one: each pause is twice the one before."""
        pause = min(earlier.pause_s * 2, _LONGEST_PAUSE_S) if earlier else _FIRST_PAUSE_S
        return cls(reason, pause, time.monotonic() + pause)

    def is_over(self) -> bool:
        """Whether it may be tried again."""
        return time.monotonic() >= self.until


class Replica:
    """One engine, its state and its resident versions.

    Args:
        id: the replica's name in lists and metrics.
        slots: how many versions to keep loaded. Deployed versions beyond that are loaded all the same; the engine
            then pages them itself.
        probe_timeout_s: the longest a load or a probe may take.
        wait_s: how long a request waits for an engine that is down.
    """

    def __init__(
        self,
        id: str,
        engine: Engine,
        store: ArtifactStore,
        directory: Directory,
        metrics: Metrics,
        *,
        slots: int,
        probe_timeout_s: float,
        wait_s: float,
    ) -> None:
        self.id = id
        self.engine = engine
        self.state: State = "down"
        self.problem: str | None = "the engine has not answered yet"
        self._store = store
        self._directory = directory
        self._metrics = metrics
        self._slots = slots
        self._probe_timeout_s = probe_timeout_s
        self._wait_s = wait_s
        self._resident: dict[str, float] = {}
        """Loaded and probed engine names, with when each was last used."""
        self._leases: Counter[str] = Counter()
        """Requests per engine name. Apart from residency, as a lease outlives the engine's forgetting."""
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._unloading: dict[str, asyncio.Task[None]] = {}
        self._setbacks: dict[str, Setback] = {}
        self._answering = asyncio.Event()
        self._wake = asyncio.Event()
        self._failures = 0
        self._told: str | None = None

    @property
    def resident(self) -> list[str]:
        """The engine names that are loaded and probed."""
        return sorted(self._resident)

    @property
    def in_flight(self) -> int:
        """Requests that hold a version here."""
        return self._leases.total()

    # Use

    @contextlib.asynccontextmanager
    async def lease(self, version: Version | None, deadline: float) -> AsyncIterator[None]:
        """Hold `version` resident for the block, loading it first if need be.

        Args:
            version: what to hold; None for the base model.
            deadline: on `time.monotonic`'s clock.

        Raises:
            EngineUnavailable: the engine is down and did not come back in time.
            VersionNotServable: the engine refuses the version, or it failed its probe.
        """
        await self._until_answering(deadline)
        if version is None:
            yield
            return
        name = version.engine_name
        self._leases[name] += 1  # before it is looked for, so that it cannot be unloaded in between
        try:
            while name not in self._resident:
                await self._until_loaded(version, deadline)
            yield
        finally:
            self._leases[name] -= 1
            if self._leases[name] == 0:
                del self._leases[name]
            if name in self._resident:
                self._resident[name] = time.monotonic()

    async def _until_answering(self, deadline: float) -> None:
        if self._answering.is_set():
            return
        left = deadline - time.monotonic()
        try:
            await asyncio.wait_for(self._answering.wait(), min(self._wait_s, left))
        except TimeoutError:
            kind = DeadlineExceeded if left <= self._wait_s else EngineUnavailable
            raise kind("the engine is not available now; it may be starting", retry_after_s=_RETRY_AFTER_S) from None

    async def _until_loaded(self, version: Version, deadline: float) -> None:
        """Join the load that is under way, or begin one; the load goes on if this waiter leaves."""
        task = self._loading.get(version.engine_name)
        if task is None:
            task = asyncio.create_task(self._load(version))
            self._loading[version.engine_name] = task
            task.add_done_callback(lambda done: self._loaded(version.engine_name, done))
        done, _ = await asyncio.wait({task}, timeout=max(0.0, deadline - time.monotonic()))
        if not done:
            raise DeadlineExceeded(f"{version.engine_name} was still being loaded", retry_after_s=_RETRY_AFTER_S)
        try:
            task.result()
        except EngineDown:
            self.suspect()
            raise EngineUnavailable(
                f"the engine went away while it loaded {version.engine_name}", retry_after_s=_RETRY_AFTER_S
            ) from None

    def _loaded(self, name: str, task: asyncio.Task[None]) -> None:
        self._loading.pop(name, None)
        if not task.cancelled() and task.exception() is not None:
            log.debug("%s was not loaded", name)  # who waited was told; asyncio need not say it again

    async def _load(self, version: Version) -> None:
        name = version.engine_name
        began = time.monotonic()
        if name in self._unloading:
            await asyncio.wait({self._unloading[name]})
        await self._make_room()
        try:
            folder = await asyncio.to_thread(self._store.fetch, version.digest)
            await self._load_into_engine(name, str(folder))
            await self.engine.probe(name, self._probe_timeout_s)
        except StoreFailure as failure:
            raise VersionNotServable(f"{name} cannot be loaded: {failure.message}") from failure
        except EngineRefused as refused:
            with contextlib.suppress(EngineDown, EngineRefused):
                await self.engine.unload(name)
            raise VersionNotServable(f"the engine refused {name}: {refused.reason}") from refused
        took = time.monotonic() - began
        self._metrics.loads.labels(self.id).observe(took)
        log.info("loaded %s in %.0f ms", name, took * 1000)
        self._resident[name] = time.monotonic()
        self._metrics.resident.labels(self.id).set(len(self._resident))

    async def _load_into_engine(self, name: str, folder: str) -> None:
        """Load; a name that the engine has already is right if it has it from the same content."""
        try:
            await self.engine.load(name, folder, self._probe_timeout_s)
        except EngineRefused:
            if (await self.engine.models()).get(name) != folder:
                raise

    # Making room

    async def _make_room(self) -> None:
        """Unload the least recently used versions that no deployment and no request needs, until what loads fits."""
        while len(self._resident) + len(self._unloading) + len(self._loading) > self._slots:
            victim = self._victim()
            if victim is None:
                return
            await self._unload(victim)

    def _victim(self) -> str | None:
        idle = [name for name in self._resident if not self._leases[name] and name not in self._directory.deployed]
        return min(idle, key=lambda name: (name in self._directory.warm, self._resident[name]), default=None)

    async def _unload(self, name: str) -> None:
        self._forget(name)
        task = asyncio.create_task(self.engine.unload(name))
        self._unloading[name] = task
        task.add_done_callback(lambda _: self._unloading.pop(name, None))
        await asyncio.wait({task})
        if task.exception() is None:
            log.info("unloaded %s", name)
        else:
            self.suspect()

    def _forget(self, name: str) -> None:
        self._resident.pop(name, None)
        self._metrics.resident.labels(self.id).set(len(self._resident))

    # Watching

    def suspect(self) -> None:
        """Look at the engine now rather than at the next turn; something went wrong with it."""
        self._wake.set()

    async def has_lost(self, version: Version) -> bool:
        """Whether the engine lacks a version that we believed it to have, as after a restart; it is loaded again then.

        Raises:
            EngineDown, EngineRefused
        """
        if version.engine_name in await self.engine.models():
            return False
        self._forget(version.engine_name)
        self.suspect()
        return True

    def refused_connection(self) -> None:
        """Nothing listens there any more."""
        self._set_down("the engine does not accept connections")
        self.suspect()

    async def watch(self, pause_s: float) -> None:
        """Follow the engine for ever: notice when it goes and, when it is back, give it its versions."""
        while True:
            self._wake.clear()
            try:
                await self._look()
                self._failures = 0
            except (EngineDown, EngineRefused, EngineUnavailable) as error:
                self._fail(error)
            except Exception:
                log.exception("looking at engine %s failed", self.id)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause_s)

    def _fail(self, error: Exception) -> None:
        self._failures += 1
        # A busy engine may miss one look; one that nobody listens for is gone.
        if self._failures >= _FAILURES_UNTIL_DOWN or (isinstance(error, EngineDown) and not error.sent):
            self._set_down(error.reason if isinstance(error, EngineRefused) else "the engine does not answer")

    def _set_down(self, problem: str) -> None:
        if problem != self._told:
            log.warning("engine %s is down: %s", self.id, problem)
            self._told = problem
        self.state, self.problem = "down", problem
        self._answering.clear()
        self._resident.clear()
        self._setbacks.clear()
        self._metrics.engine_ready.labels(self.id).set(0)
        self._metrics.resident.labels(self.id).set(0)

    async def _look(self) -> None:
        believed = set(self._resident)
        loaded = await self.engine.models()
        for name in believed - loaded.keys() - self._unloading.keys():
            log.warning("engine %s has lost %s", self.id, name)
            self._forget(name)
        if not self._answering.is_set():
            await self._welcome(loaded)
            await self._bring_in(self._known(loaded))
        refused = await self._bring_in(self._deployed_versions())
        if refused:
            self.state, self.problem = "loading", "; ".join(refused)
        else:
            self._set_ready()
        await self._bring_in(self._warm_versions())

    def _set_ready(self) -> None:
        if self.state != "ready":
            log.info("engine %s is ready, versions loaded: %d", self.id, len(self._resident))
        self.state, self.problem, self._told = "ready", None, None
        self._metrics.engine_ready.labels(self.id).set(1)

    async def _welcome(self, loaded: dict[str, str]) -> None:
        """An engine that just came up: let the base answer, which also warms it."""
        self.state, self.problem = "loading", "the engine is being warmed up"
        if self.engine.base not in loaded:
            known = ", ".join(sorted(name for name in loaded if "@" not in name))
            raise EngineRefused(404, f"the engine serves {known}, not {self.engine.base}")
        await self.engine.probe(self.engine.base, self._probe_timeout_s)
        self.problem = "the deployed versions are being loaded"
        self._answering.set()

    async def _bring_in(self, versions: Iterable[Version]) -> list[str]:
        """Load what is missing; why some could not be, in words. One that is refused is tried again ever later."""
        refused = []
        for version in versions:
            name = version.engine_name
            if name in self._resident:
                continue
            setback = self._setbacks.get(name)
            if setback is None or setback.is_over():
                try:
                    await self._until_loaded(version, time.monotonic() + 2 * self._probe_timeout_s)
                    self._setbacks.pop(name, None)
                    continue
                except VersionNotServable as error:
                    log.error("%s", error.message)
                    setback = self._setbacks[name] = Setback.after(setback, error.message)
            refused.append(setback.reason)
        return refused

    def _known(self, loaded: Iterable[str]) -> list[Version]:
        """The versions among what an engine has loaded already, as it has when the gateway is what restarted."""
        found = (self._directory.catalog.version(name) for name in loaded)
        return [version for version in found if version is not None]

    def _deployed_versions(self) -> list[Version]:
        adapters = self._directory.catalog.adapters.values()
        return [adapter.stable for adapter in adapters if adapter.base == self.engine.base and adapter.stable]

    def _warm_versions(self) -> list[Version]:
        """What a rollback would need, as far as there is room."""
        room = self._slots - len(self._resident)
        found = []
        for adapter in self._directory.catalog.adapters.values():
            if adapter.base == self.engine.base and adapter.deployment:
                found += [adapter.versions[number] for number in sorted(adapter.deployment.warm)]
        return [version for version in found if version.engine_name not in self._resident][: max(0, room)]
