"""Reads adapter_config.json and refuses what vLLM would ignore or refuse.

What is held here follows vLLM 0.32's `PEFTHelper` and the fields that PEFT 0.21 writes. A field that only steers
training (dropout, how the weights were first drawn) is left alone.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from registry.base_model import BaseSpec
from registry.errors import InvalidAdapter

CONFIG_FILE = "adapter_config.json"

_LARGEST_CONFIG = 1024 * 1024
# What must be empty, null or false: field, reason and what would be right.
_UNSUPPORTED = (
    ("use_dora", "dora_unsupported", "train with use_dora=False"),
    ("modules_to_save", "modules_to_save_unsupported", "train with modules_to_save=None"),
    ("rank_pattern", "rank_pattern_unsupported", "train all modules with the same r"),
    ("alpha_pattern", "alpha_pattern_unsupported", "train all modules with the same lora_alpha"),
    ("lora_bias", "lora_bias_unsupported", "train with lora_bias=False"),
    ("layer_replication", "layer_replication_unsupported", "train on the base model's own layers"),
    ("trainable_token_indices", "trainable_tokens_unsupported", "train without trainable_token_indices"),
    ("target_parameters", "target_parameters_unsupported", "name linear layers in target_modules instead"),
    ("alora_invocation_tokens", "alora_unsupported", "train without alora_invocation_tokens"),
    ("use_bdlora", "bdlora_unsupported", "train without use_bdlora"),
    ("use_qalora", "qalora_unsupported", "train with use_qalora=False"),
    ("kasa_config", "kasa_unsupported", "train without kasa_config"),
    ("arrow_config", "arrow_unsupported", "push the adapters that it combines one by one"),
)
# Initialisations that leave the base's weights alone, so that the saved adapter is a plain LoRA (vLLM's own list).
_PLAIN_INITS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")


@dataclass(frozen=True)
class LoraSettings:
    """What adapter_config.json says, checked; lists of names as sets, a regular expression as str."""

    rank: int
    alpha: float
    use_rslora: bool
    targets: str | frozenset[str]
    excluded: str | frozenset[str]
    layers: frozenset[int] | None  # None: all
    canonical: dict[str, Any]


def read_settings(folder: Path, base: BaseSpec, *, trained_on: bool) -> LoraSettings:
    """The folder's adapter_config.json, held against the base. Raises InvalidAdapter."""
    config = _load(folder / CONFIG_FILE)
    _require_lora(config)
    if trained_on:
        _require_base(config, base)
    for field, reason, right in _UNSUPPORTED:
        if config.get(field):
            refuse(reason, f"{field} is set, which the engine cannot serve; {right}")
    _require_plain_weights(config)
    return LoraSettings(
        rank=_rank(config, base),
        alpha=_alpha(config),
        use_rslora=_flag(config, "use_rslora"),
        targets=_targets(config),
        excluded=_names(config, "exclude_modules"),
        layers=_layers(config),
        canonical=_canonical(config, base),
    )


def refuse(reason: str, problem: str) -> NoReturn:
    """Raise InvalidAdapter about the config file."""
    raise InvalidAdapter(f"{CONFIG_FILE}: {problem}", reason=reason, file=CONFIG_FILE)


def _load(path: Path) -> Mapping[str, Any]:
    """The file's JSON object."""
    if not path.is_file():
        refuse("config_missing", "the file is missing; push the folder that PEFT's save_pretrained wrote")
    if path.stat().st_size > _LARGEST_CONFIG:
        refuse("config_json", f"is larger than {_LARGEST_CONFIG} bytes; push the file that PEFT wrote")
    try:
        config = json.loads(path.read_bytes().decode(), parse_constant=_finite, parse_float=_finite)
    except json.JSONDecodeError as exc:
        refuse("config_json", f"is not valid JSON at line {exc.lineno}, column {exc.colno}: {exc.msg}")
    except UnicodeDecodeError as exc:
        refuse("config_json", f"is not UTF-8 at byte {exc.start}; save it as UTF-8")
    except (ValueError, RecursionError):
        refuse(
            "config_json", "holds NaN, a number that is too large, or too many levels; push the file that PEFT wrote"
        )
    if not isinstance(config, dict):
        refuse("config_not_object", "must hold a JSON object, as PEFT writes it")
    return config


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("not a finite number")
    return number


