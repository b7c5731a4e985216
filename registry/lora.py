"""Says whether a folder is a LoRA adapter that the engine can serve on a base model, and if not, why not.

adapter_config.json         registry.lora_config
adapter_model.safetensors   registry.safetensors for the file, this module for the tensors in it
probes.json                 registry.probes; it need not be there
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from registry.base_model import BaseSpec, Shape
from registry.errors import InvalidAdapter
from registry.lora_config import CONFIG_FILE, LoraSettings, read_settings, refuse
from registry.probes import PROBES_FILE, read_probes
from registry.safetensors import FLOATS, Tensor, read_header, require_finite

WEIGHTS_FILE = "adapter_model.safetensors"

_TENSOR_NAME = re.compile(r"base_model\.model\.(?P<module>\w+(?:\.\w+)*)\.lora_(?P<side>[AB])\.weight", re.ASCII)
# Names that are no LoRA weight but have a meaning in PEFT: a part of the name, the reason, what would be right.
_TELLING_NAMES = (
    (".lora_embedding_", "embedding_lora_unsupported", "is LoRA on an embedding; train without it in target_modules"),
    (".base_layer.", "base_weights_included", "is the base's own; save with save_embedding_layers=False"),
    (".lora_magnitude_vector", "dora_unsupported", "belongs to DoRA; train with use_dora=False"),
    (".modules_to_save.", "modules_to_save_unsupported", "is a whole module; train with modules_to_save=None"),
)
# Seconds for one regular expression of target_modules. PEFT's own take milliseconds.
_REGEX_SECONDS = 5.0
_CHUNK = 4 * 1024 * 1024  # bytes read at once
_REGEX_CHILD = """
import json, re, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (2**29, 2**29))
pattern, names = json.load(sys.stdin)
print(json.dumps([name for name in names if re.fullmatch(pattern, name)]))
"""


@dataclass(frozen=True)
class CheckedAdapter:
    """An adapter that fits its base.

    Attributes:
        target_modules: last parts of the changed modules' names, sorted, as the tensors have them.
        parameters: how many numbers the tensors hold.
        dtype: as safetensors writes it, such as "BF16"; several are joined by "+".
        files: names of the files that make up the version; nothing else in the folder belongs to it.
        config: adapter_config.json in canonical form, with the base's name in place of a trainer's path.
    """

    rank: int
    alpha: float
    use_rslora: bool
    target_modules: tuple[str, ...]
    parameters: int
    dtype: str
    files: tuple[str, ...]
    config: dict[str, Any]


@dataclass(frozen=True)
class _Pair:
    """The two tensors of one module: a is [rank, in], b is [out, rank]."""

    a: Tensor
    b: Tensor


def check_adapter(folder: Path, base: BaseSpec, *, trained_on: bool = True) -> CheckedAdapter:
    """Read all of the adapter in `folder` and hold it against `base`. Raises InvalidAdapter with its reason.

    `trained_on=False` leaves out whether the config names this base, for a caller who states the base himself;
    shapes are held all the same.
    """
    settings = read_settings(folder, base, trained_on=trained_on)
    weights = _find_weights(folder)
    tensors = read_header(weights)
    pairs = _pair(tensors)
    _require_shapes(pairs, settings.rank, base)
    _require_targeted(pairs, settings)
    require_finite(weights, tensors)
    _require_effect(weights, pairs.values())
    probes = read_probes(folder, (base.config or {}).get("vocab_size"))
    return CheckedAdapter(
        rank=settings.rank,
        alpha=settings.alpha,
        use_rslora=settings.use_rslora,
        target_modules=tuple(sorted({module.rpartition(".")[2] for module in pairs})),
        parameters=sum(tensor.elements for tensor in tensors),
        dtype="+".join(sorted({tensor.dtype for tensor in tensors})),
        files=(CONFIG_FILE, WEIGHTS_FILE, *((PROBES_FILE,) if probes else ())),
        config=settings.canonical,
    )


def _find_weights(folder: Path) -> Path:
    weights = folder / WEIGHTS_FILE
    if weights.is_file():
        return weights
    for name in ("adapter_model.bin", "adapter_model.pt"):
        if (folder / name).is_file():
            raise InvalidAdapter(
                f"{name} is a pickle, which can run code and is never read; save with safe_serialization=True",
                reason="weights_are_pickle",
                file=name,
            )
    raise InvalidAdapter(
        f"{WEIGHTS_FILE}: the file is missing; push the folder that PEFT's save_pretrained wrote",
        reason="weights_missing",
        file=WEIGHTS_FILE,
    )


def _refuse_tensor(reason: str, name: str, problem: str) -> NoReturn:
    raise InvalidAdapter(f"{WEIGHTS_FILE}: tensor {name!r} {problem}", reason=reason, file=WEIGHTS_FILE, tensor=name)


def _pair(tensors: Iterable[Tensor]) -> dict[str, _Pair]:
    """The tensors by module, such as `model.layers.0.self_attn.q_proj`."""
    sides: dict[str, dict[str, Tensor]] = {}
    for tensor in tensors:
        module, side = _parse_name(tensor.name)
        if tensor.dtype not in FLOATS:
            _refuse_tensor("dtype_unsupported", tensor.name, f"is {tensor.dtype}; save it as F32, BF16 or F16")
        sides.setdefault(module, {})[side] = tensor
    for found in sides.values():
        if len(found) < 2:
            (side, tensor) = next(iter(found.items()))
            missing = "B" if side == "A" else "A"
            _refuse_tensor("tensor_unpaired", tensor.name, f"has no lora_{missing} beside it; save both")
    return {module: _Pair(found["A"], found["B"]) for module, found in sorted(sides.items())}


def _parse_name(name: str) -> tuple[str, str]:
    """Module and side, "A" or "B"."""
    match = _TENSOR_NAME.fullmatch(name)
    if match:
        return match["module"], match["side"]
    for part, reason, problem in _TELLING_NAMES:
        if part in name:
            _refuse_tensor(reason, name, problem)
    _refuse_tensor(
        "tensor_name", name, "is not of LoRA; names must be base_model.model.<module>.lora_A.weight or lora_B.weight"
    )


def _require_shapes(pairs: Mapping[str, _Pair], rank: int, base: BaseSpec) -> None:
    """Each module must be one of the base's, and its pair must have the config's rank and the module's shape."""
    shapes = base.module_shapes()
    for module, pair in pairs.items():
        if shapes is not None and module not in shapes:
            problem = f"changes a module that {base.name} does not have or the engine cannot change"
            _refuse_tensor("module_unknown", pair.a.name, f"{problem}; train on {base.name}'s linear layers")
        _require_rank(pair.a, 0, rank)
        _require_rank(pair.b, 1, rank)
        if shapes is not None:
            _require_module_shape(pair, rank, shapes[module], base)


