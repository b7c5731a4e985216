"""Finds out what an adapter will be, without the base model's weights: its modules, its rank, and what is read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from peft import inject_adapter_in_model
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from monitors.judging.golden import Message
from tuner.data.template import NotReadable
from tuner.data.tokens import load_tokenizer, prompt_ids
from tuner.errors import JobFailed
from tuner.training.model import lora_config
from tuner.training.plan import LoraShape, lora_shape, read_shape
from tuner.workspace import CheckTask

_NAME = "checked"
_QUESTION = {"role": "user", "content": " Where is order 12,345?\nIt was due on Friday - “überfällig” 🙂 "}
_CONVERSATIONS: tuple[list[dict[str, str]], ...] = (
    [_QUESTION],
    [
        {"role": "system", "content": "Answer in one sentence."},
        _QUESTION,
        {"role": "assistant", "content": "It arrives tomorrow."},
        {"role": "user", "content": "Thank you!"},
    ],
)


def check(task: CheckTask) -> dict[str, Any]:
    """Find out what the adapter will be.

    Returns:
        ``rank``; ``targets``, the full names of the modules that it changes; ``prompts``, conversations of one and of
        two turns as ``messages`` with the ``tokens`` that training makes of them.

    Raises:
        JobFailed: the order names modules that the base does not have, or that cannot be trained.
    """
    shape, model = _shape(task), _skeleton(task.base_model)
    if isinstance(shape.targets, list):
        _require_present(shape.targets, model)
    targets = _targets(shape, model)
    _require_linear(targets, model)
    if task.order.method == "dpo":
        _require_no_head(targets, model)
    return {"rank": shape.rank, "targets": targets, "prompts": _prompts(task.base_model)}


def _shape(task: CheckTask) -> LoraShape:
    """The shape of the adapter: that of the one to go on from, or what is asked for."""
    return lora_shape(task.order, None if task.start_from is None else read_shape(Path(task.start_from)))


def _skeleton(base_model: str) -> PreTrainedModel:
    """The base model's modules, with shapes and without numbers."""
    config = AutoConfig.from_pretrained(base_model)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def _require_present(targets: Sequence[str], model: PreTrainedModel) -> None:
    names = [name for name, _ in model.named_modules()]
    missing = [target for target in targets if not any(f".{name}".endswith(f".{target}") for name in names)]
    if missing:
        linear = {name.rpartition(".")[2] for name, module in model.named_modules() if _is_linear(module)}
        message = f"the base model has no modules named {', '.join(missing)}; its linear layers are {_listed(linear)}"
        raise JobFailed("invalid_hyperparameters", message, "targets")


def _targets(shape: LoraShape, model: PreTrainedModel) -> list[str]:
    """The full names of the modules that PEFT would change, which is asked itself."""
    before = {name for name, _ in model.named_modules()}
    try:
        inject_adapter_in_model(lora_config(shape), model, adapter_name=_NAME, low_cpu_mem_usage=True)
    except ValueError as error:
        message = 'PEFT cannot put a LoRA on these modules of the base model; take "all-linear"'
        raise JobFailed("invalid_hyperparameters", message, "targets") from error
    return sorted(name for name, module in model.named_modules() if name in before and hasattr(module, "base_layer"))


def _require_linear(targets: Sequence[str], model: PreTrainedModel) -> None:
    strange = {name.rpartition(".")[2] for name in targets if not _is_linear(model.get_submodule(name).base_layer)}
    if strange:
        message = f"{_listed(strange)} are no linear layers, and the engine serves LoRA on these alone"
        raise JobFailed("invalid_hyperparameters", message, "targets")


def _require_no_head(targets: Sequence[str], model: PreTrainedModel) -> None:
    head = next((name for name, module in model.named_modules() if module is model.get_output_embeddings()), None)
    if head in targets:
        message = f"{head} cannot be trained on preferences; leave it out of `targets`"
        raise JobFailed("invalid_hyperparameters", message, "targets")


def _is_linear(module: torch.nn.Module) -> bool:
    return isinstance(module, torch.nn.Linear)


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names))


def _prompts(base_model: str) -> list[dict[str, Any]]:
    tokenizer = load_tokenizer(base_model)
    read = [{"messages": messages, "tokens": _tokens(tokenizer, messages)} for messages in _CONVERSATIONS]
    return [prompt for prompt in read if prompt["tokens"] is not None]


def _tokens(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]) -> list[int] | None:
    """What training reads before an answer; None where the template does not take it, as some have no system."""
    try:
        return prompt_ids(msgspec.convert(messages, list[Message]), tokenizer)
    except NotReadable:
        return None
