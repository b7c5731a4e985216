"""Who hears how far the data is, and may want it to stop."""

from typing import Protocol

from tuner.errors import StoppedAt
from tuner.messages import Level, Message, Told


class Ear(Protocol):
    """What a child process talks to, `tuner.telling.Teller`; or whoever stands in for it."""

    stop_asked: bool

    def __call__(self, message: Message, /) -> None:
        """Take a message."""
        ...


class Deaf:
    """Hears nothing and never wants to stop."""

    stop_asked = False

    def __call__(self, message: Message, /) -> None:
        """Take a message."""


class Listener:
    """Whoever hears of the data."""

    def __init__(self, ear: Ear) -> None:
        self._ear = ear

    def tell(self, message: str, level: Level = "info") -> None:
        """Say something for the job's events."""
        self._ear(Told(message, level))

    def check(self) -> None:
        """Go on, or stop here; nothing of the data is kept, as it can be made again.

        Raises:
            StoppedAt
        """
        if self._ear.stop_asked:
            raise StoppedAt(0)
