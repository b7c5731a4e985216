"""Scoring: each answer once by each scorer, whatever comes late, and one observation for each session."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.judging import scoring
from monitors.judging.backlog import OVERLAP, Backlog
from monitors.judging.captured import MOST_OF_ONE_ID, CapturedRequests, captured_requests, captures_of
from monitors.judging.scorers import Sample
from monitors.judging.scoring import ScoringJob
from monitors.tables import ObservationRow, ScoreRow
from monitors.watch.work import Workshop
from registry.monitoring import ScorerChoice
from tests.monitors.judging.rows import NOW, capture, catalog, say, stored, workshop

SCORED = ("record_id", "scorer", "value", "source")
OBSERVED = ("version", "scorer", "against", "session", "value")


@pytest.fixture
def shop(database: AsyncEngine, tmp_path: Path) -> Workshop:
    """What the job works with, without a judge."""
    return workshop(database, tmp_path)


async def test_the_form_of_a_captured_answer_is_scored_once(shop: Workshop, database: AsyncEngine) -> None:
    """However often the job runs, and however often it is begun anew; without text there is nothing to score."""
    await capture(database, "good", '{"a": 1}', session="s1")
    await capture(database, "bad", "no", session="s2")
    await capture(database, "tool", None)
    job = ScoringJob(shop)
    for each in (job, job, ScoringJob(shop)):
        await each.run(catalog("valid_json"), NOW)
    assert await stored(database, ScoreRow, *SCORED) == [
        ("bad", "valid_json", 0.0, "answer"),
        ("good", "valid_json", 1.0, "answer"),
    ]
    assert await stored(database, ObservationRow, *OBSERVED) == [
        (2, "valid_json", "level", "s1", 1.0),
        (2, "valid_json", "level", "s2", 0.0),
    ]


async def test_what_clients_say_is_scored_without_any_capture(shop: Workshop, database: AsyncEngine) -> None:
    """Of the adapter's own answers; what one says of the base model's, or without a number, is no score."""
    await say(database, "r1", thumb="up")
    await say(database, "r2", score=0.25, session="s1")
    await say(database, "r3", correction="so", comment="hm")
    await say(database, "r4", thumb="up", adapter=None, version=None, variant="base")
    await say(database, "r5", thumb="up", variant="fallback")
    await ScoringJob(shop).run(catalog(), NOW)
    assert await stored(database, ScoreRow, *SCORED) == [
        ("r1", "feedback", 1.0, "feedback"),
        ("r2", "feedback", 0.25, "feedback"),
    ]
    assert await stored(database, ObservationRow, *OBSERVED) == [
        (2, "feedback", "level", "request r1", 1.0),
        (2, "feedback", "level", "s1", 0.25),
    ]


@pytest.mark.parametrize("order", ["capture first", "correction first", "shadow last"])
async def test_a_correction_scores_the_answer_and_its_shadow(shop: Workshop, database: AsyncEngine, order: str) -> None:
    """In whatever order the three come, also long after one another."""
    job = ScoringJob(shop)
    steps = {
        "own": lambda: capture(database, "own", "yes", request_id="r"),
        "shadow": lambda: capture(database, "other", "no", request_id="r", variant="shadow"),
        "said": lambda: say(database, "own", request_id="r", correction="yes"),
    }
    orders = {
        "capture first": ("own", "shadow", "said"),
        "correction first": ("said", "own", "shadow"),
        "shadow last": ("own", "said", "shadow"),
    }
    for step in orders[order]:
        await steps[step]()
        await job.run(catalog("exact_match"), NOW)
    assert await stored(database, ScoreRow, *SCORED) == [
        ("other", "exact_match", 0.0, "correction"),
        ("own", "exact_match", 1.0, "correction"),
    ]
    assert await stored(database, ObservationRow, *OBSERVED) == [
        (2, "exact_match", "base", "request r", 1.0),
        (2, "exact_match", "level", "request r", 1.0),
    ]


async def test_the_first_score_stands(shop: Workshop, database: AsyncEngine) -> None:
    """It may have entered a test; a second opinion changes nothing."""
    job = ScoringJob(shop)
    await say(database, "r1", thumb="up")
    await job.run(catalog(), NOW)
    await say(database, "r1", id="second", key_id="key-2", thumb="down")
    await job.run(catalog(), NOW)
    assert await stored(database, ScoreRow, "value") == [(1.0,)]


async def test_rows_that_appear_late_are_scored(shop: Workshop, database: AsyncEngine) -> None:
    """Another gateway's batch is older than what was scored already; and batches are smaller than what is there."""
    job = ScoringJob(shop)
    await capture(database, "new", "{}")
    await job.run(catalog("valid_json"), NOW)
    for number in range(5):
        await capture(database, f"late-{number}", "{}", created_at=NOW - OVERLAP + timedelta(seconds=number))
    await job.run(catalog("valid_json"), NOW)
    assert len(await stored(database, ScoreRow, "record_id")) == 6


