"""A gateway as the monitor's jobs call it, without a network: models that answer as they are told to."""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.settings import MonitorSettings
from monitors.watch.client import GatewayClient
from monitors.watch.metrics import MonitorMetrics
from monitors.watch.work import Workshop
from registry.artifacts import ArtifactStore

Answer = Callable[[str], str]


@dataclass
class FakeGateway:
    """Answers chats by model; a token is a character, whose log probability is told by `logprob`.

    Attributes:
        answers: what each model says to the last user message.
        refuse: statuses of the next answers, in this order; None lets one through.
        logprob: the log probability of any token, by model.
        bodies, purposes: what was asked, and as what.
        most_at_once: how many requests were there at once.
        hold: answers wait for this.
    """

    answers: Mapping[str, Answer] = field(default_factory=dict)
    refuse: list[int | None] = field(default_factory=list)
    logprob: Mapping[str, float] = field(default_factory=dict)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    purposes: set[str | None] = field(default_factory=set)
    most_at_once: int = 0
    hold: asyncio.Event | None = None
    _now: int = 0

    def client(self, concurrency: int = 8) -> GatewayClient:
        """A client of it."""
        return GatewayClient(
            "http://gateway", "sk", concurrency=concurrency, transport=httpx.MockTransport(self._serve)
        )

    async def _serve(self, request: httpx.Request) -> httpx.Response:
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        try:
            if self.hold is not None:
                await self.hold.wait()
            await asyncio.sleep(0)
            return self._answer(request)
        finally:
            self._now -= 1

    def _answer(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        self.bodies.append(body)
        self.purposes.add(request.headers.get("x-ostler-purpose"))
        status = self.refuse.pop(0) if self.refuse else None
        if status is not None:
            return httpx.Response(status, json={"error": {"message": "no"}})
        model, messages = body["model"], body["messages"]
        text = "".join(message["content"] + "|" for message in messages)
        if body.get("continue_final_message"):
            text = text[:-1]
        ids = [ord(letter) for letter in text]
        asked = next(message["content"] for message in reversed(messages) if message["role"] == "user")
        answer: dict[str, Any] = {
            "choices": [{"message": {"role": "assistant", "content": self.answers.get(model, str)(asked)}}],
            "usage": {"prompt_tokens": len(ids)},
        }
        if body.get("return_token_ids"):
            answer["prompt_token_ids"] = ids
        if "prompt_logprobs" in body:
            each = self.logprob.get(model, -1.0)
            answer["prompt_logprobs"] = [None, *({str(one): {"logprob": each}} for one in ids[1:])]
        return httpx.Response(200, json=answer)


def workshop(
    database: AsyncEngine, store: ArtifactStore, gateway: FakeGateway, folder: Path, **fields: Any
) -> Workshop:
    """A workshop with that gateway."""
    settings = MonitorSettings(home=folder, cache=folder, **fields)
    return Workshop(database, store, gateway.client(), None, MonitorMetrics(), settings, folder)
