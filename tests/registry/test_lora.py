"""Which folders are LoRA adapters that the engine can serve, and how each other one is refused."""

import json
import pickle
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry import lora, safetensors
from registry.base_model import BaseSpec
from registry.errors import InvalidAdapter
from registry.lora import check_adapter
from tests.registry.lora_samples import (
    BASE,
    Q0,
    Q0_A,
    Q0_B,
    RANK,
    UNKNOWN_BASE,
    Tensors,
    config,
    header_of,
    safetensors_bytes,
    tensors,
    write_adapter,
)

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MODULES = [f"model.layers.{layer}.self_attn.{letter}_proj" for layer in range(2) for letter in "qv"]


def refused(folder: Path, base: BaseSpec = BASE, *, trained_on: bool = True) -> InvalidAdapter:
    """The refusal, having seen that its message tells no path of the machine and what is named is in it."""
    with pytest.raises(InvalidAdapter) as caught:
        check_adapter(folder, base, trained_on=trained_on)
    error = caught.value
    assert str(folder) not in error.message
    assert error.file in (CONFIG, WEIGHTS, "adapter_model.bin", "adapter_model.pt")
    assert error.file in error.message
    assert error.tensor is None or error.tensor in error.message
    return error


# --- what passes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", [BASE, UNKNOWN_BASE])
@pytest.mark.parametrize(("dtype", "name"), [("float32", "F32"), ("float16", "F16"), ("uint16", "BF16")])
def test_describes_an_adapter(base: BaseSpec, dtype: str, name: str, tmp_path: Path) -> None:
    """A sound adapter is described by what its files hold, whether or not the base's shapes are known."""
    changes = {"base_model_name_or_path": "/home/someone/models/tiny/", "use_rslora": True, "corda_config": {"f": "/x"}}
    checked = check_adapter(write_adapter(tmp_path, config(**changes), tensors(dtype)), base)
    assert (checked.rank, checked.alpha, checked.use_rslora, checked.dtype) == (RANK, 8.0, True, name)
    assert checked.target_modules == ("q_proj", "v_proj")
    assert checked.parameters == 2 * (RANK * (32 + 32) + RANK * (32 + 16))
    assert checked.files == (CONFIG, WEIGHTS)
    assert checked.config["base_model_name_or_path"] == "tiny"
    assert checked.config["target_modules"] == ["q_proj", "v_proj"]
    assert list(checked.config) == sorted(checked.config)
    assert "/" not in json.dumps(checked.config)


@pytest.mark.parametrize(
    "changes",
    [
        {"base_model_name_or_path": "acme/tiny-llama"},
        {"base_model_name_or_path": "C:\\models\\tiny-llama"},
        {"task_type": None},
        {"task_type": ...},
        {"lora_alpha": 0.5},
        {"bias": ...},
        {"modules_to_save": []},
        {"rank_pattern": {}, "alpha_pattern": None},
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": False},
        {"target_modules": r".*\.(q|v)_proj"},
        {"target_modules": "all-linear"},
        {"target_modules": ["q_proj", "v_proj", "absent"]},
        {"target_modules": MODULES},
        {"layers_to_transform": [0, 1]},
        {"target_modules": MODULES, "layers_to_transform": [0]},
        {"exclude_modules": ["k_proj"]},
        {"exclude_modules": r".*\.mlp\..*"},
    ],
    ids=str,
)
def test_takes_harmless_settings(changes: dict[str, Any], tmp_path: Path) -> None:
    """Settings that the engine serves as they were trained are taken."""
    assert check_adapter(write_adapter(tmp_path, config(**changes)), BASE).rank == RANK


def test_takes_a_header_that_begins_like_a_pickle(tmp_path: Path) -> None:
    """A header of 640 bytes has a pickle's first two bytes as its length, and is none."""
    values = {name: value for name, value in tensors().items() if ".0." in name}
    text = json.dumps(header_of(values), separators=(",", ":")).encode().ljust(640)
    content = len(text).to_bytes(8, "little") + text + b"".join(value.tobytes() for value in values.values())
    assert content.startswith(b"\x80\x02")
    assert check_adapter(write_adapter(tmp_path, None, content), BASE).rank == RANK


