"""A release: one version everywhere, a wheel that has all it needs, and a repository without ballast."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
VERSION: str = PROJECT["project"]["version"]
PACKAGES = sorted(name.rstrip("*") for name in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"])
FOLLOWERS = {
    "helm/Chart.yaml": r"^(?:version|appVersion): \"?([^\"\s]+)",
    "Dockerfile": r"^ARG (?:OSTLER_)?VERSION=\"?([^\"\s]+)",
    "compose.yaml": r"(?<![/\w])ostler/[a-z-]+:(?:\$\{\w+:-)?([^}\"\s]+)",
    "CHANGELOG.md": r"\A(?:.*\n)*?## (\S+)",
}
"""Files that state the version once more, because they are read without Python, and how each does."""
MOST_BYTES = 10 * 2**20


@pytest.mark.parametrize("file", FOLLOWERS)
def test_every_statement_of_the_version_is_that_of_pyproject(file: str) -> None:
    """So a release changes one line, and this names those that have to follow."""
    stated = re.findall(FOLLOWERS[file], (ROOT / file).read_text(), flags=re.MULTILINE)
    assert set(stated) == {VERSION}


def test_pages_name_no_version_of_an_image() -> None:
    """They write VERSION, which is never out of date."""
    pages = [*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "helm" / "README.md"]
    assert [page.name for page in pages if re.search(r"\bostler/[a-z-]+:\d", page.read_text())] == []


def test_no_file_is_larger_than_ten_mebibytes() -> None:
    """Models and data that are larger are made or fetched."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    files = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    assert len(files) > 500
    assert [file.name for file in files if file.is_file() and file.stat().st_size > MOST_BYTES] == []


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked as an installer does, built without a network from the files that a release has."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    build = f"from setuptools.build_meta import build_wheel; build_wheel({str(built)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, check=True)
    (made,) = built.glob("*.whl")
    assert made.name == f"ostler-{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(made) as opened:
        opened.extractall(built / "installed")
    return built / "installed"


def test_the_wheel_holds_every_file_of_its_packages(wheel: Path) -> None:
    """Code, migrations, pages, the demo's models and data; nothing else."""
    wanted = {
        str(file.relative_to(ROOT))
        for package in PACKAGES
        for file in (ROOT / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts and file.name != "README.md"
    }
    held = {str(file.relative_to(wheel)) for file in wheel.rglob("*") if file.is_file()}
    assert {file for file in held if ".dist-info/" not in file} == wanted


def test_the_wheel_runs_without_the_repository(wheel: Path, tmp_path: Path) -> None:
    """Its command says its version, explains itself, and brings a database to its schema."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OSTLER_")}
    environment = kept | {"PYTHONPATH": str(wheel), "OSTLER_HOME": str(tmp_path / "home")}

    def ostler(*words: str) -> str:
        ran = subprocess.run(
            [sys.executable, "-m", "ostler", *words], cwd=tmp_path, env=environment, capture_output=True, check=True
        )
        return ran.stdout.decode()

    assert ostler("--version") == f"ostler {VERSION}\n"
    assert "gateway" in ostler("--help")
    ostler("migrate")
    assert ostler("keys", "create", "first", "--admin", "--local").startswith("sk-ostler-")
