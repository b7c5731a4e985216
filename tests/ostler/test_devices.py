"""How engines share the GPUs of a machine."""

import importlib.util
from pathlib import Path

import pytest

from ostler.devices import VISIBLE, VLLM_MEMORY, gpu_groups, gpus_per_engine, memory_per_engine, visible_gpus
from ostler.engine_command import InvalidEngineOptions

LISTING = """GPU 0: NVIDIA H200 (UUID: GPU-5fd4f087)
GPU 1: NVIDIA H200 (UUID: GPU-c64cb5f3)
  MIG 1g.18gb     Device  0: (UUID: MIG-41b35fea)
"""


@pytest.mark.parametrize(
    ("engines", "words", "visible", "groups"),
    [
        (2, "", "0 1", [("0",), ("1",)]),
        (2, "", "3 1 0", [("3",), ("1",)]),
        (2, "--tensor-parallel-size 2", "0 1 2 3", [("0", "1"), ("2", "3")]),
        (1, "-tp 2 -pp 2", "0 1 2 3 4", [("0", "1", "2", "3")]),
    ],
)
def test_each_engine_has_a_group_of_its_own(
    engines: int, words: str, visible: str, groups: list[tuple[str, ...]]
) -> None:
    """As large as its arguments need, in the order of the visible GPUs."""
    assert gpu_groups(engines, words.split(), visible.split()) == groups


@pytest.mark.parametrize(("engines", "words", "visible"), [(2, "", "0"), (1, "", ""), (2, "-tp 2", "0 1 2")])
def test_too_few_gpus_are_told(engines: int, words: str, visible: str) -> None:
    """With how many are needed and how many there are."""
    with pytest.raises(InvalidEngineOptions, match=f"there are {len(visible.split())}"):
        gpu_groups(engines, words.split(), visible.split())


@pytest.mark.parametrize(
    ("words", "size"),
    [
        ("", 1),
        ("--max-num-seqs 8", 1),
        ("--tensor-parallel-size 2", 2),
        ("--tensor-parallel-size=4", 4),
        ("--tensor_parallel_size 4", 4),
        ("-tp 2", 2),
        ("-tp=2", 2),
        ("-tp 2 -dp 2 -pp 2", 8),
        ("-tp 2 -tp 4", 4),
        ("--model-impl auto -tp 2 --enforce-eager", 2),
    ],
)
def test_the_size_of_a_group_follows_from_the_engines_arguments(words: str, size: int) -> None:
    """In each way that vLLM takes them, and the last one counts."""
    assert gpus_per_engine(words.split()) == size


@pytest.mark.parametrize(
    ("words", "given", "share"),
    [
        ("", None, 0.92),
        ("", 0.5, 0.5),
        ("--gpu-memory-utilization 0.4 -tp 2", 0.5, 0.4),
        ("--gpu_memory_utilization=0.4", None, 0.4),
    ],
)
def test_an_engines_memory_follows_from_its_arguments(words: str, given: float | None, share: float) -> None:
    """They come last, so they win; else it is the setting, or vLLM's own default."""
    assert memory_per_engine(words.split(), given) == share


def test_vllms_own_share_of_the_memory_is_known() -> None:
    """By its source, as it is heavy to import."""
    spec = importlib.util.find_spec("vllm")
    assert spec is not None, "the tests' environment has vLLM"
    assert spec.origin is not None
    source = (Path(spec.origin).parent / "config" / "cache.py").read_text()
    assert f"gpu_memory_utilization: float = Field(default={VLLM_MEMORY}," in source


def test_a_size_that_is_no_number_is_told() -> None:
    """By the name of the setting and the flag."""
    with pytest.raises(InvalidEngineOptions, match=r"engine_args: .*--tensor-parallel-size"):
        gpus_per_engine(["-tp", "two"])


@pytest.mark.parametrize(("value", "gpus"), [("1,3", ["1", "3"]), ("GPU-5fd4f087, 2", ["GPU-5fd4f087", "2"]), ("", [])])
def test_the_environment_says_which_gpus_are_visible(
    monkeypatch: pytest.MonkeyPatch, value: str, gpus: list[str]
) -> None:
    """Under whatever name, and also that there is none."""
    monkeypatch.setenv(VISIBLE, value)
    assert visible_gpus() == gpus


def test_otherwise_the_driver_says_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By their indices; a part of a GPU is not one."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\ncat <<'END'\n{LISTING}END\n")
    tool.chmod(0o755)
    monkeypatch.delenv(VISIBLE, raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert visible_gpus() == ["0", "1"]


def test_without_a_driver_there_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And no error of a tool that is not there."""
    monkeypatch.delenv(VISIBLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus() == []
