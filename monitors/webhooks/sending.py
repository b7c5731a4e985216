"""One attempt to tell a webhook something, and what came of it. The answer's body is not read, nor kept."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from types import TracebackType
from typing import Any, Literal, Self

import httpx
import msgspec

from monitors.webhooks.addresses import LinkLocal, check_peer
from monitors.webhooks.hooks import Target
from monitors.webhooks.queue import Due
from monitors.webhooks.retries import wished_pause
from monitors.webhooks.signing import signed_headers

TIMEOUT_S = 15.0
_CONNECT_S = 5.0
Outcome = Literal["delivered", "refused", "gone", "unreachable"]


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of an attempt.

    Attributes:
        outcome: ``gone`` if the receiver wants nothing any more (410).
        error: why it did not arrive, for people.
        wish_s: the pause that the receiver asked for, seconds.
    """

    outcome: Outcome
    error: str = ""
    wish_s: float | None = None


class Sender:
    """Sends; use it in a block.

    Args:
        timeout_s: how long one attempt may take as a whole, seconds.
        transport: in place of the network.
    """

    def __init__(self, *, timeout_s: float = TIMEOUT_S, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._timeout_s = timeout_s
        timeout = httpx.Timeout(timeout_s, connect=min(_CONNECT_S, timeout_s))
        headers = {"content-type": "application/json", "user-agent": "ostler"}
        self._http = httpx.AsyncClient(headers=headers, timeout=timeout, transport=transport, follow_redirects=False)

    async def __aenter__(self) -> Self:
        """Use it in a block."""
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Close its connections."""
        await self._http.aclose()

    async def send(self, target: Target, what: Due, now: datetime) -> Tried:
        """Make one attempt, signed."""
        content = content_of(what.body)
        headers = signed_headers(what.id, now, content, target.secrets)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._answer(target.url, content, headers, now)
        except LinkLocal as error:
            return Tried("unreachable", str(error))
        except Exception as error:  # whatever is wrong at their end, or with their address, must not stop the others
            return Tried("unreachable", f"no answer ({type(error).__name__})")

    async def _answer(self, url: str, content: bytes, headers: Mapping[str, str], now: datetime) -> Tried:
        checked = {"trace": check_peer}
        async with self._http.stream("POST", url, content=content, headers=headers, extensions=checked) as response:
            if response.is_success:
                return Tried("delivered")
            outcome: Outcome = "gone" if response.status_code == HTTPStatus.GONE else "refused"
            wish = wished_pause(response.headers.get("retry-after"), now)
            return Tried(outcome, f"status {response.status_code}", wish)


def content_of(body: Mapping[str, Any]) -> bytes:
    """A body as it is sent, the same bytes at each attempt."""
    return msgspec.json.encode(body)
