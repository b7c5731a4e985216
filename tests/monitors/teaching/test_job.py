"""The teacher's job: asked only when it helps, for no more than it may cost, and each prompt once."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.log.retention import RetentionJob
from monitors.loop.state import LoopState
from monitors.settings import MonitorSettings
from monitors.tables import EvidenceRow, LoopRow, RequestRow, TeacherLabelRow
from monitors.teaching.allowance import Pacer
from monitors.teaching.job import TeachingJob
from monitors.teaching.teacher import MOST_ATTEMPTS
from registry.catalog import Catalog
from registry.policies import Policy, RetrainRule
from tests.monitors.judging.rows import NOW, capture, catalog, say, stored, workshop
from tests.monitors.records import record
from tests.monitors.teaching.teachers import Endpoint, completion, refusal

PRICES = {"teacher_price_in": 1_000_000.0, "teacher_price_out": 1_000_000.0}
JobMaker = Callable[..., TeachingJob]


def wanting(least_rows: int = 10, mode: str = "act", **rule: Any) -> Catalog:
    """`support` with a policy that wants a teacher's labels."""
    retrain = RetrainRule(least_rows=least_rows, sources=("teacher",), **rule)
    adapter = replace(catalog().adapters["support"], policy=Policy(mode=mode, retrain=retrain))  # type: ignore[arg-type]
    return Catalog(change=1, adapters={"support": adapter})


@pytest.fixture
def endpoint() -> Endpoint:
    """The teacher."""
    return Endpoint()


@pytest.fixture
def new_job(database: AsyncEngine, tmp_path: Path, endpoint: Endpoint) -> JobMaker:
    """Makes the monitor's job anew, as after a restart."""

    def make(**settings: Any) -> TeachingJob:
        usual = {"teacher_url": "http://teacher", "teacher_model": "large", "teacher_per_minute": 6, **settings}
        shop = replace(workshop(database, tmp_path), settings=MonitorSettings(home=tmp_path, **usual))
        job = TeachingJob(shop, httpx.MockTransport(endpoint))
        job._pacer = Pacer(usual["teacher_per_minute"], clock=lambda: endpoint.now, sleep=endpoint.sleep)
        return job

    return make


async def insert(database: AsyncEngine, model: Any, row: dict[str, Any]) -> None:
    """Add a row."""
    async with database.begin() as connection:
        await connection.execute(model.__table__.insert(), row)


async def alarm(database: AsyncEngine) -> None:
    """Have the watch over the stable version say that quality was lost."""
    row = {"adapter": "support", "version": 2, "scorer": "feedback", "against": "level", "updated_at": NOW}
    state = {"watch": {"cusum": {"level": 0.85}}, "summary": {"watch": {"alarm": True}}}
    await insert(database, EvidenceRow, row | {"state": state, "observations": 9, "last_observation": 9})


async def ask(database: AsyncEngine, name: str, key: str = "web", minute: int = 0, prompt: Any = None) -> None:
    """A captured request of a key."""
    prompt = [{"role": "user", "content": f"what is {name}?"}] if prompt is None else prompt
    await capture(database, name, "own", prompt=prompt, created_at=NOW + timedelta(minutes=minute))
    fields = record(name, key_id=key)
    values = {field: getattr(fields, field) for field in RequestRow.model_fields if hasattr(fields, field)}
    await insert(database, RequestRow, values | {"id": name, "started_at": NOW})


async def kept(database: AsyncEngine) -> dict[str, str | None]:
    """The answers by their prompt's record."""
    rows = await stored(database, TeacherLabelRow, "record_id", "answer")
    return {record_id: None if answer is None else answer["content"] for record_id, answer in rows}


async def test_it_is_asked_only_once_quality_was_lost(
    database: AsyncEngine, new_job: JobMaker, endpoint: Endpoint
) -> None:
    """By policies that want it, while nothing else is under way."""
    await ask(database, "a")
    await new_job().run(wanting(), NOW)
    await alarm(database)
    await new_job().run(catalog(), NOW)
    await new_job().run(wanting(mode="off"), NOW)
    await new_job(teacher_model="").run(wanting(), NOW)
    row = {"adapter": "support", "state": msgspec.to_builtins(LoopState(phase="tuning")), "updated_at": NOW}
    await insert(database, LoopRow, row)
    await new_job().run(wanting(), NOW)
    assert endpoint.bodies == []


