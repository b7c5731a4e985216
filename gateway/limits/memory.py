"""Counts in this process's memory: for a gateway of one process, and for one that has lost its Redis."""

import time
from collections import deque
from collections.abc import Callable

from gateway.limits.counts import MINUTE_S, Limit, Standing, Ticket, Window
from registry.catalog import KeyLimits

SWEEP_PAUSE_S = 60.0


class MemoryCounts:
    """Counts that begin and end with this process, and that no request ever waits for.

    Args:
        now: seconds since any moment.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._used: dict[str, _Used] = {}
        self._sweep_at = 0.0

    def admit(self, ticket: Ticket) -> Standing:
        """Count the request, or refuse it; a refused one has used nothing of any limit."""
        now, limits = self._now(), ticket.limits
        used = self._used_by(ticket.key_id, now)
        refused = used.refusal(limits)
        if refused is None:
            if limits.concurrent_requests is not None:
                used.running += 1
            if limits.requests_per_minute is not None:
                used.requests.append(now)
        return Standing(refused, used.request_window(limits, now), used.token_window(limits, now))

    def release(self, ticket: Ticket, tokens: int) -> None:
        """Give the place of a request that was let in back, and count its tokens."""
        self.free(ticket)
        self.count(ticket, tokens)

    def free(self, ticket: Ticket) -> None:
        """Give the place of a request that was let in back, if it has one."""
        if ticket.limits.concurrent_requests is not None:
            self._used[ticket.key_id].running -= 1

    def count(self, ticket: Ticket, tokens: int) -> None:
        """Count tokens that were used."""
        if ticket.limits.tokens_per_minute is not None and tokens > 0:
            now = self._now()
            used = self._used_by(ticket.key_id, now)
            if not used.tokens:
                used.tokens_until = now + MINUTE_S
            used.tokens += tokens

    def _used_by(self, key_id: str, now: float) -> "_Used":
        """What the key uses as of now."""
        if now >= self._sweep_at:
            self._sweep(now)
        used = self._used.get(key_id)
        if used is None:
            used = self._used[key_id] = _Used()
        else:
            used.forget(now)
        return used

    def _sweep(self, now: float) -> None:
        """Forget, now and then, the keys of which nothing counts any more."""
        self._sweep_at = now + SWEEP_PAUSE_S
        self._used = {key_id: used for key_id, used in self._used.items() if not used.is_idle(now)}


class _Used:
    """What one key uses.

    Attributes:
        running: its requests that hold a place.
        requests: when those of the last minute came, the oldest first.
        tokens: those of the present window.
        tokens_until: when that window ends, if there are any.
    """

    __slots__ = ("requests", "running", "tokens", "tokens_until")

    def __init__(self) -> None:
        self.running = 0
        self.requests: deque[float] = deque()
        self.tokens = 0
        self.tokens_until = 0.0

    def forget(self, now: float) -> None:
        """Leave out what no longer counts."""
        requests, oldest = self.requests, now - MINUTE_S
        while requests and requests[0] <= oldest:
            requests.popleft()
        if self.tokens_until <= now:
            self.tokens = 0

    def is_idle(self, now: float) -> bool:
        """Whether nothing of it counts any more."""
        self.forget(now)
        return not (self.running or self.requests or self.tokens)

    def refusal(self, limits: KeyLimits) -> Limit | None:
        """The limit that is used up, if one is."""
        if limits.concurrent_requests is not None and self.running >= limits.concurrent_requests:
            return Limit.CONCURRENT
        if limits.requests_per_minute is not None and len(self.requests) >= limits.requests_per_minute:
            return Limit.REQUESTS
        if limits.tokens_per_minute is not None and self.tokens >= limits.tokens_per_minute:
            return Limit.TOKENS
        return None

    def request_window(self, limits: KeyLimits, now: float) -> Window | None:
        """How the limit of requests stands."""
        limit = limits.requests_per_minute
        if limit is None:
            return None
        requests = self.requests
        return Window(limit, limit - len(requests), requests[0] + MINUTE_S - now if requests else 0.0)

    def token_window(self, limits: KeyLimits, now: float) -> Window | None:
        """How the limit of tokens stands."""
        limit = limits.tokens_per_minute
        if limit is None:
            return None
        return Window(limit, limit - self.tokens, self.tokens_until - now if self.tokens else 0.0)
