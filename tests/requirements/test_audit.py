"""The check of the locks against published vulnerabilities, which needs no network."""

import importlib.util
import json
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCKS = [str(lock) for lock in sorted((ROOT / "requirements").glob("*.lock"))]


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("audit", ROOT / "requirements" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def advisory(name: str, *events: dict[str, str], **fields: Any) -> dict[str, Any]:
    """An advisory as OSV has it."""
    ranges = [{"type": "GIT", "events": [{"introduced": "0"}]}, {"type": "ECOSYSTEM", "events": list(events)}]
    affected = {"package": {"ecosystem": "PyPI", "name": name}, "ranges": ranges, **fields}
    return {"id": "PYSEC-2026-1", "summary": "it\nleaks", "affected": [affected]}


def archive(folder: Path, *advisories: dict[str, Any], besides: int = 1000) -> str:
    """An export with these advisories, and as many others as make it look whole."""
    file = folder / "all.zip"
    others = [{"id": f"PYSEC-{number}", "affected": []} for number in range(besides)]
    with zipfile.ZipFile(file, "w") as opened:
        for number, each in enumerate((*advisories, *others)):
            opened.writestr(f"{number}.json", json.dumps(each))
    return str(file)


@pytest.mark.parametrize(
    ("version", "events", "is_affected"),
    [
        ("1.2", [{"introduced": "0"}, {"fixed": "1.3"}], True),
        ("1.3", [{"introduced": "0"}, {"fixed": "1.3"}], False),
        ("1.10", [{"introduced": "1.2"}, {"fixed": "1.9"}], False),
        ("1.10", [{"introduced": "1.9"}], True),
        ("1.1", [{"introduced": "1.2"}], False),
        ("1.4", [{"introduced": "1.2"}, {"last_affected": "1.4"}], True),
        ("1.5", [{"introduced": "1.2"}, {"last_affected": "1.4"}], False),
        ("3.1", [{"introduced": "1.0"}, {"fixed": "2.0"}, {"introduced": "3.0"}, {"fixed": "3.2"}], True),
        ("2.5", [{"introduced": "3.0"}, {"fixed": "3.2"}, {"introduced": "1.0"}, {"fixed": "2.0"}], False),
        ("2.0rc1", [{"introduced": "0"}, {"fixed": "2.0"}], True),
    ],
)
def test_versions_are_held_against_ranges(
    audit: ModuleType, version: str, events: list[dict[str, str]], is_affected: bool
) -> None:
    """As versions are ordered, not as words are; ranges of commits say nothing of a version."""
    assert audit.affects(advisory("x", *events)["affected"][0], version) is is_affected


def test_what_is_locked_is_found(audit: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever the name's spelling, by range and by list, torch too; what was withdrawn is not."""
    lock = tmp_path / "x.lock"
    lock.write_text("# a comment\nSome_Thing[extra]==1.2 ; python_version < '4'\nother==2.0\n    # via x\nthird==3.0\n")
    torch = dict(audit.pins_beside_the_locks())["torch"]
    known = (
        advisory("some-thing", {"introduced": "0"}, {"fixed": "1.3"}),
        advisory("other", {"introduced": "5"}, versions=["2.0"]),
        advisory("third", {"introduced": "0"}) | {"withdrawn": "2026-01-01T00:00:00Z"},
        advisory("torch", {"introduced": torch}),
    )
    assert audit.main([archive(tmp_path, *known), str(lock)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "other 2.0: PYSEC-2026-1: it leaks; no fix is known",
        "some-thing 1.2: PYSEC-2026-1: it leaks; fixed in 1.3",
        f"torch {torch}: PYSEC-2026-1: it leaks; no fix is known",
        "4 locked versions, 1003 advisories, 3 found",
    ]


def test_our_locks_can_be_read(audit: ModuleType, tmp_path: Path) -> None:
    """Every line of each of them."""
    assert audit.main([archive(tmp_path), *LOCKS]) == 0


def test_an_export_that_is_not_whole_is_no_pass(
    audit: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor is one that is not there, or is no zip."""
    (tmp_path / "no.zip").write_text("<html>not found</html>")
    for wrong in (archive(tmp_path, besides=3), str(tmp_path / "no.zip"), str(tmp_path / "gone.zip")):
        assert audit.main([wrong, *LOCKS]) == 2
        assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("arguments", [[], ["all.zip"]])
def test_without_arguments_it_says_how_to_use_it(
    audit: ModuleType, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """And nothing of what Python thinks of it."""
    assert audit.main(arguments) == 2
    assert capsys.readouterr().err.startswith("usage: audit.py ADVISORIES.zip LOCK...")
