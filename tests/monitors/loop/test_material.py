"""The training material: which labels count, what a file has, and that no key alone decides what is learned."""

import asyncio
import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.tuning.bodies import NewJob
from monitors.log.retention import RetentionJob
from monitors.loop import material, sources
from monitors.loop.material import Surveyor, job_body, labels, rows
from monitors.loop.seen import Labels
from monitors.tables import DriftRunRow, TeacherLabelRow
from registry.catalog import Adapter
from registry.policies import LabelSource, Policy, RetrainRule
from tests.monitors.judging.rows import NOW, capture, catalog, say
from tuner.data.reading import read_rows

EVERYTHING: tuple[LabelSource, ...] = ("correction", "accepted", "teacher")
OPEN = RetrainRule(most_of_one_key=1.0, sources=EVERYTHING)
LATER = NOW + timedelta(hours=1)


def asked(what: str) -> list[dict[str, str]]:
    """A prompt."""
    return [{"role": "user", "content": what}]


async def correct(database: AsyncEngine, record: str, key: str, right: str, prompt: str = "", **fields: Any) -> None:
    """A captured answer that this key has corrected."""
    await capture(database, record, "wrong", prompt=asked(prompt or f"what is {record}?"))
    await say(database, record, key_id=key, correction=right, **fields)


async def teach(database: AsyncEngine, record: str, text: str, key: str = "", created_at: datetime = NOW) -> None:
    """A teacher's answer to a captured prompt."""
    row = {"record_id": record, "adapter": "support", "key_id": key, "prompt": record, "cost": 0.0}
    row |= {"answer": {"role": "assistant", "content": text}, "created_at": created_at}
    await insert(database, TeacherLabelRow, row)


async def insert(database: AsyncEngine, model: Any, row: dict[str, Any]) -> None:
    """Add a row."""
    async with database.begin() as connection:
        await connection.execute(model.__table__.insert(), row)


async def lines(
    database: AsyncEngine, rule: RetrainRule = OPEN, since: datetime | None = None, until: datetime = LATER
) -> list[bytes]:
    """The file's lines."""
    async with database.connect() as connection:
        return [line async for line in rows(connection, support(), rule, since=since, until=until)]


async def pairs(database: AsyncEngine, rule: RetrainRule = OPEN, **window: Any) -> set[tuple[str, str, str]]:
    """The last question, the answer and the source of each row."""
    found = [json.loads(line) for line in await lines(database, rule, **window)]
    return {(row["messages"][-2]["content"], row["messages"][-1]["content"], row["source"]) for row in found}


async def seen(database: AsyncEngine, rule: RetrainRule = OPEN, since: datetime | None = None) -> Labels:
    """What the loop sees of them."""
    async with database.connect() as connection:
        return await labels(connection, support(), Policy(retrain=rule), since=since, until=LATER)


def support() -> Adapter:
    """The adapter."""
    return catalog().adapters["support"]


async def test_only_answers_that_somebody_stands_for_are_learned(database: AsyncEngine) -> None:
    """Corrections, accepted answers of the adapter's own, a teacher's; nothing that nobody has said anything of."""
    await correct(database, "a", "web", "right")
    for record, said in (
        ("b", {"thumb": "up"}),
        ("c", {"score": 0.99}),
        ("d", {"score": 0.9}),
        ("e", {"thumb": "down"}),
    ):
        await capture(database, record, f"own {record}", prompt=asked(record))
        await say(database, record, **said)
    await capture(database, "f", "nobody judged this", prompt=asked("f"))
    await capture(database, "g", "own g", prompt=asked("g"))
    await teach(database, "g", "taught")
    await capture(database, "h", "of the base model", prompt=asked("h"), variant="fallback", version=0)
    await say(database, "h", thumb="up", variant="fallback", version=None)
    wanted = {
        ("what is a?", "right", "correction"),
        ("b", "own b", "accepted"),
        ("c", "own c", "accepted"),
        ("g", "taught", "teacher"),
    }
    assert await pairs(database) == wanted
    found = await seen(database)
    assert (found.rows, found.found, dict(found.by_source)) == (4, 4, {"correction": 1, "accepted": 2, "teacher": 1})
    only = RetrainRule(most_of_one_key=1.0, sources=("correction",))
    assert await pairs(database, only) == {("what is a?", "right", "correction")}


async def test_a_request_gives_one_row(database: AsyncEngine) -> None:
    """What a person said of it, also where a teacher answered something else."""
    await correct(database, "a", "web", "right")
    await teach(database, "a", "taught")
    assert [json.loads(line)["source"] for line in await lines(database)] == ["correction"]
    assert (await seen(database)).rows == 1


