"""What is loaded in one engine: versions come in when they are needed and leave when nobody needs them.

What is held is never unloaded, so a request that began on a version ends on it. A version counts as resident only once
it is loaded and has proven that it acts.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping

from gateway.directory import Directory
from gateway.engines.eviction import Loaded, coldest, misplaced
from gateway.engines.failures import EngineDown, EngineRefused
from gateway.engines.heat import Heat
from gateway.engines.loading import Loader, crowded
from gateway.engines.proof import Proof
from gateway.engines.setbacks import Setbacks
from gateway.errors import DeadlineExceeded, EngineBroke, EngineCrowded, EngineUnavailable, VersionNotServable
from monitors.metrics import Metrics
from registry.catalog import Version

log = logging.getLogger(__name__)

_RETRY_AFTER_S = 5.0


class Residency:
    """The versions of one engine.

    Args:
        id: the replica's name in logs and metrics.
        loader: how they come in.
        slots: how many versions to keep loaded.
        may_load: whether an engine name may be loaded though no request waits for it; asking is a try.
        may_unload: whether this gateway is the one that makes room.
        on_loaded: hears of each version that was loaded and proven.
        on_broke: hears of each version with whose load the engine went away.
        on_trouble: called when the engine seems to be in trouble.
    """

    def __init__(
        self,
        id: str,
        loader: Loader,
        directory: Directory,
        metrics: Metrics,
        heat: Heat,
        *,
        slots: int,
        may_load: Callable[[str], bool],
        may_unload: Callable[[], bool],
        on_loaded: Callable[[str], None],
        on_broke: Callable[[str], None],
        on_trouble: Callable[[], None],
    ) -> None:
        self.id = id
        self.slots = slots
        self.resident: frozenset[str] = frozenset()
        self.loading: frozenset[str] = frozenset()
        self.manager = loader.manager
        self._loader = loader
        self._base = loader.engine.base
        self._directory = directory
        self._metrics = metrics
        self._heat = heat
        self._may_load = may_load
        self._may_unload = may_unload
        self._on_loaded = on_loaded
        self._on_broke = on_broke
        self._on_trouble = on_trouble
        self._used: dict[str, float] = {}
        """The resident engine names, with when each was last used."""
        self._holds: dict[str, int] = {}
        """Requests per engine name. Apart from residency, as a request outlives the engine's forgetting."""
        self._loads: dict[str, asyncio.Task[None]] = {}
        self._unloads: dict[str, asyncio.Task[bool]] = {}
        self._others: dict[str, float] = {}
        """Names that the engine has, but that this gateway has not seen proven, with when each was first seen."""
        self._left: dict[str, float] = {}
        self._kept = Setbacks()
        """What was not unloaded when it should have been."""
        self._setbacks = Setbacks()
        """What was not loaded."""
        self._clears = 0

    @property
    def held(self) -> int:
        """Requests that hold a version here."""
        return sum(self._holds.values())

    @property
    def count(self) -> int:
        """Versions in the engine and those that come; what goes is not waited for, or too much would go."""
        return len((self._used.keys() | self._others.keys()) - self._unloads.keys() | self._loads.keys())

    @property
    def is_loading(self) -> bool:
        """Whether something comes or goes."""
        return bool(self._loads or self._unloads)

    @property
    def may_tidy(self) -> bool:
        """Whether this gateway is the one that tidies up and makes room."""
        return self._may_unload()

    # Use

    def hold_resident(self, name: str) -> bool:
        """Hold what is resident under an engine name, if anything is; it is to be let go."""
        if name not in self._used:
            return False
        self._holds[name] = self._holds.get(name, 0) + 1
        return True

    async def hold(self, version: Version, deadline: float, *, lasting: bool = False) -> None:
        """Keep `version` resident until it is let go, loading it first if need be.

        Args:
            version: what to keep.
            deadline: on `time.monotonic`'s clock.
            lasting: whether what serves on while it is being unloaded does not count, as it may leave meanwhile.

        Raises:
            EngineUnavailable: the engine went away meanwhile, or other gateways kept unloading the version.
            VersionNotServable: the engine refuses the version, it failed its proof, or it has just broken the engine.
        """
        name = version.engine_name
        # Before it is looked for, so that it cannot be unloaded in between.
        self._holds[name] = self._holds.get(name, 0) + 1
        try:
            while name not in self._used or (lasting and name in self._unloads):
                if self._setbacks.forbids(name):
                    raise VersionNotServable(self._setbacks.reason(name))
                await self._until_loaded(version, deadline)
        except BaseException:
            self.let_go(name)
            raise

    def let_go(self, name: str) -> None:
        """End one hold of that engine name."""
        self._holds[name] -= 1
        if self._holds[name] == 0:
            del self._holds[name]
        if name in self._used:
            self._used[name] = time.monotonic()

    async def prove(self, version: Version) -> Proof:
        """Have a resident version prove anew that it acts.

        Raises:
            EngineDown, EngineRefused, StoreFailure, InvalidAdapter
            TimeoutError: its probes did not come in time.
        """
        return await self._loader.prove(version)

    async def bring_in(self, versions: Iterable[Version]) -> list[str]:
        """Load what is missing; why some could not be, in words. One that is refused is tried again ever later."""
        refused = []
        for version in versions:
            name = version.engine_name
            if name in self._used:
                continue
            # In this order, as each that allows a try may do so only once.
            if not self._setbacks.rests(name) and self._may_load(name) and self._setbacks.allows(name):
                try:
                    await self._until_loaded(version, time.monotonic() + 2 * self._loader.timeout_s)
                    continue
                except (VersionNotServable, DeadlineExceeded, EngineCrowded) as error:
                    self._setbacks.note(name, error.message)
            known = name in self._setbacks
            refused.append(self._setbacks.reason(name) if known else f"{name} fails, and is left alone for a while")
        return refused

    def engine_answers(self) -> None:
        """The engine is well, or is again."""
        self._setbacks.engine_answers()

    # What the engine says

    def saw(self, loaded: Mapping[str, str], had: frozenset[str], asked_at: float) -> None:
        """Take note of the engine's list: what it lost of what it `had` when it was asked, and what others loaded."""
        for name in (self._used.keys() & had) - loaded.keys() - self._unloads.keys():
            log.warning("engine %s has lost %s", self.id, name)
            self.forget(name)
        now = time.monotonic()
        # What was unloaded since the engine was asked may still stand in its answer.
        self._left = {name: left_at for name, left_at in self._left.items() if left_at >= asked_at}
        self._kept.forget_all_but(loaded)
        others = loaded.keys() - self._used.keys() - self._unloads.keys() - self._left.keys() - {self._base}
        self._others = {name: self._others.get(name, now) for name in others}

    def forget(self, name: str) -> None:
        """The engine does not have it any more."""
        self._used.pop(name, None)
        self._kept.forget(name)
        self._changed()

    def clear(self) -> None:
        """The engine is gone, and all that was in it."""
        self._used.clear()
        self._others.clear()
        self._kept = Setbacks()
        self._clears += 1
        self._setbacks.engine_is_new()
        self._loader.forget()
        self._changed()

    async def tidy(self, loaded: Mapping[str, str], *, idle_s: float) -> None:
        """Unload what should not be there.

        That is: names that the registry does not know, or knows as other content; versions that nothing refers to any
        more and nobody used for `idle_s`; and what is over the slots.
        """
        for name, path in loaded.items():
            free = name != self._base and self._may_go(name)
            why = misplaced(name, path, self._idle(), self._directory, idle_s) if free else None
            if why and not await self._unload(name, why):
                return  # the next turn goes on with the others
        await self._make_room()

    def _may_go(self, name: str) -> bool:
        """Whether it is held by no request, neither comes nor goes, and was not tried to be unloaded just now."""
        moves = name in self._loads or name in self._unloads
        return not moves and name not in self._holds and not self._kept.rests(name)

    def _idle(self) -> Loaded:
        """What may go."""
        used_at = {name: since for name, since in (self._others | self._used).items() if self._may_go(name)}
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
        if not done and name in self._loader.crossed:
            raise crowded(name)
        if not done:
            raise DeadlineExceeded(f"{name} was still being loaded", retry_after_s=_RETRY_AFTER_S)
        try:
            task.result()
        except EngineDown as down:
            kind = EngineBroke if down.sent else EngineUnavailable
            raise kind(_went_away(name), retry_after_s=_RETRY_AFTER_S) from None

    def _loaded(self, name: str, task: asyncio.Task[None]) -> None:
        self._loads.pop(name, None)
        self._changed()
        error = None if task.cancelled() else task.exception()  # asked for, so that asyncio need not tell it again
        if isinstance(error, EngineDown):
            self._on_trouble()
        if isinstance(error, EngineDown) and error.sent:
            self._setbacks.broke(name, _went_away(name))
            self._on_broke(name)

    async def _load(self, version: Version) -> None:
        name = version.engine_name
        began = time.monotonic()
        if name in self._unloads:
            await asyncio.wait({self._unloads[name]})
        if name in self._used:  # it was not to be unloaded
            return
        try:
            await self._loader.load(version, lambda: self._make_room_for(name))
        except VersionNotServable:
            self._setbacks.survived(name)
            raise
        took = time.monotonic() - began
        self._metrics.loads.labels(self.id).observe(took)
        log.info("engine %s loaded %s in %.0f ms", self.id, name, took * 1000)
        self._used[name] = time.monotonic()
        self._others.pop(name, None)
        self._setbacks.forget(name)
        self._changed()
        self._on_loaded(name)

    # Making room

    async def _make_room_for(self, name: str) -> None:
        if name not in self._others:
            await self._make_room()

    async def _make_room(self) -> None:
        """Unload the least used versions that no request holds, until the slots suffice.

        It ends at one that cannot be unloaded, which others would wait behind; the next time it is passed over.
        """
        while self.count > self.slots and self._may_unload():
            here = self._used.keys() | self._others.keys()
            victim = coldest(self._idle(), self._directory, here, self.slots)
            if victim is None or not await self._unload(victim, "room"):
                return

    async def _unload(self, name: str, reason: str) -> bool:
        """Have the engine forget a name; whether it did. Requests that it has for it already are answered all the same.

        What is not unloaded stays what it was. While there is such a thing, all serve on that are tried: it may take
        long, and be in vain.
        """
        serves_on, clears = bool(self._kept), self._clears
        used_at, seen_at = self._used.get(name), self._others.get(name)
        if not serves_on:
            self._drop(name)
        task = asyncio.create_task(self._unloaded(name, reason))
        self._unloads[name] = task

        def end(task: asyncio.Task[bool]) -> None:
            del self._unloads[name]
            if task.cancelled():
                return
            if task.result():
                self._drop(name)
            elif not serves_on and clears == self._clears:
                self._used |= {} if used_at is None else {name: used_at}
                self._others |= {} if seen_at is None else {name: seen_at}
                self._changed()

        task.add_done_callback(end)
        await asyncio.wait({task})
        return task.result()

    async def _unloaded(self, name: str, reason: str) -> bool:
        try:
            await self.manager.unload(name)
        except EngineRefused as refused:
            log.log(logging.DEBUG if name in self._kept else logging.WARNING, "%s keeps %s: %s", self.id, name, refused)
            self._kept.note(name, refused.reason)
            return False
        except EngineDown:
            self._on_trouble()
        else:
            self._metrics.unloads.labels(self.id, reason).inc()
            log.info("engine %s unloaded %s (%s)", self.id, name, reason)
        self._kept.forget(name)
        self._left[name] = time.monotonic()
        return True

    def _drop(self, name: str) -> None:
        self._used.pop(name, None)
        self._others.pop(name, None)
        self._changed()

    def _changed(self) -> None:
        self.resident = frozenset(self._used)
        self.loading = frozenset(self._loads) | frozenset(self._others)
        self._metrics.resident.labels(self.id).set(len(self._used))


def _went_away(name: str) -> str:
    return f"the engine went away while it loaded {name}"
