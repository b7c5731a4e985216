"""What decisions are made from, and how a rollout's tests are fed: each session once, however often one looks."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.judging.quality import QualityJob
from monitors.loop.reading import Looked, Reader
from monitors.loop.seen import Held
from monitors.loop.state import LoopState, Rollout
from monitors.loop.store import Kept
from monitors.loop.trial import is_behind
from monitors.settings import MonitorSettings
from monitors.watch.progress import move_cursor
from registry.catalog import Adapter, Catalog
from registry.monitoring import QualityRule
from registry.policies import Policy, RolloutRule
from registry.registry import Registry
from tests.monitors.judging.rows import NOW, catalog, workshop
from tests.monitors.judging.rows import observe as observe_level
from tests.monitors.loop.traffic import ask_for, log, observe, request, revise, scored

LATER = NOW + timedelta(hours=2)
ROLLOUT = Rollout(3, 2, began_at=NOW, step_began_at=NOW)
ROLLING = Kept(LoopState("rolling_out", revision=1, rollout=ROLLOUT))


def support(quality: QualityRule = QualityRule(), rollout: RolloutRule = RolloutRule()) -> Adapter:  # noqa: B008
    """`support`, with version 2 stable."""
    adapter = catalog(quality=quality).adapters["support"]
    return replace(adapter, policy=Policy(quality=quality, rollout=rollout))


@pytest.fixture
def reader(database: AsyncEngine, tmp_path: Path) -> Reader:
    """Reads where an hour of a GPU costs 3.60."""
    return Reader(database, MonitorSettings(home=tmp_path, cache=tmp_path, price_per_gpu_hour=3.6))


async def look(reader: Reader, database: AsyncEngine, kept: Kept = ROLLING, adapter: Adapter | None = None) -> Looked:
    """One look of the controller's."""
    async with database.connect() as connection:
        return await reader.see(connection, adapter or support(), kept, LATER)


def after(looked: Looked, kept: Kept = ROLLING) -> Kept:
    """What is kept after a look, as it comes back from the database."""
    tests, cursors = json.loads(json.dumps([looked.tests, looked.cursors]))
    return Kept(kept.state, tests, cursors)


VALUES: Sequence[tuple[int, float]] = [(2 + (n % 3 == 0), float(n % 5 > 1)) for n in range(40)]


async def test_a_restart_in_the_middle_changes_nothing(reader: Reader, database: AsyncEngine) -> None:
    """Session by session, each look by a new reader from what is kept, ends where one look at all of it does."""
    await revise(database, 1, 2, canary=3, canary_weight=0.25)
    kept = after(await look(reader, database))
    for number, (version, value) in enumerate(VALUES):
        await scored(database, number, version, value)
        kept = after(await look(reader, database, kept))
        kept = after(await look(reader, database, kept))
    whole = await look(reader, database)
    assert (whole.tests, whole.cursors) == (kept.tests, kept.cursors)
    found = whole.seen.comparison
    assert found.incumbent.n == sum(version == 3 for version, _ in VALUES)
    assert found.errors is not None
    assert found.latency is not None
    assert (found.errors.n, found.latency.n) == (14, 14)


