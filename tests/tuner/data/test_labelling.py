"""Labelling a file: what a row looks like, that it goes on where it was, and what it says of what failed."""

import fcntl
import io
import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from monitors.teaching.rows import SupervisedRow
from tests.monitors.teaching.teachers import Endpoint, Reply, completion, refusal
from tuner.data import labelling
from tuner.data.labelling import MOST_FAILURES_IN_A_ROW, InUse, Tally, label_file


def prompt(text: str, **fields: Any) -> dict[str, Any]:
    """A row without an answer."""
    return {"messages": [{"role": "user", "content": text}], **fields}


def write(file: Path, rows: list[Any]) -> Path:
    """A file of JSON lines; texts stand as they are."""
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return file


def rows_of(file: Path) -> list[SupervisedRow]:
    """The rows, which must be whole."""
    return [msgspec.json.decode(line, type=SupervisedRow) for line in file.read_bytes().splitlines()]


def echo(body: dict[str, Any]) -> Reply:
    """Answers with the prompt in capitals."""
    return completion(body["messages"][-1]["content"].upper())


async def label(
    folder: Path, endpoint: Endpoint, rows: list[Any] | None = None, shown: list[int] | None = None, **choice: Any
) -> Tally:
    """Label `prompts.jsonl` into `rows.jsonl`."""
    prompts = folder / "prompts.jsonl" if rows is None else write(folder / "prompts.jsonl", rows)
    seen = shown if shown is not None else []
    async with endpoint.teacher(**choice) as teacher:
        return await label_file(prompts, folder / "rows.jsonl", teacher, lambda tally: seen.append(tally.labelled))


async def test_prompts_become_rows_to_train_on(tmp_path: Path) -> None:
    """Marked as the teacher's, with what else the prompt said; an old answer is replaced, instructions are not kept."""
    old = {"role": "assistant", "content": "wrong"}
    rows = [prompt("a", label="x"), {"messages": [*prompt("b")["messages"], old], "source": "accepted"}]
    shown: list[int] = []
    tally = await label(tmp_path, Endpoint(echo), [*rows, ""], shown, instructions="Label.")
    assert (tally.prompts, tally.labelled, tally.failed, tally.is_complete) == (2, 2, 0, True)
    assert (tally.prompt_tokens, tally.completion_tokens) == (20, 10)
    assert shown == [1, 2]
    first, second = sorted(rows_of(tmp_path / "rows.jsonl"), key=lambda row: str(row.messages[0].content))
    assert (first.source, first.label, first.messages[-1].content) == ("teacher", "x", "A")
    assert [message.content for message in second.messages] == ["b", "B"]


async def test_only_the_teachers_answer_is_learned(tmp_path: Path) -> None:
    """What the assistant said before it in the conversation came from elsewhere, and has no weight."""
    turns = [("user", "a"), ("assistant", "b"), ("user", "c")]
    row = {"messages": [{"role": role, "content": text} for role, text in turns]}
    endpoint = Endpoint(echo)
    await label(tmp_path, endpoint, [row])
    (made,) = rows_of(tmp_path / "rows.jsonl")
    assert [message.weight for message in made.messages] == [None, 0, None, None]
    assert endpoint.bodies[0]["messages"] == row["messages"]
    await label(tmp_path, endpoint)
    assert len(endpoint.bodies) == 1


async def test_it_goes_on_where_it_was(tmp_path: Path) -> None:
    """What is there is not asked for again, repeated prompts are asked for once, and a torn last line is dropped."""
    endpoint = Endpoint(echo)
    await label(tmp_path, endpoint, [prompt("a"), prompt("b"), prompt("a")])
    assert len(endpoint.bodies) == 2
    file = tmp_path / "rows.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"messages": [{"role": "user", "conte')
    tally = await label(tmp_path, endpoint, [prompt("b"), prompt("c"), prompt("a")])
    assert (tally.before, tally.labelled) == (2, 1)
    assert file.read_bytes().startswith(whole)
    assert sorted(row.messages[-1].content for row in rows_of(file)) == ["A", "B", "C"]  # type: ignore[type-var]