def test_a_stated_base_needs_no_name(tmp_path: Path) -> None:
    """A caller who states the base skips its name, and never its shapes."""
    folder = write_adapter(tmp_path, config(base_model_name_or_path=None))
    assert check_adapter(folder, BASE, trained_on=False).config["base_model_name_or_path"] == "tiny"
    write_adapter(tmp_path, config(base_model_name_or_path="another"))
    assert check_adapter(folder, BASE, trained_on=False).rank == RANK
    write_adapter(tmp_path, None, tensors() | {Q0_A: np.ones((RANK, 31), dtype="float32")})
    assert refused(folder, trained_on=False).reason == "shape_mismatch"


# --- adapter_config.json ---------------------------------------------------------------------------------------

CONFIG_REFUSALS: list[tuple[dict[str, Any], str, str]] = [
    ({"peft_type": "IA3"}, "peft_type", "LORA"),
    ({"peft_type": ...}, "peft_type", "LORA"),
    ({"task_type": "SEQ_CLS"}, "task_type", "CAUSAL_LM"),
    ({"base_model_name_or_path": ...}, "base_unnamed", "tiny"),
    ({"base_model_name_or_path": None}, "base_unnamed", "tiny"),
    ({"base_model_name_or_path": "/secret/Tiny"}, "base_mismatch", "'Tiny'"),
    ({"base_model_name_or_path": "acme/other"}, "base_mismatch", "'other'"),
    ({"base_model_name_or_path": 7}, "config_type", "text"),
    ({"r": ...}, "config_type", "whole number"),
    ({"r": True}, "config_type", "whole number"),
    ({"r": "4"}, "config_type", "whole number"),
    ({"r": 0}, "rank_not_positive", "at least 1"),
    ({"r": 17}, "rank_too_large", "16"),
    ({"lora_alpha": ...}, "config_type", "number"),
    ({"lora_alpha": True}, "config_type", "number"),
    ({"lora_alpha": 0}, "alpha_not_positive", "above 0"),
    ({"lora_alpha": -1.5}, "alpha_not_positive", "above 0"),
    ({"lora_alpha": 10**400}, "alpha_not_positive", "above 0"),
    ({"use_rslora": "false"}, "config_type", "true or false"),
    ({"use_dora": True}, "dora_unsupported", "use_dora=False"),
    ({"modules_to_save": ["lm_head"]}, "modules_to_save_unsupported", "modules_to_save=None"),
    ({"bias": "all"}, "bias_unsupported", "bias='none'"),
    ({"bias": None}, "bias_unsupported", "bias='none'"),
    ({"rank_pattern": {"q_proj": 2}}, "rank_pattern_unsupported", "same r"),
    ({"alpha_pattern": {"q_proj": 2}}, "alpha_pattern_unsupported", "same lora_alpha"),
    ({"lora_bias": True}, "lora_bias_unsupported", "lora_bias=False"),
    ({"layer_replication": [[0, 1]]}, "layer_replication_unsupported", "own layers"),
    ({"trainable_token_indices": [1]}, "trainable_tokens_unsupported", "without"),
    ({"target_parameters": ["experts"]}, "target_parameters_unsupported", "target_modules"),
    ({"alora_invocation_tokens": [1]}, "alora_unsupported", "without"),
    ({"use_bdlora": {"nblocks": 2}}, "bdlora_unsupported", "without"),
    ({"use_qalora": True}, "qalora_unsupported", "use_qalora=False"),
    ({"kasa_config": {"beta": 1}}, "kasa_unsupported", "without"),
    ({"arrow_config": {"top_k": 1}}, "arrow_unsupported", "one by one"),
    ({"init_lora_weights": "pissa"}, "init_unsupported", "path_initial_model"),
    ({"init_lora_weights": "pissa_niter_16"}, "init_unsupported", "path_initial_model"),
    ({"target_modules": ...}, "targets_missing", "must name"),
    ({"target_modules": []}, "targets_missing", "must name"),
    ({"target_modules": ["q_proj", 1]}, "config_type", "list of texts"),
    ({"target_modules": {"q_proj": 1}}, "config_type", "list of texts"),
    ({"target_modules": ["k_proj"]}, "targets_cover_nothing", "target_modules"),
    ({"target_modules": "q_proj"}, "targets_cover_nothing", "target_modules"),
    ({"target_modules": r".*\.[qv]_pro"}, "targets_cover_nothing", "target_modules"),
    ({"target_modules": "(q_proj"}, "targets_regex", "regular expression"),
    ({"layers_to_transform": "0"}, "config_type", "whole numbers"),
    ({"exclude_modules": [1]}, "config_type", "list of texts"),
]


