"""What a teacher's requests may take: money, and how fast they may come."""

import asyncio
import time
from collections.abc import Awaitable, Callable


class Exhausted(Exception):
    """The money does not do for another request."""


class Budget:
    """Money that may be spent; what requests on their way may cost at most is held back from it."""

    def __init__(self, most: float | None) -> None:
        self.spent = 0.0
        self._most = most
        self._held: dict[object, float] = {}
        self._changed = asyncio.Condition()

    async def reserve(self, bound: float) -> object:
        """Hold money back for a request, once it is sure that there is enough; a receipt to settle by.

        Raises:
            Exhausted: there is not enough left.
        """
        async with self._changed:
            while not self._fits(bound):
                if not self._held:
                    left = (self._most or 0.0) - self.spent
                    raise Exhausted(
                        f"the next request may cost up to {bound:.4g}, and {left:.4g} of {self._most:g} is left"
                    )
                await self._changed.wait()
            receipt = object()
            self._held[receipt] = bound
            return receipt

    async def settle(self, receipt: object, cost: float) -> None:
        """Say what a request cost."""
        async with self._changed:
            del self._held[receipt]
            self.spent += cost
            self._changed.notify_all()

    def _fits(self, bound: float) -> bool:
        return self._most is None or self.spent + sum(self._held.values()) + bound <= self._most


class Pacer:
    """Lets requests begin no closer together than allowed, and none while the endpoint wants a pause."""

    def __init__(
        self,
        per_minute: float | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._clock = clock
        self._sleep = sleep
        self._next = 0.0

    async def turn(self) -> None:
        """Wait until the next request may begin."""
        while (wait := self._next - self._clock()) > 0:
            await self._sleep(wait)
        self._next = self._clock() + self._gap

    def pause(self, seconds: float) -> None:
        """Let nothing begin for so long."""
        self._next = max(self._next, self._clock() + seconds)