def _require_rank(tensor: Tensor, axis: int, rank: int) -> None:
    if len(tensor.shape) != 2 or tensor.elements == 0:
        _refuse_tensor("shape_mismatch", tensor.name, f"has the shape {list(tensor.shape)}; it must be a matrix")
    if tensor.shape[axis] != rank:
        shown = list(tensor.shape)
        _refuse_tensor("rank_mismatch", tensor.name, f"has the shape {shown}, but {CONFIG_FILE} says r={rank}")


def _require_module_shape(pair: _Pair, rank: int, shape: Shape, base: BaseSpec) -> None:
    for tensor, right in ((pair.a, (rank, shape[0])), (pair.b, (shape[1], rank))):
        if tensor.shape != right:
            problem = f"has the shape {list(tensor.shape)}; {base.name} needs {list(right)}"
            _refuse_tensor("shape_mismatch", tensor.name, f"{problem}; train on {base.name}")


# --- do the tensors change anything? ----------------------------------------------------------------------------


def _require_effect(weights: Path, pairs: Iterable[_Pair]) -> None:
    """Some pair must have a product that is not zero; the first block of the first pair shows it, as a rule."""
    with weights.open("rb") as file:
        if not any(_is_nonzero(file, pair.b) and _is_nonzero(file, pair.a) for pair in pairs):
            raise InvalidAdapter(
                f"{WEIGHTS_FILE}: in each module lora_A or lora_B is all zeros, so the adapter does nothing; "
                "train it, and save it then",
                reason="no_op",
                file=WEIGHTS_FILE,
            )


