"""Loads and unloads versions in the agent's engine, which is asked each time what it has."""

import asyncio
import functools
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from agent.cache import Cache, digest_of
from agent.engine import Engine
from agent.errors import AgentError, DiskFailure, EngineRefused, InvalidRequest, OtherContent
from agent.metrics import AgentMetrics
from registry.errors import StoreFailure
from registry.names import parse_pinned
from registry.probes import LARGEST_FILE, PROBES_FILE

log = logging.getLogger(__name__)


class RegisteredVersion(msgspec.Struct, frozen=True):
    """A name that the engine knows; `digest` is None if what it was loaded from does not say it."""

    engine_name: str
    digest: str | None


@dataclass(frozen=True, slots=True)
class _Load:
    digest: str
    task: asyncio.Task[bool]


class Loader:
    """Has the engine know versions. One name has one load or unload at a time, which all who ask for it share."""

    def __init__(self, engine: Engine, cache: Cache, metrics: AgentMetrics) -> None:
        self._engine = engine
        self._cache = cache
        self._metrics = metrics
        self._loads: dict[str, _Load] = {}
        self._unloads: dict[str, asyncio.Task[None]] = {}

    async def versions(self) -> list[RegisteredVersion]:
        """What the engine knows beside its base model.

        Raises:
            EngineDown, EngineRefused
        """
        adapters = await self._engine.adapters()
        return [RegisteredVersion(name, digest_of(root)) for name, root in adapters.items()]

    async def fetch(self, digest: str) -> bytes | None:
        """Have a version's files in the cache: the content of its `probes.json`, if it has one, a little over the most.

        Raises:
            StoreFailure, VersionTooLarge, CacheFull, DiskFailure, EngineDown, EngineRefused, Stopping
        """
        async with self._cache.hold(digest) as folder:
            return await asyncio.to_thread(_probes_in, folder)

    async def load(self, name: str, digest: str) -> bool:
        """Fetch a version and have the engine load it; whether that was new.

        It goes on if who asked for it leaves; who asks again joins it.

        Raises:
            InvalidRequest: the name is no engine name, or not one of this content.
            OtherContent: the engine has, or is loading, the name with other content.
            StoreFailure, VersionTooLarge, CacheFull, DiskFailure, EngineDown, EngineRefused, Stopping
        """
        _require_agreement(name, digest)
        while unload := self._unloads.get(name):  # what the engine has now it will not have then
            await asyncio.wait({unload})
        load = self._loads.get(name)
        if load is not None:
            if load.digest != digest:
                raise OtherContent(f"{name} is just being loaded with other content")
            await asyncio.shield(load.task)
            return False
        task = asyncio.create_task(self._measured(name, digest))
        self._loads[name] = _Load(digest, task)
        task.add_done_callback(functools.partial(self._loaded, name))
        return await asyncio.shield(task)

    async def unload(self, name: str) -> None:
        """Have the engine forget a name, after a load of it that is under way; not having it is fine.

        Raises:
            EngineDown, EngineRefused
        """
        task = self._unloads.get(name)
        if task is None:
            task = self._unloads[name] = asyncio.create_task(self._unload(name))
            task.add_done_callback(functools.partial(self._unloaded, name))
        await asyncio.shield(task)

    async def _unload(self, name: str) -> None:
        if load := self._loads.get(name):
            await asyncio.wait({load.task})
        await self._engine.unload(name)
        self._metrics.unloads.inc()
        log.info("unloaded %s", name)

    def _unloaded(self, name: str, task: asyncio.Task[None]) -> None:
        del self._unloads[name]
        if not task.cancelled() and task.exception() is not None:
            log.debug("%s was not unloaded", name)  # who waited was told; asyncio need not say it again

    def _loaded(self, name: str, task: asyncio.Task[bool]) -> None:
        del self._loads[name]
        if not task.cancelled() and task.exception() is not None:
            log.debug("%s was not loaded", name)  # who waited was told; asyncio need not say it again

    async def close(self) -> None:
        """End what is under way."""
        tasks: list[asyncio.Task[Any]] = [*(load.task for load in self._loads.values()), *self._unloads.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _measured(self, name: str, digest: str) -> bool:
        began = time.monotonic()
        try:
            is_new = await self._load(name, digest)
        except (AgentError, StoreFailure) as error:
            self._metrics.loads.labels(error.code).inc()
            log.warning("%s was not loaded: %s", name, error.message)
            raise
        self._metrics.loads.labels("loaded" if is_new else "there_already").inc()
        if is_new:
            took = time.monotonic() - began
            self._metrics.load_seconds.observe(took)
            log.info("loaded %s in %.0f ms", name, took * 1000)
        return is_new

    async def _load(self, name: str, digest: str) -> bool:
        if await self._has(name, digest):
            return False
        async with self._cache.hold(digest) as folder:
            try:
                await self._engine.load(name, str(folder))
            except EngineRefused:
                if await self._has(name, digest):  # who loads beside the agent was first
                    return False
                raise
        return True

    async def _has(self, name: str, digest: str) -> bool:
        """Whether the engine knows the name; raises OtherContent if it knows it as something else."""
        root = (await self._engine.adapters()).get(name)
        if root is None:
            return False
        if digest_of(root) != digest:
            raise OtherContent(f"the engine has {name} with other content; unload it first")
        return True


def _probes_in(folder: Path) -> bytes | None:
    try:
        with (folder / PROBES_FILE).open("rb") as file:
            return file.read(LARGEST_FILE + 1)  # gateways refuse what is over it
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DiskFailure("the agent's cache could not be read") from error


def _require_agreement(name: str, digest: str) -> None:
    pinned = parse_pinned(name)
    if pinned is None or pinned.digest_prefix is None:
        raise InvalidRequest("the engine name must be like support@7-1f3a9c2e")
    if not digest.startswith(pinned.digest_prefix):
        raise InvalidRequest(f"{name} does not stand for a content whose digest begins with {digest[:8]}")
