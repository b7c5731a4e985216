"""What each API key has spent this month: the database's sums, and on top what this gateway has spent since."""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime

from monitors.record import RequestRecord

log = logging.getLogger(__name__)

Spending = Mapping[str, float]


class Budgets:
    """The money that each key has spent in this calendar month (UTC). It is a hook for finished requests.

    The database holds the truth for all gateways, and the recorder adds to it with some delay. So what this gateway
    has spent counts on top until it has surely been written: an addition is taken for written once a read has begun
    after another successful read had begun after it.

    The error, as long as the recorder writes at least once between two reads: this gateway's own spending is never
    missed, and counted double for at most two reads' pauses. That of other gateways is known as of their last write
    before the last read. While the database is away only this gateway's own spending is known to grow, and when it is
    back, what the recorder has not caught up with after two reads is missed until it has.

    Args:
        read: gives this month's spending per key id, as the database has it.
        clock: the time in seconds since the epoch.
    """

    def __init__(self, read: Callable[[], Awaitable[Spending]], clock: Callable[[], float] = time.time) -> None:
        self._read = read
        self._clock = clock
        self._begin_month(clock())

    def _begin_month(self, now: float) -> None:
        self._begins, self._ends = _month_around(now)
        self._stored: Spending = {}
        # Sums since the month or this gateway began: all of it, as of the last read, and as of the one before.
        self._added: defaultdict[str, float] = defaultdict(float)
        self._at_read: Spending = {}
        self._written: Spending = {}

    def _turn_month(self) -> None:
        """Look at the clock alone; the calendar is asked when a month is over."""
        now = self._clock()
        if not self._begins <= now < self._ends:
            self._begin_month(now)

    def __call__(self, record: RequestRecord) -> None:
        """Count what a finished request has cost, unless it began last month: the database has it there."""
        self._turn_month()
        if record.key_id is not None and record.cost and self._begins <= record.started_at < self._ends:
            self._added[record.key_id] += record.cost

    def add(self, key_id: str, cost: float) -> None:
        """Count what this gateway has just spent for a key."""
        self._turn_month()
        self._added[key_id] += cost

    def spent(self, key_id: str) -> float:
        """What the key has spent this month, as far as it is known here."""
        self._turn_month()
        return self._stored.get(key_id, 0.0) + self._added.get(key_id, 0.0) - self._written.get(key_id, 0.0)

    def renewed_at(self) -> datetime:
        """When the next month begins."""
        self._turn_month()
        return datetime.fromtimestamp(self._ends, UTC)

    def renewed_in_s(self) -> float:
        """How long it takes until the next month begins, seconds."""
        self._turn_month()
        return self._ends - self._clock()

    async def refresh(self) -> None:
        """Read what the database has. If that fails nothing changes, and the error is the caller's."""
        self._turn_month()
        month, added = self._begins, dict(self._added)
        stored = await self._read()
        self._turn_month()
        # What was read for a month that is over says nothing of the new one.
        if month == self._begins:
            self._stored, self._written, self._at_read = stored, self._at_read, added

    async def follow(self, pause_s: float) -> None:
        """Refresh for ever. While the database is away, the last known sums stay and this gateway's own grow."""
        away = False
        while True:
            try:
                await self.refresh()
                away = False
            except Exception as error:
                if not away:
                    log.warning(
                        "what API keys have spent cannot be read (%s); the last sums stay", type(error).__name__
                    )
                away = True
            await asyncio.sleep(pause_s)


def _month_around(moment: float) -> tuple[float, float]:
    """When the calendar month (UTC) of a moment begins, and when the next one does."""
    begins = datetime.fromtimestamp(moment, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    year, month = begins.year + begins.month // 12, begins.month % 12 + 1
    return begins.timestamp(), begins.replace(year=year, month=month).timestamp()
