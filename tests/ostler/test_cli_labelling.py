"""`ostler data label`: a teacher behind an OpenAI-compatible endpoint, which here is a gateway."""

import json
from pathlib import Path

import pytest

from tests.conftest import RunningGateway
from tests.ostler.command import DONE, MISUSED, REFUSED, Cli, Ran
from tests.ostler.in_process import QuickCli


@pytest.fixture
def cli(gateway: RunningGateway, tmp_path: Path) -> Cli:
    """The command, and a gateway that serves as the teacher."""
    return QuickCli(gateway, tmp_path)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Three prompts, one of them twice."""
    file = tmp_path / "prompts.jsonl"
    rows = [{"messages": [{"role": "user", "content": text}]} for text in ("a", "b", "a", "c")]
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


async def label(cli: Cli, prompts: Path, *arguments: str, **variables: str) -> Ran:
    """Run it into `rows.jsonl` beside the prompts."""
    given = ("--out", str(prompts.parent / "rows.jsonl"), *arguments)
    own = {
        "OSTLER_TEACHER_URL": cli.gateway.url,
        "OSTLER_TEACHER_MODEL": "tiny",
        "OSTLER_TEACHER_API_KEY": cli.gateway.key,
    }
    return await cli("data", "label", str(prompts), *given, **(own | variables))


async def test_prompts_are_labelled_and_counted(cli: Cli, prompts: Path) -> None:
    """Rows to train on, tokens and cost; again there is nothing to do."""
    money = ("--price-in", "2000", "--price-out", "10000", "--max-cost", "50")
    ran = await label(cli, prompts, *money)
    assert ran.code == DONE, ran
    rows = [json.loads(line) for line in (prompts.parent / "rows.jsonl").read_text().splitlines()]
    assert sorted(row["messages"][0]["content"] for row in rows) == ["a", "b", "c"]
    assert {row["source"] for row in rows} == {"teacher"}
    assert "4 of 4;" in ran.out
    assert "of at most 50." in ran.out
    assert "tokens in, " in ran.out
    assert "4 of 4.\n" in (await label(cli, prompts)).out, "no tokens were counted"
    again = (await label(cli, prompts, "--json")).json
    assert (again["complete"], again["before"], again["labelled"], again["cost"]) == (True, 4, 0, 0.0)


async def test_instructions_are_for_the_teacher_alone(cli: Cli, prompts: Path, tmp_path: Path) -> None:
    """They come from a file, and no row has them."""
    (tmp_path / "how.txt").write_text("Answer in JSON.\n")
    assert (await label(cli, prompts, "--system", str(tmp_path / "how.txt"), "--temperature", "0")).code == DONE
    assert "Answer in JSON." not in (prompts.parent / "rows.jsonl").read_text()
    assert cli.gateway.engine.bodies[-1]["messages"][0] == {"role": "system", "content": "Answer in JSON."}


async def test_what_fails_is_told_and_exits_1(cli: Cli, prompts: Path) -> None:
    """By its line; the rest is there, and the same command goes on."""
    prompts.write_text(prompts.read_text() + "\n{}\n")
    ran = await label(cli, prompts)
    assert ran.code == REFUSED
    assert "line 5: " in ran.err
    assert "4 of 5, 1 failed" in ran.out
    assert "The same command goes on" in ran.out
    nowhere = str(prompts.parent / "none" / "rows.jsonl")
    (await label(cli, prompts, "--out", nowhere)).assert_failed(MISUSED, "cannot be used")


async def test_a_teacher_that_refuses_all_ends_it(cli: Cli, prompts: Path) -> None:
    """A wrong key, or a model that it does not have; with an error of one line."""
    for arguments, variables, says in (
        ((), {"OSTLER_TEACHER_API_KEY": "sk-wrong"}, "refuses the API key"),
        (("--model", "nobody"), {}, "no such model"),
    ):
        ran = await label(cli, prompts, *arguments, **variables)
        assert ran.code == REFUSED
        assert "error: it ended early" in ran.err
        assert says in ran.err
    assert (prompts.parent / "rows.jsonl").read_text() == ""


async def test_a_wrong_command_line_exits_2(cli: Cli, prompts: Path) -> None:
    """Before anything is asked."""
    (await label(cli, prompts, "--max-cost", "1")).assert_failed(MISUSED, "--price-in")
    (await label(cli, prompts, OSTLER_TEACHER_URL="")).assert_failed(MISUSED, "--teacher-url")
    (await label(cli, prompts, OSTLER_TEACHER_URL="teacher")).assert_failed(MISUSED, "http://")
    (await label(cli, prompts, "--out", str(prompts))).assert_failed(MISUSED, "another file")
    (await label(cli, prompts, "--system", "/none")).assert_failed(MISUSED, "cannot be read")
    (await label(cli, prompts.with_name("none"))).assert_failed(MISUSED, "cannot be used")