async def test_many_rows_are_scored_in_small_batches(
    shop: Workshop, database: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them once, also those of one moment."""
    monkeypatch.setattr(scoring, "_BATCH", 3)
    for number in range(10):
        await capture(database, f"r{number}", "{}", created_at=NOW + timedelta(minutes=number // 4))
    await ScoringJob(shop).run(catalog("valid_json"), NOW)
    assert len(await stored(database, ScoreRow, "record_id")) == 10
    assert len(await stored(database, ObservationRow, "id")) == 10


async def test_a_batch_is_written_wholly_or_not_at_all(
    shop: Workshop, database: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What breaks between the scores and the cursor leaves neither, and the next run does it all."""
    await capture(database, "r1", "{}")
    job = ScoringJob(shop)

    async def fail(*_arguments: object) -> None:
        raise ConnectionError("the database is gone")

    with monkeypatch.context() as broken:
        broken.setattr(Backlog, "move", fail)
        with pytest.raises(ConnectionError):
            await job.run(catalog("valid_json"), NOW)
    assert await stored(database, ScoreRow, "id") == []
    assert await stored(database, ObservationRow, "id") == []
    await job.run(catalog("valid_json"), NOW)
    assert len(await stored(database, ObservationRow, "id")) == 1


async def test_a_session_counts_once(shop: Workshop, database: AsyncEngine) -> None:
    """With its first score, for each version, scorer and test; all its answers are scored."""
    for number, answer in enumerate(("{}", "no", "no")):
        await capture(database, f"r{number}", answer, session="s", created_at=NOW + timedelta(seconds=number))
    await capture(database, "r3", "no", session="s", version=3, variant="canary")
    await ScoringJob(shop).run(catalog("valid_json"), NOW)
    assert len(await stored(database, ScoreRow, "id")) == 4
    assert await stored(database, ObservationRow, *OBSERVED) == [
        (2, "valid_json", "level", "s", 1.0),
        (3, "valid_json", "level", "s", 0.0),
    ]


async def test_a_scorer_that_cannot_score_an_answer_holds_up_no_other(shop: Workshop, database: AsyncEngine) -> None:
    """A label that the correction lacks, and a request id that was used twice, which leaves shadows without a pair."""
    for record in ("a", "b"):
        await capture(database, record, '{"x": 1}', request_id="same", prompt=[{"role": "user", "content": record}])
        await capture(database, f"{record}-base", "?", request_id="same", variant="shadow", prompt="other")
    await say(database, "a", request_id="same", correction="not json")
    await ScoringJob(shop).run(catalog(ScorerChoice("label", {"field": "x"}), "valid_json"), NOW)
    assert {row[1] for row in await stored(database, ScoreRow, *SCORED)} == {"valid_json"}
    assert {row[2] for row in await stored(database, ObservationRow, *OBSERVED)} == {"level"}


async def test_an_adapter_that_is_gone_is_passed_over(shop: Workshop, database: AsyncEngine) -> None:
    """And so is a request of the monitor's own."""
    await capture(database, "gone", "{}", adapter="gone")
    await capture(database, "own", "{}", variant="evaluation")
    await ScoringJob(shop).run(catalog("valid_json"), NOW)
    assert await stored(database, ScoreRow, "id") == []
    async with database.connect() as connection:
        cursors = text("SELECT count(*) FROM monitor_cursors WHERE job = 'scoring'")
        assert (await connection.execute(cursors)).scalar() == 1


async def test_a_request_id_that_is_used_again_and_again_costs_no_more(
    shop: Workshop, database: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answers are scored, each once; nobody reads the text of all of them for each batch, or pairs any."""
    monkeypatch.setattr(scoring, "_BATCH", 4)
    most = 0

    async def counting(*arguments: Any) -> CapturedRequests:
        nonlocal most
        found = await captured_requests(*arguments)
        most = max(most, len(found.captures))
        return found

    monkeypatch.setattr(scoring, "captured_requests", counting)
    for number in range(MOST_OF_ONE_ID + 2):
        at = NOW + timedelta(seconds=number)
        prompt = [{"role": "user", "content": str(number)}]
        await capture(database, f"own-{number}", "{}", request_id="same", prompt=prompt, created_at=at)
        same = {"request_id": "same", "variant": "shadow", "prompt": prompt, "created_at": at}
        await capture(database, f"base-{number}", "no", **same)
    await say(database, "own-0", request_id="same", correction="{}")
    await ScoringJob(shop).run(catalog("valid_json", "exact_match"), NOW)
    assert most <= 4
    own = {f"own-{number}" for number in range(MOST_OF_ONE_ID + 2)}
    found = await stored(database, ScoreRow, "record_id", "scorer")
    assert {record for record, scorer in found if scorer == "valid_json"} == own
    assert [record for record, scorer in found if scorer == "exact_match"] == ["own-0"]
    assert {row[2] for row in await stored(database, ObservationRow, *OBSERVED)} == {"level"}


async def test_the_captures_of_many_requests_are_found(database: AsyncEngine) -> None:
    """However many ids are asked for at once; other requests' are left out."""
    for number in range(3):
        await capture(database, f"r{number}", "{}")
    async with database.connect() as connection:
        found = await captures_of(connection, {f"r{number}" for number in range(1, 200)})
    assert {request_id: [row.id for row in rows] for request_id, rows in found.items()} == {"r1": ["r1"], "r2": ["r2"]}


async def test_nothing_is_written_of_what_was_forgotten_meanwhile(
    shop: Workshop, database: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person's answer and feedback, deleted after they were read, leave no score and no observation."""
    await capture(database, "gone", "{}", session="s1")
    await capture(database, "kept", "{}", session="s2")
    await say(database, "said", thumb="up", session="s1")

    async def forgetting(*arguments: Any) -> CapturedRequests:
        found = await captured_requests(*arguments)
        async with database.begin() as other:
            await other.execute(text("DELETE FROM captures WHERE id = 'gone'"))
            await other.execute(text("DELETE FROM feedback"))
        return found

    monkeypatch.setattr(scoring, "captured_requests", forgetting)
    job = ScoringJob(shop)
    assert await job._next_feedback(catalog("valid_json"), NOW)
    assert await stored(database, ScoreRow, "record_id") == []
    await capture(database, "gone", "{}", session="s1")
    await job.run(catalog("valid_json"), NOW)
    assert await stored(database, ScoreRow, "record_id") == [("kept",)]
    assert [row[3] for row in await stored(database, ObservationRow, *OBSERVED)] == ["s2"]


async def test_a_clock_that_is_ahead_holds_up_no_others(shop: Workshop, database: AsyncEngine) -> None:
    """What gateways with a right clock write after it is scored, and nothing twice."""
    job = ScoringJob(shop)
    await capture(database, "ahead", "{}", created_at=NOW + timedelta(hours=1))
    await job.run(catalog("valid_json"), NOW)
    for minute in (1, 30, 59):
        at = NOW + timedelta(minutes=minute)
        await capture(database, f"right-{minute}", "{}", created_at=at)
        await job.run(catalog("valid_json"), at)
        await job.run(catalog("valid_json"), at + timedelta(seconds=1))
    await ScoringJob(shop).run(catalog("valid_json"), NOW + timedelta(hours=2))
    scored = [row[0] for row in await stored(database, ScoreRow, "record_id")]
    assert scored == ["ahead", "right-1", "right-30", "right-59"]


async def test_what_a_scorer_trips_over_is_not_logged(
    shop: Workshop, database: AsyncEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its error may quote the answer; the log has its kind and place."""

    def trip(_choice: ScorerChoice, sample: Sample) -> float:
        raise ValueError(f"cannot read {sample.answer}")

    monkeypatch.setattr(scoring, "score", trip)
    await capture(database, "r1", "my secret")
    await ScoringJob(shop).run(catalog("valid_json"), NOW)
    assert "ValueError in " in caplog.text
    assert "trip (test_scoring.py:" in caplog.text
    assert "secret" not in caplog.text
