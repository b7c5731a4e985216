"""How several engines on one machine share its GPUs: each gets a group of its own; how much of them an engine takes."""

import argparse
import os
import shutil
import subprocess
from collections.abc import Sequence
from typing import Any

from ostler.engine_command import InvalidEngineOptions

VISIBLE = "CUDA_VISIBLE_DEVICES"
VLLM_MEMORY = 0.92
"""The share of a GPU's memory that vLLM 0.32 takes unless it is told otherwise."""
# Each of these multiplies the GPUs that one engine takes.
_PARALLEL = (
    ("--tensor-parallel-size", "-tp"),
    ("--pipeline-parallel-size", "-pp"),
    ("--data-parallel-size", "-dp"),
)


def gpu_groups(engines: int, extra_args: Sequence[str], visible: Sequence[str] | None = None) -> list[tuple[str, ...]]:
    """The GPUs of each engine; `visible` are those that may be used, unless given what this process may use.

    Raises:
        InvalidEngineOptions: there are too few.
    """
    visible = visible_gpus() if visible is None else visible
    size = gpus_per_engine(extra_args)
    if len(visible) < engines * size:
        raise InvalidEngineOptions(
            f"{engines} replicas of {size} GPU{'s' if size > 1 else ''} need {engines * size} GPUs, and there are "
            f"{len(visible)}: say fewer replicas, or name the GPUs in {VISIBLE}"
        )
    return [tuple(visible[first : first + size]) for first in range(0, engines * size, size)]


def visible_gpus() -> list[str]:
    """The GPUs that processes of this one may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get(VISIBLE)
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    listed = subprocess.run([tool, "-L"], capture_output=True, text=True, check=False).stdout
    return [str(index) for index in range(sum(line.startswith("GPU ") for line in listed.splitlines()))]


def gpus_per_engine(extra_args: Sequence[str]) -> int:
    """How many GPUs an engine with these arguments takes.

    Raises:
        InvalidEngineOptions: such an argument is no number.
    """
    parser = _parser()
    for names in _PARALLEL:
        parser.add_argument(*names, type=int, default=1)
    count = 1
    for size in _found(parser, extra_args).values():
        count *= max(1, size)
    return count


def memory_per_engine(extra_args: Sequence[str], given: float | None) -> float:
    """The share of a GPU's memory that an engine takes: by these arguments, or as `given`, or vLLM's own choice.

    Raises:
        InvalidEngineOptions: such an argument is no number.
    """
    parser = _parser()
    parser.add_argument("--gpu-memory-utilization", type=float, default=given or VLLM_MEMORY)
    return float(_found(parser, extra_args)["gpu_memory_utilization"])


def _parser() -> argparse.ArgumentParser:
    return argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False, add_help=False)


def _found(parser: argparse.ArgumentParser, extra_args: Sequence[str]) -> dict[str, Any]:
    try:
        return vars(parser.parse_known_args([_with_hyphens(word) for word in extra_args])[0])
    except argparse.ArgumentError as error:
        raise InvalidEngineOptions(f"in engine_args: {error}") from None


def _with_hyphens(word: str) -> str:
    """The flag as it is usually written; vLLM takes flags with underscores, too."""
    name, equals, value = word.partition("=")
    return (name.replace("_", "-") if name.startswith("--") else name) + equals + value
