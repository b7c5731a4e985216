"""The request log is read page by page, forgets whom it should, and keeps nothing for longer than it may."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, insert, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

import monitors.log.request_log
import monitors.log.retention
from monitors.judging.pairing import Scored, observations, write_observations
from monitors.log.request_log import Forgotten, Place, Wanted, captures, forget, place_of, requests
from monitors.log.retention import RetentionJob
from monitors.log.usage_report import usage
from monitors.privacy.names import pseudonym
from monitors.tables import CaptureRow, FeedbackRow, MonitorWindowRow, ScoreRow
from monitors.watch.progress import move_cursor
from registry.catalog import Adapter, Catalog
from registry.database import writing
from registry.monitoring import Monitoring
from registry.tuning.events import Events
from registry.tuning.jobs import Asker, Jobs
from registry.tuning.orders import TuningOrder
from registry.tuning.tables import TuningJobRow
from tests.monitors.conftest import RecorderMaker, written
from tests.monitors.privacy.test_redaction import captured
from tests.monitors.records import NOVEMBER, record
from tests.registry.tuning.telling import tell

ANN, BOB = pseudonym("ann"), pseudonym("bob")
NOW = datetime(2026, 11, 20, tzinfo=UTC)


async def counts(engine: AsyncEngine) -> dict[str, int]:
    """How many rows each table has."""
    tables = ("request_log", "captures", "feedback", "scores", "observations")
    async with engine.connect() as connection:
        return {name: (await connection.execute(text(f"SELECT count(*) FROM {name}"))).scalar_one() for name in tables}


async def add(engine: AsyncEngine, model: Any, **values: Any) -> None:
    """One row."""
    async with engine.begin() as connection:
        await connection.execute(insert(model.__table__).values(**values))


async def observe(engine: AsyncEngine, *scores: Scored, at: datetime = NOW) -> None:
    """What the tests are given of these scores."""
    async with writing(engine) as connection:
        await write_observations(connection, observations(scores, lambda *_: ""), at)


def scored(record_id: str, request_id: str, session: str | None) -> Scored:
    """A score of a client's answer."""
    return Scored(record_id, request_id, "support", 2, "stable", session, "exact", "", 1.0)


async def observed(engine: AsyncEngine) -> list[tuple[int, str]]:
    """Ids and sessions of observations."""
    async with engine.connect() as connection:
        return [tuple(row) for row in await connection.execute(text("SELECT id, session FROM observations ORDER BY 1"))]


async def test_pages_go_on_where_the_last_one_ended(new_recorder: RecorderMaker, database: AsyncEngine) -> None:
    """In both directions, also among requests of the same moment, and each request stands on one page."""
    recorder = new_recorder()
    for number in range(10):
        recorder(record(f"req-{number}", started_at=NOVEMBER + number // 4))
    await recorder.drain(5)
    for oldest_first in (False, True):
        found: list[Any] = []
        after: Place | None = None
        while rows := await requests(database, Wanted(), after=after, limit=3, oldest_first=oldest_first):
            found += rows
            after = place_of(str(Place(rows[-1].started_at, rows[-1].id)))
        assert sorted(row.request_id for row in found) == [f"req-{number}" for number in range(10)]
        moments = [row.started_at for row in found]
        assert moments == sorted(moments, reverse=not oldest_first)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"adapter": "other"}, {"other"}),
        ({"version": 9}, {"version"}),
        ({"variant": "canary"}, {"canary"}),
        ({"key_id": "key-2"}, {"key"}),
        ({"status": 500}, {"status"}),
        ({"session": ANN}, {"ann"}),
        ({"end_user": BOB}, {"bob"}),
        ({"since": datetime.fromtimestamp(NOVEMBER + 50, UTC)}, {"late", "later"}),
        (
            {
                "since": datetime.fromtimestamp(NOVEMBER + 50, UTC),
                "until": datetime.fromtimestamp(NOVEMBER + 100, UTC),
            },
            {"late"},
        ),
    ],
)
async def test_a_filter_finds_what_it_names(
    new_recorder: RecorderMaker, database: AsyncEngine, wanted: Mapping[str, Any], expected: set[str]
) -> None:
    """And nothing else."""
    recorder = new_recorder()
    recorder(record("other", adapter="other"))
    recorder(record("version", version=9))
    recorder(record("canary", variant="canary"))
    recorder(record("key", key_id="key-2"))
    recorder(record("status", status=500))
    recorder(record("ann", session=ANN))
    recorder(record("bob", end_user=BOB))
    recorder(record("late", started_at=NOVEMBER + 50))
    recorder(record("later", started_at=NOVEMBER + 100))
    await recorder.drain(5)
    assert {row.request_id for row in await requests(database, Wanted(**wanted))} == expected


