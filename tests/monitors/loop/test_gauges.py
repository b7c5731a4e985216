"""What the monitor's metrics tell of the loop."""

import math
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.decisions import Decision, Wanted, newest_decisions, record_decision
from monitors.loop import approvals
from monitors.loop.evidence import Beside
from monitors.loop.followed import Followed, followed
from monitors.loop.gauges import LoopGaugesJob
from monitors.loop.state import LoopState, Rollout
from monitors.loop.store import Kept, Pending, save
from monitors.loop.verdicts import Verdict
from monitors.watch.work import Workshop
from registry.catalog import Catalog
from registry.stops import EVERYTHING
from registry.tables import StopRow
from tests.monitors.judging.rows import NOW, catalog, say, workshop
from tests.monitors.loop.traffic import ask_for, revise

HOUR = timedelta(hours=1)
CATALOG = catalog()


@pytest.fixture
def shop(database: AsyncEngine, tmp_path: Path) -> Workshop:
    """What the job works with."""
    return workshop(database, tmp_path)


def shown(shop: Workshop, name: str, **labels: str) -> float | None:
    """A gauge of `support`."""
    return shop.metrics.registry.get_sample_value(f"ostler_loop_{name}", {"adapter": "support", **labels})


async def decide(database: AsyncEngine, act: str, outcome: str, at: Any = NOW) -> int:
    """A decision of the loop."""
    async with database.begin() as connection:
        found = Decision("support", 2, "loop", outcome, "a rule", "because", {"act": act, "cycle": 0})
        return await record_decision(connection, found, at)


async def keep(database: AsyncEngine, kept: Kept) -> None:
    """The loop has looked."""
    async with database.begin() as connection:
        await save(connection, "support", kept, NOW)


async def test_an_adapter_is_shown_from_the_start(shop: Workshop) -> None:
    """It is watched, nothing waits, and each act was done no time so far; of a canary nothing is known."""
    await LoopGaugesJob(shop).run(CATALOG, NOW)
    assert (shown(shop, "phase", phase="watching"), shown(shop, "phase", phase="tuning")) == (1, 0)
    zeros = ("paused", "labels", "approval_wait_seconds", "pending_seconds")
    assert {name: shown(shop, name) for name in zeros} == dict.fromkeys(zeros, 0)
    assert (shown(shop, "acts", act="roll_back"), shown(shop, "acts", act="promote")) == (0, 0)
    assert shown(shop, "canary_evidence_ratio", finding="worse") is None
    assert shown(shop, "last_decision_timestamp_seconds") is None
    assert shop.metrics.registry.get_sample_value("ostler_loop_frozen") == 0


async def test_what_was_done_is_counted(shop: Workshop, database: AsyncEngine) -> None:
    """By act, without what was only decided or advised; the newest decision of any kind has its moment."""
    acts = (("promote", "promoted"), ("roll_back", "errors"), ("roll_back", "cost"), ("end_cycle", "rejected"))
    made = [await decide(database, act, outcome) for act, outcome in acts]
    for number, decision in enumerate(made[:2], start=1):
        await revise(database, number, 2, decision=decision)
    await decide(database, "promote", "would_promote")
    await decide(database, "wait", "gathers", NOW + HOUR)
    job = LoopGaugesJob(shop)
    for _ in range(2):
        await job.run(CATALOG, NOW)
        counts = [shown(shop, "acts", act=act) for act in ("promote", "roll_back", "end_cycle", "retrain")]
        assert counts == [1, 1, 1, 0]
    assert shown(shop, "last_decision_timestamp_seconds") == (NOW + HOUR).timestamp()


async def test_what_is_done_long_after_it_was_decided_is_counted_then(shop: Workshop, database: AsyncEngine) -> None:
    """While it is tried it is not done; of two decisions for one job the one counts that the job names."""
    dropped, wanted = [await decide(database, "retrain", "begun", NOW - 9 * HOUR) for _ in range(2)]
    then = LoopState("tuning", 1)
    await keep(database, Kept(pending=Pending(Verdict("retrain", "begun", "", "", ""), wanted, then, 1, NOW)))
    job = LoopGaugesJob(shop)
    await job.run(CATALOG, NOW)
    assert shown(shop, "acts", act="retrain") == 0
    await ask_for(database, 1, order={"metadata": {"decision": str(wanted)}})
    await keep(database, Kept(then))
    await job.run(CATALOG, NOW)
    assert shown(shop, "acts", act="retrain") == 1
    async with database.connect() as connection:
        found = await newest_decisions(connection, Wanted(adapter="support"), limit=10)
        assert await followed(connection, found) == {wanted: Followed(job="job-1")}
    assert dropped not in job._done._open


