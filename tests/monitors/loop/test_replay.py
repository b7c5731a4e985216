"""Dry runs: what was recorded, through the code that decides, says what a policy would have done and when."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.loop.past import canaries, eras
from monitors.loop.past_labels import PastLabel, PastLabels
from monitors.loop.replay import replay
from monitors.loop.replayed import Replay
from monitors.loop.voices import Agreement
from monitors.tables import DecisionRow, LoopRow
from registry.monitoring import QualityRule
from registry.policies import Policy, RetrainRule, RolloutRule
from tests.monitors.judging.rows import NOW, capture, catalog, say
from tests.monitors.loop.traffic import log, observe, request, revise, scored

FELL = QualityRule(level=0.9, drop=0.05, alarm_every=10_000)
RETRAIN = RetrainRule(least_rows=20)
ROLLOUT = RolloutRule(steps=(0.1, 0.5), least_sessions=5, least_minutes=1.0)
DAY = timedelta(days=1)
TRAINED = "Trainings are taken to end at once and without a version, and cost nothing."


def at(minutes: float) -> datetime:
    """A moment after the first."""
    return NOW + timedelta(minutes=minutes)


async def tried(database: AsyncEngine, policy: Policy, until: datetime, since: datetime = NOW) -> Replay:
    """A dry run for `support`, whose version 2 is stable."""
    adapter = replace(catalog().adapters["support"], policy=Policy())
    async with database.connect() as connection:
        return await replay(connection, adapter, policy, since, until)


async def answered(database: AsyncEngine, values: Iterable[float], *, labelled: bool = True, first: int = 0) -> None:
    """Sessions of three keys, a minute apart, each with its score, and with a correction if they are `labelled`."""
    for number, value in enumerate(values, first):
        session, said = f"s{number}", {"score": value} | ({"correction": "it is this"} if labelled else {})
        await observe(database, session, value, at=at(number))
        await capture(database, f"r{number}", "that", created_at=at(number))
        await say(database, f"r{number}", session=session, key_id=f"key-{number % 3}", created_at=at(number), **said)


async def test_a_fall_is_followed_to_the_trainings_that_it_would_have_begun(database: AsyncEngine) -> None:
    """The alarm, the training at once, the wait for the cool-down, and the next training with new labels."""
    await revise(database, 1, 2)
    await answered(database, [1.0] * 50 + [0.0] * 30)
    found = await tried(database, Policy("act", FELL, RETRAIN), NOW + 30 * timedelta(hours=1))
    assert (found.observations, found.labels) == (80, 80)
    assert [each.version for each in found.alarms] == [2] * len(found.alarms)
    assert len(found.alarms) >= 2
    assert at(50) < found.alarms[0].at < at(65)
    assert found.alarms[0].level == 0.9
    decided = [(each.act, each.outcome) for each in found.decisions]
    waits = [("wait", "no_enough_rows"), ("wait", "no_cool_down")]
    assert decided == [("retrain", "begun"), *waits, ("retrain", "begun")]
    first, *_, second = found.decisions
    assert first.at == found.alarms[0].at
    assert second.at - first.at >= DAY
    assert found.canaries == []


async def test_an_alarm_of_a_version_counts_while_that_is_stable(database: AsyncEngine) -> None:
    """While another one serves, or is on trial, nothing follows from it."""
    await revise(database, 1, 2, created_at=NOW - DAY)
    await answered(database, [1.0] * 50 + [0.0] * 12)
    await revise(database, 2, 2, canary=3, canary_weight=0.1, created_at=at(51))
    await revise(database, 3, 1, created_at=at(100))
    found = await tried(database, Policy("act", FELL, RETRAIN), at(300))
    assert (len(found.alarms), found.decisions) == (1, [])
    await revise(database, 4, 2, created_at=at(200))
    found = await tried(database, Policy("act", FELL, RETRAIN), at(300))
    assert [each.act for each in found.decisions] == ["retrain"]
    assert at(200) <= found.decisions[0].at


async def test_what_lacks_for_a_training_is_told(database: AsyncEngine) -> None:
    """Labels here; nothing is begun, and the mode is said where it does nothing."""
    await revise(database, 1, 2)
    await answered(database, [0.95] * 20 + [0.0] * 20, labelled=False)
    found = await tried(database, Policy("advise", FELL, RETRAIN), at(120))
    assert [each.outcome for each in found.decisions] == ["no_enough_rows"]
    assert "0 of 20" in found.decisions[0].reason
    assert any("advise" in note for note in found.notes)


async def test_one_key_alone_would_have_begun_nothing(database: AsyncEngine) -> None:
    """However many labels it sends."""
    await revise(database, 1, 2)
    await answered(database, [1.0] * 60)
    for number in range(60, 160):
        await observe(database, f"s{number}", 0.0, at=at(number))
        await capture(database, f"r{number}", "that", created_at=at(number))
        await say(database, f"r{number}", session=f"s{number}", key_id="loud", correction="no", created_at=at(number))
    found = await tried(database, Policy("act", FELL, RETRAIN), at(300))
    assert found.alarms
    assert {each.outcome for each in found.decisions} == {"no_second_voice"}


async def test_the_level_is_that_of_the_first_sessions_however_long_ago(database: AsyncEngine) -> None:
    """As the live watch has it."""
    await revise(database, 1, 2, created_at=NOW - 3 * DAY)
    for number in range(30):
        await observe(
            database, f"old{number}", 1.0 if number < 20 else 0.5, at=NOW - 2 * DAY + timedelta(minutes=number)
        )
    for number in range(20):
        await observe(database, f"new{number}", 0.0, at=at(number))
    rule = QualityRule(level_observations=20)
    found = await tried(database, Policy("act", rule), at(60), since=NOW - timedelta(hours=1))
    assert found.observations == 20
    assert {each.level for each in found.alarms} == {1.0}


async def test_of_too_many_sessions_the_last_that_was_looked_at_is_named(
    database: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest are missing then, nothing is decided about their time, and fewer days show them."""
    monkeypatch.setattr("monitors.loop.replay_watch.MOST_OBSERVATIONS", 30)
    monkeypatch.setattr("monitors.loop.replay_watch._PAGE", 10)
    await revise(database, 1, 2, created_at=NOW - DAY)
    await answered(database, [0.0] * 30, labelled=False)
    for number in range(30):
        late = {"id": f"late-{number}", "key_id": f"key-{number % 3}", "created_at": at(100)}
        await say(database, f"r{number}", correction="it is this", **late)
    policy = Policy("act", FELL, RETRAIN)
    whole = await tried(database, policy, at(300))
    assert (whole.observations, whole.observed_until, whole.notes[:1]) == (30, at(29), [TRAINED])
    await answered(database, [0.0] * 5, first=30, labelled=False)
    cut = await tried(database, policy, at(300))
    assert (cut.observations, cut.observed_until) == (30, at(29))
    assert "what came after 2026-11-03 12:29 UTC was not looked at. Ask for fewer days." in cut.notes[0]
    assert max(each.at for each in whole.decisions) > at(29) >= max(each.at for each in cut.decisions)
    fewer = await tried(database, policy, at(300), since=at(20))
    assert (fewer.observed_until, any("fewer days" in note for note in fewer.notes)) == (at(34), False)


