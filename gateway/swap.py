"""Hot swap: a version is made resident and probed, then one transaction makes it live, then the pointer flips."""

import asyncio
import time
from collections import defaultdict

from gateway.directory import Directory
from gateway.replica import Replica
from monitors.metrics import Metrics
from registry.catalog import Adapter, Version
from registry.errors import NotFound
from registry.registry import Changed, Registry


class Swapper:
    """Changes what an adapter's name serves.

    Args:
        patience_s: how long a change may wait for the engine.
    """

    def __init__(
        self, registry: Registry, directory: Directory, replica: Replica, metrics: Metrics, *, patience_s: float
    ) -> None:
        self._registry = registry
        self._directory = directory
        self._replica = replica
        self._metrics = metrics
        self._patience_s = patience_s
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def promote(self, name: str, number: int, *, actor: str, reason: str) -> Adapter:
        """Serve version `number` from the moment that this returns.

        Raises:
            NotFound: no such adapter or version.
            VersionNotServable, EngineUnavailable: the engine cannot serve it; the deployment is as it was.
        """
        began = time.monotonic()
        async with self._lock(name):
            version = await self._version(name, number)
            async with self._replica.lease(version, began + self._patience_s):
                changed = await self._registry.promote(name, number, actor=actor, reason=reason)
                return await self._flip("promote", changed, began)

    async def rollback(self, name: str, *, to: int | None, actor: str, reason: str) -> Adapter:
        """Serve what revision `to` served, or else what was served before the present state.

        Raises:
            NotFound: no such adapter or revision.
            NothingToRollBack: nothing came before.
            VersionNotServable, EngineUnavailable: the engine cannot serve it; the deployment is as it was.
        """
        began = time.monotonic()
        async with self._lock(name):
            version = await self._version(name, await self._registry.rollback_version(name, to=to))
            async with self._replica.lease(version, began + self._patience_s):
                changed = await self._registry.rollback(
                    name, to=to, expected=version.number, actor=actor, reason=reason
                )
                return await self._flip("rollback", changed, began)

    def _lock(self, name: str) -> asyncio.Lock:
        """One change of an adapter at a time, so that what was made ready is what goes live."""
        if name not in self._directory.catalog.adapters and name not in self._locks:
            return asyncio.Lock()  # not kept, so that unknown names cannot pile up
        return self._locks[name]

    async def _version(self, name: str, number: int) -> Version:
        adapter = self._directory.catalog.adapters.get(name)
        if adapter is None or number not in adapter.versions:
            await self._directory.refresh()
            adapter = self._directory.catalog.adapters.get(name)
        if adapter is None:
            raise NotFound(f"there is no adapter {name!r}", param="name")
        if number not in adapter.versions:
            raise NotFound(f"adapter {name!r} has no version {number}", param="version")
        return adapter.versions[number]

    async def _flip(self, action: str, changed: Changed, began: float) -> Adapter:
        await self._directory.apply(changed)
        self._metrics.flips.labels(action).observe(time.monotonic() - began)
        return self._directory.catalog.adapters[changed.adapter]
