"""The part of a request's time in which the gateway only waits for others; the rest is its own overhead."""

import time
from types import TracebackType


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
