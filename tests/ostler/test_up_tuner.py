"""The tuner of `ostler up`: started with what it needs, and left out where it cannot run or is not wanted."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

import demo
from demo import retention
from ostler.engine_command import Device
from ostler.serve import read_settings
from ostler.settings import UpSettings
from ostler.supervisor import ChildSpec
from ostler.up import _Up, _with_ports
from tests.conftest import until
from tuner.settings import TunerSettings


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder and an environment without anyone's settings."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("OSTLER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OSTLER_CACHE", str(tmp_path / "cache"))
    return tmp_path


def tuners(folder: Path, build: Device = "cpu", **given: object) -> list[ChildSpec]:
    """What `ostler up` would start to tune, with a build of vLLM."""
    settings = {"home": folder / "home", "port": 0, "tuner_port": 0, "monitor_port": 0, **given}
    return _Up(_with_ports(read_settings(UpSettings, settings)))._tuners(build)


def test_the_tuner_starts_with_what_up_tells_it(own_folder: Path) -> None:
    """It serves with the key of this machine, before there is an engine or a gateway."""
    (spec,) = tuners(own_folder)
    environment = os.environ | spec.command.env
    subprocess.run([sys.executable, "-m", "ostler", "migrate"], env=environment, check=True)
    (own_folder / "home" / "admin.key").write_text("sk-mine\n")
    with subprocess.Popen(spec.command.argv, env=environment) as running:
        try:
            assert spec.is_healthy is not None
            asyncio.run(until(spec.is_healthy, 60))
        finally:
            running.terminate()
        assert running.wait(30) == 0


def test_it_tunes_the_base_model_that_is_served(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the engine's limits and this machine's state and key, whatever the caller's own environment says of them."""
    monkeypatch.setenv("OSTLER_API_KEY", "sk-of-another-gateway")
    monkeypatch.setenv("OSTLER_TUNER_SHARING", "wait")
    (spec,) = tuners(own_folder, max_lora_rank=32, host="0.0.0.0")
    for name, value in spec.command.env.items():
        monkeypatch.setenv(name, value)
    heard = read_settings(TunerSettings, {})
    assert (heard.base, heard.base_model, heard.max_model_len) == (demo.BASE_NAME, str(demo.BASE_DIR), 512)
    assert (heard.max_lora_rank, heard.home, heard.api_key) == (32, own_folder / "home", "")
    assert heard.url.startswith("http://127.0.0.1:")
    assert (heard.tuner_sharing, heard.retention_set) == ("wait", str(retention.FILE))
    assert spec.log_path == own_folder / "home" / "logs" / "tuner.log"


def test_it_stands_back_for_everything_else_and_has_time_to_save(own_folder: Path) -> None:
    """Clients never wait for tuning; a stop gives the step at work the time that the settings say."""
    (spec,) = tuners(own_folder)
    assert spec.command.niceness == 19
    assert spec.stop_grace_s > read_settings(TunerSettings, {}).tuner_stop_s


def test_a_skill_set_that_was_chosen_is_kept(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And other base models than the demo's have the tuner's own."""
    (own_folder / "model").mkdir()
    (spec,) = tuners(own_folder, base_model=str(own_folder / "model"))
    assert "OSTLER_RETENTION_SET" not in spec.command.env
    monkeypatch.setenv("OSTLER_RETENTION_SET", "mine.jsonl")
    (spec,) = tuners(own_folder)
    assert "OSTLER_RETENTION_SET" not in spec.command.env


def test_without_its_libraries_up_goes_on_without_it(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And says in one line what is missing and how to have it."""
    monkeypatch.setattr("ostler.up.missing_libraries", lambda: ["peft", "trl"])
    assert tuners(own_folder) == []
    told = capsys.readouterr().out
    assert told.count("\n") == 1
    assert "no tuner: peft, trl not installed (pip install 'ostler[tuner]')" in told


def test_it_can_be_left_out(own_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By a setting, without a word."""
    assert tuners(own_folder, tuner=False) == []
    assert capsys.readouterr().out == ""


def gpu_of(spec: ChildSpec) -> dict[str, str]:
    """What the tuner is told of its GPU."""
    names = ("CUDA_VISIBLE_DEVICES", "OSTLER_TUNER_SHARING", "OSTLER_TUNER_MEMORY_SHARE")
    return {name: spec.command.env[name] for name in names if name in spec.command.env}


@pytest.mark.parametrize(
    ("given", "share"),
    [
        ({}, "0.04"),
        ({"gpu_memory_utilization": 0.6}, "0.36"),
        ({"gpu_memory_utilization": 0.6, "engine_args": "--gpu_memory_utilization=0.5"}, "0.46"),
        ({"gpu_memory_utilization": 1.0}, "0.02"),
    ],
)
def test_on_an_engines_gpu_it_waits_and_takes_what_the_engine_leaves(
    own_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    given: dict[str, object],
    share: str,
) -> None:
    """So that an engine which is started again finds its part; and it is said."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    (spec,) = tuners(own_folder, "gpu", **given)
    assert gpu_of(spec) == {"OSTLER_TUNER_SHARING": "wait", "OSTLER_TUNER_MEMORY_SHARE": share}
    told = capsys.readouterr().out
    assert f"the tuner shares the engine's GPU: training begins when the engine is idle, in {float(share):.0%}" in told


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"OSTLER_TUNER_SHARING": "none"}, {}),
        ({"OSTLER_TUNER_DEVICE": "cpu"}, {}),
        ({"OSTLER_TUNER_MEMORY_SHARE": "0.3"}, {"OSTLER_TUNER_SHARING": "wait"}),
        ({"CUDA_VISIBLE_DEVICES": "3,1,2"}, {"CUDA_VISIBLE_DEVICES": "1,2"}),
        ({"CUDA_VISIBLE_DEVICES": "0,1", "OSTLER_REPLICAS": "2"}, None),
        ({"CUDA_VISIBLE_DEVICES": "0,1", "OSTLER_ENGINE_ARGS": "-tp 2"}, None),
        ({"CUDA_VISIBLE_DEVICES": "0,1", "OSTLER_TUNER_PROCESSES": "2"}, None),
        ({"CUDA_VISIBLE_DEVICES": ""}, None),
    ],
)
def test_it_shares_no_gpu_that_it_need_not(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], told: dict[str, str] | None
) -> None:
    """It has those that no engine has, if they are enough; and what was chosen is kept."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    (spec,) = tuners(own_folder, "gpu")
    shared = {"OSTLER_TUNER_SHARING": "wait", "OSTLER_TUNER_MEMORY_SHARE": "0.04"}
    assert gpu_of(spec) == (shared if told is None else told)


def test_beside_engines_on_the_cpu_it_has_every_gpu(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a word."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    (spec,) = tuners(own_folder, "cpu")
    assert gpu_of(spec) == {}
    assert capsys.readouterr().out == ""
