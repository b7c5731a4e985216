"""The admin API, and that of tuning jobs, as far as the story needs them."""

from types import TracebackType
from typing import Any, Self

import httpx

from demo.story.errors import StoryFailed
from demo.story.plan import ADAPTER

__all__ = ["Admin"]

_TIMEOUT_S = 60.0


class Admin:
    """Calls a gateway with an admin key."""

    def __init__(self, url: str, key: str) -> None:
        # A proxy from the environment has no business between us and a server on this machine.
        self._http = httpx.AsyncClient(
            base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=_TIMEOUT_S, trust_env=False
        )

    async def __aenter__(self) -> Self:
        """Begin."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close its connections."""
        await self._http.aclose()

    async def call(self, method: str, path: str, **arguments: Any) -> Any:
        """One call; the answer's JSON.

        Raises:
            StoryFailed: it was refused, or nobody answered.
        """
        try:
            response = await self._http.request(method, path, **arguments)
        except httpx.TransportError as error:
            raise StoryFailed(f"{method} {path}: no answer ({type(error).__name__})") from error
        if response.is_error:
            raise StoryFailed(f"{method} {path}: HTTP {response.status_code}: {response.text[:500]}")
        return response.json()

    async def adapter(self, method: str, path: str, **arguments: Any) -> Any:
        """One call about the story's adapter.

        Raises:
            StoryFailed
        """
        return await self.call(method, f"/admin/v1/adapters/{ADAPTER}{path}", **arguments)