async def test_the_newest_label_of_a_request_stands(database: AsyncEngine) -> None:
    """A correction beats an opinion whenever each was given; of opinions the last one counts."""
    for record in "abc":
        await capture(database, record, f"own {record}", prompt=asked(record))
    said: Sequence[tuple[str, dict[str, Any]]] = (
        ("a", {"correction": "old"}),
        ("a", {"correction": "new"}),
        ("a", {"thumb": "up"}),
        ("b", {"thumb": "up"}),
        ("b", {"thumb": "down"}),
        ("c", {"thumb": "down"}),
        ("c", {"score": 1.0}),
    )
    for minute, (record, what) in enumerate(said):
        await say(database, record, id=f"said-{minute}", created_at=NOW + timedelta(minutes=minute), **what)
    assert await pairs(database) == {("a", "new", "correction"), ("c", "own c", "accepted")}
    without = RetrainRule(most_of_one_key=1.0, sources=("accepted",))
    assert await pairs(database, without) == {("c", "own c", "accepted")}


async def test_only_labels_of_the_time_are_taken(database: AsyncEngine) -> None:
    """After `since`, and up to `until`, whenever the request was."""
    for record, hour in (("a", 0), ("b", 1), ("c", 2)):
        await correct(database, record, "web", record, created_at=NOW + timedelta(hours=hour))
    one, two = NOW, NOW + timedelta(hours=1)
    assert {answer for _, answer, _ in await pairs(database, since=one, until=two)} == {"b"}
    assert {answer for _, answer, _ in await pairs(database, until=two)} == {"a", "b"}


async def test_a_file_is_the_same_each_time_and_the_tuner_can_read_it(database: AsyncEngine, tmp_path: Path) -> None:
    """Byte for byte, also where a cap has to choose; earlier turns of the adapter's own are not learned."""
    for number in range(30):
        await correct(database, f"r{number}", f"key-{number % 3 if number < 9 else 0}", "right")
    talk = [*asked("hello"), {"role": "assistant", "content": "hi"}, *asked("and now?")]
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    for record, prompt in (("talk", talk), ("parts", [{"role": "user", "content": parts}])):
        await capture(database, record, "fine", prompt=prompt)
        await say(database, record, key_id="app", thumb="up")
    capped = RetrainRule(most_of_one_key=0.4)
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"".join(await lines(database, capped)))
    assert await lines(database, capped) == file.read_bytes().splitlines(keepends=True)
    read = list(read_rows(file, "supervised"))
    assert [line.problem for line in read] == [None] * (await seen(database, capped)).rows
    messages = [json.loads(line)["messages"] for line in await lines(database, OPEN)]
    (own,) = [each[1] for each in messages if len(each) == 4]
    assert own == {"role": "assistant", "content": "hi", "weight": 0.0}
    assert ["one\ntwo"] in [[said["content"] for said in each[:-1]] for each in messages]


async def test_what_cannot_be_used_is_counted(database: AsyncEngine) -> None:
    """Prompts that were not captured or are pictures, and answers that are empty."""
    await say(database, "gone", correction="right")
    picture = [{"role": "user", "content": [{"type": "image_url", "left_out": True}]}]
    for record, prompt in (("picture", picture), ("text", "a prompt of /v1/completions"), ("odd", [{"type": "call"}])):
        await capture(database, record, "own", prompt=prompt)
        await say(database, record, thumb="up")
    await correct(database, "empty", "web", "  ")
    await capture(database, "silent", None)
    await say(database, "silent", thumb="up")
    found = await seen(database)
    assert (found.rows, found.without_prompt, found.unusable) == (0, 1, 5)
    assert await lines(database) == []


async def test_what_retention_has_deleted_is_not_learned(database: AsyncEngine) -> None:
    """Neither a prompt, nor a correction, nor a teacher's answer."""
    old = NOW - timedelta(days=40)
    await capture(database, "a", "own", prompt=asked("a"), created_at=old)
    await say(database, "a", thumb="up", created_at=NOW)
    await capture(database, "b", "own", prompt=asked("b"), created_at=NOW)
    await teach(database, "b", "taught", created_at=old)
    await correct(database, "c", "web", "right", created_at=NOW)
    await RetentionJob(database, 90.0).run(catalog(), NOW)
    assert await pairs(database) == {("what is c?", "right", "correction")}
    found = await seen(database)
    assert (found.rows, found.without_prompt) == (1, 1)


async def test_one_key_cannot_fill_a_dataset(database: AsyncEngine) -> None:
    """Of 400 false corrections no more are taken than its share allows, whatever end users it names."""
    for number in range(400):
        await correct(database, f"x{number:03}", "loud", "false", end_user=f"user-{number}", session=f"s{number}")
    alone = await seen(database, RetrainRule())
    assert (alone.rows, alone.found, alone.heaviest_key, alone.heaviest_share) == (0, 400, "loud", 1.0)
    for number in range(30):
        await correct(database, f"w{number}", ("web", "app", "mail")[number % 3], "right")
    found = await seen(database, RetrainRule())
    answers = [json.loads(line)["messages"][-1]["content"] for line in await lines(database, RetrainRule())]
    assert found.rows == len(answers) == 50
    assert answers.count("false") == 20
    trusted = await seen(database, RetrainRule(trusted_keys=("loud",)))
    assert trusted.rows == 430
    assert trusted.heaviest_key in ("web", "app", "mail")


