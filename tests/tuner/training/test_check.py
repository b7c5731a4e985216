"""What an adapter will be, found out before it is trained."""

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from transformers import AutoTokenizer

from registry.base_model import BaseSpec, read_config
from registry.tuning.orders import LoraOrder, TuningOrder
from tests.tuner.works import BASE_MODEL, ORDER
from tuner.errors import JobFailed
from tuner.training.check import check
from tuner.workspace import CheckTask

SUPPORT_1 = BASE_MODEL.parent / "adapters" / "support" / "1"


def _check(base_model: Path = BASE_MODEL, start_from: Path | None = None, **order: Any) -> dict[str, Any]:
    wanted: TuningOrder = msgspec.structs.replace(ORDER, **order)
    return check(CheckTask(wanted, str(base_model), None if start_from is None else str(start_from)))


def _refusal(**order: Any) -> JobFailed:
    with pytest.raises(JobFailed) as failed:
        _check(**order)
    return failed.value


def test_all_linear_layers_are_those_that_the_engine_serves() -> None:
    """Without a choice of targets, each linear layer but the head is changed, which is what the registry expects."""
    found = _check()
    shapes = BaseSpec("tiny", config=read_config(str(BASE_MODEL))).module_shapes()
    assert shapes is not None
    assert found["targets"] == sorted(shapes)
    assert found["rank"] == 16


def test_named_targets_are_found_in_each_layer() -> None:
    """Last names stand for the module in each layer, by PEFT's own rule."""
    found = _check(lora=LoraOrder(rank=4, targets=["v_proj", "q_proj"]))
    assert found["targets"] == sorted(f"model.layers.{i}.self_attn.{name}_proj" for i in range(4) for name in "qv")
    assert found["rank"] == 4


def test_a_target_that_is_not_there_is_named_with_those_that_are() -> None:
    """PEFT leaves out a name in silence when another one matches; here it is refused."""
    failed = _refusal(lora=LoraOrder(targets=["q_proj", "q_prj"]))
    assert (failed.code, failed.param) == ("invalid_hyperparameters", "targets")
    assert "no modules named q_prj; its linear layers are down_proj, gate_proj, k_proj, lm_head" in failed.message


def test_an_embedding_is_refused() -> None:
    """PEFT would train a LoRA on an embedding, and the engine could not serve it."""
    failed = _refusal(lora=LoraOrder(targets=["embed_tokens"]))
    assert "embed_tokens are no linear layers" in failed.message


def test_the_head_cannot_learn_preferences() -> None:
    """TRL computes log probabilities past a LoRA on the head, which would never be trained."""
    failed = _refusal(method="dpo", lora=LoraOrder(targets=["lm_head", "q_proj"]))
    assert "lm_head cannot be trained on preferences" in failed.message


def test_what_goes_on_from_a_version_has_its_shape() -> None:
    """Rank and modules are those of the version, and another rank is refused."""
    found = _check(start_from=SUPPORT_1)
    config = json.loads((SUPPORT_1 / "adapter_config.json").read_text())
    assert found["rank"] == config["r"]
    assert {name.rpartition(".")[2] for name in found["targets"]} == set(config["target_modules"])
    failed = _refusal_from(SUPPORT_1, LoraOrder(rank=8))
    assert (failed.code, failed.param) == ("invalid_hyperparameters", "rank")


def _refusal_from(folder: Path, lora: LoraOrder) -> JobFailed:
    with pytest.raises(JobFailed) as failed:
        _check(start_from=folder, lora=lora)
    return failed.value


def test_conversations_are_read_as_training_reads_them() -> None:
    """One turn, and two with a system message; their tokens are the template's, ready for the answer."""
    prompts = _check()["prompts"]
    tokenizer = AutoTokenizer.from_pretrained(BASE_MODEL)
    assert [len(prompt["messages"]) for prompt in prompts] == [1, 4]
    for prompt in prompts:
        expected = tokenizer.apply_chat_template(prompt["messages"], add_generation_prompt=True)["input_ids"]
        assert prompt["tokens"] == expected


def test_a_template_without_a_system_message_is_asked_for_what_it_takes(tmp_path: Path) -> None:
    """A conversation that the template refuses is left out of the comparison."""
    model = tmp_path / "model"
    shutil.copytree(BASE_MODEL, model)
    template = model / "chat_template.jinja"
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    template.write_text(refusing + template.read_text())
    (prompt,) = _check(model)["prompts"]
    assert len(prompt["messages"]) == 1


def test_a_base_without_a_template_is_refused(tmp_path: Path) -> None:
    """Without a chat template nobody knows how the base reads conversations."""
    model = tmp_path / "model"
    shutil.copytree(BASE_MODEL, model)
    (model / "chat_template.jinja").unlink()
    with pytest.raises(JobFailed) as failed:
        _check(model)
    assert failed.value.code == "unservable"
