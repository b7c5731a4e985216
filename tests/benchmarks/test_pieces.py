"""The pieces of the whole measurement, one after the other."""

from pathlib import Path

import pytest

from benchmarks.speed import __main__ as whole
from benchmarks.speed.pieces import PIECES, Piece
from benchmarks.speed.report import Found
from tests.test_readme import ROOT


async def _measures(rounds: int, seconds: float) -> Found:
    return Found("1-x", "Title", f"{rounds} rounds of {seconds} s.", [], [])


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the page is; a page of short runs is in `short` beside it."""
    monkeypatch.setattr(whole, "HOME", tmp_path / "home")
    monkeypatch.setattr(whole, "SHORT", tmp_path / "short")
    return tmp_path / "home"


def _pages(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("RESULTS.md"))


@pytest.mark.parametrize("error", [RuntimeError("LiteLLM: 3 of 9 requests failed"), KeyError("p50"), TimeoutError()])
async def test_a_piece_that_fails_keeps_no_other_from_being_measured(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    """Whatever it fails of: it leaves nothing on the page, and is told with where it failed, and at the end."""

    async def fails(_: int, __: float) -> Found:
        raise error

    monkeypatch.setattr(whole, "PIECES", {"first": Piece(fails), "second": Piece(_measures)})
    failed = await whole._measure(["first", "second"], 3, 5.0, None)
    assert failed == [f"first was not measured: {error or type(error).__name__}"]
    assert "in fails\n" in capsys.readouterr().err
    assert "Title" in (home / "RESULTS.md").read_text()


async def test_a_short_run_leaves_the_page_alone(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has a page of its own, and says where; how many rounds are enough is each piece's to say."""
    monkeypatch.setattr(whole, "PIECES", {"piece": Piece(_measures, least_rounds=5)})
    assert not await whole._measure(["piece"], 4, 5.0, None)
    assert _pages(tmp_path) == ["short/RESULTS.md"]
    assert f"written: {tmp_path / 'short' / 'RESULTS.md'}" in capsys.readouterr().out
    assert not await whole._measure(["piece"], 5, 5.0, None)
    assert "5 rounds of 5 s" in (home / "RESULTS.md").read_text()


async def test_whoever_says_where_has_it_there(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the page itself, of one round."""
    monkeypatch.setattr(whole, "PIECES", {"piece": Piece(_measures)})
    assert not await whole._measure(["piece"], 1, 5.0, home)
    assert "1 round of 5 s" in (home / "RESULTS.md").read_text()


def test_every_piece_is_explained() -> None:
    """Each has a row on the documentation's page, and no row is of a piece that is gone."""
    rows = (ROOT / "docs" / "benchmarks.md").read_text().split("## The pieces")[1].split("\n\n")[1].splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == list(PIECES)
