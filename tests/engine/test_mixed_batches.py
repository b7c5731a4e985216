"""The base model and adapters in one batch of real vLLM: each request is answered by its own model alone."""

import asyncio
from typing import Any

import aiohttp
import pytest

import demo
from tests.engine.conftest import Up
from tests.engine.small_adapters import small_adapter

pytestmark = pytest.mark.engine

ADAPTERS, ROUNDS = 4, 20


async def _first_token(session: aiohttp.ClientSession, model: str, tokens: int = 1) -> dict[str, float]:
    """The log probabilities of the likeliest next tokens."""
    body = {"model": model, "prompt": "Where is my order?", "max_tokens": tokens, "temperature": 0, "logprobs": 5}
    async with session.post("/v1/completions", json=body) as response:
        answer: Any = await response.json()
        assert response.status == 200, answer
        found: dict[str, float] = answer["choices"][0]["logprobs"]["top_logprobs"][0]
        return found


async def test_the_base_answers_the_same_beside_adapters_as_alone(up: Up) -> None:
    """With an adapter in every slot of the engine, none of them acts on requests to the base."""
    headers = {"authorization": f"Bearer {up.key}"}
    names = [f"mixed-{number}" for number in range(ADAPTERS)]
    async with aiohttp.ClientSession(up.url, headers=headers) as session:
        for seed, name in enumerate(names):
            async with session.post(f"/admin/v1/adapters/{name}/versions", data=small_adapter(seed)) as response:
                assert response.status in (200, 201), await response.text()
        alone = await _first_token(session, demo.BASE_NAME)
        wrong = 0
        for _ in range(ROUNDS):
            beside = [_first_token(session, f"{name}@1", 30) for name in names]
            answers = await asyncio.gather(*beside, *(_first_token(session, demo.BASE_NAME) for _ in range(2)))
            wrong += sum(answer != pytest.approx(alone, abs=0.01) for answer in answers[-2:])
    assert wrong == 0