async def test_without_a_fall_nothing_is_decided(database: AsyncEngine) -> None:
    """And it says what it looked at, or that there was nothing."""
    empty = await tried(database, Policy("act"), at(60))
    assert (empty.observations, empty.alarms, empty.decisions) == (0, [], [])
    assert any("No version serves" in note for note in empty.notes)
    await revise(database, 1, 2)
    assert any("Nothing was scored" in note for note in (await tried(database, Policy("act"), at(60))).notes)
    await answered(database, [1.0] * 30)
    found = await tried(database, Policy("act", FELL), at(60))
    assert (found.observations, found.alarms, found.decisions, found.notes) == (30, [], [], [])


async def had_canary(database: AsyncEngine, canary_scores: float, sessions: int = 200) -> None:
    """Version 3 beside version 2, whose sessions score 1, until a person takes it away."""
    await revise(database, 1, 2, created_at=NOW - DAY)
    await revise(database, 2, 2, canary=3, canary_weight=0.3, created_at=NOW)
    for number in range(1, sessions + 1):
        version = 2 + number % 2
        value = canary_scores if version == 3 else 1.0
        await scored(database, number, version, value, started_at=at(number))
    await revise(database, 3, 2, created_at=at(sessions + 10))


async def test_a_canary_that_was_worse_would_have_been_taken_back(database: AsyncEngine) -> None:
    """Long before the person did it, and by the test against the stable version."""
    await had_canary(database, 0.0)
    (canary,) = (await tried(database, Policy("act", FELL, rollout=ROLLOUT), at(600))).canaries
    assert (canary.version, canary.incumbent, canary.by_person, canary.ended) == (3, 2, True, "withdrawn")
    assert (canary.moments[-1].act, canary.moments[-1].outcome) == ("roll_back", "worse_than_stable")
    assert canary.moments[-1].at < at(60)
    assert canary.until == at(210)
    assert canary.comparison.incumbent.worse
    assert canary.waits is None


async def test_a_canary_that_was_as_good_would_have_been_promoted(database: AsyncEngine) -> None:
    """Step by step; with approval asked for it is taken that somebody says yes."""
    await had_canary(database, 1.0)
    rule = QualityRule(level=0.9, drop=0.2)
    (canary,) = (await tried(database, Policy("act", rule, rollout=ROLLOUT), at(600))).canaries
    assert [each.act for each in canary.moments] == ["next_step", "promote"]
    asking = RolloutRule(steps=(0.1, 0.5), least_sessions=5, least_minutes=1.0, approval=True)
    (asked,) = (await tried(database, Policy("act", rule, rollout=asking), at(600))).canaries
    assert [each.act for each in asked.moments] == ["next_step", "ask", "promote"]


