"""Builders of small adapters: their two files from plain values, so that each test breaks one thing."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from registry.base_model import BaseSpec

RANK = 4
BASE = BaseSpec(
    name="tiny",
    aliases=frozenset({"acme/tiny-llama"}),
    config={
        "model_type": "llama",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 64,
    },
    max_lora_rank=16,
)
UNKNOWN_BASE = BaseSpec(name="tiny", config=None, max_lora_rank=16)

Tensors = dict[str, np.ndarray]
Q0 = "base_model.model.model.layers.0.self_attn.q_proj"
Q0_A, Q0_B = f"{Q0}.lora_A.weight", f"{Q0}.lora_B.weight"
_SIZES = {"float32": "F32", "float16": "F16", "uint16": "BF16", "float64": "F64", "int32": "I32"}


def config(**changes: Any) -> dict[str, Any]:
    """A minimal adapter_config.json; a value of Ellipsis takes the field out."""
    whole = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "tiny",
        "r": RANK,
        "lora_alpha": 8,
        "target_modules": ["v_proj", "q_proj"],
        **changes,
    }
    return {key: value for key, value in whole.items() if value is not ...}


def tensors(dtype: str = "float32") -> Tensors:
    """q_proj and v_proj of both layers of BASE, of ones; "uint16" stands for BF16."""
    made: Tensors = {}
    for layer in range(2):
        for module, out in (("q_proj", 32), ("v_proj", 16)):
            name = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            made[f"{name}.lora_A.weight"] = np.ones((RANK, 32), dtype=dtype)
            made[f"{name}.lora_B.weight"] = np.ones((out, RANK), dtype=dtype)
    return made


def header_of(values: Tensors) -> dict[str, Any]:
    """The safetensors header that describes the values, laid out one after the other."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, value in values.items():
        entry = {"dtype": _SIZES[value.dtype.name], "shape": list(value.shape)}
        header[name] = entry | {"data_offsets": [position, position + value.nbytes]}
        position += value.nbytes
    return header


def safetensors_bytes(values: Tensors, header: object = None) -> bytes:
    """A whole file; `header` replaces the right one."""
    text = json.dumps(header_of(values) if header is None else header, separators=(",", ":")).encode()
    return len(text).to_bytes(8, "little") + text + b"".join(value.tobytes() for value in values.values())


def write_adapter(folder: Path, settings: object = None, weights: bytes | Tensors | None = None) -> Path:
    """Write both files; what is not given is right."""
    folder.mkdir(parents=True, exist_ok=True)
    text = settings if isinstance(settings, str) else json.dumps(config() if settings is None else settings)
    (folder / "adapter_config.json").write_text(text)
    content = weights if isinstance(weights, bytes) else safetensors_bytes(tensors() if weights is None else weights)
    (folder / "adapter_model.safetensors").write_bytes(content)
    return folder
