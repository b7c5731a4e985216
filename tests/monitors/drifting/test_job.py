"""The job: when it looks, what it stores and decides, that no window is looked at twice, and what failures leave."""

import asyncio
import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from sqlalchemy import Row, event, select
from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.decisions import decisions
from monitors.drifting import embeddings
from monitors.drifting import job as drift_job
from monitors.drifting import runs as drift_runs
from monitors.drifting.child import ChildFailed, Judged, judge_apart, sweep
from monitors.drifting.job import DriftJob
from monitors.drifting.task import Result, Task, Values, Verdict
from monitors.settings import MonitorSettings
from monitors.tables import DriftCalibrationRow
from monitors.watch.client import GatewayClient, GatewayRefused
from monitors.watch.metrics import MonitorMetrics
from monitors.watch.work import Workshop
from registry.artifacts import ArtifactStore
from registry.catalog import Catalog
from registry.database import connect, migrate
from registry.errors import StoreFailure
from tests.monitors.drifting.traffic import NEW_WORDS, NOW, RULE, catalog, serve

LATER = timedelta(hours=RULE.every_h)


def workshop(database: AsyncEngine, folder: Path) -> Workshop:
    """What the job works with."""
    settings = MonitorSettings(home=folder, cache=folder)
    store = ArtifactStore(str(folder / "artifacts"), folder / "cache")
    scratch = folder / "scratch"
    scratch.mkdir()
    nobody = GatewayClient("http://nobody", "", concurrency=1)
    return Workshop(database, store, nobody, None, MonitorMetrics(), settings, scratch)


@pytest.fixture
def shop(database: AsyncEngine, tmp_path: Path) -> Workshop:
    """What the job works with."""
    return workshop(database, tmp_path)


class Child:
    """Says of every column what it is told to; its reports differ."""

    def __init__(self, *drifted: str) -> None:
        self.drifted = drifted
        self.tasks: list[Task] = []

    async def __call__(self, task: Task) -> Judged:
        """Judge as the child does."""
        self.tasks.append(task)
        verdicts = [
            Verdict(v.name, "ks_distance", 0.6, 0.3, 1e-9, v.name in self.drifted, len(v.current), len(v.reference))
            for v in task.columns
        ]
        nulls = {values.name: {"draws": len(self.tasks)} for values in task.columns}
        return Judged(Result(verdicts, nulls), f"<html>{len(self.tasks)}</html>".encode())


async def runs(database: AsyncEngine) -> list[Row[Any]]:
    """The looks, oldest first."""
    async with database.connect() as connection:
        return (await drift_runs.list_runs(connection, "support"))[::-1]


async def outcomes(database: AsyncEngine) -> list[str]:
    """What came of them."""
    return [run.outcome for run in await runs(database)]


def shown(shop: Workshop, name: str, **labels: str) -> float | None:
    """A gauge of version 2; None if it is not shown."""
    return shop.metrics.registry.get_sample_value(
        f"ostler_drift_{name}", {"adapter": "support", "version": "2", **labels}
    )


async def test_a_real_look_from_the_database_to_the_report(tmp_path: Path) -> None:
    """Evidently's child finds the new topics, and nothing of what it was handed stays behind."""
    database = connect(f"sqlite:///{tmp_path / 'ostler.db'}")
    await migrate(database)
    shop = workshop(database, tmp_path)
    await serve(database, 100)
    await serve(database, 50, 100, words=NEW_WORDS)
    await DriftJob(shop).run(catalog(), NOW)
    (run,) = await runs(database)
    assert (run.outcome, run.rows, run.reference_rows, run.missing) == ("drift", 50, 100, None)
    assert len(run.columns) == 7
    drifted = {each["name"] for each in run.columns if each["drifted"]}
    assert {"prompt"} <= drifted <= {"prompt", "language"}
    html = (shop.store.fetch(run.report) / drift_job.REPORT).read_text()
    assert "Drift in column" in html
    assert not [word for word in ("accountant", "recordings", "parcel") if word in html]
    assert list(shop.scratch.iterdir()) == []
    (decision,) = await decisions(database, adapter="support")
    assert (decision.kind, decision.outcome, decision.version) == ("drift", "drift", 2)
    assert "prompt (" in decision.reason
    assert "0.1 false alarms a week" in decision.rule
    assert shown(shop, "detected") == shown(shop, "enough_data") == 1
    assert shown(shop, "window_rows") == 50
    assert (shown(shop, "ratio", column="prompt") or 0) > 1
    assert 0 < (shown(shop, "ratio", column="prompt_tokens") or 0) < 1
    await database.dispose()


