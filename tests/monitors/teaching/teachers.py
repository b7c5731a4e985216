"""A teacher that answers as a test wants, and time that passes only when somebody waits."""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from monitors.teaching.allowance import Pacer
from monitors.teaching.teacher import Teacher, TeacherChoice

Reply = httpx.Response | Exception
USAGE = {"prompt_tokens": 10, "completion_tokens": 5}


def completion(text: str | None = "yes", reason: str = "stop", usage: Any = USAGE, **message: Any) -> httpx.Response:
    """A chat completion."""
    choice = {"message": {"role": "assistant", "content": text, **message}, "finish_reason": reason}
    return httpx.Response(200, json={"choices": [choice], "usage": usage})


def refusal(status: int, headers: Mapping[str, str] | None = None, **error: Any) -> httpx.Response:
    """An error as OpenAI's."""
    return httpx.Response(status, json={"error": error}, headers=dict(headers or {}))


@dataclass
class Endpoint:
    """An OpenAI-compatible endpoint.

    Attributes:
        reply: what it answers to a body, or raises.
        bodies: what it was asked.
        at_once: the most requests that it had at one time.
        moments: when each came, on `clock`.
    """

    reply: Callable[[dict[str, Any]], Reply] = lambda _body: completion()
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[httpx.Headers] = field(default_factory=list)
    moments: list[float] = field(default_factory=list)
    at_once: int = 0
    now: float = 0.0
    _open: int = 0

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        """Answer."""
        assert request.url.path == "/v1/chat/completions"
        self.moments.append(self.now)
        self.headers.append(request.headers)
        body = json.loads(request.content)
        self.bodies.append(body)
        self._open += 1
        self.at_once = max(self.at_once, self._open)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        self._open -= 1
        reply = self.reply(body)
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def sleep(self, seconds: float) -> None:
        """Let time pass."""
        until = self.now + seconds
        await asyncio.sleep(0)
        self.now = max(self.now, until)

    def teacher(self, **choice: Any) -> Teacher:
        """A client of it."""
        wanted = TeacherChoice(**{"url": "http://teacher/v1", "model": "large", **choice})
        pacer = Pacer(wanted.requests_per_minute, clock=lambda: self.now, sleep=self.sleep)
        return Teacher(wanted, transport=httpx.MockTransport(self), pacer=pacer)
