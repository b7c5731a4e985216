"""Runs of golden sets: due ones are made once, each is finished or says why, and differences are paired."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from monitors.judging import evaluation, golden_runs
from monitors.judging.evaluation import EvaluationJob
from monitors.judging.golden import CheckedSet, GoldenChecker
from monitors.judging.golden_sets import GoldenSets, find_set
from monitors.judging.results import summarize
from monitors.tables import GoldenRunRow
from registry.artifacts import ArtifactStore
from registry.catalog import Catalog
from registry.database import writing
from registry.errors import Conflict, NotFound
from registry.monitoring import Monitoring, ScorerChoice
from registry.registry import Registry
from tests.conftest import AdapterMaker, until
from tests.monitors.conftest import count
from tests.monitors.judging.fake_gateway import FakeGateway, workshop

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
RUNS = GoldenRunRow.__table__  # type: ignore[attr-defined]
QUESTIONS = [f"{number} and 1?" for number in range(12)]


def right(question: str) -> str:
    """The reference."""
    return str(int(question.split(maxsplit=1)[0]) + 1)


def half_right(question: str) -> str:
    """Right for even numbers alone."""
    return right(question) if int(question.split(maxsplit=1)[0]) % 2 == 0 else "?"


def checked(*scorers: str, questions: list[str] = QUESTIONS, **fields: Any) -> CheckedSet:
    """A set of sums."""
    checker = GoldenChecker([ScorerChoice(name) for name in scorers or ("exact_match",)])
    for question in questions:
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": right(question)}]
        checker.feed(json.dumps({"messages": messages, **fields}).encode() + b"\n")
    return checker.finish()


@dataclass
class World:
    """`support` with versions 1 and 2, version 1 live, a gateway that answers, and the job."""

    registry: Registry
    database: AsyncEngine
    store: ArtifactStore
    gateway: FakeGateway
    folder: Path
    now: datetime = NOW

    @property
    def sets(self) -> GoldenSets:
        """The golden sets."""
        return GoldenSets(self.database, self.store)

    async def catalog(self) -> Catalog:
        """What exists now."""
        return await self.registry.catalog()

    def job(self, **fields: Any) -> EvaluationJob:
        """A job as a new monitor has it."""
        self.shop = workshop(self.database, self.store, self.gateway, self.folder, **fields)
        return EvaluationJob(self.shop, pauses_s=(0.01, 0.01))

    async def run(self, job: EvaluationJob | None = None) -> list[Any]:
        """Let it work once; all runs, oldest first."""
        await (job or self.job()).run(await self.catalog(), self.now)
        return await self.runs()

    async def runs(self) -> list[Any]:
        """All runs, oldest first."""
        async with self.database.connect() as connection:
            return list(await connection.execute(select(RUNS).order_by(RUNS.c.created_at, RUNS.c.id)))

    async def ask_for(self, *targets: Any) -> None:
        """Queue runs as a person does."""
        adapter = (await self.catalog()).adapters["support"]
        async with self.database.begin() as connection:
            entry = await find_set(connection, "support")
            assert entry is not None
            order = golden_runs.Order("support", entry, golden_runs.contenders(adapter, targets), "requested", "ann")
            await golden_runs.queue_runs(connection, order)

    async def schedule_every(self, hours: float) -> None:
        """How often the set is run."""
        await self.registry.set_monitoring("support", Monitoring(golden_every_h=hours), actor="ann")


@pytest.fixture
async def world(
    registry: Registry, database: AsyncEngine, store: ArtifactStore, adapter_folder: AdapterMaker, tmp_path: Path
) -> World:
    """Without a set yet; the live version is always right, the base half of the time."""
    for scale in (1.0, 2.0):
        await registry.push("support", adapter_folder(scale), actor="ann")
    await registry.promote("support", 1, actor="ann")
    versions = (await registry.catalog()).adapters["support"].versions
    answers: dict[str, Callable[[str], str]] = {version.engine_name: right for version in versions.values()}
    gateway = FakeGateway(answers | {"tiny": half_right})
    return World(registry, database, store, gateway, tmp_path / "scratch")


async def test_a_set_is_numbered_once_and_audited(world: World) -> None:
    """The same again is the same set, whoever pushes it; what was not there yet is the next."""
    first = await world.sets.push("support", checked(), actor="ann", note="sums")
    again = await world.sets.push("support", checked(), actor="bob")
    second = await world.sets.push("support", checked("rouge_l"), actor="bob")
    assert [(each.row.number, each.created) for each in (first, again, second)] == [(1, True), (1, False), (2, True)]
    assert (again.row.note, again.row.created_by, again.row.rows) == ("sums", "ann", 12)
    assert [row.number for row in await world.sets.listed("support")] == [2, 1]
    assert [row.number for row in await world.sets.listed("support", before=2)] == [1]
    newest, older = (await world.registry.audit())[:2]
    assert (newest.action, newest.subject, newest.actor) == ("push_golden_set", "adapter:support", "bob")
    assert older.after == {"golden_set": 1, "digest": first.row.digest, "rows": 12, "note": "sums"}
    with pytest.raises(NotFound):
        await world.sets.push("nobody", checked(), actor="ann")


async def test_pushes_at_once_have_numbers_of_their_own(world: World) -> None:
    """Whoever is first; none is lost."""
    sets = [checked(questions=QUESTIONS[: number + 1]) for number in range(5)]
    pushed = await asyncio.gather(*(world.sets.push("support", each, actor="ann") for each in sets))
    assert sorted(each.row.number for each in pushed) == [1, 2, 3, 4, 5]


async def test_a_scheduled_run_holds_stable_against_the_base(world: World) -> None:
    """Base first, at temperature 0, marked as evaluation; means, intervals and the paired difference are right."""
    await world.sets.push("support", checked(max_tokens=9), actor="ann")
    base, stable = await world.run()
    assert [(run.version, run.state, run.reason, run.error) for run in (base, stable)] == [
        (0, "done", "scheduled", None),
        (1, "done", "scheduled", None),
    ]
    assert (base.model, base.batch) == ("tiny", stable.batch)
    assert base.results["scorers"]["exact_match"]["mean"] == 0.5
    assert "base" not in base.results["scorers"]["exact_match"]
    found = stable.results["scorers"]["exact_match"]
    assert (found["n"], found["mean"], found["high"]) == (12, 1.0, 1.0)
    assert 0.6 < found["low"] < 0.8
    assert (found["base"]["n"], found["base"]["mean"]) == (12, 0.5)
    assert -0.1 < found["base"]["low"] < 0.5 < found["base"]["high"] < 1
    assert base.items == [{"exact_match": float(number % 2 == 0)} for number in range(12)]
    assert world.gateway.purposes == {"evaluation"}
    for body in world.gateway.bodies:
        assert (body["temperature"], body["seed"], body["max_tokens"], len(body["messages"])) == (0, 0, 9, 1)


async def test_a_window_is_run_once(world: World) -> None:
    """Also by another monitor; after a long pause once again, not many times; 0 hours never."""
    await world.sets.push("support", checked(), actor="ann")
    job = world.job()
    assert len(await world.run(job)) == 2
    assert len(await world.run(job)) == 2
    assert len(await world.run()) == 2
    world.now += timedelta(days=30)
    assert len(await world.run()) == 4
    await world.schedule_every(0)
    world.now += timedelta(days=30)
    assert len(await world.run()) == 4


async def test_a_new_set_and_a_new_version_are_run_at_once(world: World) -> None:
    """They do not wait for the next window; going back to what was run is no reason to run it again."""
    await world.sets.push("support", checked(), actor="ann")
    job = world.job()
    await world.run(job)
    await world.registry.promote("support", 2, actor="ann")
    assert [run.version for run in (await world.run(job))[2:]] == [0, 2]
    await world.registry.promote("support", 1, actor="ann")
    assert len(await world.run(job)) == 4
    await world.sets.push("support", checked("rouge_l"), actor="ann")
    assert [(run.golden_set, run.version) for run in (await world.run(job))[4:]] == [(2, 0), (2, 1)]


async def test_without_a_live_version_nothing_is_scheduled(world: World, adapter_folder: AdapterMaker) -> None:
    """Nor without a set."""
    await world.registry.push("other", adapter_folder(3.0), actor="ann")
    await world.sets.push("other", checked(), actor="ann")
    assert await world.run() == []


async def test_what_is_asked_for_is_run(world: World) -> None:
    """Each model once, however it is called; without the base there is no difference."""
    await world.schedule_every(0)
    await world.sets.push("support", checked(), actor="ann")
    await world.ask_for(2, "stable", 1)
    runs = await world.run()
    assert [(run.version, run.state, run.requested_by) for run in runs] == [(1, "done", "ann"), (2, "done", "ann")]
    assert "base" not in runs[1].results["scorers"]["exact_match"]


async def test_what_was_just_asked_for_is_not_scheduled_too(world: World) -> None:
    """The same set against the same models, which wait already."""
    await world.sets.push("support", checked(), actor="ann")
    await world.ask_for("stable", "base")
    runs = await world.run()
    assert [(run.version, run.requested_by) for run in runs] == [(0, "ann"), (1, "ann")]


async def test_only_what_can_answer_may_be_asked_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """No unknown, archived or missing version, and no endless queue."""
    monkeypatch.setattr(golden_runs, "MOST_QUEUED", 3)
    await world.sets.push("support", checked(), actor="ann")
    with pytest.raises(NotFound, match="no version 9"):
        await world.ask_for(9)
    with pytest.raises(Conflict, match="no canary"):
        await world.ask_for("canary")
    await world.registry.archive_version("support", 2, archived=True, actor="ann")
    with pytest.raises(Conflict, match="archived"):
        await world.ask_for(2)
    for _ in range(3):
        await world.ask_for("base")
    with pytest.raises(Conflict, match="would wait"):
        await world.ask_for("base")


async def test_a_full_queue_is_worked_off(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was due meanwhile is run afterwards."""
    monkeypatch.setattr(golden_runs, "MOST_QUEUED", 3)
    await world.sets.push("support", checked(questions=QUESTIONS[:2]), actor="ann")
    await world.ask_for("base", 2)
    job = world.job()
    assert [run.state for run in await world.run(job)] == ["done"] * 2
    assert [run.reason for run in (await world.run(job))[2:]] == ["scheduled"] * 2