async def test_it_looks_when_it_is_due_and_only_at_what_is_new(shop: Workshop, database: AsyncEngine) -> None:
    """Not before the pause is over, not at the same window again, and after a long pause at the newest alone."""
    child = Child()
    await serve(database, 150)
    await DriftJob(shop, judge=child).run(catalog(), NOW)
    await serve(database, 10, 150)
    await DriftJob(shop, judge=child).run(catalog(), NOW + LATER - timedelta(minutes=1))
    assert len(child.tasks) == 1
    await serve(database, 400, 160)
    await DriftJob(shop, judge=child).run(catalog(), NOW + 9 * LATER)
    await DriftJob(shop, judge=child).run(catalog(), NOW + 10 * LATER)
    assert await outcomes(database) == ["no_drift", "no_drift"]
    assert child.tasks[1].columns[0].reference == child.tasks[0].columns[0].reference


@contextlib.contextmanager
def statements(database: AsyncEngine) -> Iterator[list[str]]:
    """What the database is asked within the block."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    event.listen(database.sync_engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(database.sync_engine, "before_cursor_execute", note)


async def test_an_idle_version_is_left_alone_for_a_while(shop: Workshop, database: AsyncEngine) -> None:
    """The log is searched for new requests once in a pause, not in each round; unless a look is asked for."""
    child = Child()
    job = DriftJob(shop, judge=child)
    await serve(database, 150)
    await job.run(catalog(), NOW)
    with statements(database) as seen:
        for second in range(0, 240, 15):
            await job.run(catalog(), NOW + LATER + timedelta(seconds=second))
    assert len([each for each in seen if "FROM request_log" in each]) == 1
    await serve(database, 10, 150)
    async with database.begin() as connection:
        await drift_runs.ask_for_look(connection, "support", NOW)
    await job.run(catalog(), NOW + LATER + timedelta(seconds=241))
    assert len(child.tasks) == 2
    await serve(database, 10, 160)
    for pause in (timedelta(0), drift_job.IDLE_PAUSE):
        await job.run(catalog(), NOW + 3 * LATER + pause)
    assert len(child.tasks) == 3


async def test_an_adapter_that_fails_does_not_hold_up_the_others(
    shop: Workshop, database: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """It is counted, logged without the error's words, and tried again after a pause."""
    child, broken = Child(), ["bad"]

    async def trained(adapter: str, _version: int) -> list[str]:
        if adapter in broken:
            raise ValueError("a prompt of somebody")
        return []

    await serve(database, 150)
    support = catalog().adapters["support"]
    both = Catalog(1, {"bad": dataclasses.replace(support, name="bad"), "support": support})
    await serve(database, 150, 1000, adapter="bad")
    job = DriftJob(shop, trained, child)
    for _ in range(2):
        await job.run(both, NOW)
    assert await outcomes(database) == ["no_drift"]
    assert shop.metrics.registry.get_sample_value("ostler_monitor_failures_total", {"task": "drift"}) == 1
    assert "drift of bad could not be looked at (ValueError)" in caplog.text
    assert "somebody" not in caplog.text
    broken.clear()
    await job.run(both, NOW + drift_job.IDLE_PAUSE)
    async with database.connect() as connection:
        assert [run.outcome for run in await drift_runs.list_runs(connection, "bad")] == ["no_drift"]


async def test_looks_are_read_once_and_then_as_they_come(shop: Workshop, database: AsyncEngine) -> None:
    """Also another monitor's; what was known before is not read again in each round."""
    await serve(database, 150)
    await DriftJob(shop, judge=Child()).run(catalog(), NOW)
    newest = drift_runs.NewestRuns()
    async with database.connect() as connection:
        await newest.read(connection, NOW)
        assert newest.by_version["support", 2].outcome == "no_drift"
        await newest.read(connection, NOW + LATER)
    await serve(database, 10, 150)
    await DriftJob(shop, judge=Child("prompt")).run(catalog(), NOW + LATER)
    with statements(database) as seen:
        async with database.connect() as connection:
            await newest.read(connection, NOW + LATER)
    assert newest.by_version["support", 2].outcome == "drift"
    (query,) = [each for each in seen if "FROM drift_runs" in each]
    assert "max(" not in query
    assert "drift_runs.id >=" in query


