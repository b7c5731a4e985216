"""How many requests may be at the engines at once, and who is next.

Those above the bound wait in a queue that is bounded, too. Adapters take turns in it, so that one whose clients send
much does not hold up another that sends little.
"""

import asyncio
import contextlib
import time
from collections import OrderedDict, deque
from collections.abc import Callable

from gateway.errors import DeadlineExceeded, Overloaded
from monitors.metrics import Metrics

_RETRY_AFTER_S = 1.0


class Admission:
    """Hands out the places.

    Args:
        places: requests that may run at once.
        queue: requests that may wait.
        wait_s: the longest wait.
        on_pressure: called whenever a request has to wait, so that what can wait gives way.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        places: int,
        queue: int,
        wait_s: float,
        on_pressure: Callable[[], None] = lambda: None,
    ) -> None:
        self._metrics = metrics
        self._free = places
        self._queue = queue
        self._wait_s = wait_s
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self.queued = 0
        self.on_pressure = on_pressure

    @property
    def is_full(self) -> bool:
        """Whether the next request would have to wait."""
        return self._free <= 0

    def take_free(self) -> bool:
        """Take a place if one is free; it is to be given back."""
        if self._free <= 0:
            return False
        self._free -= 1
        return True

    async def take(self, group: str, deadline: float) -> float:
        """Take a place, which is to be given back; the seconds waited for it.

        Args:
            group: whose turn it takes: the adapter's name.
            deadline: on `time.monotonic`'s clock.

        Raises:
            Overloaded: the queue is full, or the wait was too long.
            DeadlineExceeded: the request's own time is over.
        """
        return 0.0 if self.take_free() else await self._queued(group, deadline)

    def give_back(self) -> None:
        """Give a place to the next group's first; else keep it free."""
        while self._waiting:
            group, turns = self._waiting.popitem(last=False)
            turn = turns.popleft()
            if turns:
                self._waiting[group] = turns  # at the end: the other groups come first
            self._count(-1)
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    async def _queued(self, group: str, deadline: float) -> float:
        if self.queued >= self._queue:
            self._metrics.rejected.labels("queue_full").inc()
            raise Overloaded("too many requests are waiting already", retry_after_s=_RETRY_AFTER_S)
        began = time.monotonic()
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(group, deque()).append(turn)
        self._count(+1)
        self.on_pressure()
        try:
            async with asyncio.timeout(max(0.0, min(self._wait_s, deadline - began))):
                await turn
        except BaseException as error:
            # The turn may have come in the very moment in which the wait ended.
            if turn.done() and not turn.cancelled():
                self.give_back()
            else:
                self._leave(group, turn)
            if not isinstance(error, TimeoutError):
                raise
            raise self._too_late(deadline) from None
        return time.monotonic() - began

    def _too_late(self, deadline: float) -> Overloaded | DeadlineExceeded:
        if time.monotonic() >= deadline:
            return DeadlineExceeded("the request's deadline passed while it waited for its turn")
        self._metrics.rejected.labels("queue_timeout").inc()
        return Overloaded("the request waited too long for its turn", retry_after_s=_RETRY_AFTER_S)

    def _leave(self, group: str, turn: asyncio.Future[None]) -> None:
        turns = self._waiting.get(group, deque())
        with contextlib.suppress(ValueError):
            turns.remove(turn)
            self._count(-1)
        if not turns:
            self._waiting.pop(group, None)

    def _count(self, change: int) -> None:
        self.queued += change
        self._metrics.requests_queued.set(self.queued)


class RetryBudget:
    """How many requests may be sent again: a share of all, beyond a small reserve (a token bucket).

    So a burst that follows one replica's end is sent again, and a lasting fault does not double the load.
    """

    def __init__(self, ratio: float, reserve: float = 100.0) -> None:
        self._ratio = ratio
        self._reserve = self._left = reserve if ratio else 0.0  # without a ratio there are no retries

    def earn(self) -> None:
        """A request came."""
        self._left = min(self._reserve, self._left + self._ratio)

    def spend(self) -> bool:
        """Whether one may be sent again."""
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
