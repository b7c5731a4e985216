"""What an adapter must fit: the base model's names and the shapes of the modules that LoRA may change."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

Shape = tuple[int, int]  # (in_features, out_features) of a linear module


@dataclass(frozen=True)
class _Family:
    """How a `model_type` differs from Llama where its config.json leaves something out or modules are fused."""

    head_dim: int | None = None  # None: hidden_size / num_attention_heads
    num_key_value_heads: int | None = None  # None: num_attention_heads
    fused: bool = False  # qkv_proj and gate_up_proj in place of five modules
    lora_on_lm_head: bool = False  # whether vLLM 0.32 can serve it


_FAMILIES = {
    "llama": _Family(lora_on_lm_head=True),
    "mistral": _Family(num_key_value_heads=8),
    "qwen2": _Family(num_key_value_heads=32),
    "qwen3": _Family(num_key_value_heads=32, head_dim=128, lora_on_lm_head=True),
    "gemma": _Family(num_key_value_heads=16, head_dim=256),
    "gemma2": _Family(num_key_value_heads=4, head_dim=256),
    "phi3": _Family(fused=True),
}


@dataclass(frozen=True)
class BaseSpec:
    """A base model as adapters see it.

    Attributes:
        name: the name that clients and the registry use.
        aliases: other names under which trainers know it, such as its Hugging Face id or a folder's name.
        config: Hugging Face's config.json, or None where nobody has read it.
        max_lora_rank: the largest rank that the engine was started for.
        source: the model's folder or Hugging Face id, from which `config` can be read once it is there; may be empty.
    """

    name: str
    aliases: frozenset[str] = frozenset()
    config: Mapping[str, Any] | None = field(default=None, hash=False)
    max_lora_rank: int = 16
    source: str = ""

    def is_called(self, given: str) -> bool:
        """Whether a trainer that wrote `given` (a name, a Hugging Face id or a path) meant this model."""
        names = {self.name, *self.aliases}
        return given in names or _last_part(given) in {_last_part(name) for name in names}

    def module_shapes(self) -> dict[str, Shape] | None:
        """Each module that an adapter may change, by its full name such as `model.layers.0.self_attn.q_proj`.

        None for a family that is not known here: then the engine alone can say what fits.
        """
        config = self.config or {}
        family = _FAMILIES.get(str(config.get("model_type")))
        needed = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        if family is None or not all(_is_count(config.get(key)) for key in needed):
            return None
        shapes = {
            f"model.layers.{layer}.{module}": shape
            for layer in range(config["num_hidden_layers"])
            for module, shape in _layer_shapes(config, family).items()
        }
        if family.lora_on_lm_head and not config.get("tie_word_embeddings") and _is_count(config.get("vocab_size")):
            shapes["lm_head"] = (config["hidden_size"], config["vocab_size"])
        return shapes


def _layer_shapes(config: Mapping[str, Any], family: _Family) -> dict[str, Shape]:
    """The modules of one decoder layer, by their name inside the layer."""
    hidden, inner, heads = (config[key] for key in ("hidden_size", "intermediate_size", "num_attention_heads"))
    head = config.get("head_dim", family.head_dim) or hidden // heads
    kv_heads = config.get("num_key_value_heads", family.num_key_value_heads) or heads
    query, key_value = heads * head, kv_heads * head
    into: dict[str, Shape]
    if family.fused:
        into = {"self_attn.qkv_proj": (hidden, query + 2 * key_value), "mlp.gate_up_proj": (hidden, 2 * inner)}
    else:
        into = {
            "self_attn.q_proj": (hidden, query),
            "self_attn.k_proj": (hidden, key_value),
            "self_attn.v_proj": (hidden, key_value),
            "mlp.gate_proj": (hidden, inner),
            "mlp.up_proj": (hidden, inner),
        }
    return into | {"self_attn.o_proj": (query, hidden), "mlp.down_proj": (inner, hidden)}


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _last_part(name: str) -> str:
    """The folder's or model's own name at the end of a path or id, of Windows too."""
    return PurePosixPath(name.replace("\\", "/")).name


def model_folder(source: str) -> Path | None:
    """The folder of a model's files, by its path or its Hugging Face id; None where it is not on this machine."""
    return Path(source) if Path(source).is_dir() else _downloaded(source)


def read_config(source: str) -> dict[str, Any] | None:
    """The config.json of a model's folder, or of a Hugging Face id that was downloaded on this machine.

    None where it is not here or cannot be read.
    """
    folder = model_folder(source)
    try:
        config = json.loads((folder / "config.json").read_text()) if folder else None
    except (OSError, ValueError):
        return None
    return config if isinstance(config, dict) else None


def _downloaded(model_id: str) -> Path | None:
    """Where the hub's client keeps the `main` revision of a model, by the layout that it documents."""
    home = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface"))
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    model = cache / f"models--{model_id.replace('/', '--')}"
    try:
        return model / "snapshots" / (model / "refs" / "main").read_text().strip()
    except OSError:
        return None