async def test_batches_change_nothing(reader: Reader, database: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look that takes only so much leaves the rest to the next ones."""
    await revise(database, 1, 2, canary=3, canary_weight=0.25)
    for number, (version, value) in enumerate(VALUES):
        await scored(database, number, version, value)
    whole = await look(reader, database)
    monkeypatch.setattr("monitors.loop.scores.MOST_AT_ONCE", 7)
    monkeypatch.setattr("monitors.loop.limits.MOST_AT_ONCE", 9)
    kept = ROLLING
    for _ in range(9):
        kept = after(await look(reader, database, kept))
    assert (whole.tests, whole.cursors) == (kept.tests, kept.cursors)


async def test_a_late_score_counts_once(reader: Reader, database: AsyncEngine) -> None:
    """Of a request that was answered long before it was scored."""
    await revise(database, 1, 2, canary=3, canary_weight=0.25)
    await log(database, [request(1), request(2, 3)])
    kept = after(await look(reader, database))
    await observe(database, "sa1", 1.0)
    kept = after(await look(reader, database, kept))
    await observe(database, "sa2", 0.0, 3)
    for _ in range(3):
        looked = await look(reader, database, kept)
        kept = after(looked)
        assert (looked.seen.comparison.incumbent.n, looked.seen.comparison.incumbent.mean) == (1, -1.0)


@pytest.mark.parametrize(
    "fields",
    [
        {"started_at": NOW - timedelta(seconds=1)},
        {"variant": "pinned"},
        {"version": 2, "variant": "stable", "started_at": NOW + timedelta(seconds=1)},
        {"version": None, "variant": "fallback", "started_at": NOW + timedelta(seconds=1)},
    ],
    ids=["before the rollout", "asked for by its number", "by both versions", "by the base model"],
)
async def test_sessions_that_do_not_count(reader: Reader, database: AsyncEngine, fields: dict[str, Any]) -> None:
    """A session that was answered before, too, or otherwise, counts for neither version."""
    await revise(database, 1, 2, canary=3, canary_weight=0.25)
    await scored(database, 1, 2, 1.0)
    await scored(database, 2, 3, 0.0)
    await log(database, [request(9, 3, session="sa2") | fields])
    assert (await look(reader, database)).seen.comparison.incumbent.n == 0
    await scored(database, 3, 3, 0.5)
    assert (await look(reader, database)).seen.comparison.incumbent.mean == -0.5


async def test_what_came_after_a_score_does_not_undo_it(reader: Reader, database: AsyncEngine) -> None:
    """So the same is counted whenever one looks."""
    await revise(database, 1, 2, canary=3, canary_weight=0.25)
    await scored(database, 1, 2, 1.0)
    await scored(database, 2, 3, 0.0)
    await log(database, [request(9, 3, session="sa1", started_at=NOW + timedelta(minutes=30))])
    assert (await look(reader, database)).seen.comparison.incumbent.n == 1


async def test_a_session_without_a_name_is_its_request(reader: Reader, database: AsyncEngine) -> None:
    """And sessions that are in no log are left out."""
    await revise(database, 1, 2, canary=3, canary_weight=0.25)
    await log(database, [request(1, session=None), request(2, 3, session=None)])
    for session, version in (("request req-a1", 2), ("request req-a2", 3), ("unheard of", 3), ("request no", 2)):
        await observe(database, session, 1.0, version)
    assert (await look(reader, database)).seen.comparison.incumbent.n == 1


async def test_true_pairs_are_used_where_there_are_any(reader: Reader, database: AsyncEngine) -> None:
    """With a shadow of one of the two; also after the promotion, when they stand the other way round, each once."""
    await revise(database, 1, 2, canary=3, canary_weight=0.25, shadow="3", shadow_share=1.0)
    first = after(await look(reader, database))
    await log(database, [request(n) for n in (1, 2, 3)])
    await scored(database, 4, 3, 0.0)
    await observe(database, "sa1", -0.5, 3, "support@2-00000002")
    await observe(database, "sa2", 0.5, 2, "support@3-00000003")
    await observe(database, "sa1", 1.0, 2, "support@3-00000003")
    await observe(database, "sa3", 1.0, 3, "support@1-00000001")
    for kept in (ROLLING, first):
        found = (await look(reader, database, kept)).seen.comparison.incumbent
        assert found.n == 2
        assert found.mean == pytest.approx(-0.5)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("shadow", [None, "3"])
async def test_a_look_reads_no_more_than_what_is_new(reader: Reader, database: AsyncEngine, shadow: str | None) -> None:
    """Requests and observations are found by their ids and sessions, never by way of all that the adapter has."""
    await revise(database, 1, 2, canary=3, canary_weight=0.25, shadow=shadow)
    kept = after(await look(reader, database))
    for number, (version, value) in enumerate(VALUES):
        await scored(database, number, version, value)
        await observe(database, f"sa{number}", value, 3, "support@2-00000002")
    statements: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_others: Any) -> None:
        statements.append((statement, parameters))

    event.listen(database.sync_engine, "before_cursor_execute", note)
    await look(reader, database, kept)
    event.remove(database.sync_engine, "before_cursor_execute", note)
    steps = []
    async with database.connect() as connection:
        for statement, parameters in statements:
            if "FROM request_log" in statement or "FROM observations" in statement:
                plan = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
                details = [row.detail for row in plan]
                steps += [each for each in details if " request_log" in each or " observations" in each]
    assert len(steps) > 4
    assert [step for step in steps if step.startswith("SCAN") or "adapter=?" in step] == []


async def test_after_the_promotion_it_goes_on_the_other_way_round(reader: Reader, database: AsyncEngine) -> None:
    """The new version is the stable one then, and the old one has its share as a canary."""
    await revise(database, 1, 2, canary=3, canary_weight=0.5)
    for number, (version, value) in enumerate([(2, 1.0), (3, 0.5)]):
        await scored(database, number, version, value)
    rolling = after(await look(reader, database))
    await revise(database, 2, 3, canary=2, canary_weight=0.05, is_holdback=True, previous_stable=2, decision=7)
    held = msgspec.structs.replace(rolling.state, phase="holding_back")
    await scored(database, 3, 3, 0.5, variant="stable")
    await scored(database, 4, 2, 1.0, variant="canary")
    await scored(database, 5, 3, 0.5, variant="stable", session="sa0")
    found = (await look(reader, database, Kept(held, rolling.tests, rolling.cursors))).seen.comparison
    assert found.incumbent.n == 2
    assert found.incumbent.mean == pytest.approx(-0.5)
    assert found.errors is not None
    assert found.errors.n == 3


async def test_the_base_is_held_against_the_new_version(reader: Reader, database: AsyncEngine) -> None:
    """And is not looked at where no shadow answers."""
    await revise(database, 1, 2, canary=3, canary_weight=0.25)
    await scored(database, 1, 3, 1.0)
    looked = await look(reader, database)
    assert looked.seen.comparison.base is None
    await observe(database, "sa1", 0.25, 3, "base")
    await observe(database, "sa1", 0.5, 2, "base")
    found = (await look(reader, database, after(looked))).seen.comparison.base
    assert found is not None
    assert (found.n, found.mean) == (1, 0.25)


async def failures(reader: Reader, database: AsyncEngine, rows: Sequence[dict[str, Any]]) -> Held:
    """What the limit on failures says of these requests of a rollout."""
    await revise(database, 1, 2, canary=3, canary_weight=0.5)
    await log(database, rows)
    found = (await look(reader, database)).seen.comparison.errors
    assert found is not None
    return found


def burst(**fields: Any) -> list[dict[str, Any]]:
    """A good minute, and one in which ten requests of the new version go otherwise, and all of the old one's well."""
    good = [*(request(n, 2 + n % 2) for n in range(60)), *(request(n) for n in range(60, 120, 2))]
    return [*good, *(request(n, 3) | fields for n in range(61, 81, 2))]


REFUSED: dict[str, Any] = {"status": 503, "error": "version_not_servable", "replica": None}


@pytest.mark.parametrize(
    "fields",
    [
        {"status": 502, "error": "engine_error"},
        {"status": 200, "error": "engine_error", "first_byte_s": 0.1},
        {"status": 503, "error": "engine_unavailable"},
        REFUSED,
        {"version": 2, "variant": "fallback", "intended": 3},
        {"version": None, "variant": "fallback", "intended": 3},
        {"status": 499, "error": "client_gone", "duration_s": 30.0},
        {"status": 504, "error": "deadline_exceeded", "duration_s": 30.0},
    ],
    ids=["error", "broken", "engine lost", "refused", "old instead", "base instead", "hangs", "hangs until the end"],
)
async def test_a_burst_of_one_version_alone_is_seen_at_once(
    reader: Reader, database: AsyncEngine, fields: dict[str, Any]
) -> None:
    """Ten of its requests, in whatever way it failed; also answers that something else had to give in its place."""
    found = await failures(reader, database, burst(**fields))
    assert (found.n, found.worse) == (40, True)


@pytest.mark.parametrize(
    "fields",
    [
        {"status": 503, "error": "overloaded", "replica": None},
        {"status": 503, "error": "engine_unavailable", "replica": None},
        {"status": 503, "error": "gateway_stopping"},
        {"status": 503, "error": "database_unavailable", "replica": None},
        {"status": 500, "error": "internal_error"},
        {"status": 504, "error": "deadline_exceeded", "replica": None, "duration_s": 30.0},
        {"status": 504, "error": "deadline_exceeded", "duration_s": 0.1},
        {"status": 200, "error": "deadline_exceeded", "duration_s": 30.0, "first_byte_s": 0.1},
        {"status": 499, "error": "client_gone", "duration_s": 0.4},
        {"status": 499, "error": "client_gone", "duration_s": 30.0, "first_byte_s": 0.1},
        {"status": 499, "error": "client_gone", "duration_s": 30.0, "queue_s": 29.9},
        {"status": 400, "error": "invalid_request"},
        {"status": 429, "error": "rate_limit_exceeded"},
        {"variant": "pinned", "status": 502, "error": "engine_error"},
        {"variant": "shadow", "status": 502, "error": "engine_error"},
        {"version": None, "variant": "fallback", "intended": 3, "status": 502, "error": "engine_error"},
    ],
    ids=lambda fields: " ".join(str(value) for value in fields.values()),
)
async def test_what_is_not_the_versions_doing_says_nothing(
    reader: Reader, database: AsyncEngine, fields: dict[str, Any]
) -> None:
    """The gateway's own refusals, a client's deadline or its going away, its mistakes, and requests of others."""
    found = await failures(reader, database, burst(**fields))
    assert (found.n, found.worse, found.mean) == (30, False, 0.0)


@pytest.mark.parametrize("fields", [{"status": 502, "error": "engine_error"}, REFUSED, {"duration_s": 9.0}])
async def test_what_both_versions_suffer_takes_none_back(
    reader: Reader, database: AsyncEngine, fields: dict[str, Any]
) -> None:
    """An outage of the engines is the installation's, and so are clients who all give up."""
    gone = {"status": 499, "error": "client_gone"} if "duration_s" in fields else {}
    rows = burst()
    down = [request(n, 2 + n % 2) | fields | gone for n in range(120, 180)]
    found = await failures(reader, database, [*rows, *down])
    assert (found.n, found.worse) == (70, False)


@pytest.mark.parametrize("fields", [REFUSED, {"version": None, "variant": "fallback", "intended": 3}])
async def test_a_promoted_version_that_fails_is_seen_while_some_are_held_back(
    reader: Reader, database: AsyncEngine, fields: dict[str, Any]
) -> None:
    """Whether the base model answers in its place or nothing does, beside few answers of the old version."""
    await revise(database, 1, 3, canary=2, canary_weight=0.05, is_holdback=True, previous_stable=2, decision=7)
    rows = [request(n, 3) | {"variant": "stable"} | (fields if n > 60 else {}) for n in range(150) if n % 20]
    await log(database, [*rows, *(request(n, variant="canary") for n in range(0, 150, 20))])
    held = Kept(msgspec.structs.replace(ROLLING.state, phase="holding_back"))
    found = (await look(reader, database, held)).seen.comparison.errors
    assert found is not None
    assert found.worse


async def test_a_look_says_whether_there_is_more(
    reader: Reader, database: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the next one follows at once; each recorder has its share, and none waits for another's backlog."""
    other = "ffffffffffffffff"
    await revise(database, 1, 2, canary=3, canary_weight=0.5)
    await log(database, [request(n, 3) for n in range(30)])
    await log(database, [request(n, 3, other, status=502, error="engine_error") for n in range(3)])
    monkeypatch.setattr("monitors.loop.limits.MOST_AT_ONCE", 20)
    kept, counts = ROLLING, []
    for _ in range(3):
        looked = await look(reader, database, kept)
        kept = after(looked)
        assert looked.seen.comparison.errors is not None
        counts.append((looked.seen.comparison.errors.n, is_behind(kept)))
    assert counts == [(13, True), (33, False), (33, False)]


async def test_slow_and_dear_answers_are_found(reader: Reader, database: AsyncEngine) -> None:
    """By the time for a token and the cost of a request, matched with the other version's."""
    await revise(database, 1, 2, canary=3, canary_weight=0.5)
    rows = [request(n, 2 + n % 2, duration_s=2.5 if n % 2 else 1.0, cost=1.01 + n % 2) for n in range(60)]
    await log(database, [*rows, request(60, completion_tokens=None, cost=None), request(61, 3, completion_tokens=0)])
    found = (await look(reader, database)).seen.comparison
    assert found.latency is not None
    assert found.cost is not None
    assert (found.latency.n, found.latency.mean, found.latency.worse) == (30, 1.0, True)
    assert (found.cost.n, found.cost.mean, found.cost.worse) == (30, 0.0, False)


async def test_a_limit_that_changes_begins_anew(reader: Reader, database: AsyncEngine) -> None:
    """Alone; the sessions stay, with the drop and alpha that the rollout began with."""
    await revise(database, 1, 2, canary=3, canary_weight=0.25)
    for number, (version, value) in enumerate(VALUES):
        await scored(database, number, version, value)
    first = await look(reader, database)
    changed = support(QualityRule(alpha=0.2, drop=0.5), RolloutRule(errors=0.2, cost_ratio=None))
    second = await look(reader, database, after(first), changed)
    before, now = first.seen.comparison, second.seen.comparison
    assert now.incumbent == before.incumbent
    assert (now.latency, now.cost) == (before.latency, None)
    assert now.errors is not None
    assert now.errors.n == 0


async def test_another_rollout_begins_with_nothing(reader: Reader, database: AsyncEngine) -> None:
    """And without one nothing is kept."""
    await revise(database, 1, 2, canary=3, canary_weight=0.25)
    for number, (version, value) in enumerate(VALUES):
        await scored(database, number, version, value)
    kept = after(await look(reader, database))
    again = Rollout(3, 2, began_at=NOW + timedelta(seconds=30), step_began_at=NOW)
    found = await look(reader, database, Kept(LoopState("rolling_out", rollout=again), kept.tests, kept.cursors))
    assert found.seen.comparison.incumbent.n == 4
    ended = await look(reader, database, Kept(LoopState(), kept.tests, kept.cursors))
    assert (ended.tests, ended.cursors) == ({}, {})


async def test_who_changed_the_deployment(reader: Reader, database: AsyncEngine) -> None:
    """A person, or the loop; and whether the person took away what the loop had made stable."""

    async def seen(known: int = 0) -> tuple[str | None, bool]:
        found = (await look(reader, database, Kept(LoopState(revision=known)))).seen
        return found.changed_by, found.taken_away

    assert await seen() == (None, False)
    await revise(database, 1, 1)
    assert await seen() == ("eve", False)
    await revise(database, 2, 2, previous_stable=1, decision=7, actor="ostler")
    assert await seen() == (None, False)
    await revise(database, 3, 2, previous_stable=2, shadow="base", shadow_share=0.5)
    assert await seen() == ("eve", False)
    await revise(database, 4, 1, previous_stable=2, action="rollback")
    assert await seen() == ("eve", True)
    await revise(database, 5, 1, previous_stable=1, shadow="base", shadow_share=0.5)
    assert (await seen(2), await seen(4)) == (("eve", True), ("eve", False))
    await revise(database, 6, 3, previous_stable=1)
    assert await seen(4) == ("eve", False)
    found = (await look(reader, database, Kept())).seen
    assert found.deployment is not None
    assert (found.deployment.revision, found.deployment.stable) == (6, 3)


async def test_only_who_goes_back_takes_away(reader: Reader, database: AsyncEngine) -> None:
    """A newer version over the loop's own is no answer to it, and neither is what serves again by now."""
    await revise(database, 1, 1)
    await revise(database, 2, 2, previous_stable=1, decision=7, actor="ostler")
    await revise(database, 3, 3, previous_stable=2)
    known = Kept(LoopState(revision=2))
    assert not (await look(reader, database, known)).seen.taken_away
    await revise(database, 4, 1, previous_stable=3)
    assert not (await look(reader, database, known)).seen.taken_away
    await revise(database, 5, 2, previous_stable=1, decision=9, actor="ostler")
    await revise(database, 6, 1, previous_stable=2)
    assert (await look(reader, database, Kept(LoopState(revision=5)))).seen.taken_away
    await revise(database, 7, 2, previous_stable=1)
    assert not (await look(reader, database, Kept(LoopState(revision=5)))).seen.taken_away


async def test_stops_are_seen(reader: Reader, database: AsyncEngine, registry: Registry) -> None:
    """Of the adapter and of all, with who and why."""
    await revise(database, 1, 2)
    await registry.stop("support", actor="eve", reason="a test")
    found = (await look(reader, database, Kept())).seen
    assert (found.paused, found.frozen) == ("by eve (a test)", None)
    await registry.stop(None, actor="bob")
    assert (await look(reader, database, Kept())).seen.frozen == "by bob"


async def job(database: AsyncEngine, number: int, state: str = "succeeded", **fields: Any) -> None:
    """A tuning job that the loop asked for; it took an hour."""
    times = {"started_at": LATER - timedelta(hours=1), "finished_at": LATER if state != "running" else None}
    await ask_for(database, number, state=state, **times | fields)


async def test_jobs_are_seen(reader: Reader, database: AsyncEngine) -> None:
    """The loop's own with how it ended, and whatever else is open."""
    await revise(database, 1, 2)
    await job(database, 1, version=3)
    await job(database, 2, "failed", error={"code": "rejected_by_gate", "message": "no better"})
    await job(database, 3, "running", idempotency_key=None)
    for name, end, said in (("job-1", "succeeded", ""), ("job-2", "rejected", "no better"), ("job-3", "open", "")):
        found = (await look(reader, database, Kept(LoopState(job=name)))).seen
        assert found.job is not None
        assert found.open_job is not None
        assert (found.job.end, found.job.said, found.open_job.id) == (end, said, "job-3")
    assert (await look(reader, database, Kept(LoopState(job="job-9")))).seen.job is None


async def test_trainings_of_the_month_are_added_up(reader: Reader, database: AsyncEngine, registry: Registry) -> None:
    """By their versions' lineage, else by their time; not what people asked for, nor what another adapter cost."""
    await revise(database, 1, 2)
    await job(database, 1, "failed")
    await job(database, 2, "running", started_at=LATER - timedelta(minutes=30))
    await job(database, 3, idempotency_key=None)
    await job(database, 4, adapter="support-eu", idempotency_key="loop-support-eu-1")
    await job(database, 5, created_at=NOW - timedelta(days=5), started_at=NOW - timedelta(days=5))
    await job(database, 6, "queued", started_at=None)
    assert (await look(reader, database, Kept())).seen.spent == pytest.approx(3.6 + 1.8)
    await job(database, 8, created_at=NOW - timedelta(days=5))  # it waited for the new month
    assert (await look(reader, database, Kept())).seen.spent == pytest.approx(3.6 + 1.8 + 3.6)
    await job(database, 7, version=3)
    async with database.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO versions (adapter_id, number, digest, engine_name, rank, alpha, parameters, size_bytes,"
                " note, created_by, created_at, lineage) SELECT id, 3, 'd', 'e', 8, 16, 1, 1, '', 'x', created_at,"
                ' \'{"cost": {"amount": 0.25}}\' FROM adapters'
            )
        )
    assert (await look(reader, database, Kept())).seen.spent == pytest.approx(3.6 + 1.8 + 3.6 + 0.25)


RULE = QualityRule(level=0.9, drop=0.1, alarm_every=100)


def fallen(quality: QualityRule = RULE) -> Catalog:
    """A catalog in which `support` follows that rule."""
    return catalog(quality=quality)


async def test_the_watch_is_seen(reader: Reader, database: AsyncEngine, tmp_path: Path) -> None:
    """With its alarm once the labels were surveyed; what another rule said is left out."""
    await revise(database, 1, 2)
    assert (await look(reader, database, Kept())).seen.quality is None
    await observe_level(database, [0.0] * 50)
    await QualityJob(workshop(database, tmp_path)).run(fallen(), NOW)
    adapter = support(RULE)
    unsurveyed = (await look(reader, database, Kept(), adapter)).seen.quality
    assert unsurveyed is not None
    assert not unsurveyed.alarm
    labels = await reader.survey(adapter, Kept(), LATER)
    assert labels is not None
    async with database.connect() as connection:
        found = (await reader.see(connection, adapter, Kept(), LATER, labels=labels)).seen.quality
    assert found is not None
    assert (found.version, found.level, found.alarm, found.observations) == (2, 0.9, True, 50)
    other = (await look(reader, database, Kept(), support(replace_level(0.5)))).seen.quality
    assert other is not None
    assert (other.level, other.alarm) == (None, False)
    rolling = (await look(reader, database, ROLLING, adapter)).seen.quality
    assert rolling is not None
    assert rolling.alarm


def replace_level(level: float) -> QualityRule:
    """The same rule with another level."""
    return QualityRule(level=level, drop=RULE.drop, alarm_every=RULE.alarm_every)


@pytest.mark.parametrize(("against", "sign"), [("base", 1.0), ("incumbent", -1.0)])
async def test_a_difference_is_watched(
    reader: Reader, database: AsyncEngine, tmp_path: Path, against: Any, sign: float
) -> None:
    """The gain on the base model, or on the version from before, which observations have from the other side."""
    rule = QualityRule(against=against, level=0.4, drop=0.1, alarm_every=100)
    watched = fallen(rule)
    adapter = watched.adapters["support"]
    await revise(database, 1, 1)
    await revise(database, 2, 2, previous_stable=1, undo_revision=1, undo_stable=1)
    async with database.connect() as connection:
        deployment = (await reader.see(connection, adapter, Kept(), LATER)).seen.deployment
    assert deployment is not None
    assert deployment.previous == 1
    adapter = replace(adapter, deployment=deployment)
    version, name = (2, "base") if against == "base" else (1, "support@2-00000002")
    job = QualityJob(workshop(database, tmp_path))
    for n in range(40):
        await observe(database, f"x{n}", sign * 0.4, version, name)
    await job.run(replace(watched, adapters={"support": adapter}), NOW)
    before = (await look(reader, database, Kept(), adapter)).seen.quality
    assert before is not None
    assert (before.version, before.alarm) == (2, False)
    assert before.level == pytest.approx(0.4)
    assert before.recent == pytest.approx(0.4)
    for n in range(40, 140):
        await observe(database, f"x{n}", sign * 0.05, version, name)
    await job.run(replace(watched, adapters={"support": adapter}), NOW)
    fell = (await look(reader, database, ROLLING, adapter)).seen.quality
    assert fell is not None
    assert fell.alarm
    assert fell.low < 0.4


async def test_only_what_changed_is_to_be_looked_at(
    reader: Reader, database: AsyncEngine, registry: Registry, tmp_path: Path
) -> None:
    """All at first; then what has a new policy or deployment, what the tests were fed, and what was stopped."""
    await revise(database, 1, 2)
    two = {"support": support(), "other": replace(support(), name="other")}
    known = Catalog(change=1, adapters=two)
    assert await reader.changed(known, NOW) == {"support", "other"}
    assert await reader.changed(known, NOW) == set()
    known = Catalog(change=2, adapters=two | {"other": replace(support(), name="other", policy=Policy(mode="act"))})
    assert await reader.changed(known, NOW) == {"other"}
    await observe_level(database, [1.0])
    assert await reader.changed(known, NOW) == set()
    await QualityJob(workshop(database, tmp_path)).run(known, NOW)
    assert await reader.changed(known, NOW) == {"support"}
    await registry.stop("support", actor="eve")
    assert await reader.changed(known, NOW) == {"support"}
    await registry.stop(None, actor="eve")
    assert await reader.changed(known, NOW) == {"support", "other"}
    assert await reader.changed(known, NOW) == set()


async def test_the_first_round_reads_no_observation(
    reader: Reader, database: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All adapters are looked at then anyway, and there may be many millions."""
    asked: list[tuple[int, int]] = []

    async def observed(_connection: Any, last: int, newest: int) -> set[str]:
        asked.append((last, newest))
        return set()

    monkeypatch.setattr("monitors.loop.reading._observed", observed)
    async with database.begin() as connection:
        await move_cursor(connection, QualityJob.name, "", "70")
    known = Catalog(change=1, adapters={"support": support()})
    assert await reader.changed(known, NOW) == {"support"}
    assert asked == []
    await reader.changed(known, NOW)
    assert asked == [(70, 70)]


async def test_requests_are_read_up_to_the_newest_of_the_round(reader: Reader, database: AsyncEngine) -> None:
    """Which are looked up once for all rollouts; what comes later is read in the next round."""
    await revise(database, 1, 2, canary=3, canary_weight=0.25)
    known = Catalog(change=1, adapters={"support": support()})
    kept, counts = after(await look(reader, database)), []
    for number in range(3):
        await reader.changed(known, NOW)
        await log(database, [request(number, 3)])
        looked = await look(reader, database, kept)
        assert looked.seen.comparison.errors is not None
        counts.append(looked.seen.comparison.errors.n)
        kept = after(looked)
    assert counts == [0, 1, 2]
