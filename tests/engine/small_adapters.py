"""Small adapters for the demo's base model, by the hundred: random weights that change its answers a little."""

import io
import json
import tarfile

import numpy as np

import demo
from tests.registry.lora_samples import Tensors, config, safetensors_bytes

RANK = 2
_HIDDEN, _LAYERS, _OUT = 192, 4, {"q_proj": 192, "v_proj": 96}


def small_adapter(seed: int) -> bytes:
    """A PEFT folder as a tar; another seed is another adapter."""
    settings = config(base_model_name_or_path=demo.BASE_NAME, r=RANK, lora_alpha=2 * RANK)
    files = {
        "adapter_config.json": json.dumps(settings).encode(),
        "adapter_model.safetensors": safetensors_bytes(_tensors(np.random.default_rng(seed))),
    }
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def _tensors(random: np.random.Generator) -> Tensors:
    made: Tensors = {}
    for layer in range(_LAYERS):
        for module, out in _OUT.items():
            name = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            made[f"{name}.lora_A.weight"] = random.normal(0, 0.1, (RANK, _HIDDEN)).astype("float32")
            made[f"{name}.lora_B.weight"] = random.normal(0, 0.1, (out, RANK)).astype("float32")
    return made