@pytest.mark.parametrize("kind", ["session", "end_user"])
async def test_what_is_forgotten_leaves_sums_and_others_alone(
    new_recorder: RecorderMaker, database: AsyncEngine, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests, text, feedback, scores and observations of one go, by some rows at a time."""
    monkeypatch.setattr(monitors.log.request_log, "ROWS_AT_ONCE", 2)
    recorder = new_recorder()
    for number in range(5):
        recorder(record(f"ann-{number}", **{kind: ANN}, text=captured("hello")))
        recorder(record(f"bob-{number}", **{kind: BOB}, text=captured("hello")))
    await recorder.drain(5)
    for row in await requests(database, Wanted(), oldest_first=True):
        about = {"record_id": row.id, "request_id": row.request_id}
        await add(
            database, FeedbackRow, id=row.id, **about, key_id="key-1", **{kind: getattr(row, kind)}, created_at=NOW
        )
        values = {"adapter": "support", "version": 2, "scorer": "exact", "value": 1.0, "created_at": NOW}
        await add(database, ScoreRow, **about, **values, session=row.session, variant="stable", source="x", against="")
        await observe(database, scored(row.id, row.request_id, row.session))
    before = await usage(database, by=("variant",), per="all")
    observations = 1 if kind == "session" else 5
    assert await forget(database, **{kind: ANN}) == Forgotten(5, 5, 5, 5, observations)
    assert await forget(database, **{kind: ANN}) == Forgotten()
    left = {"request_log": 5, "captures": 5, "feedback": 5, "scores": 5, "observations": observations}
    assert await counts(database) == left
    assert all(name.startswith("bob") for name in await written(database))
    assert await usage(database, by=("variant",), per="all") == before


async def test_an_observations_id_is_given_once_although_its_session_is_forgotten(
    new_recorder: RecorderMaker, database: AsyncEngine
) -> None:
    """Tests take observations by their ids, so the newest of all goes without its name rather than whole."""
    recorder = new_recorder()
    recorder(record("first", session=ANN))
    recorder(record("second", end_user=ANN))
    await recorder.drain(5)
    for row in await requests(database, Wanted(), oldest_first=True):
        await observe(database, scored(row.id, row.request_id, row.session))
    (_, (newest, _)) = await observed(database)
    assert (await forget(database, end_user=ANN)).observations == 1
    assert (await observed(database))[1] == (newest, f"forgotten {newest}")
    await observe(database, scored("later", "later", BOB))
    assert (await forget(database, session=ANN)).observations == 1
    (nameless, (id_, session)) = await observed(database)
    assert nameless == (newest, f"forgotten {newest}")
    assert (id_ > newest, session) == (True, BOB)


async def test_text_and_feedback_are_forgotten_when_the_requests_row_is_gone_already(
    new_recorder: RecorderMaker, database: AsyncEngine
) -> None:
    """Retention may have taken it first."""
    recorder = new_recorder()
    recorder(record("ann", session=ANN, text=captured("hello")))
    await recorder.drain(5)
    async with database.begin() as connection:
        await connection.execute(text("DELETE FROM request_log"))
    assert await forget(database, session=ANN) == Forgotten(captures=1)


def adapter(name: str, days: float) -> Adapter:
    """An adapter whose text is kept so long."""
    return Adapter(name, "tiny", NOW, {}, None, Monitoring(capture_days=days))


def catalog(*adapters: Adapter) -> Catalog:
    """What there is."""
    return Catalog(change=1, adapters={each.name: each for each in adapters})


async def test_what_was_kept_long_enough_is_deleted(
    new_recorder: RecorderMaker, database: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log by its days, text and the words of feedback by their adapter's, in pieces; usage and scores stay."""
    monkeypatch.setattr(monitors.log.retention, "ROWS_AT_ONCE", 2)
    recorder = new_recorder()
    for number in range(5):
        recorder(record(f"old-{number}", started_at=(NOW - timedelta(days=11)).timestamp()))
        recorder(record(f"new-{number}", started_at=(NOW - timedelta(days=9)).timestamp()))
    for name in ("short", "long", "gone"):
        recorder(record(name, adapter=name, started_at=NOW.timestamp(), text=captured("hello")))
    await recorder.drain(5)
    age = {"short": 3, "long": 40, "gone": 40}
    for name, days in age.items():
        moment = NOW - timedelta(days=days)
        async with database.begin() as connection:
            columns = CaptureRow.__table__.c  # type: ignore[attr-defined]  # what SQLModel adds to a table model
            await connection.execute(update(CaptureRow).where(columns.adapter == name).values(created_at=moment))
        about = {"id": name, "record_id": name, "request_id": name, "key_id": "key-1", "adapter": name}
        await add(database, FeedbackRow, **about, comment="words", correction="more", score=0.5, created_at=moment)
    await add(
        database,
        MonitorWindowRow,
        job="recorder",
        subject="x",
        window="1",
        outcome="",
        created_at=NOW - timedelta(days=8),
    )
    await RetentionJob(database, 10).run(catalog(adapter("short", 2), adapter("long", 100)), NOW)
    kept = await requests(database, Wanted(), limit=100)
    assert {row.request_id for row in kept} == {f"new-{number}" for number in range(5)} | {"short", "long", "gone"}
    said = await captures(database, [row.id for row in kept])
    assert {row.adapter for row in said.values()} == {"long"}
    async with database.connect() as connection:
        found = await connection.execute(text("SELECT adapter, comment, correction, score FROM feedback ORDER BY 1"))
        assert [tuple(row) for row in found] == [
            ("gone", None, None, 0.5),
            ("long", "words", "more", 0.5),
            ("short", None, None, 0.5),
        ]
        assert (await connection.execute(text("SELECT count(*) FROM monitor_windows"))).scalar() == 0
    (row,) = await usage(database, by=(), per="all")
    assert row.requests == 13


async def test_scores_and_observations_go_with_the_log_once_tests_have_taken_them(
    database: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What no test has taken yet stays, whatever its age."""
    monkeypatch.setattr(monitors.log.retention, "ROWS_AT_ONCE", 2)
    old, new = NOW - timedelta(days=11), NOW - timedelta(days=9)
    names = [*(f"old-{number}" for number in range(5)), "new"]
    for name in names:
        moment = new if name == "new" else old
        values = {"adapter": "support", "version": 2, "scorer": "exact", "value": 1.0, "created_at": moment}
        await add(
            database, ScoreRow, **values, record_id=name, request_id=name, variant="stable", source="x", against=""
        )
        await observe(database, scored(name, name, name), at=moment)
    job = RetentionJob(database, 10)
    await job.run(catalog(), NOW)
    assert [session for _, session in await observed(database)] == names
    assert (await counts(database))["scores"] == 1
    async with writing(database) as connection:
        await move_cursor(connection, "quality", "", str((await observed(database))[3][0]))
    await job.run(catalog(), NOW)
    assert [session for _, session in await observed(database)] == ["old-4", "new"]
    async with writing(database) as connection:
        await move_cursor(connection, "quality", "", str((await observed(database))[-1][0]))
    later = NOW + timedelta(days=30)
    await job.run(catalog(), later)
    await job.run(catalog(), later)
    ((id_, session),) = await observed(database)
    assert session == f"forgotten {id_}"


async def test_steps_of_jobs_that_ended_long_ago_go(database: AsyncEngine) -> None:
    """As long after the end as the log is kept; what the job said in words stays, and so do all steps of open ones."""
    jobs, events, table = Jobs(database), Events(database), TuningJobRow.__table__  # type: ignore[attr-defined]
    ids = {}
    for name, finished_at in (("old", NOW - timedelta(days=11)), ("new", NOW - timedelta(days=9)), ("open", None)):
        job, _ = await jobs.create(TuningOrder(name, "tiny", "file-1"), "tiny", Asker("key_1", "ann"))
        for step in range(3):
            await tell(events, job.id, f"Step {step}", data={"step": step})
        async with writing(database) as connection:
            await connection.execute(update(table).where(table.c.id == job.id).values(finished_at=finished_at))
        ids[name] = job.id
    await RetentionJob(database, 10).run(catalog(), NOW)
    left = {name: [event.type for event in await events.listed(job, limit=9)] for name, job in ids.items()}
    whole = ["metrics"] * 3 + ["message"]
    assert left == {"old": ["message"], "new": whole, "open": whole}


async def test_work_that_is_done_is_remembered_for_as_long_as_it_could_be_done_again(database: AsyncEngine) -> None:
    """60 days, or as long as the log is kept."""
    for days in (59, 61, 99):
        at = NOW - timedelta(days=days)
        await add(
            database, MonitorWindowRow, job="drift", subject=f"{days}", window="w", outcome="drift", created_at=at
        )
    for log_days, left in ((98, ["59", "61"]), (10, ["59"])):
        await RetentionJob(database, log_days).run(catalog(), NOW)
        async with database.connect() as connection:
            found = await connection.execute(text("SELECT subject FROM monitor_windows ORDER BY 1"))
            assert list(found.scalars()) == left


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_retention_takes_the_writers_place_only_to_delete(
    new_recorder: RecorderMaker, database: AsyncEngine
) -> None:
    """What is due is looked for before; with nothing due no transaction writes."""
    recorder = new_recorder()
    recorder(record("new", started_at=NOW.timestamp(), text=captured("hello")))
    await recorder.drain(5)
    begun: list[str] = []

    @event.listens_for(database.sync_engine, "before_cursor_execute")
    def note(connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        begun.append(("writes: " if connection.get_execution_options().get("ostler_writes") else "") + statement)

    job = RetentionJob(database, 10)
    await job.run(catalog(), NOW)
    assert begun
    assert [statement for statement in begun if statement.startswith("writes: ")] == []
    await job.run(catalog(), NOW + timedelta(days=20))
    writes = [statement.split()[1] for statement in begun if statement.startswith("writes: ")]
    assert writes == ["BEGIN", "DELETE"]