async def test_old_looks_are_deleted_but_for_the_newest(shop: Workshop, database: AsyncEngine) -> None:
    """After a year, with the next look at the adapter; those whose report is kept stay with it."""
    await serve(database, 150, version=3)
    await DriftJob(shop, judge=fail).run(catalog(canary=3), NOW)
    for number in range(3):
        await serve(database, 150 if number == 0 else 10, (number + 1) * 200)
        judge = Child() if number == 1 else fail
        await DriftJob(shop, judge=judge).run(catalog(), NOW + number * LATER)
    await serve(database, 10, 1000)
    await DriftJob(shop, judge=fail).run(catalog(), NOW + drift_runs.KEPT + 2 * LATER - timedelta(seconds=1))
    assert [(run.version, run.outcome) for run in await runs(database)] == [
        (3, "failed"),
        (2, "no_drift"),
        (2, "failed"),
        (2, "failed"),
    ]


async def test_of_two_monitors_one_has_the_window(shop: Workshop, database: AsyncEngine) -> None:
    """However they race; there is one look and one decision."""
    await serve(database, 150)
    child = Child("prompt")
    await asyncio.gather(*(DriftJob(shop, judge=child).run(catalog(), NOW) for _ in range(2)))
    assert await outcomes(database) == ["drift"]
    assert len(await decisions(database)) == 1
    (run,) = await runs(database)
    assert [each.name for each in (shop.settings.cache / "artifacts" / "sha256").iterdir()] == [run.report]


async def test_a_look_can_be_asked_for(shop: Workshop, database: AsyncEngine) -> None:
    """Though it is not due, and though the settings want none; once, for each version that clients get."""
    child, never = Child(), msgspec.structs.replace(RULE, every_h=0)
    await serve(database, 150)
    await serve(database, 150, 1000, version=3, variant="canary")
    job = DriftJob(shop, judge=child)
    await job.run(catalog(never, canary=3), NOW)
    assert child.tasks == []
    async with database.begin() as connection:
        await drift_runs.ask_for_look(connection, "support", NOW)
    await job.run(catalog(never, canary=3), NOW)
    assert sorted(run.version for run in await runs(database)) == [2, 3]
    await serve(database, 10, 150)
    await job.run(catalog(never, canary=3), NOW)
    assert len(child.tasks) == 2


async def test_drift_is_decided_where_it_begins_and_ends(shop: Workshop, database: AsyncEngine) -> None:
    """Not for each window that it lasts, nor again after one that could not be judged; but when it comes back."""
    job_of = {"drift": Child("prompt"), "none": Child(), "broken": fail}
    for number, said in enumerate(["none", "drift", "drift", "broken", "drift", "none", "drift"]):
        await serve(database, 150 if number == 0 else 10, number * 200)
        await DriftJob(shop, judge=job_of[said]).run(catalog(), NOW + number * LATER)  # type: ignore[arg-type]
    assert await outcomes(database) == ["no_drift", "drift", "drift", "failed", "drift", "no_drift", "drift"]
    concluded = sorted(await decisions(database), key=lambda decision: decision.id)
    assert [decision.outcome for decision in concluded] == ["drift", "no_drift", "drift"]


async def fail(_task: Task) -> Judged:
    """A child that does not come to an end."""
    raise ChildFailed("the process that computes it did not end within 600 s")


async def test_a_failed_look_says_why_and_the_next_window_has_its_turn(shop: Workshop, database: AsyncEngine) -> None:
    """In words without anything of a prompt; the same window is not tried for ever."""
    await serve(database, 150)
    await DriftJob(shop, judge=fail).run(catalog(), NOW)
    (run,) = await runs(database)
    assert (run.outcome, run.missing) == ("failed", "the process that computes it did not end within 600 s")
    assert shown(shop, "enough_data") == 0
    child = Child()
    await DriftJob(shop, judge=child).run(catalog(), NOW + LATER)
    assert child.tasks == []


