"""What counts how much of its limits a key has used: who asks to be let in, and what is answered."""

from enum import StrEnum
from typing import Protocol

import msgspec

from registry.catalog import KeyLimits

MINUTE_S = 60.0


class Limit(StrEnum):
    """The limits that are counted here, in the words of a message to the client."""

    CONCURRENT = "concurrent requests"
    REQUESTS = "requests per minute"
    TOKENS = "tokens per minute"


class Ticket(msgspec.Struct, frozen=True):
    """A request that asks to be let in.

    `holder` is unlike any other request's on any gateway; `lease_s` is how long it may run at most.
    """

    key_id: str
    limits: KeyLimits
    holder: str
    lease_s: float


class Window(msgspec.Struct, frozen=True):
    """How one limit per minute stands; `reset_s` is when the oldest that counts will no longer."""

    limit: int
    remaining: int
    reset_s: float


class Standing(msgspec.Struct, frozen=True):
    """Whether a request was let in (`refused` is None), and how the limits stand that its key has."""

    refused: Limit | None
    requests: Window | None
    tokens: Window | None


class Counter(Protocol):
    """What requests that were let in are counted out by.

    Requests are counted in a moving window, exactly. Tokens are known only after the answer, so their count must be
    able to go past the limit, which a moving window's cannot: they are counted in a fixed window of a minute that
    begins with its first tokens. A key with tokens left may thus go past its limit by what is in flight, and at the
    turn of a window it may use up to two limits within a minute.
    """

    def release(self, ticket: Ticket, tokens: int) -> None:
        """Give the place of a request that was let in back, and count its tokens; nobody waits for it."""
        ...
