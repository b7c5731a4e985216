"""What exists now, read whole only when it has changed."""

import asyncio

from registry.catalog import Catalog
from registry.registry import Registry


class CatalogReader:
    """One catalog for all jobs, for as long as the registry's change number stays the same."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._known: Catalog | None = None
        self._one_reads = asyncio.Lock()

    async def read(self) -> Catalog:
        """What exists now; of jobs that ask at once, one reads."""
        async with self._one_reads:
            if self._known is None or self._known.change != await self._registry.change_number():
                self._known = await self._registry.catalog()
            return self._known