@pytest.mark.parametrize(("changes", "reason", "right"), CONFIG_REFUSALS, ids=str)
def test_refuses_settings(changes: dict[str, Any], reason: str, right: str, tmp_path: Path) -> None:
    """Each setting that the engine would ignore or refuse is refused with its reason and what would be right."""
    error = refused(write_adapter(tmp_path, config(**changes)))
    assert (error.reason, error.file, error.tensor) == (reason, CONFIG, None)
    assert right in error.message
    assert "secret" not in error.message


@pytest.mark.parametrize(
    ("changes", "tensor"),
    [
        ({"target_modules": ["v_proj"]}, Q0_A),
        ({"target_modules": r".*\.1\.self_attn\.q_proj|.*v_proj"}, Q0_A),
        ({"exclude_modules": ["q_proj"]}, Q0_A),
        ({"exclude_modules": r".*q_proj"}, Q0_A),
        ({"layers_to_transform": [1]}, Q0_A),
        ({"layers_to_transform": 1}, Q0_A),
    ],
    ids=str,
)
def test_refuses_tensors_that_the_config_leaves_out(changes: dict[str, Any], tensor: str, tmp_path: Path) -> None:
    """PEFT would drop these tensors and the engine would serve them, so they are refused."""
    error = refused(write_adapter(tmp_path, config(**changes)))
    assert (error.reason, error.file, error.tensor) == ("tensor_not_targeted", WEIGHTS, tensor)


@pytest.mark.parametrize(
    ("text", "reason", "word"),
    [
        ('{"r": 4,\n}', "config_json", "line 2, column 1"),
        ("", "config_json", "line 1"),
        ("[]", "config_not_object", "object"),
        ("null", "config_not_object", "object"),
        ('{"r": NaN}', "config_json", "NaN"),
        ('{"lora_alpha": 1e999}', "config_json", "too large"),
        ('{"r": ' + "9" * 5000 + "}", "config_json", "too large"),
        ("[" * 100_000, "config_json", "levels"),
        (" " * 2_000_000, "config_json", "larger"),
    ],
)
def test_refuses_unreadable_configs(text: str, reason: str, word: str, tmp_path: Path) -> None:
    """A config that is no JSON object is refused with the position."""
    error = refused(write_adapter(tmp_path, text))
    assert (error.reason, error.file) == (reason, CONFIG)
    assert word in error.message


def test_refuses_a_config_that_is_not_utf8(tmp_path: Path) -> None:
    """A config in another encoding is refused with the byte."""
    (write_adapter(tmp_path) / CONFIG).write_bytes(b'{"r": "\xff"}')
    assert "byte 7" in refused(tmp_path).message


def test_refuses_a_missing_config(tmp_path: Path) -> None:
    """A folder without a config, or with a folder in its place, is refused."""
    (write_adapter(tmp_path) / CONFIG).unlink()
    assert refused(tmp_path).reason == "config_missing"
    (tmp_path / CONFIG).mkdir()
    assert refused(tmp_path).reason == "config_missing"


def test_a_slow_regex_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An expression that backtracks for ages is given up."""
    monkeypatch.setattr(lora, "_REGEX_SECONDS", 0.5)
    error = refused(write_adapter(tmp_path, config(target_modules=r"(([a-z0-9._]+)+)+!")))
    assert error.reason == "targets_regex"
    assert "too long" in error.message


# --- adapter_model.safetensors: the file -----------------------------------------------------------------------


def entry(**changes: Any) -> Callable[[dict[str, Any]], None]:
    """A change of the header's first tensor."""
    return lambda header: header[Q0_A].update(changes)


def renamed(name: str) -> Callable[[dict[str, Any]], None]:
    """A change of the first tensor's name."""

    def change(header: dict[str, Any]) -> None:
        header[name] = header.pop(Q0_A)

    return change


