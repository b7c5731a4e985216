"""The loop's job: every adapter has its turns, beside the others, so that none waits for another's."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from monitors.loop.looks import Looks
from monitors.loop.reading import Reader
from monitors.loop.turns import Turns
from monitors.watch.catalogs import CatalogReader
from monitors.watch.errors import place_of
from monitors.watch.work import Workshop
from registry.catalog import Adapter, Catalog
from registry.registry import Registry

log = logging.getLogger(__name__)

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 2.0, 300.0


@dataclass(frozen=True, slots=True)
class _Rest:
    """Until when an adapter whose turn failed is left alone, and how long that is, seconds."""

    until: datetime
    pause_s: float


class LoopJob:
    """Decides about every adapter whose policy wants it, and carries that out.

    Args:
        looks: reads what decisions are made from.
        clock: tells the time.
    """

    name = "loop"

    def __init__(
        self, workshop: Workshop, looks: Looks | None = None, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        registry = Registry(workshop.database, workshop.store, ())
        self.every_s = workshop.settings.loop_every_s
        self._workshop = workshop
        self._clock = clock
        self._looks = looks or Reader(workshop.database, workshop.settings)
        self._catalogs = CatalogReader(registry)
        self._turns = Turns(workshop, registry, self._looks)
        self._quiet: set[str] = set()
        self._woken: set[str] = set()
        self._rests: dict[str, _Rest] = {}

    async def run(self, catalog: Catalog, now: datetime, /) -> None:
        """Give every adapter that needs one a turn; while one takes long, the others have theirs again and again."""
        running: dict[str, asyncio.Task[None]] = {}
        try:
            while True:
                for adapter in await self._due(catalog, now):
                    if adapter.name not in running:
                        self._woken.discard(adapter.name)
                        running[adapter.name] = asyncio.create_task(self._turn(adapter, now), name=adapter.name)
                if running:
                    await asyncio.wait(running.values(), timeout=self.every_s)
                for name in [name for name, task in running.items() if task.done()]:
                    running.pop(name).result()
                if not running:
                    return
                catalog, now = await self._catalogs.read(), self._clock()
        finally:
            for task in running.values():
                task.cancel()
            await asyncio.gather(*running.values(), return_exceptions=True)

    async def _due(self, catalog: Catalog, now: datetime) -> list[Adapter]:
        """The adapters that may have something to be decided or carried out; those with a canary come first."""
        changed = await self._looks.changed(catalog, now)
        self._quiet -= changed
        self._woken |= changed
        due = [each for name, each in catalog.adapters.items() if name not in self._quiet]
        due.sort(key=lambda each: (each.deployment is None or each.deployment.canary is None, each.name))
        return [adapter for adapter in due if not self._rests_until_later(adapter.name, now)]

    def _rests_until_later(self, name: str, now: datetime) -> bool:
        rest = self._rests.get(name)
        return rest is not None and now < rest.until

    async def _turn(self, adapter: Adapter, now: datetime) -> None:
        """One adapter's turn; what fails is logged, counted and tried again after a pause that grows."""
        try:
            is_quiet = await self._turns.take(adapter, now)
        except Exception as error:
            log.error("the loop's turn for %s failed; it is tried again: %s", adapter.name, place_of(error))
            self._workshop.metrics.failures.labels(self.name).inc()
            before = self._rests.get(adapter.name)
            pause = _FIRST_PAUSE_S if before is None else min(2 * before.pause_s, _LONGEST_PAUSE_S)
            self._rests[adapter.name] = _Rest(now + timedelta(seconds=pause), pause)
        else:
            self._rests.pop(adapter.name, None)
            if is_quiet and adapter.name not in self._woken:
                self._quiet.add(adapter.name)
