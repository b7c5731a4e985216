"""What the controller asks of whoever reads for it; `monitors.loop.reading` is the one there is."""

from datetime import datetime
from typing import Any, Protocol

from sqlalchemy.ext.asyncio import AsyncConnection

from monitors.loop.seen import Labels, Seen
from monitors.loop.store import Kept
from registry.catalog import Adapter, Catalog


class Looked(Protocol):
    """What was read: see `monitors.loop.reading`."""

    @property
    def seen(self) -> Seen:
        """What a decision is made from."""
        ...

    @property
    def tests(self) -> dict[str, Any]:
        """The rollout's tests, with what is new."""
        ...

    @property
    def cursors(self) -> dict[str, Any]:
        """How far they have read."""
        ...


class Looks(Protocol):
    """Who reads it; only `see` is part of the transaction of the decision, and only `survey` may take long."""

    async def changed(self, catalog: Catalog, now: datetime, /) -> set[str]:
        """The adapters about which anything is new since the last call."""
        ...

    async def survey(self, adapter: Adapter, kept: Kept, now: datetime, /) -> Labels | None:
        """The labels that there are; None where no decision would ask for them."""
        ...

    async def see(
        self, connection: AsyncConnection, adapter: Adapter, kept: Kept, now: datetime, /, *, labels: Labels | None
    ) -> Looked:
        """Everything that a decision about the adapter is made from."""
        ...
