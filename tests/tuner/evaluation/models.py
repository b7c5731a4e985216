"""Models behind a gateway, without a network: they answer, and hold answers to be likely, as they are told to."""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from monitors.watch.client import GatewayClient

Answer = Callable[[str], str]
Logprob = Callable[[str], float]


@dataclass
class FakeModels:
    """Answers chats by model; a token is a character.

    Attributes:
        answers: what each model says to the last user message; others repeat it.
        logprobs: the log probability of each token of an answer, by model; -1 for others.
        refuse: statuses of the next answers, in this order; None lets one through.
        tells_usage: whether answers say how many tokens they have.
        bodies, purposes: what was asked, and as what.
        most_at_once: how many requests were there at once.
    """

    answers: Mapping[str, Answer] = field(default_factory=dict)
    logprobs: Mapping[str, Logprob] = field(default_factory=dict)
    refuse: list[int | None] = field(default_factory=list)
    tells_usage: bool = True
    bodies: list[dict[str, Any]] = field(default_factory=list)
    purposes: set[str | None] = field(default_factory=set)
    most_at_once: int = 0
    _now: int = 0

    def client(self, concurrency: int = 4) -> GatewayClient:
        """A client of their gateway."""
        transport = httpx.MockTransport(self._serve)
        return GatewayClient("http://gateway", "sk", concurrency=concurrency, transport=transport)

    async def _serve(self, request: httpx.Request) -> httpx.Response:
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        await asyncio.sleep(0)
        self._now -= 1
        body = json.loads(request.content)
        self.bodies.append(body)
        self.purposes.add(request.headers.get("x-ostler-purpose"))
        status = self.refuse.pop(0) if self.refuse else None
        if status is not None:
            return httpx.Response(status, json={"error": {"message": "no"}})
        return httpx.Response(200, json=self._answer(body))

    def _answer(self, body: Mapping[str, Any]) -> dict[str, Any]:
        model, messages = body["model"], body["messages"]
        text = "".join(message["content"] + "|" for message in messages)
        ids = [ord(letter) for letter in (text[:-1] if body.get("continue_final_message") else text)]
        asked = next(message["content"] for message in reversed(messages) if message["role"] == "user")
        said = self.answers.get(model, str)(asked)
        answer: dict[str, Any] = {"choices": [{"message": {"role": "assistant", "content": said}}]}
        if self.tells_usage:
            answer["usage"] = {"prompt_tokens": len(ids), "completion_tokens": body.get("max_tokens") or len(said)}
        if body.get("return_token_ids"):
            answer["prompt_token_ids"] = ids
        if "prompt_logprobs" in body:
            told = self.logprobs.get(model)
            each = -1.0 if told is None else told(messages[-1]["content"])
            answer["prompt_logprobs"] = [None, *({str(one): {"logprob": each}} for one in ids[1:])]
        return answer
