"""Counts that several gateways share in Redis."""

from redis.asyncio import Redis

from gateway.limits.counts import MINUTE_S, Limit, Standing, Ticket, Window

PREFIX = "ostler"
_REFUSALS = (None, Limit.CONCURRENT, Limit.REQUESTS, Limit.TOKENS)
"""In the order of the script's numbers."""
_NONE = ""
_MINUTE_MS = int(MINUTE_S * 1000)

# One script for a request's way in, and one for its way out: each is one answer to wait for, and none sees another's
# half. The times are Redis's own, in milliseconds, so that the gateways' clocks do not matter.
#
# KEYS: a sorted set of the holders of places, scored by when each place is free again; a list of when the requests of
# the last minute came, the newest first; the tokens of the present minute, which expire with it.
_ADMIT = f"""
local places, requests, tokens = KEYS[1], KEYS[2], KEYS[3]
local holder, lease = ARGV[1], tonumber(ARGV[2])
local most_running, most_requests, most_tokens = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local refused, held, count, oldest, used, left = 0, false, 0, false, 0, 0

if most_tokens then
    used = tonumber(redis.call('GET', tokens) or 0)
    left = math.max(0, redis.call('PTTL', tokens))
    if used >= most_tokens then refused = 3 end
end
if most_requests then
    oldest = redis.call('LINDEX', requests, -1)
    while oldest and tonumber(oldest) <= now - {_MINUTE_MS} do
        redis.call('RPOP', requests)
        oldest = redis.call('LINDEX', requests, -1)
    end
    count = redis.call('LLEN', requests)
    if count >= most_requests then refused = 2 end
end
if most_running then
    redis.call('ZREMRANGEBYSCORE', places, '-inf', now)
    held = redis.call('ZSCORE', places, holder)
    if redis.call('ZCARD', places) >= most_running then refused = 1 end
end

if held then  -- it was let in, but the answer that said so was lost
    refused = 0
elseif refused == 0 then
    if most_running then
        redis.call('ZADD', places, now + lease, holder)
        local last = redis.call('ZRANGE', places, -1, -1, 'WITHSCORES')
        redis.call('PEXPIREAT', places, last[2] + 1000)
    end
    if most_requests then
        redis.call('LPUSH', requests, now)
        redis.call('PEXPIRE', requests, {_MINUTE_MS})
        count, oldest = count + 1, oldest or now
    end
end
return {{refused, count, oldest and oldest + {_MINUTE_MS} - now or 0, used, left}}
"""
_RELEASE = f"""
redis.call('ZREM', KEYS[1], ARGV[1])
local cost = tonumber(ARGV[2])
if cost > 0 and redis.call('INCRBY', KEYS[2], cost) == cost then
    redis.call('PEXPIRE', KEYS[2], {_MINUTE_MS})
end
"""


class RedisCounts:
    """Counts the requests and tokens of a minute, and the requests that run at once.

    A place is free again after its lease, so a gateway that died holds none for long. What Redis fails with is raised.
    """

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._admit = client.register_script(_ADMIT)
        self._release = client.register_script(_RELEASE)

    async def admit(self, ticket: Ticket) -> Standing:
        """Count the request, or refuse it; a refused one has used nothing of any limit."""
        limits = ticket.limits
        most = (limits.concurrent_requests, limits.requests_per_minute, limits.tokens_per_minute)
        refused, count, reset_ms, used, left_ms = await self._admit(
            keys=[_places(ticket), _name("requests", ticket), _tokens(ticket)],
            args=[ticket.holder, int(ticket.lease_s * 1000), *(_NONE if each is None else each for each in most)],
        )
        return Standing(
            _REFUSALS[refused],
            _window(limits.requests_per_minute, count, reset_ms),
            _window(limits.tokens_per_minute, used, left_ms),
        )

    async def release(self, ticket: Ticket, tokens: int) -> None:
        """Give the place of a request that was let in back, and count its tokens."""
        cost = 0 if ticket.limits.tokens_per_minute is None else tokens
        await self._release(keys=[_places(ticket), _tokens(ticket)], args=[ticket.holder, cost])

    async def free(self, ticket: Ticket) -> None:
        """Give the request's place back, if it has one."""
        await self._client.zrem(_places(ticket), ticket.holder)


def _window(limit: int | None, used: int, reset_ms: int) -> Window | None:
    return None if limit is None else Window(limit, limit - used, reset_ms / 1000)


def _places(ticket: Ticket) -> str:
    return _name("places", ticket)


def _tokens(ticket: Ticket) -> str:
    return _name("tokens", ticket)


def _name(kind: str, ticket: Ticket) -> str:
    """What stands in braces decides where a cluster keeps it: all of a key's counts together."""
    return f"{PREFIX}:{kind}/{{{ticket.key_id}}}"
