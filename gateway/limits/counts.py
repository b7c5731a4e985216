"""How much of its limits a key has used: requests and tokens per minute, and concurrent requests, in one storage."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from limits import RateLimitItemPerMinute
from limits.aio.storage import Storage
from limits.aio.strategies import FixedWindowRateLimiter, MovingWindowRateLimiter

from registry.catalog import KeyLimits


class Limit(StrEnum):
    """The limits that are counted here, in the words of a message to the client."""

    CONCURRENT = "concurrent requests"
    REQUESTS = "requests per minute"
    TOKENS = "tokens per minute"


@dataclass(frozen=True, slots=True)
class Ticket:
    """A request that asks to be let in.

    `holder` is unlike any other request's on any gateway; `lease_s` is how long it may run at most.
    """

    key_id: str
    limits: KeyLimits
    holder: str
    lease_s: float


@dataclass(frozen=True, slots=True)
class Window:
    """How one limit per minute stands; `reset_s` is when the oldest that counts will no longer."""

    limit: int
    remaining: int
    reset_s: float


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether a request was let in (`refused` is None), and how the limits stand that its key has."""

    refused: Limit | None
    requests: Window | None
    tokens: Window | None


class Slots(Protocol):
    """The places of the requests that run at once, by key."""

    async def take(self, ticket: Ticket, limit: int) -> bool:
        """Take a place for the ticket's holder unless `limit` are taken. A place is free again after its lease."""
        ...

    async def free(self, ticket: Ticket) -> None:
        """Give the holder's place back, if it has one."""
        ...


class Counter(Protocol):
    """What counts requests in and out."""

    async def admit(self, ticket: Ticket) -> Standing:
        """Count the request, or refuse it; a refused one has used nothing of any limit."""
        ...

    async def release(self, ticket: Ticket, tokens: int) -> None:
        """Give the place of a request that was let in back, and count its tokens."""
        ...


class Counts:
    """Counts in a storage of the `limits` library, and in slots beside it.

    Requests are counted in a moving window, exactly. Tokens are known only after the answer, so their count must be
    able to go past the limit, which a moving window's cannot: they are counted in a fixed window of a minute that
    begins with its first tokens. A key with tokens left may thus go past its limit by what is in flight, and at the
    turn of a window it may use up to two limits within a minute.
    """

    def __init__(self, storage: Storage, slots: Slots, now: Callable[[], float] = time.time) -> None:
        self._slots = slots
        self._requests = MovingWindowRateLimiter(storage)
        self._tokens = FixedWindowRateLimiter(storage)
        self._now = now

    async def admit(self, ticket: Ticket) -> Standing:
        """Count the request, or refuse it; a refused one has used nothing of any limit."""
        concurrent = ticket.limits.concurrent_requests
        if concurrent is not None and not await self._slots.take(ticket, concurrent):
            return Standing(Limit.CONCURRENT, await self._request_window(ticket), await self._token_window(ticket))
        tokens = await self._token_window(ticket)
        spent = tokens is not None and tokens.remaining <= 0
        admitted = not spent and await self._hit(ticket)
        requests = await self._request_window(ticket)
        if admitted:
            return Standing(None, requests, tokens)
        await self.free(ticket)
        if spent and (requests is None or requests.remaining > 0):
            return Standing(Limit.TOKENS, requests, tokens)
        return Standing(Limit.REQUESTS, requests, tokens)

    async def release(self, ticket: Ticket, tokens: int) -> None:
        """Give the place of a request that was let in back, and count its tokens."""
        await self.free(ticket)
        await self.count(ticket, tokens)

    async def free(self, ticket: Ticket) -> None:
        """Give the request's place back, if it has one."""
        if ticket.limits.concurrent_requests is not None:
            await self._slots.free(ticket)

    async def count(self, ticket: Ticket, tokens: int) -> None:
        """Count tokens that were used."""
        limit = ticket.limits.tokens_per_minute
        if limit is not None and tokens > 0:
            await self._tokens.hit(_item(limit, "tokens"), ticket.key_id, cost=tokens)

    async def _hit(self, ticket: Ticket) -> bool:
        limit = ticket.limits.requests_per_minute
        return limit is None or await self._requests.hit(_item(limit, "requests"), ticket.key_id)

    async def _request_window(self, ticket: Ticket) -> Window | None:
        limit = ticket.limits.requests_per_minute
        if limit is None:
            return None
        reset, remaining = await self._requests.get_window_stats(_item(limit, "requests"), ticket.key_id)
        return self._window(limit, remaining, reset)

    async def _token_window(self, ticket: Ticket) -> Window | None:
        limit = ticket.limits.tokens_per_minute
        if limit is None:
            return None
        reset, remaining = await self._tokens.get_window_stats(_item(limit, "tokens"), ticket.key_id)
        return self._window(limit, remaining, reset)

    def _window(self, limit: int, remaining: int, reset: float) -> Window:
        # Where nothing counts yet there is nothing to reset.
        return Window(limit, remaining, max(0.0, reset - self._now()) if remaining < limit else 0.0)


def _item(limit: int, kind: str) -> RateLimitItemPerMinute:
    return RateLimitItemPerMinute(limit, namespace=kind)