async def test_too_few_requests_are_an_answer(shop: Workshop, database: AsyncEngine) -> None:
    """No child is started, no dataset fetched, nothing is claimed about drift, and it is said what lacks."""
    child = Child()

    async def never_asked(_adapter: str, _version: int) -> list[str]:
        raise AssertionError("what it was trained on is of no use yet")

    await DriftJob(shop, judge=child).run(catalog(), NOW)
    assert await outcomes(database) == []
    await serve(database, 60)
    await DriftJob(shop, never_asked, child).run(catalog(), NOW)
    (run,) = await runs(database)
    assert run.outcome == "not_enough_data"
    assert run.missing.startswith("requests: 60 of 150 requests")
    assert (shown(shop, "enough_data"), shown(shop, "detected"), child.tasks) == (0, 0, [])


async def test_what_cannot_be_judged_is_listed_beside_what_can(shop: Workshop, database: AsyncEngine) -> None:
    """Without captures there is a verdict on the numbers."""
    await serve(database, 150, captured=False)
    await DriftJob(shop, judge=Child()).run(catalog(), NOW)
    (run,) = await runs(database)
    assert run.outcome == "no_drift"
    assert [each["name"] for each in run.columns] == ["prompt_tokens", "completion_tokens", "finish_reason"]
    assert "prompt: 0 of 150 captured requests" in run.missing


async def test_thresholds_are_found_once_for_a_reference(shop: Workshop, database: AsyncEngine) -> None:
    """And anew when the reference is another one, as after a deletion of requests."""
    child = Child()
    await serve(database, 150)
    await DriftJob(shop, judge=child).run(catalog(), NOW)
    await serve(database, 50, 150)
    await DriftJob(shop, judge=child).run(catalog(), NOW + LATER)
    assert child.tasks[0].nulls == {}
    assert child.tasks[1].nulls["prompt"] == {"draws": 1}
    other = msgspec.structs.replace(RULE, reference_rows=90)
    await serve(database, 50, 200)
    await DriftJob(shop, judge=child).run(catalog(other), NOW + 2 * LATER)
    assert child.tasks[2].nulls == {}
    async with database.connect() as connection:
        table = DriftCalibrationRow.__table__  # type: ignore[attr-defined]
        kept = list(await connection.execute(select(table.c.window_rows, table.c.columns)))
    assert [(row.window_rows, row.columns["prompt"]) for row in kept] == [(50, {"draws": 3})]


async def test_only_the_newest_reports_are_kept(shop: Workshop, database: AsyncEngine) -> None:
    """The content of the others is deleted, too."""
    child = Child()
    for number in range(drift_job.REPORTS_KEPT + 2):
        await serve(database, 150 if number == 0 else 10, number * 200)
        await DriftJob(shop, judge=child).run(catalog(), NOW + number * LATER)
    kept = [run.report for run in await runs(database)]
    assert kept[:2] == [None, None]
    assert all(shop.store.fetch(digest) for digest in kept[2:])
    assert len(list((shop.settings.cache / "artifacts" / "sha256").iterdir())) == drift_job.REPORTS_KEPT


async def test_versions_out_of_service_are_not_shown(shop: Workshop, database: AsyncEngine) -> None:
    """Their gauges would stand still for ever."""
    await serve(database, 150)
    await DriftJob(shop, judge=Child("prompt")).run(catalog(), NOW)
    assert shown(shop, "detected") == 1
    await DriftJob(shop, judge=Child()).run(Catalog(2), NOW)
    assert shown(shop, "detected") is None
    assert shown(shop, "ratio", column="prompt") is None


