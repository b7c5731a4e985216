"""The counts that the monitor shows of tuning jobs: those of the table, with the longest wait for a tuner."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType

import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.settings import MonitorSettings
from monitors.watch.client import GatewayClient
from monitors.watch.jobs import CountingJob
from monitors.watch.metrics import MonitorMetrics
from monitors.watch.work import Workshop
from registry.artifacts import ArtifactStore
from registry.catalog import Catalog
from registry.tuning.backlog import waits_since
from registry.tuning.jobs import STATES, Asker, Jobs
from registry.tuning.orders import TuningOrder
from registry.tuning.states import FAILURES
from registry.tuning.tables import TuningJobRow

JOBS = TuningJobRow.__table__  # type: ignore[attr-defined]
EMPTY = Catalog(1, MappingProxyType({}))
NOW = datetime.now(UTC)


@pytest.fixture
def shop(database: AsyncEngine, store: ArtifactStore, tmp_path: Path) -> Workshop:
    """What the job works with."""
    nobody = GatewayClient("http://nobody", "", concurrency=1)
    return Workshop(database, store, nobody, None, MonitorMetrics(), MonitorSettings(home=tmp_path), tmp_path)


async def ask(database: AsyncEngine, adapter: str, hours_ago: float = 0.0, **values: object) -> None:
    """A job that was asked for then."""
    order = TuningOrder(adapter=adapter, base="tiny", training_file="file-1")
    job, _ = await Jobs(database).create(order, "tiny", Asker("key_1", "test"))
    row = {"created_at": NOW - timedelta(hours=hours_ago), **values}
    async with database.begin() as connection:
        await connection.execute(update(JOBS).where(JOBS.c.id == job.id).values(**row))


def shown(shop: Workshop, name: str, **labels: str) -> float | None:
    """A gauge's value."""
    return shop.metrics.registry.get_sample_value(name, labels)


async def test_jobs_are_counted_by_state(shop: Workshop, database: AsyncEngine) -> None:
    """As the table has them; each state is there from the start."""
    await CountingJob(shop).run(EMPTY, NOW)
    assert {state: shown(shop, "ostler_tuning_jobs", status=state) for state in STATES} == dict.fromkeys(STATES, 0)
    for adapter, state in (("a", "queued"), ("b", "running"), ("c", "failed"), ("d", "failed")):
        await ask(database, adapter, state=state)
    await CountingJob(shop).run(EMPTY, NOW)
    counts = {state: shown(shop, "ostler_tuning_jobs", status=state) for state in STATES}
    assert counts == dict.fromkeys(STATES, 0) | {"queued": 1, "running": 1, "failed": 2}


async def test_failed_jobs_are_counted_by_why(shop: Workshop, database: AsyncEngine) -> None:
    """By their error's code; each code that a job can have is there from the start."""
    await CountingJob(shop).run(EMPTY, NOW)
    assert {code: shown(shop, "ostler_tuning_failures", code=code) for code in FAILURES} == dict.fromkeys(FAILURES, 0)
    for adapter, code in (("a", "disk_full"), ("b", "rejected_by_gate"), ("c", "disk_full")):
        await ask(database, adapter, state="failed", error={"code": code, "message": "no", "param": None})
    await ask(database, "d", error={"code": "disk_full", "message": "of before", "param": None})
    await CountingJob(shop).run(EMPTY, NOW)
    counts = {code: shown(shop, "ostler_tuning_failures", code=code) for code in FAILURES}
    assert counts == dict.fromkeys(FAILURES, 0) | {"disk_full": 2, "rejected_by_gate": 1}


async def test_the_longest_wait_is_of_what_could_begin(shop: Workshop, database: AsyncEngine) -> None:
    """Not of a job behind another of its adapter, of a paused one, or of one that is to be cancelled."""
    assert await waits_since(database) is None
    await ask(database, "busy", 9, state="running", lease_until=NOW + timedelta(hours=1))
    await ask(database, "busy", 8)
    await ask(database, "paused", 7, state="paused")
    await ask(database, "leaving", 6, wanted="cancel")
    await CountingJob(shop).run(EMPTY, NOW)
    assert shown(shop, "ostler_tuning_wait_seconds") == 0
    await ask(database, "free", 2)
    await ask(database, "free", 3)
    await CountingJob(shop).run(EMPTY, NOW)
    assert shown(shop, "ostler_tuning_wait_seconds") == pytest.approx(3 * 3600)
    shop.metrics.forget_findings()
    assert shown(shop, "ostler_tuning_wait_seconds") == 0
    assert shown(shop, "ostler_tuning_jobs", status="queued") is None


async def test_a_lost_job_waits_for_a_tuner(database: AsyncEngine) -> None:
    """From the end of its lease on, and so does what is behind it; one that is at work waits for nobody."""
    long_ago, lately = NOW - timedelta(hours=2), NOW - timedelta(hours=1)
    begun = {"state": "running", "started_at": NOW - timedelta(hours=8)}
    await ask(database, "held", 9, **begun, lease_until=NOW + timedelta(hours=1))
    await ask(database, "leaving", 9, **begun, lease_until=long_ago, wanted="pause")
    assert await waits_since(database) is None
    await ask(database, "lost", 9, **begun, lease_until=lately)
    await ask(database, "lost", 8)
    assert await waits_since(database) == lately
    await ask(database, "leaving", 7)
    assert await waits_since(database) == long_ago


async def test_a_job_that_goes_on_waits_from_then(database: AsyncEngine) -> None:
    """Not from when it was asked for: it was paused, or at work, or at its gate."""
    jobs, before = Jobs(database), datetime.now(UTC)
    rejected = {"state": "failed", "version": 1, "error": {"code": "evaluation_failed", "message": "", "param": None}}
    for adapter, values in (("paused", {"state": "paused"}), ("judged", rejected)):
        await ask(database, adapter, 9, **values)
        (job,) = await jobs.listed(adapters=[adapter], limit=1)
        await jobs.wish(job.id, "run", actor="ann")
        assert (await waits_since(database) or NOW) >= before
        await jobs.wish(job.id, "cancel", actor="ann")
    await ask(database, "given-back", 9, state="running", worker="one", lease_until=NOW + timedelta(hours=1))
    (job,) = await jobs.listed(adapters=["given-back"], limit=1)
    await jobs.end(job.id, "one", "queued", "The tuner shuts down")
    assert (await waits_since(database) or NOW) >= before


async def test_a_job_waits_from_when_it_could_begin(database: AsyncEngine) -> None:
    """Not while another of its adapter was at work, nor before it may be tried again."""
    ended, later = NOW - timedelta(hours=2), NOW - timedelta(hours=1)
    await ask(database, "a", 9, state="failed", started_at=ended, finished_at=ended)
    await ask(database, "a", 8)
    assert await waits_since(database) == ended
    async with database.begin() as connection:
        await connection.execute(update(JOBS).where(JOBS.c.state == "queued").values(claimable_from=later))
    assert await waits_since(database) == later
