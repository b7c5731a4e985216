"""Whether the engine could serve what a job would make."""

import json
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from registry.base_model import BaseSpec
from registry.tuning.orders import LoraOrder, TuningOrder
from tests.tuner.works import ORDER, at_work, said
from tuner.errors import EngineAway, JobFailed
from tuner.fitness import require_fit, require_servable

MESSAGES = [{"role": "user", "content": "Hello"}]
FOUND: dict[str, Any] = {
    "rank": 16,
    "targets": ["model.layers.0.self_attn.q_proj"],
    "prompts": [{"messages": MESSAGES, "tokens": [2, 17, 1, 3]}],
}


class _Gateway:
    """Serves the base model, and reads each prompt as the same tokens."""

    def __init__(self, tokens: Any = (2, 17, 1, 3), *, served: str = "tiny", status: int = 200) -> None:
        self._tokens, self._served, self._status = tokens, served, status
        self.bodies: list[dict[str, Any]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"object": "list", "data": [{"id": self._served}]})
        self.bodies.append(json.loads(request.content))
        return httpx.Response(self._status, json={"choices": [], "prompt_token_ids": self._tokens})


async def _refusal(work: Any, found: dict[str, Any] = FOUND) -> JobFailed:
    with pytest.raises(JobFailed) as failed:
        await require_fit(work, found)
    return failed.value


async def test_what_fits_passes(tmp_path: Path) -> None:
    """A shape that the engine serves, and the same tokens on both sides, are fit; the engine is asked for one token."""
    gateway = _Gateway([2, 17, 1, 3])
    work = at_work(tmp_path, gateway=gateway)
    await require_fit(work, FOUND)
    body = {"model": "tiny", "messages": MESSAGES, "max_tokens": 1, "temperature": 0, "return_token_ids": True}
    assert gateway.bodies == [body]
    assert said(work) == []


async def test_a_rank_above_the_engines_is_refused(tmp_path: Path) -> None:
    """The rank that the engine was started for is the limit, and the message has both numbers."""
    failed = await _refusal(at_work(tmp_path, max_lora_rank=8))
    assert (failed.code, failed.param) == ("invalid_hyperparameters", "rank")
    assert "the rank is 16; the engine of tiny serves ranks up to 8" in failed.message


async def test_the_rank_of_the_version_to_go_on_from_counts(tmp_path: Path) -> None:
    """Where the rank comes from a version, the message says from which."""
    order = msgspec.structs.replace(ORDER, start_from=2)
    failed = await _refusal(at_work(tmp_path, order, max_lora_rank=8))
    assert "the rank of support@2 is 16" in failed.message


@pytest.mark.parametrize("target", ["lm_head", "model.embed_tokens", "model.layers.4.self_attn.q_proj"])
async def test_modules_that_the_engine_cannot_change_are_refused(tmp_path: Path, target: str) -> None:
    """Tied heads, embeddings and layers that are not there would be refused after training, so they are before it."""
    failed = await _refusal(at_work(tmp_path), {**FOUND, "targets": [target]})
    assert (failed.code, failed.param) == ("invalid_hyperparameters", "targets")
    assert target.rpartition(".")[2] in failed.message
    assert "down_proj, gate_proj, k_proj" in failed.message


async def test_a_family_that_nobody_knows_is_left_to_the_engine(tmp_path: Path) -> None:
    """Where the base's modules are not known here, no shape is refused."""
    gateway = _Gateway([2, 17, 1, 3])
    work = at_work(tmp_path, gateway=gateway, base=BaseSpec("tiny", config={"model_type": "new"}))
    await require_fit(work, {**FOUND, "targets": ["transformer.h.0.attn"]})
    assert gateway.bodies


async def test_a_base_that_the_gateway_does_not_serve_is_refused(tmp_path: Path) -> None:
    """An adapter of a base model that no engine has could be served by none."""
    failed = await _refusal(at_work(tmp_path, gateway=_Gateway(served="another")))
    assert failed.code == "unservable"
    assert "does not serve the base model tiny" in failed.message


async def test_another_reading_is_refused(tmp_path: Path) -> None:
    """Other tokens for a conversation mean another chat template or tokenizer."""
    failed = await _refusal(at_work(tmp_path, gateway=_Gateway([2, 17, 1, 3, 9])))
    assert failed.code == "unservable"
    assert "the engine reads conversations otherwise (its chat template or tokenizer differs)" in failed.message
    assert "it makes 5 tokens of a conversation, the tuner 4" in failed.message
    assert "Hello" not in failed.message


async def test_a_conversation_that_the_engine_refuses_is_another_reading(tmp_path: Path) -> None:
    """An engine whose template refuses what the tuner's takes reads otherwise."""
    failed = await _refusal(at_work(tmp_path, gateway=_Gateway(status=400)))
    assert (failed.code, "it refuses a conversation" in failed.message) == ("unservable", True)


async def test_an_engine_that_does_not_tell_its_tokens_is_told_of(tmp_path: Path) -> None:
    """What cannot be compared is no failure, but the job says so."""
    work = at_work(tmp_path, gateway=_Gateway(None))
    await require_fit(work, FOUND)
    (message,) = said(work)
    assert message.startswith("warn: The engine does not tell its token ids")


async def test_an_engine_that_stays_away_is_not_the_orders_fault(tmp_path: Path) -> None:
    """Nobody to ask, for as long as the setting says, may be there another time."""
    with pytest.raises(EngineAway, match="the engine did not answer for 0 s"):
        await require_fit(at_work(tmp_path, tuner_engine_wait_s=0.01), FOUND)


async def test_a_set_that_no_gate_could_ask_is_refused_before_training(tmp_path: Path) -> None:
    """Rather than after hours of it; nobody is asked anything then."""
    broken = tmp_path / "skills.jsonl"
    broken.write_text("?\n")
    gateway = _Gateway()
    with pytest.raises(
        JobFailed, match=r"the retention set of the tuner's settings cannot be used: .*line 1"
    ) as failed:
        await require_servable(at_work(tmp_path, gateway=gateway, retention_set=str(broken)))
    assert failed.value.code == "evaluation_failed"
    assert gateway.bodies == []


async def test_a_key_that_may_not_ask_fails_the_job(tmp_path: Path) -> None:
    """A refusal that waiting does not change says what to see to."""
    failed = await _refusal(at_work(tmp_path, gateway=lambda _: httpx.Response(401, json={})))
    assert failed.code == "evaluation_failed"
    assert "see to the tuner's key and URL" in failed.message


async def test_a_wrong_target_is_refused_by_the_child(tmp_path: Path) -> None:
    """The whole way, through the child that reads the base model: a name that it does not have, with those it has."""
    order = TuningOrder(adapter="support", base="tiny", training_file="f", lora=LoraOrder(targets=["q_prj"]))
    with pytest.raises(JobFailed) as failed:
        await require_servable(at_work(tmp_path, order))
    assert (failed.value.code, failed.value.param) == ("invalid_hyperparameters", "targets")
    assert "no modules named q_prj; its linear layers are down_proj, gate_proj, k_proj" in failed.value.message
