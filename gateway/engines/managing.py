"""How versions come into an engine and leave it: by vLLM's own paths, or by the agent beside it (`.agents`)."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gateway.engines.engine import Engine
from gateway.engines.eviction import is_content
from gateway.engines.failures import EngineDown, EngineRefused
from registry.artifacts import ArtifactStore
from registry.catalog import Version
from registry.probes import Probes, read_probes

LATE = 504
"""The status of a refusal that says that it goes on all the same."""
FETCHES = ThreadPoolExecutor(8, thread_name_prefix="fetch")
"""Of its own, so that a store that hangs holds up nothing else that needs a thread."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a gateway itself needs of a version to have it loaded and proven.

    Attributes:
        probes: those that it was stored with.
        folder: its files, where the engine reads what the gateway has fetched; None if its agent has them.
    """

    version: Version
    probes: Probes | None
    folder: Path | None = None


class Manager(Protocol):
    """Changes one engine."""

    async def fetch(self, version: Version) -> Fetched:
        """Have a version's files where the engine can load them from.

        Raises:
            StoreFailure, InvalidAdapter
            EngineDown, EngineRefused: who fetches for the engine cannot.
        """

    async def probes(self, version: Version) -> Probes | None:
        """What a version that the engine has already is to be proven by; None if it was stored with none.

        Raises:
            StoreFailure, InvalidAdapter, EngineDown, EngineRefused
        """

    async def load(self, fetched: Fetched, timeout_s: float) -> bool:
        """Have the engine know a version under its engine name; whether that was new.

        Raises:
            EngineDown
            EngineRefused: it failed, or the engine has other content under the name; or, by `is_crossed`, the engine
                had it already, and by now has it no more.
        """

    async def unload(self, name: str) -> None:
        """Have it forget a name; not having it is fine.

        Raises:
            EngineDown, EngineRefused
        """

    async def is_sleeping(self) -> bool | None:
        """Whether it has given up its GPU's memory for a while; None if it knows no sleep.

        Raises:
            EngineDown, EngineRefused
        """

    async def sleep(self, timeout_s: float) -> None:
        """Have it end what it does and give up its GPU's memory, until it is woken.

        Raises:
            EngineDown, EngineRefused
        """

    async def wake_up(self, timeout_s: float) -> None:
        """Have it serve again; one that is awake stays so.

        Raises:
            EngineDown, EngineRefused
        """


class DirectManager:
    """Tells the engine itself, which sees the artifact store's files, or the gateway's copies, under the same paths."""

    def __init__(self, engine: Engine, store: ArtifactStore) -> None:
        self._engine = engine
        self._store = store
        self.unload = engine.unload
        self.is_sleeping = engine.is_sleeping
        self.sleep = engine.sleep
        self.wake_up = engine.wake_up

    async def fetch(self, version: Version) -> Fetched:
        """Have the version's files on this machine."""
        loop = asyncio.get_running_loop()
        folder = await loop.run_in_executor(FETCHES, self._store.fetch, version.digest)
        return Fetched(version, read_probes(folder), folder)

    async def probes(self, version: Version) -> Probes | None:
        """Read them from the version's files."""
        return (await self.fetch(version)).probes

    async def load(self, fetched: Fetched, timeout_s: float) -> bool:
        """Load; a name that the engine has already is right if it has it from the same content."""
        name = fetched.version.engine_name
        try:
            await self._engine.load(name, str(fetched.folder), timeout_s)
        except EngineRefused as refused:
            try:
                path = (await self._engine.models()).get(name)
            except EngineDown:  # perhaps by this load, which must not pass for one that was never sent
                raise refused from None
            if path is None:
                raise
            if is_content(path, fetched.version):
                return False
            raise EngineRefused(409, "it has other content under this name") from None
        return True
