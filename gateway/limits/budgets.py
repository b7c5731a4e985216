"""What each API key has spent this month: the database's sums, and on top what this gateway has spent since."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime

from monitors.record import RequestRecord

log = logging.getLogger(__name__)

Spending = Mapping[str, float]
Month = tuple[datetime, datetime]
"""When it begins and when the next one does, UTC."""


def utc_now() -> datetime:
    """The time in UTC, by whose calendar the months go."""
    return datetime.now(UTC)


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
        now: the time in UTC.
    """

    def __init__(self, read: Callable[[], Awaitable[Spending]], now: Callable[[], datetime] = utc_now) -> None:
        self._read = read
        self._now = now
        self._month = _month_of(self._now())
        self._stored: Spending = {}
        # Sums since the month or this gateway began: all of it, as of the last read, and as of the one before.
        self._added: dict[str, float] = {}
        self._at_read: Spending = {}
        self._written: Spending = {}

    def __call__(self, record: RequestRecord) -> None:
        """Count what a finished request has cost, unless it began last month: the database has it there."""
        if record.key_id is not None and record.cost:
            self._turn_month()
            if record.started_at >= self._month[0].timestamp():
                self.add(record.key_id, record.cost)

    def add(self, key_id: str, cost: float) -> None:
        """Count what this gateway has just spent for a key."""
        self._turn_month()
        self._added[key_id] = self._added.get(key_id, 0.0) + cost

    def spent(self, key_id: str) -> float:
        """What the key has spent this month, as far as it is known here."""
        self._turn_month()
        return self._stored.get(key_id, 0.0) + self._added.get(key_id, 0.0) - self._written.get(key_id, 0.0)

    def renewed_at(self) -> datetime:
        """When the next month begins."""
        self._turn_month()
        return self._month[1]

    def renewed_in_s(self) -> float:
        """How long it takes until the next month begins, seconds."""
        return (self.renewed_at() - self._now()).total_seconds()

    async def refresh(self) -> None:
        """Read what the database has. If that fails nothing changes, and the error is the caller's."""
        self._turn_month()
        month, added = self._month, self._added.copy()
        stored = await self._read()
        self._turn_month()
        # What was read for a month that is over says nothing of the new one.
        if month == self._month:
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

    def _turn_month(self) -> None:
        begins, ends = self._month
        now = self._now()
        if not begins <= now < ends:
            self._month, self._stored = _month_of(now), {}
            self._added, self._at_read, self._written = {}, {}, {}


def _month_of(moment: datetime) -> Month:
    year, month = moment.year, moment.month
    return datetime(year, month, 1, tzinfo=UTC), datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)
