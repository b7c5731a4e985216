"""What is loaded in one engine: versions come in when they are needed and leave when nobody needs them.

What is held is never unloaded, so a request that began on a version ends on it. A version counts as resident only once
it is loaded and has proven that it acts.
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from gateway.directory import Directory
from gateway.engines.breaker import Breaker
from gateway.engines.engine import Engine, EngineDown, EngineRefused
from gateway.engines.eviction import Loaded, coldest, is_content, misplaced
from gateway.engines.heat import Heat
from gateway.engines.proof import Proof, Prover
from gateway.errors import DeadlineExceeded, EngineUnavailable, VersionNotServable
from monitors.metrics import Metrics
from registry.artifacts import ArtifactStore
from registry.catalog import Version
from registry.errors import InvalidAdapter, StoreFailure
from registry.probes import read_probes

log = logging.getLogger(__name__)

_RETRY_AFTER_S = 5.0
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0
_FETCHES = ThreadPoolExecutor(8, thread_name_prefix="fetch")
"""Of its own, so that a store that hangs holds up nothing else that needs a thread."""


@dataclass(frozen=True, slots=True)
class Setback:
    """Why a version could not be loaded, and when to try again."""

    reason: str
    breaker: Breaker


class Residency:
    """The versions of one engine.

    Args:
        id: the replica's name in logs and metrics.
        slots: how many versions to keep loaded.
        timeout_s: the longest a load or a proof may take.
        may_unload: whether this gateway is the one that makes room.
        on_loaded: hears of each version that was loaded and proven.
        on_trouble: called when the engine seems to be in trouble.
    """

    def __init__(
        self,
        id: str,
        engine: Engine,
        store: ArtifactStore,
        directory: Directory,
        metrics: Metrics,
        prover: Prover,
        heat: Heat,
        *,
        slots: int,
        timeout_s: float,
        may_unload: Callable[[], bool],
        on_loaded: Callable[[str], None],
        on_trouble: Callable[[], None],
    ) -> None:
        self.id = id
        self.slots = slots
        self.resident: frozenset[str] = frozenset()
        self.loading: frozenset[str] = frozenset()
        self._engine = engine
        self._store = store
        self._directory = directory
        self._metrics = metrics
        self._prover = prover
        self._heat = heat
        self._timeout_s = timeout_s
        self._may_unload = may_unload
        self._on_loaded = on_loaded
        self._on_trouble = on_trouble
        self._used: dict[str, float] = {}
        """The resident engine names, with when each was last used."""
        self._holds: Counter[str] = Counter()
        """Requests per engine name. Apart from residency, as a request outlives the engine's forgetting."""
        self._loads: dict[str, asyncio.Task[None]] = {}
        self._unloads: dict[str, asyncio.Task[None]] = {}
        self._others: dict[str, float] = {}
        """Names that the engine has, but that this gateway has not seen proven, with when each was first seen."""
        self._left: dict[str, float] = {}
        self._setbacks: dict[str, Setback] = {}

    @property
    def held(self) -> int:
        """Requests that hold a version here."""
        return self._holds.total()

    @property
    def count(self) -> int:
        """Versions in the engine and those that come; what goes is not waited for, or too much would go."""
        return len(self._used.keys() | self._others.keys() | self._loads.keys())

    @property
    def is_loading(self) -> bool:
        """Whether something comes or goes."""
        return bool(self._loads or self._unloads)

    @property
    def may_tidy(self) -> bool:
        """Whether this gateway is the one that tidies up and makes room."""
        return self._may_unload()

    # Use

    @contextlib.asynccontextmanager
    async def hold(self, version: Version, deadline: float) -> AsyncIterator[None]:
        """Keep `version` resident for the block, loading it first if need be.

        Args:
            version: what to keep.
            deadline: on `time.monotonic`'s clock.

        Raises:
            EngineUnavailable: the engine went away meanwhile.
            VersionNotServable: the engine refuses the version, or it failed its proof.
        """
        name = version.engine_name
        self._holds[name] += 1  # before it is looked for, so that it cannot be unloaded in between
        try:
            while name not in self._used:
                await self._until_loaded(version, deadline)
            self._used[name] = time.monotonic()
            yield
        finally:
            self._holds[name] -= 1
            if self._holds[name] == 0:
                del self._holds[name]
            if name in self._used:
                self._used[name] = time.monotonic()

    async def prove(self, version: Version) -> Proof:
        """Have a resident version prove anew that it acts.

        Raises:
            EngineDown, EngineRefused, StoreFailure
        """
        folder = await self._fetch(version)
        return await self._prover.prove(self._engine, version.engine_name, read_probes(folder), self._timeout_s)

    async def bring_in(self, versions: Iterable[Version]) -> list[str]:
        """Load what is missing; why some could not be, in words. One that is refused is tried again ever later."""
        refused = []
        for version in versions:
            name = version.engine_name
            if name in self._used:
                continue
            setback = self._setbacks.get(name)
            if setback is None or setback.breaker.allows():
                try:
                    await self._until_loaded(version, time.monotonic() + 2 * self._timeout_s)
                    self._setbacks.pop(name, None)
                    continue
                except (VersionNotServable, DeadlineExceeded) as error:
                    setback = self._set_back(setback, name, error.message)
            refused.append(setback.reason)
        return refused

    def _set_back(self, earlier: Setback | None, name: str, reason: str) -> Setback:
        breaker = earlier.breaker if earlier else Breaker(1, _FIRST_PAUSE_S, _LONGEST_PAUSE_S)
        breaker.failed()
        self._setbacks[name] = Setback(reason, breaker)
        return self._setbacks[name]

    # What the engine says

    def saw(self, loaded: Mapping[str, str], had: frozenset[str], asked_at: float) -> None:
        """Take note of the engine's list: what it lost of what it `had` when it was asked, and what others loaded."""
        for name in (self._used.keys() & had) - loaded.keys() - self._unloads.keys():
            log.warning("engine %s has lost %s", self.id, name)
            self.forget(name)
        now = time.monotonic()
        # What was unloaded since the engine was asked may still stand in its answer.
        self._left = {name: left_at for name, left_at in self._left.items() if left_at >= asked_at}
        others = loaded.keys() - self._used.keys() - self._unloads.keys() - self._left.keys() - {self._engine.base}
        self._others = {name: self._others.get(name, now) for name in others}

    def forget(self, name: str) -> None:
        """The engine does not have it any more."""
        self._used.pop(name, None)
        self._changed()

    def clear(self) -> None:
        """The engine is gone, and all that was in it."""
        self._used.clear()
        self._others.clear()
        self._setbacks.clear()
        self._prover.forget()
        self._changed()

    async def tidy(self, loaded: Mapping[str, str], *, idle_s: float) -> None:
        """Unload what should not be there.

        That is: names that the registry does not know, or knows as other content; versions that nothing refers to any
        more and nobody used for `idle_s`; and what is over the slots.
        """
        for name, path in loaded.items():
            free = name != self._engine.base and name not in self._loads.keys() | self._unloads.keys()
            if free and not self._holds[name] and (why := misplaced(name, path, self._idle(), self._directory, idle_s)):
                await self.unload(name, why)
        await self._make_room()

    def _idle(self) -> Loaded:
        """What no request holds, and what neither comes nor goes."""
        used_at = {
            name: since
            for name, since in (self._others | self._used).items()
            if name not in self._loads and name not in self._unloads and not self._holds[name]
        }
        return Loaded(used_at, self._others.keys() - self._used.keys(), self._heat.of, time.monotonic())

    # Loading

    async def _until_loaded(self, version: Version, deadline: float) -> None:
        """Join the load that is under way, or begin one; the load goes on if this waiter leaves."""
        name = version.engine_name
        task = self._loads.get(name)
        if task is None:
            task = asyncio.create_task(self._load(version))
            self._loads[name] = task
            task.add_done_callback(lambda done: self._loaded(name, done))
            self._changed()
        done, _ = await asyncio.wait({task}, timeout=max(0.0, deadline - time.monotonic()))
        if not done:
            raise DeadlineExceeded(f"{name} was still being loaded", retry_after_s=_RETRY_AFTER_S)
        try:
            task.result()
        except EngineDown:
            self._on_trouble()
            raise EngineUnavailable(
                f"the engine went away while it loaded {name}", retry_after_s=_RETRY_AFTER_S
            ) from None

    def _loaded(self, name: str, task: asyncio.Task[None]) -> None:
        self._loads.pop(name, None)
        self._changed()
        if not task.cancelled() and task.exception() is not None:
            log.debug("%s was not loaded", name)  # who waited was told; asyncio need not say it again

    async def _load(self, version: Version) -> None:
        name = version.engine_name
        began = time.monotonic()
        if name in self._unloads:
            await asyncio.wait({self._unloads[name]})
        if name not in self._others:
            await self._make_room()
        try:
            async with asyncio.timeout(self._timeout_s):
                folder = await self._fetch(version)
            await self._load_and_prove(version, folder)
        except (StoreFailure, InvalidAdapter) as failure:
            raise self._refusal(f"{name} cannot be loaded: {failure.message}") from failure
        except TimeoutError:
            raise self._refusal(f"{name} cannot be loaded: its files did not come in time") from None
        except EngineRefused as refused:
            raise self._refusal(f"the engine refused {name}: {refused.reason}") from refused
        took = time.monotonic() - began
        self._metrics.loads.labels(self.id).observe(took)
        log.info("engine %s loaded %s in %.0f ms", self.id, name, took * 1000)
        self._used[name] = time.monotonic()
        self._others.pop(name, None)
        self._changed()
        self._on_loaded(name)

    async def _fetch(self, version: Version) -> Path:
        return await asyncio.get_running_loop().run_in_executor(_FETCHES, self._store.fetch, version.digest)

    def _refusal(self, message: str) -> VersionNotServable:
        log.warning("engine %s: %s", self.id, message)
        return VersionNotServable(message)

    async def _load_and_prove(self, version: Version, folder: Path) -> None:
        """Load, and have it prove that it acts; what does not is unloaded, if it was loaded here.

        Raises:
            EngineDown, EngineRefused
        """
        name = version.engine_name
        for last_try in (False, True):
            loaded = await self._load_into_engine(version, str(folder))
            try:
                await self._prover.prove(self._engine, name, read_probes(folder), self._timeout_s)
                return
            except EngineRefused as refused:
                if refused.status == 404 and not last_try and name not in await self._engine.models():
                    continue  # another gateway made room in this moment
                if loaded:
                    with contextlib.suppress(EngineDown, EngineRefused):
                        await self._engine.unload(name)
                raise

    async def _load_into_engine(self, version: Version, folder: str) -> bool:
        """Load; a name that the engine has already is right if it has it from the same content. Whether it was new."""
        for last_try in (False, True):
            try:
                await self._engine.load(version.engine_name, folder, self._timeout_s)
                return True
            except EngineRefused:
                path = (await self._engine.models()).get(version.engine_name)
                if path is None:
                    if last_try:
                        raise
                    continue  # if it was there, another gateway has just made room
                if is_content(path, version):
                    return False
                raise EngineRefused(409, "it has other content under this name") from None
        raise AssertionError("unreachable")

    # Making room

    async def _make_room(self) -> None:
        """Unload the least used versions that no request holds, until the slots suffice."""
        while self.count > self.slots and self._may_unload():
            here = self._used.keys() | self._others.keys()
            victim = coldest(self._idle(), self._directory, here, self.slots)
            if victim is None:
                return
            await self.unload(victim, "room")

    async def unload(self, name: str, reason: str) -> None:
        """Have the engine forget a name. Requests that it has for it already are answered all the same."""
        self._others.pop(name, None)
        self.forget(name)
        task = asyncio.create_task(self._engine.unload(name))
        self._unloads[name] = task
        task.add_done_callback(lambda _: self._unloads.pop(name, None))
        await asyncio.wait({task})
        self._left[name] = time.monotonic()
        if task.exception() is None:
            self._metrics.unloads.labels(self.id, reason).inc()
            log.info("engine %s unloaded %s (%s)", self.id, name, reason)
        else:
            self._on_trouble()

    def _changed(self) -> None:
        self.resident = frozenset(self._used)
        self.loading = frozenset(self._loads) | frozenset(self._others)
        self._metrics.resident.labels(self.id).set(len(self._used))