async def test_a_busy_gateway_is_asked_again(world: World) -> None:
    """503, 429 and a broken answer pass; the run is as if nothing had been."""
    await world.schedule_every(0)
    await world.sets.push("support", checked(), actor="ann")
    await world.ask_for("stable")
    world.gateway.refuse = [503, 429, None, 502]
    (run,) = await world.run()
    assert (run.state, run.results["scorers"]["exact_match"]["mean"]) == ("done", 1.0)


@pytest.mark.parametrize(("refuse", "why"), [([503] * 99, "answered 503"), ([400], "answered 400")])
async def test_a_run_that_cannot_be_finished_says_why(world: World, refuse: list[int | None], why: str) -> None:
    """When patience is over, or at once where the engine refuses a row; the next run goes on, without its base."""
    await world.schedule_every(0)
    await world.sets.push("support", checked(questions=QUESTIONS[:1]), actor="ann")
    await world.ask_for("base", "stable")
    world.gateway.refuse = refuse[:3]
    base, stable = await world.run()
    assert (base.state, base.results, base.items) == ("failed", None, None)
    assert base.error == f"row 1: /v1/chat/completions {why}"
    assert stable.state == "done"
    assert "base" not in stable.results["scorers"]["exact_match"]


async def test_a_set_that_is_damaged_fails_its_runs(world: World) -> None:
    """Without a question to anyone."""
    pushed = await world.sets.push("support", checked(), actor="ann")
    (world.store.fetch(pushed.row.digest) / "rows.jsonl").write_bytes(b"{}\n")
    for run in await world.run():
        assert run.state == "failed"
        assert "is damaged" in run.error
    assert world.gateway.bodies == []