HEADER_REFUSALS: list[tuple[Callable[[dict[str, Any]], None], str, str | None]] = [
    (entry(dtype="F7"), "safetensors_dtype", Q0_A),
    (entry(dtype=None), "safetensors_dtype", Q0_A),
    (entry(dtype=["F32"]), "safetensors_dtype", Q0_A),
    (entry(dtype="I32"), "dtype_unsupported", Q0_A),
    (entry(shape=[RANK, 16], dtype="F64"), "dtype_unsupported", Q0_A),
    (entry(shape=[RANK, 31]), "safetensors_layout", Q0_A),
    (entry(shape="4x32"), "safetensors_header", Q0_A),
    (entry(shape=[RANK, -32]), "safetensors_header", Q0_A),
    (entry(shape=[4.0, 32]), "safetensors_header", Q0_A),
    (entry(shape=[2**62] * 16), "safetensors_layout", Q0_A),
    (entry(shape=[1] * 17), "safetensors_header", Q0_A),
    (entry(data_offsets=[0]), "safetensors_header", Q0_A),
    (entry(data_offsets=[512, 0]), "safetensors_layout", Q0_A),
    (entry(data_offsets=[512, 1024]), "safetensors_layout", Q0_A),
    (entry(data_offsets=[10**6, 10**6 + 512]), "safetensors_layout", None),
    (lambda header: header.pop(Q0_A), "safetensors_layout", Q0_B),
    (lambda header: header.update({Q0_A: 1}), "safetensors_header", Q0_A),
    (lambda header: header.update({Q0_A: None}), "safetensors_header", Q0_A),
    (lambda header: header.update(__metadata__={"a": 1}), "safetensors_header", None),
    (lambda header: header.update(__metadata__=[]), "safetensors_header", None),
    (lambda header: header.clear(), "no_tensors", None),
    (renamed("a\nb"), "safetensors_header", None),
    (renamed("x" * 600), "safetensors_header", None),
]


@pytest.mark.parametrize(("change", "reason", "tensor"), HEADER_REFUSALS)
def test_refuses_headers(
    change: Callable[[dict[str, Any]], None], reason: str, tensor: str | None, tmp_path: Path
) -> None:
    """Each header that does not describe the file is refused, with the tensor where there is one."""
    header = header_of(tensors())
    change(header)
    error = refused(write_adapter(tmp_path, None, safetensors_bytes(tensors(), header)))
    assert (error.reason, error.file) == (reason, WEIGHTS)
    assert tensor is None or error.tensor == tensor


WHOLE = safetensors_bytes(tensors())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "safetensors_header"),
        (b"\x01", "safetensors_header"),
        (WHOLE[:100], "safetensors_header"),
        (WHOLE[:-1], "safetensors_truncated"),
        (WHOLE + b"\0", "safetensors_layout"),
        ((2**63).to_bytes(8, "little") + WHOLE[8:], "safetensors_header"),
        ((0).to_bytes(8, "little") + WHOLE[8:], "safetensors_header"),
        ((2).to_bytes(8, "little") + b"[]", "safetensors_header"),
        ((2).to_bytes(8, "little") + b"{}", "no_tensors"),
        ((9).to_bytes(8, "little") + b'{"a":NaN}', "safetensors_header"),
        ((13).to_bytes(8, "little") + b'{"a":1,"a":2}', "safetensors_header"),
        ((4).to_bytes(8, "little") + b'{"\xff"', "safetensors_header"),
        ((60_000).to_bytes(8, "little") + b'{"a":' * 12_000, "safetensors_header"),
        (pickle.dumps({"a": list(range(100))}), "weights_are_pickle"),
        (b"PK\x03\x04\x14\0\0\0\0\0" + b"x" * 100, "weights_are_pickle"),
    ],
)
def test_refuses_broken_files(content: bytes, reason: str, tmp_path: Path) -> None:
    """A file that is no whole safetensors file is refused."""
    error = refused(write_adapter(tmp_path, None, content))
    assert (error.reason, error.file, error.tensor) == (reason, WEIGHTS, None)


