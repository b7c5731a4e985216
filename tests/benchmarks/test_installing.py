"""What benchmarks need beyond the project's own environment, where it cannot be had."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks.speed import installing


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that would have been run on a machine that has everything."""
    commands: list[list[str]] = []
    present = tmp_path / "present"
    present.touch()
    monkeypatch.setattr(installing, "_FROM_PYPI", {present: "litellm"})
    monkeypatch.setattr(installing, "PORTKEY", present)
    monkeypatch.setattr(shutil, "which", lambda program: f"/usr/bin/{program}")
    monkeypatch.setattr(subprocess, "run", lambda argv, **_: commands.append(list(argv)))
    return commands


def test_what_is_there_is_not_installed_again(ran: list[list[str]]) -> None:
    """So that a second run needs no network."""
    installing.install()
    assert ran == []


def test_whoever_may_not_use_apt_is_told_what_is_missing(ran: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line, and nothing is tried."""
    monkeypatch.setattr(shutil, "which", lambda program: None if program in {"wrk", "nginx"} else program)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(SystemExit) as told:
        installing.install()
    assert str(told.value) == "missing: wrk nginx-light (with Debian or Ubuntu: sudo apt-get install wrk nginx-light)"
    assert ran == []


def test_valgrind_is_asked_for_by_the_piece_that_needs_it(
    ran: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others do without it; where it cannot be had, only that piece fails."""
    monkeypatch.setattr(shutil, "which", lambda program: None if program == "callgrind_control" else program)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    installing.install()
    with pytest.raises(RuntimeError, match=r"^missing: valgrind \(.*apt-get install valgrind\)$"):
        installing.install_valgrind()
    assert ran == []


def test_what_apt_does_not_install_is_named(ran: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only the command that failed."""

    def fail(argv: list[str], **_: object) -> None:
        raise subprocess.CalledProcessError(100, argv)

    monkeypatch.setattr(shutil, "which", lambda program: None if program == "wrk" else program)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(SystemExit, match=r"^missing: wrk .*this failed: apt-get update") as told:
        installing.install()
    assert "\n" not in str(told.value)


def test_each_package_has_an_environment_of_its_own(
    ran: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made once, with the package as pinned."""
    program = tmp_path / "granian" / "bin" / "granian"
    monkeypatch.setattr(installing, "_FROM_PYPI", {program: "granian[uvloop]==1.0"})
    installing.install()
    made, installed = ran
    assert made[1:] == ["-m", "venv", str(tmp_path / "granian")]
    assert installed == [str(tmp_path / "granian" / "bin" / "pip"), "install", "--quiet", "granian[uvloop]==1.0"]
