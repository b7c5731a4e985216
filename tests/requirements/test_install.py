"""requirements/install.sh with stand-ins for all that installs: what may be put into one environment."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STAND_INS = ("python", "prometheus", "promtool", "sleep")
"""What the script asks of the machine, or waits by."""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone whose environment exists, with a pip that notes what it is told and does nothing."""
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    (tmp_path / "bin").mkdir()
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for name in STAND_INS:
        executable(tmp_path / "bin" / name, "")
    executable(tmp_path / ".venv/bin/python", "")
    executable(tmp_path / ".venv/bin/pip", 'echo "$*" >>.venv/told')
    return tmp_path


def executable(file: Path, script: str) -> None:
    """A program."""
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def install(clone: Path, kind: str) -> "subprocess.CompletedProcess[str]":
    """Run the script."""
    environment = {"PATH": f"{clone / 'bin'}{os.pathsep}{os.environ['PATH']}", "PYTHON": "python"}
    return subprocess.run(
        [clone / "requirements/install.sh", kind], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(("first", "then"), [("gpu", "cpu"), ("gpu", "test"), ("cpu", "gpu"), ("test", "gpu")])
def test_one_build_of_the_engine_is_not_put_over_the_other(clone: Path, first: str, then: str) -> None:
    """One line says what to do instead, and nothing is installed; the tests bring the CPU's build."""
    assert install(clone, first).returncode == 0
    told = (clone / ".venv/told").read_text()
    refused = install(clone, then)
    has = "gpu" if first == "gpu" else "cpu"
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
    assert refused.stderr.startswith(f"error: .venv has the {has} build of vLLM")
    assert f"say ENGINE={has}" in refused.stderr
    assert (clone / ".venv/told").read_text() == told
    assert not (clone / f".venv/installed-{then}").exists()


@pytest.mark.parametrize("kinds", [("cpu", "test", "cpu"), ("test", "cpu"), ("gpu", "gpu")])
def test_the_same_build_is_installed_again(clone: Path, kinds: tuple[str, ...]) -> None:
    """Also for the tests, and after an upgrade."""
    for kind in kinds:
        ran = install(clone, kind)
        assert ran.returncode == 0, ran.stderr
        assert (clone / f".venv/installed-{kind}").exists()
