"""The proof on real vLLM: a version serves only if it acts, and acts as it was trained."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import demo
from registry.lora import WEIGHTS_FILE
from registry.probes import PROBES_FILE
from tests.engine.conftest import Up

pytestmark = pytest.mark.engine

FIRST, SECOND = (each.folder for each in demo.ADAPTERS)
Change = Callable[[str, np.ndarray], np.ndarray]


def copy(source: Path, to: Path, change: Change = lambda _, values: values) -> Path:
    """A shipped version without its probes, its tensors changed."""
    shutil.copytree(source, to)
    (to / PROBES_FILE).unlink()
    tensors = {name: change(name, values) for name, values in load_file(to / WEIGHTS_FILE).items()}
    save_file(tensors, to / WEIGHTS_FILE, metadata={"format": "pt"})
    return to


def b_times(factor: float) -> Change:
    """Scales each lora_B."""
    return lambda name, values: values * np.float32(factor) if "lora_B" in name else values


def push(up: Up, folder: Path, adapter: str) -> int:
    """The number of the version that was pushed."""
    pushed = up.cli("push", str(folder), "--adapter", adapter, "--json")
    assert pushed.returncode == 0, pushed.stderr
    number: int = json.loads(pushed.stdout)["version"]["number"]
    return number


def deployment(up: Up, adapter: str) -> Any:
    """What the adapter's name means now."""
    with up.http() as http:
        return http.get(f"/admin/v1/adapters/{adapter}").json()["deployment"]


def refusal(up: Up, adapter: str, number: int) -> str:
    """Why the version is not promoted, having seen that nothing changed."""
    before = deployment(up, adapter)
    with up.http() as http:
        response = http.patch(f"/admin/v1/adapters/{adapter}/deployment", json={"stable": number})
    assert response.status_code == 409, response.text
    error = response.json()["error"]
    assert error["code"] == "version_not_servable"
    assert deployment(up, adapter) == before
    message: str = error["message"]
    return message


def test_weights_that_do_nothing_are_refused_at_the_push(up: Up, tmp_path: Path) -> None:
    """Zeros need no engine to be found."""
    pushed = up.cli("push", str(copy(SECOND, tmp_path / "zero", b_times(0.0))), "--adapter", "proof-zero")
    assert pushed.returncode == 1
    assert "does nothing" in pushed.stderr


def test_weights_that_are_not_those_of_the_probes_are_not_promoted(up: Up, tmp_path: Path) -> None:
    """Version 1's weights with version 2's probes: the engine's answers give them away, and the live version stays."""
    sound = push(up, copy(FIRST, tmp_path / "sound"), "proof-swapped")
    assert up.cli("promote", "proof-swapped", str(sound)).returncode == 0
    swapped = copy(FIRST, tmp_path / "swapped")
    shutil.copy(SECOND / PROBES_FILE, swapped)
    number = push(up, swapped, "proof-swapped")
    message = refusal(up, "proof-swapped", number)
    assert "its answers are not those that were stored with it" in message
    assert "allowed 0.25" in message
    assert deployment(up, "proof-swapped")["stable"] == sound


@pytest.mark.parametrize("with_probes", [True, False])
def test_weights_too_small_to_matter_are_not_promoted(up: Up, tmp_path: Path, with_probes: bool) -> None:
    """They pass the push, as they are not zero; in the engine they answer as the base."""
    tiny = copy(SECOND, tmp_path / "tiny", b_times(1e-12))
    if with_probes:
        shutil.copy(SECOND / PROBES_FILE, tiny)
    number = push(up, tiny, "proof-tiny")
    assert "does nothing" in refusal(up, "proof-tiny", number)


def test_probes_of_another_base_model_are_told_as_such(up: Up, tmp_path: Path) -> None:
    """The base's stored numbers are held against the engine's base."""
    stranger = copy(SECOND, tmp_path / "stranger")
    probes = json.loads((SECOND / PROBES_FILE).read_text())
    for probe in probes["probes"]:
        probe["base_logprobs"] = {token: logprob - 1.0 for token, logprob in probe["base_logprobs"].items()}
    (stranger / PROBES_FILE).write_text(json.dumps(probes))
    number = push(up, stranger, "proof-stranger")
    assert "base model is not the one" in refusal(up, "proof-stranger", number)


def test_verify_tells_by_how_much_a_version_agrees(up: Up) -> None:
    """The shipped version is within a thousandth of what PEFT said, and far from the base."""
    verified = up.cli("verify", "support", "2", "--json")
    assert verified.returncode == 0, verified.stderr
    (verdict,) = json.loads(verified.stdout)["data"]
    assert verdict["ok"] is True
    assert verdict["distance"] < 0.001
    assert verdict["difference"] > 1
