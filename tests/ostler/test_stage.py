"""The `ostler up` that the story plays on, with a small process in its place."""

import json
import os
import sys
from pathlib import Path

import psutil
import pytest

from ostler import stage as room
from ostler.client import CommandFailed
from ostler.stage import SETTINGS, stage

SERVES = """
import json, os, pathlib, time
home = pathlib.Path(os.environ["OSTLER_HOME"])
(home / "admin.key").write_text("sk-story\\n")
(home / "where").write_text(os.getcwd())
(home / "seen").write_text(json.dumps({name: os.environ[name] for name in os.environ if name.startswith("OSTLER_")}))
print("serving", os.getpid(), flush=True)
(home / "address").write_text("http://127.0.0.1:1\\n")
time.sleep(600)
"""
ENDS = "print('the engine is not installed'); raise SystemExit(1)"


def instead(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Have this run in place of `ostler up`."""
    monkeypatch.setattr(room, "_COMMAND", (sys.executable, "-c", code))


def test_it_serves_in_a_folder_of_its_own_and_is_gone_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fresh each time, on free ports, with nobody else's settings or ostler.toml; not even a child stays."""
    instead(monkeypatch, SERVES)
    monkeypatch.setenv("OSTLER_API_KEY", "sk-of-another-gateway")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "ostler.db").write_text("of the story before")
    with stage(tmp_path) as ready:
        assert (ready.url, ready.key, ready.folder) == ("http://127.0.0.1:1", "sk-story", tmp_path)
        process = psutil.Process(int((tmp_path / "up.log").read_text().split()[1]))
        assert process.is_running()
        seen = json.loads((tmp_path / "home" / "seen").read_text())
        assert not (tmp_path / "home" / "ostler.db").exists()
    assert not process.is_running()
    assert (tmp_path / "home" / "where").read_text() == str(tmp_path / "home")
    assert "OSTLER_API_KEY" not in seen
    assert SETTINGS.items() <= seen.items()
    assert seen["OSTLER_PORT"] == seen["OSTLER_ENGINE_PORT"] == "0"
    assert os.environ["OSTLER_API_KEY"] == "sk-of-another-gateway"


def test_it_says_why_it_did_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its last lines."""
    instead(monkeypatch, ENDS)
    with (
        pytest.raises(CommandFailed, match=r"ended before it was ready:\n *the engine is not installed"),
        stage(tmp_path),
    ):
        pass


def test_two_stories_do_not_take_each_others_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second says so, and the first goes on."""
    instead(monkeypatch, SERVES)
    with stage(tmp_path) as ready:
        with pytest.raises(CommandFailed, match="another `ostler demo`"), stage(tmp_path):
            pass
        assert (ready.folder / "home" / "address").exists()