async def test_the_job_goes_on_from_what_serves_and_says_why(database: AsyncEngine) -> None:
    """With the policy's wishes, the newest drift report, and what the API takes."""
    wishes = {
        "hyperparameters": {"n_epochs": 4},
        "ostler": {"replay_share": 0.5, "gate": {"rows": 50}, "reason": "x", "start_from": 1},
    }
    policy = Policy(retrain=RetrainRule(job=wishes))
    async with database.connect() as connection:
        plain = await job_body(connection, support(), Policy(), "Quality was lost.", cycle=3, decision=17)
    assert plain["ostler"] == {"reason": "Quality was lost."}
    columns = [
        {"name": "topic", "statistic": 0.5, "threshold": 0.2, "drifted": True},
        {"name": "length", "statistic": 0.1, "threshold": 0.2, "drifted": False},
    ]
    for run, outcome in (("1", "no_drift"), ("2", "drift")):
        row = {"id": run, "adapter": "support", "version": 2, "window_start": NOW, "window_end": NOW, "rows": 9}
        row |= {"reference_rows": 9, "reference": "traffic", "outcome": outcome, "columns": columns, "created_at": NOW}
        await insert(database, DriftRunRow, row | {"window_end": NOW + timedelta(hours=int(run))})
    await insert(database, DriftRunRow, row | {"id": "3", "version": 1})
    async with database.connect() as connection:
        body = await job_body(connection, support(), policy, "Quality was lost.", cycle=3, decision=17)
    assert body["model"] == "support@2"
    assert body["metadata"] == {"cycle": "3", "decision": "17", "drift": "2"}
    assert body["ostler"]["reason"].startswith(
        "Quality was lost. The drift report 2 of 2026-11-03 12:00 UTC says: drift"
    )
    assert "topic (0.5, threshold 0.2)" in body["ostler"]["reason"]
    assert "length" not in body["ostler"]["reason"]
    order = msgspec.convert(body | {"training_file": "file-1"}, NewJob)
    assert order.ostler.replay_share == 0.5
    assert order.ostler.start_from is None
    assert order.method is not None
    assert order.method.supervised is not None


async def test_a_key_that_floods_leaves_room_for_others(database: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the newest labels that are looked at it has its share at most, unless it is trusted."""
    monkeypatch.setattr(sources, "MOST_LABELS", 10)
    for number in range(6):
        await correct(database, f"old-{number}", f"key-{number % 3}", "right", created_at=NOW)
    for number in range(30):
        await correct(database, f"new-{number}", "flood", f"wrong {number}", created_at=NOW + timedelta(minutes=1))
    found = await seen(database, RetrainRule(most_of_one_key=0.4))
    assert (found.rows, found.found, found.heaviest_share) == (10, 10, 0.4)
    trusting = await seen(database, RetrainRule(most_of_one_key=0.4, trusted_keys=("flood",)))
    assert (trusting.found, trusting.heaviest_key) == (10, None)


async def test_of_many_adapters_the_labels_of_a_few_are_counted_at_once(
    database: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others wait for their turn."""
    at_once, most = 0, 0

    async def counted(*_arguments: Any, **_window: Any) -> Labels:
        nonlocal at_once, most
        at_once, most = at_once + 1, max(most, at_once + 1)
        await asyncio.sleep(0.01)
        at_once -= 1
        return Labels()

    monkeypatch.setattr(material, "labels", counted)
    surveyor = Surveyor(database)
    adapters = [replace(support(), name=f"a{number}") for number in range(6)]
    await asyncio.gather(*(surveyor.labels(each, Policy(), since=None, until=LATER) for each in adapters))
    assert most == 2


async def test_looking_again_costs_nothing_for_a_while(database: AsyncEngine) -> None:
    """But what is asked about may change, and then it is looked for at once."""
    clock = 0.0
    surveyor = Surveyor(database, lambda: clock)

    async def look(**rule: Any) -> int:
        policy = Policy(retrain=RetrainRule(most_of_one_key=1.0, **rule))
        return (await surveyor.labels(support(), policy, since=None, until=LATER)).rows

    await correct(database, "a", "web", "right")
    assert await look() == 1
    await correct(database, "b", "web", "right")
    assert await look() == 1
    assert await look(sources=("correction",)) == 2
    clock = 60.0
    assert await look(sources=("correction",)) == 2
    await correct(database, "c", "web", "right")
    clock = 120.0
    assert await look(sources=("correction",)) == 3


async def test_looking_takes_a_twentieth_of_the_time_at_most(database: AsyncEngine) -> None:
    """A look takes a minute here, and each question comes a minute after the one before."""
    minutes = itertools.count()
    surveyor = Surveyor(database, lambda: 60.0 * next(minutes))

    async def look() -> int:
        return (await surveyor.labels(support(), Policy(), since=None, until=LATER)).found

    await correct(database, "a", "web", "right")
    found = [await look()]
    await correct(database, "b", "web", "right")
    found += [await look() for _ in range(20)]
    assert found == [1] * 20 + [2]
