"""How much each API key may use: requests and tokens per minute, concurrent requests, and money per month."""

import itertools
import math
import secrets
from collections.abc import Callable

from gateway.errors import BudgetExceeded, Headers, RateLimited
from gateway.limits.budgets import Budgets
from gateway.limits.counts import Counter, Limit, Standing, Ticket, Window
from gateway.limits.memory import MemoryCounts
from gateway.limits.shared import SharedCounts
from registry.catalog import ApiKey, KeyLimits

# Nobody knows when a place comes free.
CONCURRENT_RETRY_S = 1.0
_REQUESTS, _TOKENS = (
    (b"x-ratelimit-limit-" + kind, b"x-ratelimit-remaining-" + kind, b"x-ratelimit-reset-" + kind)
    for kind in (b"requests", b"tokens")
)
_NOISE = 1e-6
"""How many milliseconds a sum of floats may be too much by; rounded up they would be a whole one."""


class Grant:
    """A request's leave to run.

    Args:
        standing: how the key's limits stand, if it has any.
    """

    __slots__ = ("_counter", "_standing", "_ticket")

    def __init__(
        self, standing: Standing | None = None, counter: Counter | None = None, ticket: Ticket | None = None
    ) -> None:
        self._standing = standing
        self._counter = counter
        self._ticket = ticket

    def headers(self) -> Headers:
        """How the key's limits per minute stood when it was let in, in OpenAI's headers."""
        return [] if self._standing is None else _headers(self._standing)

    def release(self, tokens: int | None) -> None:
        """The request is over: give its place back and count its tokens, if known.

        Only the first call counts, and it raises nothing.
        """
        counter, self._counter = self._counter, None
        if counter is not None and self._ticket is not None:
            counter.release(self._ticket, tokens or 0)


FREE = Grant()
"""The grant of a key without limits; there is nothing to release."""


class Limiter:
    """Lets requests in as far as their keys' limits go.

    Args:
        url: the Redis that gateways share their counts in; empty counts in this process.
        budgets: what each key has spent.
        on_fallback: told each time that Redis is lost and this gateway counts by itself.
    """

    def __init__(self, url: str, budgets: Budgets, on_fallback: Callable[[], None] = lambda: None) -> None:
        self._budgets = budgets
        self._counts = MemoryCounts()
        self._shared = SharedCounts(url, self._counts, on_fallback) if url else None
        self._name = secrets.token_hex(8)
        self._numbers = itertools.count()

    async def admit(self, key: ApiKey, request_id: str, deadline_s: float) -> Grant:
        """Let a request in and count it, for `deadline_s` at most.

        Raises:
            BudgetExceeded: the key has spent its month's money.
            RateLimited: one of its other limits is used up; the request has then used nothing of the others.
        """
        limits = key.limits
        if limits.monthly_budget is not None:
            self._check_budget(key.id, limits.monthly_budget)
        if limits.is_uncounted:
            return FREE
        # A client may choose its request's id, and use it twice.
        ticket = Ticket(key.id, limits, f"{request_id}/{self._name}-{next(self._numbers)}", deadline_s)
        shared = self._shared
        standing = self._counts.admit(ticket) if shared is None else await shared.admit(ticket)
        if standing.refused is not None:
            raise _refusal(standing.refused, limits, standing)
        return Grant(standing, shared or self._counts, ticket)

    async def close(self) -> None:
        """Close the connections to Redis."""
        if self._shared is not None:
            await self._shared.close()

    def _check_budget(self, key_id: str, budget: float) -> None:
        if self._budgets.spent(key_id) >= budget:
            anew = self._budgets.renewed_at()
            raise BudgetExceeded(
                f"This API key has spent its budget of {budget:g} for this month. "
                f"It may be used again from {anew:%Y-%m-%d %H:%M} UTC.",
                retry_after_s=self._budgets.renewed_in_s(),
            )


def _refusal(refused: Limit, limits: KeyLimits, standing: Standing) -> RateLimited:
    value, window = {
        Limit.CONCURRENT: (limits.concurrent_requests, None),
        Limit.REQUESTS: (limits.requests_per_minute, standing.requests),
        Limit.TOKENS: (limits.tokens_per_minute, standing.tokens),
    }[refused]
    wait_s = window.reset_s if window else CONCURRENT_RETRY_S
    return RateLimited(
        f"Rate limit reached for this API key on {refused}: limit {value}. Please try again in {duration(wait_s)}.",
        kind="tokens" if refused is Limit.TOKENS else "requests",
        headers=_headers(standing),
        # Whole seconds: one that came a little too early would be refused again.
        retry_after_s=math.ceil(wait_s),
    )


def _headers(standing: Standing) -> Headers:
    """OpenAI's headers, for the limits that the key has."""
    requests, tokens = standing.requests, standing.tokens
    found = [] if requests is None else _of_window(_REQUESTS, requests)
    return found if tokens is None else found + _of_window(_TOKENS, tokens)


def _of_window(names: tuple[bytes, bytes, bytes], window: Window) -> Headers:
    limit, remaining, reset = names
    left = window.remaining
    return [
        (limit, b"%d" % window.limit),
        (remaining, b"%d" % left if left > 0 else b"0"),
        (reset, duration(window.reset_s).encode()),
    ]


def duration(seconds: float) -> str:
    """A time as OpenAI's headers have it: ``250ms``, ``1s``, ``1.5s``, ``6m0s``, ``1h0m0s``; rounded up."""
    milliseconds = math.ceil(seconds * 1000 - _NOISE)
    if milliseconds <= 0:
        return "0s"
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    if milliseconds < 60_000:
        return f"{milliseconds / 1000:g}s"
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest / 1000:g}s" if hours else f"{minutes}m{rest / 1000:g}s"