async def test_failures_are_told_by_line_and_hold_up_nothing(tmp_path: Path) -> None:
    """Of prompts and of answers, without what stands in them; the next run asks for those alone."""
    secret = "what nobody may read"
    rows = [
        prompt("a"),
        "{" + secret,
        prompt("bad " + secret),
        {"messages": []},
        prompt("b", unknown=1),
        {"messages": [{"role": "assistant", "content": "alone"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        {"messages": [{"role": "system", "content": "only that"}]},
        prompt("c"),
    ]
    endpoint = Endpoint(lambda body: refusal(400) if "bad" in str(body) else echo(body))
    tally = await label(tmp_path, endpoint, rows)
    assert (tally.labelled, tally.failed, tally.is_complete) == (2, 7, False)
    assert sorted(each.split(":")[0] for each in tally.problems) == [f"line {n}" for n in range(2, 9)]
    assert secret not in str(tally.problems)
    assert "more than text" in str(tally.problems)
    endpoint.reply = echo
    endpoint.bodies.clear()
    assert (await label(tmp_path, endpoint)).labelled == 1
    assert len(endpoint.bodies) == 1


async def test_it_asks_for_as_many_at_once_as_wanted(tmp_path: Path) -> None:
    """And no more."""
    endpoint = Endpoint(echo)
    await label(tmp_path, endpoint, [prompt(str(n)) for n in range(20)], concurrency=3)
    assert endpoint.at_once == 3
    assert len(rows_of(tmp_path / "rows.jsonl")) == 20


async def test_what_is_in_vain_ends_early(tmp_path: Path) -> None:
    """A wrong key at once, an endpoint that refuses everything soon; what was answered stays."""
    rows = [prompt(str(n)) for n in range(100)]
    tally = await label(tmp_path, endpoint := Endpoint(lambda _body: refusal(401)), rows, concurrency=1)
    assert "refuses the API key" in tally.stopped
    assert (len(endpoint.bodies), tally.is_complete) == (1, False)
    endpoint = Endpoint(lambda body: echo(body) if len(endpoint.bodies) <= 5 else refusal(400))
    tally = await label(tmp_path, endpoint, rows, concurrency=1)
    assert "20 prompts in a row" in tally.stopped
    assert (tally.labelled, tally.failed) == (5, MOST_FAILURES_IN_A_ROW)
    assert len(tally.problems) == labelling.SHOWN_PROBLEMS
    assert len(rows_of(tmp_path / "rows.jsonl")) == 5


async def test_the_money_ends_it_before_it_is_exceeded(tmp_path: Path) -> None:
    """With what it was for, and the next run goes on."""
    rows = [prompt(str(n)) for n in range(50)]
    choice: dict[str, Any] = {"price_in": 1000.0, "price_out": 10_000.0, "max_tokens": 5}
    tally = await label(tmp_path, Endpoint(echo), rows, max_cost=1.0, **choice)
    assert "is left" in tally.stopped
    assert 0.7 < tally.cost <= 1.0
    assert tally.labelled == round(tally.cost / 0.06) == len(rows_of(tmp_path / "rows.jsonl"))
    again = await label(tmp_path, Endpoint(echo), **choice)
    assert (again.before, again.is_complete) == (tally.labelled, True)


async def test_a_full_disk_tears_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends, says so, and every line that is there is whole."""

    class Full(io.FileIO):
        """Takes 300 bytes."""

        def write(self, data: Any, /) -> int:
            """As much as there is room for."""
            room = max(0, 300 - os.fstat(self.fileno()).st_size)
            return super().write(bytes(data)[:room])

    monkeypatch.setattr("tuner.data.labelling.io.FileIO", Full)
    tally = await label(tmp_path, Endpoint(echo), [prompt(str(n)) for n in range(20)])
    assert "No space left" in tally.stopped
    assert 0 < tally.labelled == len(rows_of(tmp_path / "rows.jsonl"))


async def test_a_file_is_written_by_one_run_alone(tmp_path: Path) -> None:
    """Two would pay twice."""
    with (tmp_path / "rows.jsonl").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(InUse):
            await label(tmp_path, Endpoint(echo), [prompt("a")])
    with pytest.raises(FileNotFoundError):
        await label_file(tmp_path / "none", tmp_path / "rows.jsonl", Endpoint().teacher(), lambda _tally: None)
