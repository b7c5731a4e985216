"""The gateway's picture of the registry, in memory: requests are served from it, never from the database."""

import logging

from sqlalchemy.exc import SQLAlchemyError

from monitors.metrics import Metrics
from registry.catalog import Catalog
from registry.notifications import ChangeSignal
from registry.outages import problem_of
from registry.registry import Changed, Registry

log = logging.getLogger(__name__)


class Directory:
    """Holds the newest catalog, and follows changes that others make.

    Attributes:
        deployed: engine names that some deployment sends requests to.
        warm: those that a rollback would need next.
        reachable: whether the database answered last.
    """

    def __init__(self, registry: Registry, metrics: Metrics) -> None:
        self._registry = registry
        self._metrics = metrics
        self.catalog = Catalog(change=-1)
        self.deployed: frozenset[str] = frozenset()
        self.warm: frozenset[str] = frozenset()
        self.reachable = False
        self._archived: set[tuple[str, int]] = set()

    async def refresh(self) -> None:
        """Read everything again; an older picture never replaces a newer one."""
        catalog = await self._registry.catalog()
        if catalog.change > self.catalog.change:
            self._show(catalog)
            self._forget_archived(catalog)

    async def apply(self, changed: Changed) -> None:
        """Serve a change that this gateway just made.

        Only the one deployment is touched when nothing else changed in between, so that a flip reads nothing again.
        """
        current = self.catalog
        if changed.alone and changed.change == current.change + 1 and changed.adapter in current.adapters:
            self._show(current.with_deployment(changed.adapter, changed.deployment, changed.change))
        else:
            await self.refresh()

    async def follow(self, signal: ChangeSignal, pause_s: float) -> None:
        """Look for changes by others, for ever. While the database is away, the last picture serves."""
        while True:
            try:
                if await self._registry.change_number() > self.catalog.change:
                    await self.refresh()
                self._reached(reachable=True)
            except (SQLAlchemyError, OSError, TimeoutError) as error:
                if self.reachable:
                    log.error("%s (%s); serving from memory", problem_of(error), type(error).__name__)
                self._reached(reachable=False)
            except Exception:
                log.exception("the registry could not be read; the last picture serves")
            await signal.wait(pause_s)

    def _reached(self, *, reachable: bool) -> None:
        if reachable and not self.reachable:
            log.info("the database answers")
        self.reachable = reachable
        self._metrics.database_reachable.set(reachable)

    def _forget_archived(self, catalog: Catalog) -> None:
        """Versions that are out of service need no metrics, or these would grow for ever."""
        versions = (version for adapter in catalog.adapters.values() for version in adapter.versions.values())
        archived = {(version.adapter, version.number) for version in versions if version.archived}
        for adapter, number in archived - self._archived:
            self._metrics.forget_version(adapter, number)
        self._archived = archived

    def _show(self, catalog: Catalog) -> None:
        deployed: set[str] = set()
        warm: set[str] = set()
        for adapter in catalog.adapters.values():
            if adapter.deployment is None:
                continue
            deployed.update(adapter.versions[number].engine_name for number in adapter.deployment.versions)
            warm.update(adapter.versions[number].engine_name for number in adapter.deployment.warm)
        self.deployed, self.warm = frozenset(deployed), frozenset(warm - deployed)
        self.catalog = catalog
        self._metrics.show_deployments(catalog.adapters.values())
