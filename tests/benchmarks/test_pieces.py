"""The pieces of the whole measurement, one after the other."""

import pytest

from benchmarks.speed import __main__ as whole
from benchmarks.speed.pieces import PIECES
from benchmarks.speed.report import Found
from tests.test_readme import ROOT


async def test_a_piece_that_fails_keeps_no_other_from_being_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves nothing on the page, and is told at the end."""

    async def fails(_: int, __: float) -> Found:
        raise RuntimeError("LiteLLM: 3 of 9 requests failed")

    async def measures(rounds: int, seconds: float) -> Found:
        return Found("1-x", "Title", f"{rounds} rounds of {seconds} s.", [], [])

    kept: list[Found] = []
    monkeypatch.setattr(whole, "PIECES", {"first": fails, "second": measures})
    monkeypatch.setattr(whole, "keep", kept.append)
    failed = await whole._measure(["first", "second"], 3, 5.0)
    assert failed == ["first was not measured: LiteLLM: 3 of 9 requests failed"]
    assert [found.text for found in kept] == ["3 rounds of 5.0 s."]


def test_every_piece_is_explained() -> None:
    """Each has a row on the documentation's page, and no row is of a piece that is gone."""
    rows = (ROOT / "docs" / "benchmarks.md").read_text().split("## The pieces")[1].split("\n\n")[1].splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == list(PIECES)