async def test_an_interrupted_run_begins_anew(world: World) -> None:
    """Whole, and by whoever is the monitor now; the one before can no longer end it."""
    await world.schedule_every(0)
    await world.sets.push("support", checked(), actor="ann")
    await world.ask_for("stable")
    world.gateway.hold = asyncio.Event()
    dying = asyncio.create_task(world.run())
    await until(lambda: world.gateway.most_at_once)
    (running,) = await world.runs()
    assert running.state == "running"
    dying.cancel()
    await asyncio.gather(dying, return_exceptions=True)
    world.gateway.hold.set()
    (run,) = await world.run()
    assert (run.state, len(run.items)) == ("done", 12)
    assert run.started_at > running.started_at
    async with world.database.begin() as connection:
        await connection.execute(update(RUNS).values(state="running"))
        assert not await golden_runs.finish_run(connection, running, error="late")


async def test_few_are_asked_at_once(world: World) -> None:
    """As many as the settings say."""
    await world.sets.push("support", checked(), actor="ann")
    await world.run(world.job(evaluation_concurrency=3))
    assert world.gateway.most_at_once == 3


async def test_likelihood_is_that_of_the_reference(world: World) -> None:
    """Per row as a score, over all rows as perplexity; each row takes two questions more."""
    await world.sets.push("support", checked("likelihood", "exact_match"), actor="ann")
    world.gateway.logprob = {"tiny": -2.0, **{name: -0.5 for name in world.gateway.answers if name != "tiny"}}
    base, stable = await world.run()
    assert base.results["metrics"]["perplexity"] == pytest.approx(2.718281828**2)
    assert stable.results["metrics"]["perplexity"] == pytest.approx(2.718281828**0.5)
    assert stable.results["scorers"]["likelihood"]["mean"] == pytest.approx(0.6065, abs=1e-4)
    assert len(world.gateway.bodies) == 2 * 3 * 12