def _is_nonzero(file: BinaryIO, tensor: Tensor) -> bool:
    import numpy as np  # here, because processes that never check an adapter import this module too

    size = (tensor.end - tensor.start) // tensor.elements
    magnitude = (1 << (8 * size - 1)) - 1  # all but the sign's bit: -0.0 is zero too
    file.seek(tensor.start)
    for position in range(tensor.start, tensor.end, _CHUNK):
        values = np.frombuffer(file.read(min(_CHUNK, tensor.end - position)), dtype=f"<u{size}")
        if bool(np.any(values & magnitude)):
            return True
    return False


# --- does the config speak of these tensors? -------------------------------------------------------------------


def _require_targeted(pairs: Mapping[str, _Pair], settings: LoraSettings) -> None:
    """PEFT would leave out tensors that the config does not target, while vLLM serves them: so refuse them."""
    targeted = _selected(settings.targets, pairs, "target_modules")
    if not targeted:
        refuse(
            "targets_cover_nothing", f"target_modules names no module that {WEIGHTS_FILE} holds; push matching files"
        )
    excluded = _selected(settings.excluded, pairs, "exclude_modules")
    for module, pair in pairs.items():
        if module not in targeted:
            _refuse_tensor("tensor_not_targeted", pair.a.name, f"is outside target_modules of {CONFIG_FILE}; add it")
        if module in excluded:
            _refuse_tensor("tensor_not_targeted", pair.a.name, f"is in exclude_modules of {CONFIG_FILE}; take it out")
        if not _in_layers(module, settings):
            problem = f"is in a layer outside layers_to_transform of {CONFIG_FILE}; add it"
            _refuse_tensor("tensor_not_targeted", pair.a.name, problem)


def _selected(choice: str | frozenset[str], modules: Iterable[str], field: str) -> frozenset[str]:
    """The modules that `choice` picks, by PEFT's rules: whole names, ends of names, or a regular expression."""
    if choice == "all-linear":
        return frozenset(modules)
    if isinstance(choice, str):
        return _matching(choice, list(modules), field) if choice else frozenset()
    return frozenset(module for module in modules if not choice.isdisjoint(_endings(module)))


def _endings(module: str) -> Iterator[str]:
    """The whole name and all that is left of it after each dot: `a.b.c`, `b.c`, `c`."""
    parts = module.split(".")
    return (".".join(parts[start:]) for start in range(len(parts)))


def _matching(pattern: str, modules: list[str], field: str) -> frozenset[str]:
    """The modules that the whole pattern matches.

    In a child process, because a stranger's expression may backtrack for ages, which nothing in this process
    could stop.
    """
    command = [sys.executable, "-I", "-S", "-c", _REGEX_CHILD]
    question = json.dumps([pattern, modules])
    try:
        child = subprocess.run(
            command, input=question, capture_output=True, check=False, text=True, timeout=_REGEX_SECONDS
        )
    except subprocess.TimeoutExpired:
        refuse("targets_regex", f"{field} takes too long to match; name the modules in a list")
    if child.returncode != 0:
        refuse("targets_regex", f"{field} is no valid regular expression: {pattern!a:.80}; name the modules in a list")
    return frozenset(json.loads(child.stdout))


def _in_layers(module: str, settings: LoraSettings) -> bool:
    """Whether layers_to_transform allows the module; as in PEFT, a whole name in target_modules comes first."""
    if settings.layers is None or (not isinstance(settings.targets, str) and module in settings.targets):
        return True
    number = re.match(r".*?\.[^.]*\.(\d+)\.", module)
    return number is not None and int(number[1]) in settings.layers
