"""The part of a request's time in which the gateway only waits for others; the rest is its own overhead."""

import time
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Generic, TypeVar

Entered = TypeVar("Entered")


class Waits:
    """Adds up the time spent in its blocks, which never lie in one another.

    Attributes:
        seconds: so far.
    """

    __slots__ = ("_since", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0
        self._since = 0.0

    def __enter__(self) -> None:
        self._since = time.monotonic()

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.seconds += time.monotonic() - self._since

    def for_entry(self, block: AbstractAsyncContextManager[Entered]) -> "_Entry[Entered]":
        """The same block, the entry of which is a wait, as for a place; what is done in it is not."""
        return _Entry(self, block)


class _Entry(Generic[Entered]):
    __slots__ = ("_block", "_waits")

    def __init__(self, waits: Waits, block: AbstractAsyncContextManager[Entered]) -> None:
        self._waits = waits
        self._block = block

    async def __aenter__(self) -> Entered:
        with self._waits:
            return await self._block.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._block.__aexit__(kind, error, trace)