async def test_the_newest_results_are_metrics(world: World) -> None:
    """From the database, so also after a restart; the base has no version; what is archived disappears."""
    await world.sets.push("support", checked(), actor="ann")
    await world.run()
    job = world.job()
    await world.run(job)
    gauges = world.shop.metrics.registry
    base, stable = ({"adapter": "support", "version": version, "scorer": "exact_match"} for version in ("", "1"))
    assert count(gauges, "ostler_golden_score", **base) == 0.5
    assert count(gauges, "ostler_golden_score", **stable) == 1.0
    assert (
        0.1 < count(gauges, "ostler_golden_score_low", **base) < 0.5 < count(gauges, "ostler_golden_score_high", **base)
    )
    await world.registry.promote("support", 2, actor="ann")
    await world.registry.archive_version("support", 1, archived=True, actor="ann")
    await world.schedule_every(0)
    await world.run(job)
    assert gauges.get_sample_value("ostler_golden_score", stable) is None


async def test_runs_are_listed_newest_first(world: World) -> None:
    """In pages that go on from a run; an unknown one leads nowhere."""
    await world.sets.push("support", checked(), actor="ann")
    for _ in range(3):
        await world.ask_for("base", "stable", 2)
    async with world.database.connect() as connection:
        everything = await golden_runs.list_runs(connection, "support", before=None, limit=100)
        pages, before = [], None
        while page := await golden_runs.list_runs(connection, "support", before=before, limit=2):
            pages += page
            before = page[-1].id
        assert await golden_runs.list_runs(connection, "support", before="none", limit=2) == []
    assert [run.id for run in pages] == [run.id for run in everything]
    assert [run.id for run in everything][::-1] == [run.id for run in await world.runs()]


async def test_nobody_waits_for_the_statistics(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are made while no transaction that writes is open, and a job without work opens none."""
    opened = still_open = 0

    @contextlib.asynccontextmanager
    async def watched(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        nonlocal opened, still_open
        async with writing(engine) as connection:
            opened, still_open = opened + 1, still_open + 1
            try:
                yield connection
            finally:
                still_open -= 1

    def alone(*arguments: Any) -> dict[str, Any]:
        assert still_open == 0
        return summarize(*arguments)

    monkeypatch.setattr(evaluation, "writing", watched)
    monkeypatch.setattr(evaluation, "summarize", alone)
    await world.sets.push("support", checked(), actor="ann")
    job = world.job()
    assert [run.state for run in await world.run(job)] == ["done", "done"]
    opened = 0
    await world.run(job)
    assert opened == 0