def test_refuses_a_huge_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A header over the limit is not read."""
    monkeypatch.setattr(safetensors, "_LARGEST_HEADER", 100)
    assert refused(write_adapter(tmp_path)).reason == "safetensors_header"


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.pt"])
def test_refuses_pickles(name: str, tmp_path: Path) -> None:
    """A pickle in place of safetensors is refused, with how to save instead."""
    (write_adapter(tmp_path) / WEIGHTS).rename(tmp_path / name)
    error = refused(tmp_path)
    assert (error.reason, error.file) == ("weights_are_pickle", name)
    assert "safe_serialization=True" in error.message


def test_refuses_missing_weights(tmp_path: Path) -> None:
    """A folder without weights is refused."""
    (write_adapter(tmp_path) / WEIGHTS).unlink()
    assert refused(tmp_path).reason == "weights_missing"


# --- adapter_model.safetensors: the tensors --------------------------------------------------------------------


def ones(*shape: int) -> np.ndarray:
    """A tensor of that shape."""
    return np.ones(shape, dtype="float32")


def without(values: Tensors, *names: str) -> Tensors:
    """The values but for those names."""
    return {name: value for name, value in values.items() if name not in names}


EMBED = "base_model.model.model.embed_tokens"
TENSOR_REFUSALS: list[tuple[Tensors, str, str]] = [
    (without(tensors(), Q0_B), "tensor_unpaired", Q0_A),
    (without(tensors(), Q0_A), "tensor_unpaired", Q0_B),
    (tensors() | {"lm_head.weight": ones(1)}, "tensor_name", "lm_head.weight"),
    (tensors() | {f"{Q0}.lora_A.default.weight": ones(4, 32)}, "tensor_name", f"{Q0}.lora_A.default.weight"),
    (tensors() | {f"{Q0}.lora_C.weight": ones(4, 32)}, "tensor_name", f"{Q0}.lora_C.weight"),
    (tensors() | {"model.q_proj.lora_A.weight": ones(4, 32)}, "tensor_name", "model.q_proj.lora_A.weight"),
    (tensors() | {f"{EMBED}.lora_embedding_A": ones(4, 64)}, "embedding_lora_unsupported", f"{EMBED}.lora_embedding_A"),
    (tensors() | {f"{EMBED}.base_layer.weight": ones(4, 4)}, "base_weights_included", f"{EMBED}.base_layer.weight"),
    (tensors() | {f"{Q0}.lora_magnitude_vector": ones(32)}, "dora_unsupported", f"{Q0}.lora_magnitude_vector"),
    (tensors() | {Q0_A: ones(RANK + 1, 32)}, "rank_mismatch", Q0_A),
    (tensors() | {Q0_B: ones(32, RANK - 1)}, "rank_mismatch", Q0_B),
    (tensors() | {Q0_A: ones(32, RANK)}, "rank_mismatch", Q0_A),
    (tensors() | {Q0_A: ones(RANK * 32)}, "shape_mismatch", Q0_A),
    (tensors() | {Q0_A: ones(RANK, 0)}, "shape_mismatch", Q0_A),
]


@pytest.mark.parametrize("base", [BASE, UNKNOWN_BASE], ids=["known", "unknown"])
@pytest.mark.parametrize(("values", "reason", "tensor"), TENSOR_REFUSALS, ids=lambda value: str(value)[:60])
def test_refuses_tensors(values: Tensors, reason: str, tensor: str, base: BaseSpec, tmp_path: Path) -> None:
    """Each tensor that is no half of a LoRA pair of the config's rank is refused, whatever the base."""
    error = refused(write_adapter(tmp_path, None, values), base)
    assert (error.reason, error.file, error.tensor) == (reason, WEIGHTS, tensor)


