"""The quality job: the tests' state survives, nothing counts twice, and each thing is decided once."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.decisions import decisions
from monitors.judging import quality
from monitors.judging.quality import QualityJob
from monitors.judging.report import StoredEvidence, difference_verdict, level_verdict, stored_evidence
from monitors.tables import EvidenceRow
from monitors.watch.loop import LEASE, MonitorLoop
from monitors.watch.work import Workshop
from registry.catalog import Catalog, Deployment
from registry.monitoring import QualityRule
from registry.registry import Registry
from tests.conftest import until
from tests.monitors.judging.rows import NOW, catalog, observe, stored, workshop

RULE = QualityRule(level_observations=50, drop=0.1, alarm_every=1000)


@pytest.fixture
def shop(database: AsyncEngine, tmp_path: Path) -> Workshop:
    """What the job works with."""
    return workshop(database, tmp_path)


def draws(n: int, mean: float, seed: int = 1) -> list[float]:
    """Right or wrong, so often right."""
    rng = random.Random(seed)
    return [float(rng.random() < mean) for _ in range(n)]


async def evidence(database: AsyncEngine, against: str = "level") -> StoredEvidence:
    """The one test of that kind."""
    (found,) = [each for each in await stored_evidence(database, "support") if each.against == against]
    return found


async def outcomes(database: AsyncEngine) -> list[tuple[int, str]]:
    """What was decided, the oldest first."""
    return [(each.version, each.outcome) for each in reversed(await decisions(database))]


def shown(shop: Workshop, name: str, **labels: str) -> float | None:
    """A gauge's value; None if it is not shown."""
    return shop.metrics.registry.get_sample_value(f"ostler_quality_{name}", {"adapter": "support", **labels})


LEVEL = {"version": "2", "scorer": "feedback"}