async def test_embeddings_are_a_column_where_an_endpoint_is_set(
    shop: Workshop, database: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And where that fails, the column is listed as missing and the others are judged."""
    asked: list[Any] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(msgspec.json.decode(request.content))
        if len(asked) > 3:
            return httpx.Response(500)
        vectors = [{"index": i, "embedding": [float(i), 1.0]} for i in range(len(asked[-1]["input"]))]
        return httpx.Response(200, json={"data": vectors[::-1]})

    def client(url: str, key: str, **others: Any) -> GatewayClient:
        assert (url, key) == ("http://vectors", "k")
        return GatewayClient(url, key, transport=httpx.MockTransport(answer), **others)

    monkeypatch.setattr(drift_job, "GatewayClient", client)
    settings = MonitorSettings(
        home=shop.settings.home, cache=shop.settings.cache,
        embeddings_url="http://vectors", embeddings_model="small", embeddings_api_key="k",
    )  # fmt: skip
    with_endpoint = Workshop(shop.database, shop.store, shop.gateway, None, shop.metrics, settings, shop.scratch)
    child = Child()
    await serve(database, 150)
    await DriftJob(with_endpoint, judge=child).run(catalog(), NOW)
    embedding = child.tasks[0].columns[-1]
    assert (embedding.name, embedding.kind) == ("embedding", "vector")
    assert (len(embedding.reference), len(embedding.current)) == (100, 50)
    assert embedding.reference[1] == [1.0, 1.0], "in the texts' order, whatever that of the answer"
    assert [len(each["input"]) for each in asked] == [64, 36, 50]
    await serve(database, 10, 150)
    await DriftJob(with_endpoint, judge=child).run(catalog(), NOW + LATER)
    assert (await runs(database))[
        1
    ].missing == "embedding: the endpoint of embeddings failed: /v1/embeddings answered 500"


@pytest.mark.parametrize("data", [[], [{"index": 1, "embedding": [1.0]}], [{"index": 0}], None])
async def test_an_endpoint_of_something_else_is_told(data: Any) -> None:
    """Too few vectors, or none."""
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json={"data": data}))
    async with GatewayClient("http://vectors", "", concurrency=1, transport=transport) as client:
        with pytest.raises(GatewayRefused, match="a vector for each text"):
            await embeddings.embed(client, "small", ["a"])


async def test_training_prompts_take_the_place_of_first_requests(shop: Workshop, database: AsyncEngine) -> None:
    """Where they are known; the look says so."""

    async def trained(adapter: str, version: int) -> list[str]:
        return [f"{adapter} {version} {number}" for number in range(70)]

    child = Child()
    await serve(database, 150)
    await DriftJob(shop, trained, child).run(catalog(), NOW)
    (run,) = await runs(database)
    assert run.reference == "training prompts"
    assert {values.name: len(values.reference) for values in child.tasks[0].columns}["prompt"] == 70


TASK = Task([Values("x", "number", [1, 2], [1, 2])], 0.05, 1)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import time; time.sleep(60)", "did not end within 0.5 s"),
        ("import sys; sys.exit('ValueError')", "ended with status 1 (ValueError)"),
        ("raise ValueError('a prompt of somebody')", "ended with status 1$"),
        ("import os; os.kill(os.getpid(), 9)", "ended with status -9$"),
        ("pass", "left no result"),
    ],
)
async def test_a_child_that_fails_leaves_nothing(tmp_path: Path, code: str, said: str) -> None:
    """It says why without a word of what it was given, and its folder is gone."""
    pattern = said.replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(ChildFailed, match=pattern):
        await judge_apart(TASK, tmp_path, command=(sys.executable, "-c", code), limit_s=0.5 if "sleep" in code else 30)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_monitor_left_behind_is_deleted(tmp_path: Path) -> None:
    """Prompts were in it; what another look is at work with stays."""
    for name, age in (("drift-old", 7200), ("drift-new", 10), ("golden-old", 7200)):
        (tmp_path / name).mkdir()
        moment = (tmp_path / name).stat().st_mtime - age
        os.utime(tmp_path / name, (moment, moment))
    sweep(tmp_path)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["drift-new", "golden-old"]


def test_removed_content_is_not_there(tmp_path: Path) -> None:
    """And removing it again is no error; other content stays."""
    store = ArtifactStore(str(tmp_path / "artifacts"), tmp_path / "cache")
    one, other = (store.put_files({"report.html": name}).digest for name in (b"one", b"other"))
    store.remove(one)
    store.remove(one)
    with pytest.raises(StoreFailure, match="lacks the content"):
        store.fetch(one)
    assert (store.fetch(other) / "report.html").read_bytes() == b"other"