async def test_the_newest_prompts_of_each_key_in_turn_are_asked_once(
    database: AsyncEngine, new_job: JobMaker, endpoint: Endpoint
) -> None:
    """So that no key decides by its number of requests what is learned; labelled and repeated ones are left out."""
    await alarm(database)
    for minute in range(5):
        await ask(database, f"loud{minute}", "loud", minute)
    await ask(database, "web", "web")
    await ask(database, "again", "web", prompt=[{"role": "user", "content": "What  is WEB?"}], minute=-1)
    await ask(database, "picture", "app", prompt=[{"role": "user", "content": [{"type": "image_url"}]}])
    await ask(database, "said", "app")
    await say(database, "said", correction="right")
    endpoint.reply = lambda body: completion(body["messages"][-1]["content"])
    await new_job(teacher_per_minute=4).run(wanting(), NOW)
    found = await kept(database)
    assert found == {"loud4": "what is loud4?", "loud3": "what is loud3?", "web": "what is web?", "picture": None}
    for _ in range(3):
        await new_job(teacher_per_minute=4).run(wanting(), NOW)
    found = await kept(database)
    assert {name for name, answer in found.items() if answer} == {"web", *(f"loud{minute}" for minute in range(5))}
    assert found["again"] is None
    assert len(endpoint.bodies) == 6
    rows = await stored(database, TeacherLabelRow, "record_id", "key_id")
    assert dict(rows)["loud0"] == "loud"


async def test_no_more_is_asked_than_a_training_needs(
    database: AsyncEngine, new_job: JobMaker, endpoint: Endpoint
) -> None:
    """Since the last one; a prompt that it could not answer does not count, and is not asked again."""
    await alarm(database)
    for number in range(9):
        await ask(database, f"r{number}", minute=number)
    await ask(database, "newest", minute=10)
    endpoint.reply = lambda body: refusal(400) if "newest" in str(body) else completion("yes")
    for _ in range(4):
        await new_job().run(wanting(least_rows=5), NOW)
    found = await kept(database)
    assert found == {"newest": None, "r8": "yes", "r7": "yes", "r6": "yes", "r5": "yes", "r4": "yes"}
    after = LoopState(labels_until=NOW + timedelta(minutes=2))
    await insert(database, LoopRow, {"adapter": "support", "state": msgspec.to_builtins(after), "updated_at": NOW})
    await new_job().run(wanting(least_rows=5), NOW + timedelta(hours=1))
    assert set(await kept(database)) - set(found) == {"r3"}


async def test_a_month_costs_no_more_than_it_may(database: AsyncEngine, new_job: JobMaker, endpoint: Endpoint) -> None:
    """Whatever restarts, and also once retention has taken the answers; a teacher without money is left alone."""
    await alarm(database)
    for number in range(8):
        await ask(database, f"r{number}", minute=number)
    settings = PRICES | {"teacher_max_tokens": 10, "teacher_budget": 150.0}
    job = new_job(**settings)
    await job.run(wanting(), NOW)
    assert 1 <= len(endpoint.bodies) < 8
    await new_job(**settings).run(wanting(), NOW)
    before = len(endpoint.bodies)
    assert before < 8
    await job.run(wanting(), NOW + timedelta(minutes=1))
    await new_job(**settings).run(wanting(), NOW + timedelta(minutes=1))
    assert len(endpoint.bodies) == before
    await RetentionJob(database, 1.0).run(wanting(), NOW + timedelta(days=40))
    assert set((await kept(database)).values()) == {None}
    costs = await stored(database, TeacherLabelRow, "cost")
    assert sum(cost for (cost,) in costs) == pytest.approx(15.0 * before)
    assert 15.0 * before <= 150


async def test_a_wrong_key_is_not_tried_every_few_seconds(
    database: AsyncEngine, new_job: JobMaker, endpoint: Endpoint
) -> None:
    """The prompt is asked once the teacher lets one in."""
    await alarm(database)
    await ask(database, "a")
    endpoint.reply = lambda _body: refusal(401)
    job = new_job()
    for minute in range(3):
        await job.run(wanting(), NOW + timedelta(minutes=minute))
    assert len(endpoint.bodies) == 1
    endpoint.reply = lambda _body: completion("yes")
    await job.run(wanting(), NOW + timedelta(minutes=11))
    assert await kept(database) == {"a": "yes"}


async def test_an_outage_takes_no_prompt_away(database: AsyncEngine, new_job: JobMaker, endpoint: Endpoint) -> None:
    """What was not answered because nobody answered is asked again, and what it may have cost is written down."""
    await alarm(database)
    for name in ("a", "b"):
        await ask(database, name)
    endpoint.reply = lambda _body: refusal(503)
    job = new_job()
    await job.run(wanting(), NOW)
    assert len(endpoint.bodies) == MOST_ATTEMPTS
    assert await kept(database) == {}
    endpoint.reply = lambda _body: completion("yes")
    await job.run(wanting(), NOW + timedelta(minutes=11))
    assert await kept(database) == {"a": "yes", "b": "yes"}


async def test_it_keeps_its_pace_from_run_to_run(database: AsyncEngine, new_job: JobMaker, endpoint: Endpoint) -> None:
    """Six a minute are ten seconds apart."""
    await alarm(database)
    for number in range(8):
        await ask(database, f"r{number}", minute=number)
    job = new_job()
    for _ in range(2):
        await job.run(wanting(), NOW)
    assert endpoint.moments == [pytest.approx(10.0 * number) for number in range(8)]
