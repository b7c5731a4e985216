"""What is wanted of the job at work, as its stages see it."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from tuner.errors import Cause, Interrupted

T = TypeVar("T")
_DROPS = ("cancel", "lost")


class Control:
    """Says when to stop, and why. The first cause stays, unless one follows by which nothing of the work is wanted."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()
        self._dropped = asyncio.Event()
        self.cause: Cause | None = None

    def stop(self, cause: Cause) -> None:
        """Have the job stop."""
        if self.cause is None or (cause in _DROPS and self.cause != "lost"):
            self.cause = cause
            self._asked.set()
        if cause in _DROPS:
            self._dropped.set()

    async def wait(self) -> Cause:
        """Wait until the job is to stop."""
        await self._asked.wait()
        assert self.cause is not None
        return self.cause

    async def wait_until_dropped(self) -> None:
        """Wait until nothing of the work is wanted any more, so that there is nothing to save either."""
        await self._dropped.wait()

    def check(self) -> None:
        """Go on, or stop here.

        Raises:
            Interrupted
        """
        if self.cause is not None:
            raise Interrupted(self.cause)

    async def unless_stopped(self, work: Awaitable[T]) -> T:
        """The result of some work, which is cancelled when the job is to stop.

        Raises:
            Interrupted
        """
        task, stopped = asyncio.ensure_future(work), asyncio.ensure_future(self.wait())
        try:
            await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise Interrupted(await stopped)
            return await task
        finally:
            for each in (task, stopped):
                each.cancel()
            await asyncio.gather(task, stopped, return_exceptions=True)
