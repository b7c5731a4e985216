"""The likelihood of answers: what the engine tells of the answer's tokens, and of nothing else."""

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.judging.likelihood import Likelihood, likelihood, perplexity
from monitors.judging.likelihood_job import LikelihoodJob
from monitors.tables import CaptureRow
from monitors.watch.client import GatewayClient
from registry.artifacts import ArtifactStore
from registry.catalog import Canary
from registry.deployments import Patch
from registry.registry import Registry
from tests.conftest import AdapterMaker
from tests.monitors.judging.fake_gateway import FakeGateway, workshop

PROMPT = [{"role": "user", "content": "2 and 2?"}]
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
CAPTURES = CaptureRow.__table__  # type: ignore[attr-defined]


async def test_the_answers_tokens_alone_count() -> None:
    """Their number and sum; the prompt is as likely as it is."""
    gateway = FakeGateway(logprob={"m": -0.5})
    found = await likelihood(gateway.client(), "m", PROMPT, "four")
    assert found == Likelihood(-2.0, 4)
    assert found.mean_logprob == -0.5
    asked, continued = gateway.bodies
    assert asked["messages"] == PROMPT
    assert (continued["add_generation_prompt"], continued["continue_final_message"]) == (False, True)
    assert {body["max_tokens"] for body in gateway.bodies} == {1}


def told(ids: Any, logprobs: Any, before: Any = None) -> GatewayClient:
    """An engine that tells this of whatever is asked."""

    async def serve(request: httpx.Request) -> httpx.Response:
        if b"prompt_logprobs" not in request.content:
            return httpx.Response(200, json={"prompt_token_ids": [1, 2] if before is None else before})
        return httpx.Response(200, json={"prompt_token_ids": ids, "prompt_logprobs": logprobs})

    return GatewayClient("http://gateway", "", concurrency=2, transport=httpx.MockTransport(serve))


TWO = [None, {"2": {"logprob": -9}}]


@pytest.mark.parametrize(
    ("ids", "logprobs", "expected"),
    [
        ([1, 2, 7], [*TWO, {"7": {"logprob": -0.25}}], Likelihood(-0.25, 1)),
        ([1, 2, 7], [*TWO, {"4": {"logprob": -0.1}, "7": {"logprob": -3}}], Likelihood(-3.0, 1)),
        (None, None, None),
        ([1, 2, 7], None, None),
        ([1, 2], TWO, None),
        ([1, 5, 7], [*TWO, {"7": {"logprob": -0.25}}], None),
        ([1, 2, 7], [*TWO, None], None),
        ([1, 2, 7], [*TWO, {"4": {"logprob": -0.25}}], None),
        ([1, 2, 7], [*TWO, {"7": {"logprob": None}}], None),
        ([1, 2, 7, 8], [*TWO, {"7": {"logprob": -0.25}}], None),
    ],
    ids=range(10),
)
async def test_what_cannot_be_told_is_none(ids: Any, logprobs: Any, expected: Likelihood | None) -> None:
    """No ids, no logprobs, no answer, another prompt, or a token of which nothing is told."""
    assert await likelihood(told(ids, logprobs), "m", PROMPT, "x") == expected


def test_perplexity_weighs_by_tokens() -> None:
    """The exponential of the mean negative log probability per token, over all answers; it does not overflow."""
    assert perplexity([Likelihood(-3 * math.log(2), 3), Likelihood(-math.log(4), 1)]) == pytest.approx(2**1.25)
    assert perplexity([Likelihood(0.0, 5)]) == 1
    assert perplexity([]) is None
    assert math.isfinite(perplexity([Likelihood(-1e9, 1)]) or math.inf)


@pytest.fixture
async def live(registry: Registry, adapter_folder: AdapterMaker) -> Registry:
    """`support` with versions 1 and 2, version 1 live."""
    for scale in (1.0, 2.0):
        await registry.push("support", adapter_folder(scale), actor="ann")
    await registry.promote("support", 1, actor="ann")
    return registry


async def capture(database: AsyncEngine, id: str, **fields: Any) -> None:
    """One captured answer of 4 tokens, given a minute ago."""
    row = {
        "id": id,
        "request_id": id,
        "adapter": "support",
        "version": 1,
        "variant": "stable",
        "prompt": PROMPT,
        "answer": "four",
        "redactions": 0,
        "created_at": NOW - timedelta(seconds=30),
        **fields,
    }
    async with database.begin() as connection:
        await connection.execute(insert(CAPTURES).values(**row))


async def filled(database: AsyncEngine) -> dict[str, float]:
    """The mean log probabilities that are known, by capture."""
    async with database.connect() as connection:
        rows = await connection.execute(select(CAPTURES.c.id, CAPTURES.c.mean_logprob))
        return {row.id: row.mean_logprob for row in rows if row.mean_logprob is not None}


async def test_captured_answers_get_their_likelihood(
    live: Registry, database: AsyncEngine, store: ArtifactStore, tmp_path: Path
) -> None:
    """Those of a deployed version's own chats, as they were said; each once, marked as the monitor's."""
    await capture(database, "own")
    others: dict[str, dict[str, Any]] = {
        "redacted": {"redactions": 1},
        "shadow": {"variant": "shadow", "version": 0},
        "not-deployed": {"version": 2},
        "text": {"prompt": "2 and 2?"},
        "no-answer": {"answer": None},
        "too-new": {"created_at": NOW},
        "gone": {"adapter": "gone"},
        "old": {"created_at": NOW - timedelta(days=2)},
    }
    for name, fields in others.items():
        await capture(database, name, **fields)
    model = (await live.catalog()).adapters["support"].versions[1].engine_name
    gateway = FakeGateway(logprob={model: -0.5})
    job = LikelihoodJob(workshop(database, store, gateway, tmp_path))
    await job.run(await live.catalog(), NOW)
    assert await filled(database) == {"own": -0.5}
    assert ({body["model"] for body in gateway.bodies}, gateway.purposes) == ({model}, {"evaluation"})
    await job.run(await live.catalog(), NOW + timedelta(minutes=1))
    assert set(await filled(database)) == {"own", "too-new"}
    assert len(gateway.bodies) == 4


async def test_no_more_are_asked_for_than_the_settings_say(
    live: Registry, database: AsyncEngine, store: ArtifactStore, tmp_path: Path
) -> None:
    """In turn from each version, so that a busy one leaves room; 0 asks for none."""
    await live.change("support", Patch(canary=Canary(2, 0.5)), actor="ann")
    for number in range(20):
        await capture(database, f"stable-{number}")
    await capture(database, "canary", version=2, variant="canary")
    gateway = FakeGateway()
    for most in (0, 4):
        job = LikelihoodJob(workshop(database, store, gateway, tmp_path, likelihood_per_minute=most))
        await job.run(await live.catalog(), NOW)
        assert len(gateway.bodies) == 2 * most
    found = await filled(database)
    assert len(found) == 4
    assert "canary" in found


@pytest.mark.parametrize(("status", "left"), [(503, 0), (429, 0), (400, 2)])
async def test_a_busy_gateway_is_left_alone(
    live: Registry, database: AsyncEngine, store: ArtifactStore, tmp_path: Path, status: int, left: int
) -> None:
    """After the first 429 or 503 no more is asked; an answer that the engine refuses alone is passed over."""
    for number in range(3):
        await capture(database, str(number))
    gateway = FakeGateway(refuse=[status])
    job = LikelihoodJob(workshop(database, store, gateway, tmp_path))
    await job.run(await live.catalog(), NOW)
    assert len(await filled(database)) == left
    assert len(gateway.bodies) == 1 + 2 * left