async def test_restarts_change_nothing(shop: Workshop, database: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Observation by observation with a new job each, all at once, and in small batches: the state is the same."""
    values = draws(120, 0.8)
    states: list[Any] = []
    for version, pieces, batch in ((1, 120, 1000), (2, 1, 1000), (3, 2, 7)):
        monkeypatch.setattr(quality, "_BATCH", batch)
        for start in range(0, len(values), len(values) // pieces):
            await observe(database, values[start : start + len(values) // pieces], version=version)
            await QualityJob(shop).run(catalog(quality=RULE), NOW)
            await QualityJob(shop).run(catalog(quality=RULE), NOW)
        (found,) = [each for each in await stored(database, EvidenceRow, "version", "state") if each[0] == version]
        states.append(found[1])
    assert states[0] == states[1] == states[2]
    assert states[0]["mean"]["count"] == 120


async def test_what_breaks_counts_nothing(
    shop: Workshop, database: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the transaction fails at its end, all of it is done again, and once."""
    await observe(database, draws(40, 0.8))
    job = QualityJob(shop)

    async def fail(*_arguments: object) -> None:
        raise ConnectionError("the database is gone")

    with monkeypatch.context() as broken:
        broken.setattr(quality, "move_cursor", fail)
        with pytest.raises(ConnectionError):
            await job.run(catalog(quality=RULE), NOW)
    assert await stored(database, EvidenceRow, "version") == []
    await job.run(catalog(quality=RULE), NOW)
    assert (await evidence(database)).summary["observations"] == 40


async def test_two_jobs_at_once_count_once(shop: Workshop, database: AsyncEngine) -> None:
    """As when a lease goes over while the last holder is not yet done."""
    await observe(database, draws(300, 0.8))
    await asyncio.gather(*(QualityJob(shop).run(catalog(quality=RULE), NOW) for _ in range(4)))
    assert (await evidence(database)).summary["observations"] == 300


async def test_a_fall_raises_one_alarm(shop: Workshop, database: AsyncEngine) -> None:
    """Once for the version, in words with numbers, and none before; the metrics show it after a restart, too."""
    job = QualityJob(shop)
    await observe(database, draws(400, 0.9))
    await job.run(catalog(quality=RULE), NOW)
    before = await evidence(database)
    assert level_verdict(before.summary) == "as expected"
    assert before.summary["watch"]["level"] == pytest.approx(0.9, abs=0.12)
    assert (await outcomes(database), shown(shop, "alarm", **LEVEL)) == ([], 0)
    for _ in range(3):
        await observe(database, draws(200, 0.5, seed=2))
        await job.run(catalog(quality=RULE), NOW)
    after = await evidence(database)
    assert level_verdict(after.summary) == "quality lost"
    assert after.summary["observations"] == 1000
    (decided,) = await decisions(database)
    assert (decided.kind, decided.outcome, decided.version) == ("quality", "alarm", 2)
    assert "e-CUSUM" in decided.rule
    assert "1000" in decided.rule
    assert f"{after.summary['watch']['level']:.3f} is expected" in decided.reason
    assert decided.inputs["watch"]["alarm"] is True
    shop.metrics.alarm.clear()
    await QualityJob(shop).run(catalog(quality=RULE), NOW)
    assert shown(shop, "alarm", **LEVEL) == 1
    assert (shown(shop, "cusum_ratio", **LEVEL) or 0) >= 1
    assert shown(shop, "observations", **LEVEL) == 1000
    assert shown(shop, "score_low", **LEVEL) == pytest.approx(after.summary["low"])


async def test_another_rule_begins_the_watch_anew(shop: Workshop, database: AsyncEngine) -> None:
    """The state says so; a level that was gathered in the same way stays, so what fell does not become the measure."""
    job = QualityJob(shop)
    await observe(database, [*draws(100, 0.9), *draws(200, 0.4)])
    await job.run(catalog(quality=RULE), NOW)
    level = (await evidence(database)).summary["watch"]["level"]
    wider = QualityRule(level_observations=50, drop=0.2, alarm_every=1000)
    await job.run(catalog(quality=wider), NOW)
    found = await evidence(database)
    assert (found.summary["watch"]["alarm"], found.summary["watch"]["level"]) == (False, level)
    assert found.anew is not None
    assert found.anew["why"] == "the quality rule changed: drop from 0.1 to 0.2"
    assert shown(shop, "alarm", **LEVEL) == 0
    await observe(database, draws(200, 0.4))
    await job.run(catalog(quality=wider), NOW)
    assert await outcomes(database) == [(2, "alarm"), (2, "alarm")]
    named = QualityRule(level=0.3, drop=0.1, alarm_every=1000)
    await job.run(catalog(quality=named), NOW)
    watch = (await evidence(database)).summary["watch"]
    assert (watch["level"], watch["ratio"]) == (0.3, 0)


async def test_a_gain_that_shrinks_raises_an_alarm(shop: Workshop, database: AsyncEngine) -> None:
    """Against the base; in the words and numbers of differences, while the level is measured only."""
    rule = QualityRule(against="base", level_observations=50, drop=0.2, alarm_every=1000)
    await observe(database, [0.9] * 60)
    await observe(database, [0.5] * 60, against="base")
    await QualityJob(shop).run(catalog(quality=rule), NOW)
    assert "alarm" not in [outcome for _, outcome in await outcomes(database)]
    await observe(database, [0.0] * 100, against="base")
    await QualityJob(shop).run(catalog(quality=rule), NOW)
    (alarm,) = [each for each in await decisions(database) if each.outcome == "alarm"]
    assert alarm.version == 2
    assert "beside those of the base model, where +0.500 is expected" in alarm.reason
    assert "below 0.300 (level 0.500, drop 0.2)" in alarm.rule
    assert (shown(shop, "alarm", **LEVEL), shown(shop, "observations", **LEVEL)) == (1, 60)
    assert level_verdict((await evidence(database)).summary) == "measured only"
    await QualityJob(shop).run(catalog(quality=RULE), NOW)
    assert shown(shop, "alarm", **LEVEL) == 0
    assert "watch" not in (await evidence(database, "base")).summary


async def test_what_is_lost_to_the_version_before_is_the_stable_ones(shop: Workshop, database: AsyncEngine) -> None:
    """The observations are of the version before, held against the stable one."""
    rule = QualityRule(against="incumbent", level=0.3, drop=0.1, alarm_every=1000)
    known = catalog(quality=rule)
    adapter = replace(known.adapters["support"], deployment=Deployment(5, 2, previous=1))
    known = replace(known, adapters={"support": adapter})
    stable = adapter.versions[2].engine_name
    await observe(database, [-0.3] * 60, version=1, against=stable)
    await QualityJob(shop).run(known, NOW)
    assert "alarm" not in [outcome for _, outcome in await outcomes(database)]
    await observe(database, [0.2] * 60, version=1, against=stable)
    await QualityJob(shop).run(known, NOW)
    (alarm,) = [each for each in await decisions(database) if each.outcome == "alarm"]
    assert alarm.version == 2
    assert "beside those of the version before, where +0.300 is expected" in alarm.reason
    assert shown(shop, "alarm", **LEVEL) == 1
    other = catalog(quality=rule)
    await QualityJob(shop).run(other, NOW)
    assert "watch" not in (await evidence(database, stable)).summary


async def test_another_scorer_takes_the_watch_over(shop: Workshop, database: AsyncEngine) -> None:
    """The old one is measured on, and shows no alarm any more."""
    job = QualityJob(shop)
    await observe(database, draws(100, 0.9))
    await job.run(catalog("valid_json", quality=RULE), NOW)
    assert shown(shop, "alarm", **LEVEL) == 0
    other = QualityRule(scorer="valid_json", level=0.9)
    await observe(database, draws(10, 0.9), scorer="valid_json")
    await job.run(catalog("valid_json", quality=other), NOW)
    found = {each.scorer: each.summary for each in await stored_evidence(database, "support")}
    assert "watch" not in found["feedback"]
    assert level_verdict(found["feedback"]) == "measured only"
    assert found["valid_json"]["watch"]["level"] == 0.9
    assert shown(shop, "alarm", **LEVEL) is None
    assert shown(shop, "alarm", version="2", scorer="valid_json") == 0


async def test_another_alpha_begins_intervals_and_tests_anew(shop: Workshop, database: AsyncEngine) -> None:
    """They hold for the alpha that they were begun with; the watch, which has none, goes on."""
    job = QualityJob(shop)
    await observe(database, draws(100, 0.9))
    await observe(database, [0.5] * 30, against="base")
    await job.run(catalog(quality=RULE), NOW)
    level = (await evidence(database)).summary["watch"]["level"]
    await job.run(catalog(quality=QualityRule(level_observations=50, drop=0.1, alarm_every=1000, alpha=0.01)), NOW)
    for against in ("level", "base"):
        found = await evidence(database, against)
        assert found.summary["observations"] == 0
        assert found.anew is not None
        assert found.anew["why"] == "alpha became 0.01"
    assert (await evidence(database)).summary["watch"]["level"] == level
    assert (await evidence(database, "base")).summary["evidence_needed"] == pytest.approx(100)


@pytest.mark.parametrize(
    ("against", "difference", "outcome"),
    [
        ("base", 0.4, "better_than_base"),
        ("base", -0.4, "worse_than_base"),
        ("support@2-00000002", -0.4, "worse_than_stable"),
    ],
)
async def test_a_difference_is_established_once(
    shop: Workshop, database: AsyncEngine, against: str, difference: float, outcome: str
) -> None:
    """In either direction, against the base or another version; with the interval on that side of 0."""
    job = QualityJob(shop)
    for _ in range(3):
        await observe(database, [difference, difference / 2] * 60, against=against, version=3)
        await job.run(catalog(quality=RULE), NOW)
    found = await evidence(database, against)
    assert await outcomes(database) == [(3, outcome)]
    assert difference_verdict(found.summary, 0.1) == outcome.partition("_")[0]
    low, high = found.summary["low"], found.summary["high"]
    assert low > 0 if difference > 0 else high < 0
    labels = {"version": "3", "scorer": "feedback", "against": "base" if against == "base" else "stable"}
    assert shown(shop, "difference", **labels) == pytest.approx(difference * 0.75, abs=0.05)


async def test_no_difference_is_no_verdict_of_one(shop: Workshop, database: AsyncEngine) -> None:
    """Few observations are not enough data, many show that no difference matters."""
    job = QualityJob(shop)
    await observe(database, [0.0] * 10, against="base")
    await job.run(catalog(quality=RULE), NOW)
    assert difference_verdict((await evidence(database, "base")).summary, 0.1) == "not enough data"
    await observe(database, [0.1, -0.1] * 400, against="base")
    await job.run(catalog(quality=RULE), NOW)
    assert difference_verdict((await evidence(database, "base")).summary, 0.1) == "no difference that matters"
    assert await outcomes(database) == []


async def test_metrics_forget_what_is_gone(shop: Workshop, database: AsyncEngine) -> None:
    """An archived version, and a comparison with a version that is stable no more."""
    job = QualityJob(shop)
    await observe(database, draws(20, 0.9), version=3)
    await observe(database, [0.1] * 20, against="support@2-00000002", version=3)
    await job.run(catalog(quality=RULE), NOW)
    pair = {"version": "3", "scorer": "feedback", "against": "stable"}
    level = {"version": "3", "scorer": "feedback"}
    assert shown(shop, "pairs", **pair) == 20
    await job.run(catalog(quality=RULE, stable=1), NOW)
    assert (shown(shop, "pairs", **pair), shown(shop, "observations", **level)) == (None, 20)
    await job.run(catalog(quality=RULE), NOW)
    assert shown(shop, "pairs", **pair) == 20
    await job.run(catalog(quality=RULE, archived=[3]), NOW)
    assert (shown(shop, "pairs", **pair), shown(shop, "observations", **level)) == (None, None)


@pytest.mark.parametrize("values", [[1.0] * 300, [0.0] * 300])
async def test_scores_that_never_vary_are_no_alarm(
    shop: Workshop, database: AsyncEngine, values: Sequence[float]
) -> None:
    """A level of 1 or of 0 can be expected, too; below 0 no fall can be seen."""
    await observe(database, values)
    await QualityJob(shop).run(catalog(quality=QualityRule(level_observations=50, drop=0.0)), NOW)
    found = await evidence(database)
    assert await outcomes(database) == []
    assert level_verdict(found.summary) == ("as expected" if values[0] else "measured only")


async def test_a_lost_cursor_counts_nothing_twice(shop: Workshop, database: AsyncEngine) -> None:
    """Each test knows its own last observation."""
    await observe(database, draws(40, 0.8))
    await QualityJob(shop).run(catalog(quality=RULE), NOW)
    async with database.begin() as connection:
        await connection.execute(text("DELETE FROM monitor_cursors"))
    await QualityJob(shop).run(catalog(quality=RULE), NOW)
    assert (await evidence(database)).summary["observations"] == 40


async def test_without_new_observations_nobody_else_is_kept_from_writing(
    shop: Workshop, database: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite has one writer; the job looks first."""
    await observe(database, draws(10, 0.8))
    job = QualityJob(shop)
    await job.run(catalog(quality=RULE), NOW)

    def refuse(_engine: AsyncEngine) -> None:
        raise AssertionError("there is nothing to write")

    monkeypatch.setattr(quality, "writing", refuse)
    await job.run(catalog(quality=RULE), NOW)


async def test_what_was_shown_comes_back_with_the_lease(
    shop: Workshop, database: AsyncEngine, registry: Registry
) -> None:
    """A monitor that lost it for a moment shows its findings again, without a new observation."""
    await observe(database, draws(10, 0.8))

    async def read() -> Catalog:
        return catalog(quality=RULE)

    loop = MonitorLoop(registry, read, shop.metrics, lambda: [QualityJob(shop)], renew_s=0.02)
    task = asyncio.create_task(loop.run())
    await until(lambda: shown(shop, "observations", **LEVEL) == 10)
    while not await registry.acquire_lease(LEASE, "somebody else", 600):
        await registry.release_lease(LEASE, loop._holder)
    await until(lambda: not loop.is_active)
    assert shown(shop, "observations", **LEVEL) is None
    await registry.release_lease(LEASE, "somebody else")
    await until(lambda: shown(shop, "observations", **LEVEL) == 10)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
