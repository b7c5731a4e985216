"""Golden sets and likelihoods on the real engine: the figures are those that are known of the demo's versions."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import demo
from demo.evaluate import MAX_TOKENS
from demo.tickets import held_out
from monitors.judging.likelihood import likelihood
from monitors.watch.client import GatewayClient, answer_text
from tests.engine.conftest import Up

pytestmark = pytest.mark.engine

ROWS = 40
NEVER = {"golden_every_h": 0}
TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def tickets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Held-out tickets with their labels, as a golden set."""
    file = tmp_path_factory.mktemp("golden") / "tickets.jsonl"
    with file.open("w") as opened:
        for ticket in held_out(ROWS, seed=23):
            messages = [{"role": "user", "content": ticket.message}, {"role": "assistant", "content": ticket.answer}]
            opened.write(json.dumps({"messages": messages, "max_tokens": MAX_TOKENS}) + "\n")
    return file


@pytest.fixture
async def gateway(up: Up) -> AsyncIterator[GatewayClient]:
    """The gateway as the monitor calls it."""
    async with GatewayClient(up.url, up.key, concurrency=4) as client:
        yield client


def done(ran: subprocess.CompletedProcess[str]) -> Any:
    """What a command printed as JSON."""
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return json.loads(ran.stdout)


def test_a_golden_set_tells_the_versions_apart(up: Up, tickets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pushed and run by the commands: the live version is right, the base is not, and the interval says so."""
    with up.http() as http:
        assert http.patch("/admin/v1/adapters/support/monitoring", json=NEVER).is_success
    scorers = ("--scorer", "json_equality", "--scorer", "likelihood")
    pushed = done(up.cli("golden", "push", str(tickets), "--adapter", "support", *scorers, "--json"))
    assert (pushed["created"], pushed["golden_set"]["rows"]) == (True, ROWS)
    base, stable = done(up.cli("evaluate", "support", "--wait", "--json"))["data"]
    with capsys.disabled():
        print("\n" + up.cli("evaluations", "support").stdout)
    assert (base["model"], stable["version"]) == (demo.BASE_NAME, 2)
    fields, of_base = stable["results"]["scorers"]["json_equality"], base["results"]["scorers"]["json_equality"]
    assert fields["mean"] >= 0.95
    assert 0.25 <= of_base["mean"] <= 0.7
    assert fields["low"] > of_base["high"]
    assert fields["base"]["mean"] == pytest.approx(fields["mean"] - of_base["mean"])
    assert fields["base"]["low"] > 0.2
    assert 1 <= stable["results"]["metrics"]["perplexity"] < 1.2 < base["results"]["metrics"]["perplexity"]
    with up.http() as http:
        shown = http.get(f"/admin/v1/adapters/support/evaluations/{stable['id']}").json()
    assert len(shown["items"]) == ROWS


async def test_the_likelihood_is_what_generation_reports(up: Up, gateway: GatewayClient) -> None:
    """The sum over a greedy answer's tokens, on the live version and the base, asked at once and so in one batch."""
    asked = []
    for number, ticket in enumerate(held_out(6, seed=29)):
        system = [{"role": "system", "content": "Answer with JSON."}] if number % 2 else []
        messages: list[Any] = [*system, {"role": "user", "content": ticket.message}]
        asked += [compare(gateway, model, messages) for model in ("support", demo.BASE_NAME)]
    found = await asyncio.gather(*asked)
    assert min(found) < -0.1, "all answers were certain, so nothing was shown"


async def compare(gateway: GatewayClient, model: str, messages: list[Any]) -> float:
    """Hold the likelihood of a greedy answer against what its generation reported; the log probability."""
    greedy = await gateway.chat(model, messages, temperature=0, max_tokens=MAX_TOKENS, logprobs=True)
    (choice,) = greedy["choices"]
    assert choice["finish_reason"] == "stop"
    reported = [token["logprob"] for token in choice["logprobs"]["content"]]
    found = await likelihood(gateway, model, messages, answer_text(greedy) or "")
    assert found is not None
    assert found.tokens == len(reported) - 1  # all but the mark of its end
    assert found.logprob == pytest.approx(sum(reported[:-1]), abs=TOLERANCE)
    return found.logprob