@pytest.mark.parametrize(
    ("module", "a", "b", "reason", "side"),
    [
        ("model.layers.0.self_attn.q_proj", (RANK, 31), (32, RANK), "shape_mismatch", "A"),
        ("model.layers.0.self_attn.q_proj", (RANK, 32), (31, RANK), "shape_mismatch", "B"),
        ("model.layers.0.self_attn.k_proj", (RANK, 32), (32, RANK), "shape_mismatch", "B"),
        ("model.layers.2.self_attn.q_proj", (RANK, 32), (32, RANK), "module_unknown", "A"),
        ("model.layers.0.self_attn.query", (RANK, 32), (32, RANK), "module_unknown", "A"),
        ("model.embed_tokens", (RANK, 64), (32, RANK), "module_unknown", "A"),
    ],
)
def test_refuses_tensors_of_another_base(
    module: str, a: tuple[int, int], b: tuple[int, int], reason: str, side: str, tmp_path: Path
) -> None:
    """Modules and shapes that the base does not have are refused; a base that nobody knows takes them."""
    name = f"base_model.model.{module}"
    values = tensors() | {f"{name}.lora_A.weight": ones(*a), f"{name}.lora_B.weight": ones(*b)}
    folder = write_adapter(tmp_path, config(target_modules="all-linear"), values)
    error = refused(folder)
    assert (error.reason, error.file, error.tensor) == (reason, WEIGHTS, f"{name}.lora_{side}.weight")
    assert check_adapter(folder, UNKNOWN_BASE).rank == RANK


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", ["float32", "float16", "uint16"])
@pytest.mark.parametrize("position", [0, -1])
def test_refuses_nan_and_inf(bad: float, dtype: str, position: int, tmp_path: Path) -> None:
    """NaN and Inf are found in each type, at both ends of a tensor, and the tensor is named."""
    values = tensors(dtype)
    # BF16 is the upper half of a float32.
    as_bf16 = np.float32(bad).view("uint32") >> 16
    values[Q0_B].flat[position] = as_bf16 if dtype == "uint16" else bad
    error = refused(write_adapter(tmp_path, None, values))
    assert (error.reason, error.file, error.tensor) == ("not_finite", WEIGHTS, Q0_B)


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint16"])
def test_takes_the_largest_numbers(dtype: str, tmp_path: Path) -> None:
    """The largest finite number of each type is not taken for Inf."""
    values = tensors(dtype)
    values[Q0_B].flat[0] = 0x7F7F if dtype == "uint16" else np.finfo(dtype).max
    assert check_adapter(write_adapter(tmp_path, None, values), BASE).rank == RANK


def test_reads_blocks_to_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor larger than a block is looked through to its end."""
    monkeypatch.setattr(safetensors, "_CHUNK", 64)
    values = tensors()
    write_adapter(tmp_path, None, values)
    assert check_adapter(tmp_path, BASE).rank == RANK
    values[Q0_A].flat[-1] = np.nan
    assert refused(write_adapter(tmp_path, None, values)).tensor == Q0_A


# --- damage at random ------------------------------------------------------------------------------------------


def passes(folder: Path) -> bool:
    """Whether the adapter passes; any exception but InvalidAdapter is the test's failure."""
    refusal = None
    try:
        check_adapter(folder, BASE)
    except InvalidAdapter as error:
        refusal = error
    if refusal:
        assert str(folder) not in refusal.message
        json.dumps([refusal.message, refusal.file, refusal.tensor], ensure_ascii=False).encode()
    return refusal is None


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(WHOLE) - 1) | st.integers(0, 1500), st.integers(0, 255)), max_size=4),
    st.just(0) | st.integers(0, len(WHOLE)),
)
def test_damaged_weights_are_refused_or_open(flips: list[tuple[int, int]], cut: int) -> None:
    """Whatever passes here also opens in the safetensors library; whatever does not is InvalidAdapter."""
    from safetensors import safe_open

    content = bytearray(WHOLE)
    for position, value in flips:
        content[position] = value
    with tempfile.TemporaryDirectory() as name:
        folder = write_adapter(Path(name), None, bytes(content[: len(content) - cut]))
        if passes(folder):
            with safe_open(str(folder / WEIGHTS), framework="np") as file:
                assert len(list(file.keys())) == len(tensors())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELDS = ["target_modules", "exclude_modules", "layers_to_transform", "bias", "use_rslora", "init_lora_weights"]


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(config()) + FIELDS), JSON, max_size=3))
def test_strange_settings_are_refused_or_pass(changes: dict[str, Any]) -> None:
    """Any JSON value in any field leads to InvalidAdapter or passes."""
    with tempfile.TemporaryDirectory() as name:
        passes(write_adapter(Path(name), config(**changes)))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=3), st.just(0) | st.integers(0, 200))
def test_damaged_configs_are_refused_or_pass(flips: list[tuple[int, int]], cut: int) -> None:
    """Any bytes in the config's file lead to InvalidAdapter or pass."""
    content = bytearray(json.dumps(config()).encode())
    for position, value in flips:
        content[position % len(content)] = value
    with tempfile.TemporaryDirectory() as name:
        folder = write_adapter(Path(name))
        (folder / CONFIG).write_bytes(content[: max(0, len(content) - cut)])
        passes(folder)


