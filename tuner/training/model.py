"""The model that is trained: the frozen base, perhaps quantized, with a LoRA on it."""

import os
from collections.abc import Iterator
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    PreTrainedModel,
    set_seed,
)

from tuner.training.plan import LoraShape, Plan

CHECKPOINTING = {"use_reentrant": False}


def hidden_size(base_model: str) -> int:
    """The base model's width."""
    width: int = AutoConfig.from_pretrained(base_model).get_text_config().hidden_size
    return width


def load_model(base_model: str, plan: Plan, start_from: Path | None) -> PeftModel:
    """The base with a LoRA on it: a new one, whose weights follow from the plan's seed, or one to go on from.

    Raises:
        RuntimeError, MemoryError: it does not fit in memory.
    """
    base = _load_base(base_model, plan)
    if plan.quantization != "none":
        base = prepare_model_for_kbit_training(
            base, use_gradient_checkpointing=plan.gradient_checkpointing, gradient_checkpointing_kwargs=CHECKPOINTING
        )
    if start_from is not None:
        model = PeftModel.from_pretrained(base, str(start_from), is_trainable=True)
        # At each checkpoint PEFT looks for the base under the name that the registry knows, on the network.
        model.peft_config["default"].base_model_name_or_path = base_model
        return model
    set_seed(plan.seed)
    return get_peft_model(base, lora_config(plan.lora))


def hold_in_float32(model: PeftModel) -> None:
    """Hold what is trained in float32, which TRL makes bfloat16 where the base is quantized.

    AdamW's small steps would be lost in bfloat16's 8 bits. Computing is another matter: autocast does that in bfloat16.
    """
    for parameter in _trained(model):
        parameter.data = parameter.data.float()


def _trained(model: PeftModel) -> Iterator[torch.nn.Parameter]:
    return (parameter for parameter in model.parameters() if parameter.requires_grad)


def _load_base(base_model: str, plan: Plan) -> PreTrainedModel:
    dtype = getattr(torch, plan.dtype)
    if plan.quantization == "none":
        return AutoModelForCausalLM.from_pretrained(base_model, dtype=dtype)  # the trainer puts it on the device
    device = "cpu" if plan.device == "cpu" else int(os.environ.get("LOCAL_RANK", "0"))
    return AutoModelForCausalLM.from_pretrained(
        base_model, dtype=dtype, quantization_config=_quantization(plan, dtype), device_map={"": device}
    )


def _quantization(plan: Plan, dtype: torch.dtype) -> BitsAndBytesConfig:
    if plan.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def lora_config(shape: LoraShape) -> LoraConfig:
    """The shape in PEFT's words."""
    alpha = int(shape.alpha) if shape.alpha == int(shape.alpha) else shape.alpha  # PEFT's own type, where it will do
    return LoraConfig(
        r=shape.rank,
        lora_alpha=alpha,
        lora_dropout=0.0,
        use_rslora=shape.rslora,
        target_modules=shape.targets,
        task_type="CAUSAL_LM",
    )
