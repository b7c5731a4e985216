"""`ostler golden`, `evaluate` and `evaluations`: people see means with their intervals, programs the API's JSON."""

import json
from pathlib import Path

import pytest
from sqlalchemy import update

from monitors.judging.intervals import mean_of_differences, mean_of_scores
from monitors.tables import GoldenRunRow
from registry.database import connect
from tests.ostler.command import DONE, MISUSED, REFUSED, Cli

RUNS = GoldenRunRow.__table__  # type: ignore[attr-defined]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A set of two rows."""
    rows = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "yes"}]}
        for text in ("a", "b")
    ]
    made = tmp_path / "set.jsonl"
    made.write_text("\n".join(map(json.dumps, rows)))
    return made


async def finish(two: Cli, **values: object) -> None:
    """End all runs, as a monitor does."""
    database = connect(two.gateway.app.state.settings.database)
    async with database.begin() as connection:
        await connection.execute(update(RUNS).values(**values))
    await database.dispose()


async def test_a_set_is_pushed_and_listed(two: Cli, file: Path) -> None:
    """With its number, rows and scorers; the same file again is told to be the same."""
    command = ("golden", "push", str(file), "--adapter", "support", "--scorer", "rouge_l", "--note", "two rows")
    assert "Golden set 1 of support is new: 2 rows" in (await two(*command)).out
    assert "was there already" in (await two(*command)).out
    listed = await two("golden", "list", "support")
    assert "rouge_l" in listed.out
    assert "two rows" in listed.out
    assert (await two("golden", "list", "support", "--json")).json["data"][0]["rows"] == 2


async def test_what_cannot_be_pushed_says_why(two: Cli, file: Path) -> None:
    """A wrong line by its number; a file that is not there before anything is asked."""
    file.write_text(file.read_text() + "\n{}")
    (await two("golden", "push", str(file), "--adapter", "support")).assert_failed(REFUSED, "line 3: ", "422")
    (await two("golden", "push", "/none", "--adapter", "support")).assert_failed(MISUSED, "cannot be read")
    (await two("evaluate", "support")).assert_failed(REFUSED, "no golden set yet")
    (await two("evaluate", "support", "--version", "best")).assert_failed(MISUSED, "neither a version's number")


async def test_results_are_shown_with_intervals(two: Cli, file: Path) -> None:
    """By scorer, with the difference to the base; one run with its rows."""
    await two("golden", "push", str(file), "--adapter", "support")
    queued = (await two("evaluate", "support", "--version", "2", "--version", "base", "--json")).json["data"]
    assert [(run["version"], run["state"]) for run in queued] == [(None, "queued"), (2, "queued")]
    scores = [1.0, 0.5]
    own, base = mean_of_scores(scores), mean_of_differences(scores)
    found = {name: getattr(own, name) for name in own.__slots__}
    found["base"] = {name: getattr(base, name) for name in base.__slots__}
    results = {"rows": 2, "alpha": 0.05, "scorers": {"token_f1": found}, "metrics": {"perplexity": 1.25}}
    await finish(two, state="done", results=results, items=[{"token_f1": 1.0}, {"token_f1": None}])
    listed = await two("evaluations", "support")
    assert "token_f1 0.750 (" in listed.out
    assert "2 rows), base +0.750 (" in listed.out
    shown = (await two("evaluations", "support", queued[1]["id"])).out
    assert [line.split() for line in shown.splitlines()][-3:-1] == [["1", "1.000"], ["2", "-"]]
    assert "1.25" in shown


async def test_waiting_ends_with_the_run(two: Cli, file: Path) -> None:
    """With exit code 1 if it failed, and why."""
    await two("golden", "push", str(file), "--adapter", "support")
    await two("evaluate", "support")
    await finish(two, state="failed", error="row 1: it answered 503")
    listed = await two("evaluations", "support")
    assert listed.code == DONE
    assert "row 1: it answered 503" in listed.out
