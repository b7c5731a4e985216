"""Counts in Redis, and what a gateway does while Redis is away."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from redis.asyncio import ConnectionPool, Redis
from redis.exceptions import RedisError

from gateway.limits.counts import Standing, Ticket
from gateway.limits.memory import MemoryCounts
from gateway.limits.redis_counts import PREFIX, RedisCounts

log = logging.getLogger(__name__)

BOUND_S = 0.5
PAUSE_S = 0.5
AT_ONCE = 8
FAILURES = (RedisError, OSError)

T = TypeVar("T")


class _Away(Exception):
    """Redis does not answer."""


class SharedCounts:
    """Counts in Redis; while it does not answer, in this process's memory, each gateway by itself.

    Redis is away when an operation has failed twice; each try waits `BOUND_S` at most for each answer. From then on no
    request asks it: a task does, until it answers. What was counted in memory meanwhile stays there; places that were
    taken in Redis and freed meanwhile are given back then.

    Args:
        url: redis://, rediss:// or unix://.
        local: what counts meanwhile.
        on_fallback: told each time that Redis is lost.
    """

    def __init__(self, url: str, local: MemoryCounts, on_fallback: Callable[[], None]) -> None:
        pool = ConnectionPool.from_url(
            url, max_connections=2 * AT_ONCE, socket_timeout=BOUND_S, socket_connect_timeout=BOUND_S
        )
        self._client = Redis(connection_pool=pool)
        self._shared = RedisCounts(self._client)
        self._local = local
        self._on_fallback = on_fallback
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._at_local: set[str] = set()
        self._owed: dict[str, Ticket] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._returning: asyncio.Task[None] | None = None
        self.away = False

    async def admit(self, ticket: Ticket) -> Standing:
        """Count the request, or refuse it; a refused one has used nothing of any limit."""
        # In a task of its own: the client of Redis can lose its caller's cancellation.
        work = self._spawn(self._admit(ticket))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            self._spawn(self._undo(ticket, work))
            raise

    def release(self, ticket: Ticket, tokens: int) -> None:
        """Give the request's place back where it was taken, and count its tokens where they are counted now.

        What Redis must be told is told later, by `close` at the latest.
        """
        if ticket.holder in self._at_local:
            self._at_local.remove(ticket.holder)
            self._local.free(ticket)
        self._spawn(self._settle(ticket, tokens))

    async def close(self) -> None:
        """Finish what is being released, and close the connections."""
        if self._returning is not None:
            self._returning.cancel()
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(*FAILURES):
            await self._client.aclose()

    async def _admit(self, ticket: Ticket) -> Standing:
        try:
            return await self._ask(partial(self._shared.admit, ticket))
        except _Away:
            self._owe(ticket)
        standing = self._local.admit(ticket)
        if standing.refused is None:
            self._at_local.add(ticket.holder)
        return standing

    async def _undo(self, ticket: Ticket, work: asyncio.Task[Standing]) -> None:
        standing = await work
        if standing.refused is None:
            self.release(ticket, 0)

    async def _settle(self, ticket: Ticket, tokens: int) -> None:
        try:
            await self._ask(partial(self._shared.release, ticket, tokens))
        except _Away:
            self._owe(ticket)
            self._local.count(ticket, tokens)

    async def _ask(self, operation: Callable[[], Awaitable[T]]) -> T:
        """What Redis says. Raises `_Away` if it says nothing."""
        # Few at a time, so that what a burst of requests takes in this process is not laid at Redis's door.
        async with self._turns:
            for last in (False, True):
                if self.away:
                    break
                try:
                    return await operation()
                except FAILURES as error:
                    # Once says little: a connection was dropped, or this process had no time to read the answer.
                    if last:
                        self._fall_back(error)
        raise _Away

    def _fall_back(self, error: BaseException) -> None:
        if self.away:
            return
        self.away = True
        log.warning("Redis does not answer (%s): this gateway counts limits by itself meanwhile", type(error).__name__)
        self._on_fallback()
        self._returning = self._spawn(self._return())

    async def _return(self) -> None:
        """Ask until Redis takes a write, then go back to it."""
        answers = False
        while not answers:
            await asyncio.sleep(PAUSE_S)
            with suppress(*FAILURES):
                answers = bool(await self._client.set(f"{PREFIX}:probe", 1, ex=60))
        self.away = False
        log.warning("Redis answers: limits are counted over all gateways again")
        await self._give_back()

    def _owe(self, ticket: Ticket) -> None:
        # Also where it is not known whether a place was taken: to give back one that is not held does nothing.
        if ticket.limits.concurrent_requests is not None:
            self._owed[ticket.holder] = ticket

    async def _give_back(self) -> None:
        """Free the places that are owed to Redis; those that it does not take stay owed until it is back."""
        with suppress(_Away):
            for holder, ticket in list(self._owed.items()):
                await self._ask(partial(self._shared.free, ticket))
                self._owed.pop(holder, None)

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