async def test_a_canary_that_nobody_scored_stays_undecided(database: AsyncEngine) -> None:
    """No data is never a pass; what it waits for is told, and after too long it goes back."""
    await revise(database, 1, 2, created_at=NOW - DAY)
    await revise(database, 2, 2, canary=3, canary_weight=0.3, created_at=NOW)
    (canary,) = (await tried(database, Policy("act", rollout=ROLLOUT), at(600))).canaries
    assert (canary.ended, canary.moments) == ("serves", [])
    assert canary.waits is not None
    assert canary.waits.outcome == "gathers"
    short = RolloutRule(longest_h=2.0)
    (canary,) = (await tried(database, Policy("act", rollout=short), at(600))).canaries
    assert [(each.act, each.outcome, each.at) for each in canary.moments] == [("roll_back", "undecided", at(120))]


async def test_failing_requests_take_a_canary_back(database: AsyncEngine) -> None:
    """By the limit on errors, without any score, while the other version answers."""
    await revise(database, 1, 2, created_at=NOW - DAY)
    await revise(database, 2, 2, canary=3, canary_weight=0.3, created_at=NOW)
    failed: dict[str, Any] = {"status": 502, "error": "engine_error"}
    await log(database, [request(n, 3, **failed) if n % 2 else request(n) for n in range(1, 80)])
    (canary,) = (await tried(database, Policy("act", rollout=ROLLOUT), at(600))).canaries
    assert [each.outcome for each in canary.moments] == ["errors"]
    assert canary.moments[0].at < at(2)


async def test_a_dry_run_writes_nothing(database: AsyncEngine) -> None:
    """No decision, and no state of the loop."""
    await had_canary(database, 0.0, 60)
    await tried(database, Policy("act", FELL, rollout=ROLLOUT), at(600))
    models: tuple[Any, ...] = (DecisionRow, LoopRow)
    async with database.connect() as connection:
        for model in models:
            assert await connection.scalar(select(func.count()).select_from(model.__table__)) == 0


@pytest.mark.parametrize(
    ("last", "ended"),
    [
        ({"stable": 3, "decision": 7}, "promoted"),
        ({"stable": 2, "decision": 7}, "rolled_back"),
        ({"stable": 2}, "withdrawn"),
        ({"stable": 2, "canary": 1, "canary_weight": 0.1}, "replaced"),
        ({"stable": 1}, "replaced"),
        ({"stable": 3, "canary": 2, "canary_weight": 0.1, "is_holdback": True}, "promoted"),
    ],
)
async def test_what_became_of_a_canary_is_read_from_the_revisions(
    database: AsyncEngine, last: dict[str, Any], ended: str
) -> None:
    """Another weight is the same canary; what is held back after a promotion is none."""
    await revise(database, 1, 2, created_at=NOW)
    await revise(database, 2, 2, canary=3, canary_weight=0.1, created_at=at(1), decision=5)
    await revise(database, 3, 2, canary=3, canary_weight=0.5, created_at=at(2), decision=6)
    fields = {name: value for name, value in last.items() if name != "stable"}
    await revise(database, 4, last["stable"], created_at=at(3), **fields)
    async with database.connect() as connection:
        found = canaries(await eras(connection, "support"), NOW, at(60))
    assert (found[0].version, found[0].incumbent, found[0].by_person) == (3, 2, False)
    assert (found[0].since, found[0].until, found[0].ended) == (at(1), at(3), ended)
    assert len(found) == 1 + (ended == "replaced" and "canary" in last)


def test_labels_are_capped_and_counted_from_the_last_training_on() -> None:
    """As in a training: no key may have more than its share."""
    labels = PastLabels(
        [PastLabel(at(number), "loud" if number % 4 else f"key-{number}", "correction") for number in range(40)]
    )
    rule = RetrainRule(most_of_one_key=0.5)
    found = labels.at(at(19), rule, Agreement(agreed=True))
    assert (found.found, found.rows, found.heaviest_key, found.heaviest_share) == (20, 10, "loud", 0.75)
    labels.begin_anew(at(19))
    assert labels.at(at(19), rule, Agreement()).found == 0
    later = labels.at(at(39), rule, Agreement(lone="loud"))
    assert (later.found, later.rows, later.lone_voice) == (20, 10, "loud")
    trusted = labels.at(at(39), RetrainRule(trusted_keys=("loud",)), Agreement())
    assert (trusted.rows, trusted.by_source) == (20, {"correction": 20})
