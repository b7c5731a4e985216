"""A receiver of webhooks on a real port, which verifies what it gets as the specification says, by its own code."""

import asyncio
import base64
import hashlib
import hmac
import json
from dataclasses import dataclass
from typing import Any

from aiohttp import web


@dataclass(frozen=True)
class Got:
    """One message as it came."""

    id: str
    timestamp: int
    signatures: tuple[str, ...]
    content: bytes
    headers: dict[str, str]

    @property
    def body(self) -> dict[str, Any]:
        """What it says."""
        found: dict[str, Any] = json.loads(self.content)
        return found

    def is_signed_by(self, secret: str) -> bool:
        """Whether one of its signatures is by that secret."""
        kind, _, key = secret.partition("_")
        assert kind == "whsec"
        signed = b".".join((self.id.encode(), str(self.timestamp).encode(), self.content))
        digest = hmac.digest(base64.b64decode(key, validate=True), signed, hashlib.sha256)
        return "v1," + base64.b64encode(digest).decode() in self.signatures


class Receiver:
    """Takes whatever is posted to it.

    Attributes:
        got: all that came, in their order.
        answers: the statuses of the next answers; after them it is 200.
        headers: of each answer.
        hangs: whether it takes what comes, and answers nothing.
    """

    def __init__(self) -> None:
        self.got: list[Got] = []
        self.answers: list[int] = []
        self.headers: dict[str, str] = {}
        self.hangs = False
        self.url = ""
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen."""
        app = web.Application()
        app.router.add_post("/{path:.*}", self._take)
        self._runner = web.AppRunner(app, shutdown_timeout=0.05, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/hook"

    async def stop(self) -> None:
        """Stop listening."""
        assert self._runner is not None
        await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        content = await request.read()
        self.got.append(
            Got(
                id=request.headers["webhook-id"],
                timestamp=int(request.headers["webhook-timestamp"]),
                signatures=tuple(request.headers["webhook-signature"].split(" ")),
                content=content,
                headers={name.lower(): value for name, value in request.headers.items()},
            )
        )
        if self.hangs:
            await asyncio.sleep(600)
        return web.Response(status=self.answers.pop(0) if self.answers else 200, headers=self.headers)
