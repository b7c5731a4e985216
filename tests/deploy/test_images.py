"""`make images` and `make push-images`: what they ask of docker, podman or buildah."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TARGETS = re.findall(r"^FROM runtime AS (\S+)$", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


@pytest.fixture
def builders(tmp_path: Path) -> Path:
    """A folder of builders that write down what they are asked, beside the few commands that the script needs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for command in ("sed", "dirname", "sh", "make"):
        found = subprocess.run(["sh", "-c", f"command -v {command}"], capture_output=True, text=True, check=True)
        (folder / command).symlink_to(found.stdout.strip())
    return folder


def add(builders: Path, name: str, works: bool = True) -> None:
    """Put a builder there; a docker that does not work has no daemon."""
    info = "exit 0" if works else "exit 1"
    script = f'#!/bin/sh\n[ "$1" = info ] && {info}\n'
    (builders / name).write_text(script + f'echo "{name} $*" >> "{builders.parent}/asked"\n')
    (builders / name).chmod(0o755)


def run(builders: Path, *words: str) -> tuple[int, list[str], str]:
    """Run `make`; its exit code, what the builder was asked, and what was said of errors."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    ran = subprocess.run(
        ["make", "--silent", *words],
        cwd=ROOT,
        env=kept | {"PATH": str(builders)},
        capture_output=True,
        text=True,
        check=False,
    )
    asked = builders.parent / "asked"
    return ran.returncode, asked.read_text().splitlines() if asked.exists() else [], ran.stderr


def test_every_image_is_built_for_the_registry_that_is_said(builders: Path) -> None:
    """With its own tag, and the version both there and in the labels."""
    add(builders, "docker")
    words = ("REGISTRY=registry.example.com/team/", "VERSION=9.9.9", "PYTHON_IMAGE=python:3.11@sha256:0")
    code, asked, said = run(builders, "images", *words)
    assert (code, said) == (0, "")
    assert len(TARGETS) == 5
    assert sorted(asked) == sorted(
        f"docker build --target {target} --tag registry.example.com/team/ostler/{target}:9.9.9"
        " --build-arg VERSION=9.9.9 --build-arg PYTHON_IMAGE=python:3.11@sha256:0 ."
        for target in TARGETS
    )


def test_what_was_built_is_what_is_pushed(builders: Path) -> None:
    """Under the same names, at the project's version if none is said."""
    add(builders, "buildah")
    code, asked, _ = run(builders, "images", "REGISTRY=registry.example.com")
    built = [re.findall(r"--tag (\S+)", line)[0] for line in asked]
    assert code == 0
    (builders.parent / "asked").unlink()
    code, asked, _ = run(builders, "push-images", "REGISTRY=registry.example.com")
    assert code == 0
    assert [line.removeprefix("buildah push ") for line in asked] == built
    assert built[0] == f"registry.example.com/ostler/{TARGETS[0]}:{VERSION}"


def test_builders_other_than_docker_keep_the_health_checks(builders: Path) -> None:
    """A docker without its daemon is passed over, and names without a registry are those of compose.yaml."""
    add(builders, "docker", works=False)
    add(builders, "podman")
    code, asked, _ = run(builders, "images", "TARGETS=agent")
    assert code == 0
    tag = f"--tag ostler/agent:{VERSION} --build-arg VERSION={VERSION} --format docker ."
    assert asked == [f"podman build --target agent {tag}"]


@pytest.mark.parametrize(
    ("goal", "words", "message"),
    [
        ("push-images", (), "say where to: REGISTRY=registry.example.com/team"),
        ("images", (), "this needs docker (running), podman or buildah"),
    ],
)
def test_what_is_missing_is_named(builders: Path, goal: str, words: tuple[str, ...], message: str) -> None:
    """The registry to push to, or any builder."""
    code, asked, said = run(builders, goal, *words)
    assert (code != 0, asked) == (True, [])
    assert f"error: {message}" in said