def _require_lora(config: Mapping[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        refuse("peft_type", f"peft_type is {config.get('peft_type')!a:.40}; only 'LORA' can be served")
    if config.get("task_type") not in ("CAUSAL_LM", None):
        refuse("task_type", f"task_type is {config['task_type']!a:.40}; it must be 'CAUSAL_LM'")


def _require_base(config: Mapping[str, Any], base: BaseSpec) -> None:
    given = config.get("base_model_name_or_path")
    if given is None or given == "":
        refuse("base_unnamed", f"base_model_name_or_path is missing; set it to {base.name!r}, or state the base")
    if not isinstance(given, str):
        _wrong_type("base_model_name_or_path", "text", given)
    if not base.is_called(given):
        # Only the end of it: the rest may be a path on the trainer's machine.
        last = given.replace("\\", "/").rstrip("/").rpartition("/")[2]
        refuse("base_mismatch", f"trained on the base {last!a:.80}, not on {base.name!r}; retrain, or state the base")


def _require_plain_weights(config: Mapping[str, Any]) -> None:
    bias = config.get("bias", "none")
    if bias != "none":
        refuse("bias_unsupported", f"bias is {bias!a:.40}, which the engine cannot serve; train with bias='none'")
    init = config.get("init_lora_weights", True)
    if isinstance(init, str) and init.lower() not in _PLAIN_INITS:
        refuse(
            "init_unsupported",
            f"init_lora_weights is {init!a:.40}, which changes the base's weights; convert the adapter with PEFT's "
            "path_initial_model_for_weight_conversion",
        )


def _rank(config: Mapping[str, Any], base: BaseSpec) -> int:
    rank = config.get("r")
    if type(rank) is not int:
        _wrong_type("r", "a whole number", rank)
    if rank < 1:
        refuse("rank_not_positive", f"r is {rank!r:.40}; it must be at least 1")
    if rank > base.max_lora_rank:
        refuse("rank_too_large", f"r is {rank!r:.40}; {base.name} is served with ranks up to {base.max_lora_rank}")
    return rank


def _alpha(config: Mapping[str, Any]) -> float:
    alpha = config.get("lora_alpha")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float):
        _wrong_type("lora_alpha", "a number", alpha)
    if not 0 < alpha < 2**63:
        refuse("alpha_not_positive", f"lora_alpha is {alpha!r:.40}; it must be above 0, usually r or twice r")
    return float(alpha)


def _flag(config: Mapping[str, Any], field: str) -> bool:
    value = config.get(field, False)
    if not isinstance(value, bool):
        _wrong_type(field, "true or false", value)
    return value


def _targets(config: Mapping[str, Any]) -> str | frozenset[str]:
    targets = _names(config, "target_modules")
    if not targets:
        refuse("targets_missing", "target_modules is empty; it must name the modules that were trained")
    return targets


def _names(config: Mapping[str, Any], field: str) -> str | frozenset[str]:
    value = config.get(field)
    if isinstance(value, str):
        return value
    if not isinstance(value, list | None) or not all(isinstance(item, str) for item in value or ()):
        _wrong_type(field, "text or a list of texts", value)
    return frozenset(value or ())


def _layers(config: Mapping[str, Any]) -> frozenset[int] | None:
    value = config.get("layers_to_transform")
    layers = [value] if type(value) is int else value
    if not isinstance(layers, list | None) or not all(type(item) is int for item in layers or ()):
        _wrong_type("layers_to_transform", "a list of whole numbers", value)
    return frozenset(layers) if layers else None


def _canonical(config: Mapping[str, Any], base: BaseSpec) -> dict[str, Any]:
    """The config in one form however it was written, and without paths of the trainer's machine."""
    targets = _targets(config)
    changed: dict[str, Any] = {
        "base_model_name_or_path": base.name,
        "target_modules": targets if isinstance(targets, str) else sorted(targets),
    }
    if "corda_config" in config:
        changed["corda_config"] = None  # names files for the start of a training, and nothing after it
    return dict(sorted({**config, **changed}.items()))


def _wrong_type(field: str, right: str, value: object) -> NoReturn:
    refuse("config_type", f"{field} must be {right}, not {value!a:.40}")
