"""Counts in this process's memory: for a gateway of one process, and for one that has lost its Redis."""

import time
from collections import Counter, deque
from collections.abc import Callable

from limits.aio.storage import MovingWindowSupport, Storage

from gateway.limits.counts import Counts, Ticket

SWEEP_PAUSE_S = 60.0


class MemorySlots:
    """The places of the requests that run at once; the process that holds them gives them back or ends with them."""

    def __init__(self) -> None:
        self._taken: Counter[str] = Counter()

    async def take(self, ticket: Ticket, limit: int) -> bool:
        """Take a place unless `limit` are taken."""
        if self._taken[ticket.key_id] >= limit:
            return False
        self._taken[ticket.key_id] += 1
        return True

    async def free(self, ticket: Ticket) -> None:
        """Give a place back."""
        self._taken[ticket.key_id] -= 1
        if not self._taken[ticket.key_id]:
            del self._taken[ticket.key_id]


class MemoryStorage(Storage, MovingWindowSupport):
    """A storage for the `limits` library that never waits.

    The library's own one looks through all keys after each request, with a change of thread for each of them.
    """

    STORAGE_SCHEME = None

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        super().__init__()
        self._now = now
        self._entries: dict[str, deque[float]] = {}  # by key, the oldest first
        self._sums: dict[str, tuple[int, float]] = {}  # by key: how many, and until when they count
        self._sweep_at = 0.0

    @property
    def base_exceptions(self) -> type[Exception]:
        """What it may fail with."""
        return ValueError

    async def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Add to the sum of a fixed window, which begins with its first addition."""
        self._sweep()
        had, until = self._sum(key) or (0, self._now() + expiry)
        self._sums[key] = had + amount, until
        return had + amount

    async def get(self, key: str) -> int:
        """The sum of a fixed window."""
        found = self._sum(key)
        return found[0] if found else 0

    async def get_expiry(self, key: str) -> float:
        """When a fixed window ends, seconds since the epoch."""
        found = self._sum(key)
        return found[1] if found else self._now()

    async def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Add to a moving window unless it would be more than `limit`."""
        self._sweep()
        entries = self._current(key, expiry)
        if len(entries) + amount > limit:
            return False
        entries.extend([self._now()] * amount)
        self._entries[key] = entries
        return True

    async def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:  # noqa: ARG002 - theirs
        """The time of the oldest entry of a moving window, and how many there are."""
        entries = self._current(key, expiry)
        return (entries[0], len(entries)) if entries else (self._now(), 0)

    async def check(self) -> bool:
        """Memory is always there."""
        return True

    async def reset(self) -> int:
        """Forget all counts; how many there were."""
        found = len(self._entries) + len(self._sums)
        self._entries.clear()
        self._sums.clear()
        return found

    async def clear(self, key: str) -> None:
        """Forget one count."""
        self._entries.pop(key, None)
        self._sums.pop(key, None)

    def _sum(self, key: str) -> tuple[int, float] | None:
        found = self._sums.get(key)
        return found if found and found[1] > self._now() else None

    def _current(self, key: str, expiry: int) -> deque[float]:
        entries = self._entries.get(key) or deque()
        oldest = self._now() - expiry
        while entries and entries[0] <= oldest:
            entries.popleft()
        return entries

    def _sweep(self) -> None:
        """Forget, now and then, the keys of which nothing counts any more: all windows are a minute long."""
        now = self._now()
        if now < self._sweep_at:
            return
        self._sweep_at = now + SWEEP_PAUSE_S
        self._sums = {key: found for key, found in self._sums.items() if found[1] > now}
        self._entries = {key: found for key, found in self._entries.items() if found and found[-1] > now - 60}


def in_memory(now: Callable[[], float] = time.time) -> Counts:
    """Counts that begin and end with this process; `now` gives seconds since the epoch."""
    return Counts(MemoryStorage(now), MemorySlots(), now)
