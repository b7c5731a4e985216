"""`ostler demo` refuses what would spoil the story's end before the story begins."""

from pathlib import Path

import pytest

from ostler.client import CommandFailed
from ostler.commands import demo


@pytest.fixture(autouse=True)
def begun(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Where the pages of the stories that began would go; none is told."""
    pages: list[Path] = []
    monkeypatch.setattr(demo, "_tell", lambda _folder, page, **_: pages.append(page))
    return pages


@pytest.mark.parametrize("name", [".", "no/such/folder.html"])
def test_a_report_that_cannot_be_written_is_refused_first(tmp_path: Path, begun: list[Path], name: str) -> None:
    """A folder, or a file in none."""
    with pytest.raises(CommandFailed, match="the report cannot be written"):
        demo.demo(minutes=10.0, fast=False, report=tmp_path / name)
    assert begun == []


def test_trying_a_report_leaves_nothing_behind(tmp_path: Path, begun: list[Path]) -> None:
    """Neither a new file nor another content of an old one, should the story break off."""
    old, new = tmp_path / "old.html", tmp_path / "new.html"
    old.write_text("the story before")
    for page in (old, new):
        demo.demo(minutes=10.0, fast=False, report=page)
    assert begun == [old, new]
    assert old.read_text() == "the story before"
    assert not new.exists()


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, begun: list[Path]) -> None:
    """With what to install, rather than a story that waits in vain."""
    monkeypatch.setattr(demo, "missing_libraries", lambda: ["trl"])
    with pytest.raises(CommandFailed, match=r"trl not installed; .*ostler\[cpu,demo\]"):
        demo.demo(minutes=10.0, fast=False, report=None)
    assert begun == []
