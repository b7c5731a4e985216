"""`ostler data check`: what a tuning job would make of a file, without a gateway."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from demo import BASE_DIR
from ostler.cli import app
from ostler.client import CommandFailed
from tests.tuner.data.files import pair, row, rows, tickets, write
from tuner.data.check import check_files
from tuner.data.finders import PatternFinder


@pytest.fixture(autouse=True)
def patterns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Presidio takes seconds to load, and has its own tests."""
    monkeypatch.setattr("tuner.data.check.check_files", partial(check_files, looking=lambda: [PatternFinder()]))


def check(*arguments: object) -> Result:
    """Run it."""
    return CliRunner().invoke(app, ["data", "check", *map(str, arguments)], env={"COLUMNS": "200"})


def checked(*arguments: object) -> Any:
    """What it prints as JSON."""
    ran = check(*arguments, "--json")
    assert ran.exit_code == 0, ran.output
    return json.loads(ran.stdout)


def test_people_get_tables(tmp_path: Path) -> None:
    """Rows that cannot be used, what was found, and the splits by label."""
    file = write(tmp_path / "rows.jsonl", [*tickets(100), "nonsense", row("Mail a@example.com", "a@example.com")])
    ran = check(file, "--tokenizer", BASE_DIR)
    assert ran.exit_code == 0, ran.output
    said = " ".join(ran.output.split())
    assert "training 102 1 line 101: it is not valid JSON" in said
    assert "2 EMAIL_ADDRESS in 1 rows, by patterns" in said
    assert "512 at most" in said
    assert "all 81 10 10" in said
    assert "warning: Only 10 rows are held out" in said


def test_programs_get_the_report(tmp_path: Path) -> None:
    """The report is that of a dataset; without a tokenizer no tokens are counted."""
    file = write(tmp_path / "rows.jsonl", rows(60))
    report = checked(file, "--validation", write(tmp_path / "validation.jsonl", rows(20, 100)))
    assert report["counts"] == {"train": 52, "validation": 20, "holdout": 8}
    assert report["validation"]["rows"] == 20
    assert (report["tokens"], report["problem"]) == (None, None)
    assert checked(file, "--tokenizer", BASE_DIR, "--longest", 100)["tokens"]["limit"] == 100


def test_pairs_are_checked_as_pairs(tmp_path: Path) -> None:
    """The method says what the rows are."""
    file = write(tmp_path / "pairs.jsonl", [pair(body["messages"][0]["content"]) for body in rows(40)])
    assert checked(file, "--method", "dpo")["counts"] == {"train": 32, "validation": 4, "holdout": 4}
    assert check(file).exit_code == 1


def test_what_a_job_would_refuse_exits_1(tmp_path: Path) -> None:
    """Why, and what is wrong with the first rows, is told to people and to programs."""
    file = write(tmp_path / "rows.jsonl", [*rows(40), *["{"] * 10])
    ran = check(file)
    assert ran.exit_code == 1
    assert "a job would refuse it (invalid_training_file): 10 of 50 rows" in ran.output
    assert "tokens" not in check(file, "--tokenizer", BASE_DIR).output, "none were counted"
    found = check(file, "--json")
    assert found.exit_code == 1
    assert json.loads(found.stdout)["problem"]["code"] == "invalid_training_file"
    assert check(file, "--bad-rows-share", "0.2").exit_code == 0


def test_every_bad_row_is_told(tmp_path: Path) -> None:
    """To programs; people see the first ones, and how to see the others."""
    file = write(tmp_path / "rows.jsonl", [*rows(40), *["{"] * 29, row("no answer", "")])
    found = json.loads(check(file, "--json").stdout)["training"]
    assert [each["line"] for each in found["bad_lines"]] == list(range(41, 71))
    assert found["bad_lines"][-1]["reason"] == "message 2: the assistant's answer is empty"
    said = " ".join(check(file).output.split())
    assert "59, 60: it is not valid JSON" in said
    assert "and 10 more" in said
    assert "--json lists every unusable row" in said


def test_answers_that_no_gate_can_score_exit_1(tmp_path: Path) -> None:
    """As a job would refuse them."""
    call = {"id": "1", "type": "function", "function": {"name": "find", "arguments": "{}"}}
    calls = [{"messages": [body["messages"][0], {"role": "assistant", "tool_calls": [call]}]} for body in rows(40)]
    ran = check(write(tmp_path / "rows.jsonl", calls))
    assert ran.exit_code == 1
    assert "calls of tools, which the gate cannot score" in " ".join(ran.output.split())


def test_a_wrong_command_line_is_told(tmp_path: Path) -> None:
    """A file that is not there, and a similarity that means nothing, are no reports."""
    file = write(tmp_path / "rows.jsonl", rows(40))
    for arguments in ([tmp_path / "nothing"], [file, "--near-duplicates", "0.2"]):
        ran = check(*arguments)
        assert isinstance(ran.exception, CommandFailed)
        assert ran.exception.exit_code == 2
