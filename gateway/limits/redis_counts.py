"""Counts that several gateways share in Redis."""

import time

from limits import RateLimitItemPerMinute
from limits.aio.storage import RedisStorage
from limits.aio.strategies import FixedWindowRateLimiter, MovingWindowRateLimiter
from redis.asyncio import Redis

from gateway.limits.counts import Limit, Standing, Ticket, Window

PREFIX = "ostler"

# A sorted set per key: its members hold a place each, the score is when it is free again, by Redis's own clock.
_TAKE = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if redis.call('ZSCORE', KEYS[1], ARGV[1]) then
    return 1
end
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[2]) then
    return 0
end
redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[1])
local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')
redis.call('EXPIREAT', KEYS[1], math.ceil(last[2]) + 1)
return 1
"""


class RedisCounts:
    """Counts per minute in Redis by the `limits` library, and beside them the places of the requests that run at once.

    A place is free again after its lease, so a gateway that died holds none for long. What Redis fails with is raised.
    """

    def __init__(self, client: Redis) -> None:
        storage = RedisStorage(
            "redis://",
            implementation="redispy",
            key_prefix=PREFIX,
            connection_pool=client.connection_pool,  # type: ignore[arg-type]  # as its documentation has it
        )
        self._requests = MovingWindowRateLimiter(storage)
        self._tokens = FixedWindowRateLimiter(storage)
        self._client = client
        self._take_place = client.register_script(_TAKE)

    async def admit(self, ticket: Ticket) -> Standing:
        """Count the request, or refuse it; a refused one has used nothing of any limit."""
        concurrent = ticket.limits.concurrent_requests
        if concurrent is not None and not await self._take(ticket, concurrent):
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
        limit = ticket.limits.tokens_per_minute
        if limit is not None and tokens > 0:
            await self._tokens.hit(_item(limit, "tokens"), ticket.key_id, cost=tokens)

    async def free(self, ticket: Ticket) -> None:
        """Give the request's place back, if it has one."""
        if ticket.limits.concurrent_requests is not None:
            await self._client.zrem(_places_of(ticket), ticket.holder)

    async def _take(self, ticket: Ticket, limit: int) -> bool:
        """Take a place for the ticket's holder unless `limit` are taken."""
        return bool(await self._take_place(keys=[_places_of(ticket)], args=[ticket.holder, limit, ticket.lease_s]))

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
        return Window(limit, remaining, max(0.0, reset - time.time()) if remaining < limit else 0.0)


def _item(limit: int, kind: str) -> RateLimitItemPerMinute:
    return RateLimitItemPerMinute(limit, namespace=kind)


def _places_of(ticket: Ticket) -> str:
    return f"{PREFIX}:slots/{ticket.key_id}"