async def test_a_rollout_has_evidence_until_it_is_over(shop: Workshop, database: AsyncEngine) -> None:
    """As a share of what is needed, in nats."""
    beside = Beside.begin(drop=0.2, alpha=0.05)
    for _ in range(10):
        beside.update(0.0)
    tests = {"incumbent": beside.state()}
    state = LoopState("rolling_out", 1, rollout=Rollout(3, 2, NOW, NOW))
    await keep(database, Kept(state, tests, {}))
    job = LoopGaugesJob(shop)
    await job.run(CATALOG, NOW)
    held = beside.held()
    needed = math.log(held.evidence_not_worse) / math.log(held.needed)
    assert 0 < needed < 1
    assert shown(shop, "canary_evidence_ratio", finding="not_worse") == pytest.approx(needed)
    assert shown(shop, "canary_evidence_ratio", finding="worse") == 0
    assert (shown(shop, "phase", phase="rolling_out"), shown(shop, "phase", phase="watching")) == (1, 0)
    await keep(database, Kept(LoopState(), tests, {}))
    await job.run(CATALOG, NOW)
    assert shown(shop, "canary_evidence_ratio", finding="not_worse") is None


async def test_what_waits_is_shown_with_its_time(shop: Workshop, database: AsyncEngine) -> None:
    """An open question, and a decision that is not carried out; a question of an earlier cycle is none."""
    rolling = LoopState("rolling_out", 2, rollout=Rollout(3, 2, NOW, NOW))
    pending = Pending(Verdict("promote", "promoted", "", "", ""), 1, rolling, 1, NOW - HOUR)
    await keep(database, Kept(rolling, pending=pending))
    async with database.begin() as connection:
        await approvals.ask(connection, "support", 1, "promote", 1, NOW - 9 * HOUR)
    job = LoopGaugesJob(shop)
    await job.run(CATALOG, NOW)
    assert (shown(shop, "approval_wait_seconds"), shown(shop, "pending_seconds")) == (0, 3600)
    async with database.begin() as connection:
        await approvals.ask(connection, "support", 2, "promote", 2, NOW - 2 * HOUR)
    await job.run(CATALOG, NOW)
    assert shown(shop, "approval_wait_seconds") == 7200


async def test_stops_are_shown(shop: Workshop, database: AsyncEngine) -> None:
    """A pause of the adapter, and the freeze; what a monitor without its lease forgets."""
    stops: Any = StopRow.__table__  # type: ignore[attr-defined]
    async with database.begin() as connection:
        for name in ("support", EVERYTHING):
            values = {"adapter": name, "actor": "eve", "reason": "", "created_at": NOW}
            await connection.execute(stops.insert().values(**values))
    await LoopGaugesJob(shop).run(CATALOG, NOW)
    frozen = "ostler_loop_frozen"
    assert (shown(shop, "paused"), shop.metrics.registry.get_sample_value(frozen)) == (1, 1)
    shop.metrics.forget_findings()
    assert (shown(shop, "paused"), shop.metrics.registry.get_sample_value(frozen)) == (None, 0)


async def test_labels_are_counted_since_the_last_training(shop: Workshop, database: AsyncEngine) -> None:
    """Each request once, if it was corrected or accepted."""
    await say(database, "r1", correction="this", created_at=NOW)
    await say(database, "r2", thumb="up", created_at=NOW)
    await say(database, "r2", id="again", key_id="key-2", score=1.0, created_at=NOW)
    await say(database, "r3", thumb="down", created_at=NOW)
    await say(database, "r4", correction="old", created_at=NOW - 2 * HOUR)
    await LoopGaugesJob(shop).run(CATALOG, NOW)
    assert shown(shop, "labels") == 3
    await keep(database, Kept(LoopState(labels_until=NOW - HOUR)))
    await LoopGaugesJob(shop).run(CATALOG, NOW)
    assert shown(shop, "labels") == 2


async def test_nothing_is_shown_of_what_is_not_there(shop: Workshop, database: AsyncEngine) -> None:
    """Rows of adapters that the catalog does not have."""
    await decide(database, "promote", "promoted")
    await LoopGaugesJob(shop).run(Catalog(1, MappingProxyType({})), NOW)
    assert shown(shop, "acts", act="promote") is None