# --- what PEFT and transformers really write -------------------------------------------------------------------

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 64}


@pytest.mark.parametrize(
    ("model_type", "more"),
    [
        ("llama", {"num_key_value_heads": 2}),
        ("llama", {"tie_word_embeddings": True}),
        ("mistral", {"num_key_value_heads": 2, "head_dim": 16}),
        ("qwen2", {"num_key_value_heads": 2}),
        ("qwen3", {"num_key_value_heads": 2}),
        ("gemma", {"num_key_value_heads": 1}),
        ("gemma2", {"num_key_value_heads": 2}),
        ("phi3", {"num_key_value_heads": 2, "pad_token_id": 0, "eos_token_id": 1}),
    ],
)
def test_shapes_are_those_of_transformers(model_type: str, more: dict[str, Any]) -> None:
    """The shapes worked out from config.json are those of the model that transformers builds from it."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    built = transformers.AutoConfig.for_model(model_type, **SIZES, **more)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(built)
    linear = {
        name: (module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    shapes = BaseSpec("x", config=built.to_dict()).module_shapes()
    assert shapes is not None
    served_head = model_type in ("llama", "qwen3") and not more.get("tie_word_embeddings")
    assert shapes == {name: shape for name, shape in linear.items() if name != "lm_head" or served_head}


@pytest.mark.parametrize("missing", ["num_key_value_heads", "head_dim"])
@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "phi3"])
def test_defaults_are_those_of_transformers(model_type: str, missing: str) -> None:
    """A config.json that leaves out a field means what transformers takes it for."""
    transformers = pytest.importorskip("transformers")
    default = transformers.AutoConfig.for_model(model_type)
    full = {key: value for key, value in default.to_dict().items() if value is not None}
    short = {key: value for key, value in full.items() if key != missing}
    assert BaseSpec("x", config=short).module_shapes() == BaseSpec("x", config=full).module_shapes()


@pytest.mark.parametrize(
    "changes", [{"model_type": "mamba"}, {"model_type": ["llama"]}, {"hidden_size": None}, {"num_hidden_layers": "2"}]
)
def test_unknown_families_have_no_shapes(changes: dict[str, Any]) -> None:
    """A family or size that is not understood is left to the engine."""
    assert BASE.config is not None
    assert replace(BASE, config={**BASE.config, **changes}).module_shapes() is None


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], "all-linear", r".*\.[qv]_proj", ["lm_head"]], ids=str)
def test_takes_what_peft_saves(targets: Any, tmp_path: Path) -> None:
    """A folder written by PEFT passes, and a fresh load from it agrees about the parameters."""
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, num_key_value_heads=2))
    model.name_or_path = "/home/trainer/tiny"
    settings = peft.LoraConfig(
        r=RANK, lora_alpha=16, target_modules=targets, task_type="CAUSAL_LM", init_lora_weights=False
    )
    adapted = peft.get_peft_model(model, settings)
    adapted.save_pretrained(tmp_path, save_embedding_layers=False)
    checked = check_adapter(tmp_path, replace(BASE, config=model.config.to_dict()))
    assert checked.parameters == adapted.get_nb_trainable_parameters()[0]
    assert "/home" not in json.dumps(checked.config)
    # The canonical config is one that PEFT itself reads back.
    (tmp_path / CONFIG).write_text(json.dumps(checked.config))
    again = peft.LoraConfig.from_pretrained(str(tmp_path))
    assert (again.r, again.lora_alpha, again.base_model_name_or_path) == (RANK, 16, "tiny")


def test_names_are_held_case_sensitively() -> None:
    """A base is known by its names, by its aliases and by the last part of a path, in their own case."""
    for given_name in ("tiny", "acme/tiny-llama", "tiny-llama", "/x/tiny", "other/tiny", "D:\\m\\tiny"):
        assert BASE.is_called(given_name)
    for given_name in ("Tiny", "tiny2", "", "/", "tiny/checkpoint-3", "acme"):
        assert not BASE.is_called(given_name)


def test_no_heavy_import() -> None:
    """Checking modules load neither torch nor numpy until an adapter is checked."""
    import subprocess
    import sys

    heavy = ("numpy", "torch", "peft", "safetensors")
    code = f"import sys, registry.lora, registry.archive; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
