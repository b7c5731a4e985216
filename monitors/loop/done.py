"""What the loop has done so far, from its decisions: those that something followed from, which are not all."""

from collections import Counter
from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from monitors.decisions import ACTS, WOULD, StoredDecision
from monitors.loop.followed import followed
from monitors.loop.verdicts import CHANGING
from monitors.tally import NewDecisions

_FOLLOWED = frozenset({*CHANGING, "retrain"})
"""Acts that a revision or a job follows from; the others change only what the loop keeps, or pause it."""
_STILL = timedelta(hours=1)
"""How long something may still follow from a decision that is not being carried out any more."""


class DoneSoFar:
    """Counts it; what was counted once is not read again.

    Attributes:
        counts: how often each act was done, by adapter and act.
        decided_at: when the newest decision of the loop was made, by adapter.
    """

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.decided_at: dict[str, datetime] = {}
        self._new = NewDecisions()
        self._open: dict[int, StoredDecision] = {}

    async def look(self, connection: AsyncConnection, pending: Collection[int], now: datetime) -> None:
        """Count what is new; `pending` are the ids of decisions that are being carried out."""
        async for page in self._new.pages(connection):
            for row in page:
                self._take(row)
            await self._count(connection)
            for number, decision in [*self._open.items()]:
                if number not in pending and decision.created_at < now - _STILL:
                    del self._open[number]

    def _take(self, row: Row[Any]) -> None:
        if row.kind != "loop":
            return
        self.decided_at[row.adapter] = max(row.created_at, self.decided_at.get(row.adapter, row.created_at))
        if row.act not in ACTS or row.outcome.startswith(WOULD):
            return
        if row.act in _FOLLOWED:
            inputs = {"act": row.act, "cycle": row.cycle or 0}
            self._open[row.id] = StoredDecision(
                row.adapter, 0, row.kind, row.outcome, "", "", inputs, row.id, row.created_at
            )
        else:
            self.counts[row.adapter, row.act] += 1

    async def _count(self, connection: AsyncConnection) -> None:
        for number in await followed(connection, [*self._open.values()]):
            decision = self._open.pop(number)
            self.counts[decision.adapter, decision.inputs["act"]] += 1
