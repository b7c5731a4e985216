"""The page of licences is not written where something about them is not known."""

from pathlib import Path

import pytest

from docs.source import licences


@pytest.fixture
def requirements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of locks of one's own."""
    monkeypatch.setattr(licences, "REQUIREMENTS", tmp_path)
    (tmp_path / "licences.toml").write_text('gpl-thing = "GPL-3.0-only"\nfree-thing = "MIT"\n')
    return tmp_path


def test_a_package_is_listed_once_with_its_locks(requirements: Path) -> None:
    """Other platforms' packages are left out; what is installed here says its licence itself."""
    windows = "pywin32==1 ; sys_platform == 'win32'\n"
    (requirements / "a.lock").write_text(f"# comment\nfree-thing==1.0\nlitestar==2.0 ; python_version < '4'\n{windows}")
    (requirements / "b.lock").write_text("free-thing==1.1\n")
    page = licences.page()
    assert "| free-thing | 1.0, 1.1 | MIT | a, b |" in page
    assert "| litestar | 2.0 | MIT | a |" in page
    assert "pywin32" not in page


@pytest.mark.parametrize(
    ("lock", "line", "words"),
    [
        ("a", "no-such-thing==1.0", "no-such-thing.*requirements/licences.toml"),
        ("a", "gpl-thing==1.0", "gpl-thing is under GPL-3.0-only: say"),
        ("gateway", "hypothesis==6.0", "hypothesis is no tool of the tests alone: it is in gateway"),
    ],
)
def test_what_has_to_be_looked_at_is_refused(requirements: Path, lock: str, line: str, words: str) -> None:
    """In words that say where to write it down."""
    (requirements / f"{lock}.lock").write_text(f"{line}\n")
    with pytest.raises(ValueError, match=words):
        licences.page()
