"""The monitor's loop: one works, others stand by, and a job that fails holds up no other."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.watch.catalogs import CatalogReader
from monitors.watch.loop import LEASE, MonitorLoop
from monitors.watch.metrics import MonitorMetrics
from registry.catalog import Catalog
from registry.registry import Registry
from tests.conftest import until

LEASE_S, RENEW_S = 2.0, 0.02


@dataclass
class Counted:
    """A job that counts its runs, and fails as often as it is told."""

    name: str = "counted"
    every_s: float = 0.01
    failures: int = 0
    runs: int = 0
    catalogs: list[Catalog] = field(default_factory=list)

    async def run(self, catalog: Catalog, now: datetime, /) -> None:
        """Count."""
        assert now.tzinfo is not None
        self.runs += 1
        self.catalogs.append(catalog)
        if self.runs <= self.failures:
            raise RuntimeError("as told")


@contextlib.asynccontextmanager
async def running(registry: Registry, jobs: Sequence[Counted], lease_s: float = LEASE_S) -> AsyncIterator[MonitorLoop]:
    """A loop at work, beside the block."""
    loop = MonitorLoop(registry, registry.catalog, MonitorMetrics(), lambda: jobs, lease_s=lease_s, renew_s=RENEW_S)
    task = asyncio.create_task(loop.run())
    try:
        yield loop
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_of_two_monitors_one_works_and_the_other_takes_over_when_it_stops(registry: Registry) -> None:
    """The lease is given back, so that nobody waits until it runs out."""
    first, second = Counted(), Counted()
    async with contextlib.AsyncExitStack() as stack:
        one = await stack.enter_async_context(running(registry, [first], lease_s=600))
        await until(lambda: first.runs > 2)
        other = await stack.enter_async_context(running(registry, [second], lease_s=600))
        seen = first.runs
        await until(lambda: first.runs > seen + 5)
        assert (one.is_active, other.is_active, second.runs) == (True, False, 0)
        assert other.database_problem is None
    assert await registry.acquire_lease(LEASE, "somebody else", 1.0)


async def test_the_one_that_stood_by_takes_over(registry: Registry) -> None:
    """Within a few looks at the lease."""
    first, second = Counted(), Counted()
    async with running(registry, [first], lease_s=600):
        await until(lambda: first.runs)
        standing_by = running(registry, [second], lease_s=600)
        loop = await standing_by.__aenter__()
        await until(lambda: loop.database_problem is None)
        assert not loop.is_active
    await until(lambda: second.runs)
    assert loop.is_active
    await standing_by.__aexit__(None, None, None)


async def test_others_go_on_while_a_job_that_failed_pauses(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """However short its own pace is, and however long its pause."""
    monkeypatch.setattr("monitors.watch.loop._FIRST_PAUSE_S", 600.0)
    failing, fine = Counted(name="failing", failures=1), Counted(name="fine")
    async with running(registry, [failing, fine], lease_s=600):
        await until(lambda: failing.runs == 1)
        seen = fine.runs
        await until(lambda: fine.runs > seen + 5)
        assert failing.runs == 1


async def test_a_job_that_fails_is_counted_and_tried_again(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself, after its pause."""
    monkeypatch.setattr("monitors.watch.loop._FIRST_PAUSE_S", 0.01)
    failing, fine = Counted(name="failing", failures=1), Counted(name="fine")
    async with running(registry, [failing, fine], lease_s=600) as loop:
        await until(lambda: failing.runs > 2 and fine.runs > 1)
        found = loop._metrics.registry.get_sample_value
        assert found("ostler_monitor_failures_total", {"task": "failing"}) == 1
        assert found("ostler_monitor_failures_total", {"task": "fine"}) is None
        assert found("ostler_monitor_last_success_timestamp_seconds", {"task": "fine"}) is not None


async def test_jobs_are_given_what_exists_now(registry: Registry) -> None:
    """Each run asks for the catalog."""
    job = Counted()
    async with running(registry, [job]):
        await until(lambda: job.runs)
        await registry.acquire_lease("another", "me", 1.0)
        assert job.catalogs[-1].adapters == {}


async def test_a_monitor_that_loses_its_lease_stops_its_work_and_shows_nothing(
    registry: Registry, database: AsyncEngine
) -> None:
    """Somebody else shows the findings from then on."""
    job = Counted()
    async with running(registry, [job], lease_s=600) as loop:
        await until(lambda: job.runs)
        loop._metrics.score.labels("support", "1", "feedback").set(0.5)
        while not await registry.acquire_lease(LEASE, "somebody else", 600):
            await registry.release_lease(LEASE, loop._holder)
        await until(lambda: not loop.is_active)
        found = loop._metrics.registry.get_sample_value
        labels = {"adapter": "support", "version": "1", "scorer": "feedback"}
        await until(lambda: found("ostler_quality_score", labels) is None)
        runs = job.runs
        await until(lambda: found("ostler_monitor_active") == 0)
        await asyncio.sleep(10 * RENEW_S)
        assert job.runs == runs


async def test_without_the_database_a_monitor_works_on_until_its_lease_is_over(registry: Registry) -> None:
    """And no longer: by then another one may hold it."""
    job = Counted()
    async with running(registry, [job], lease_s=0.6) as loop:
        await until(lambda: job.runs)

        async def away(*_arguments: object) -> bool:
            raise ConnectionError("away")

        loop._leases.acquire_lease = away  # type: ignore[method-assign,assignment]
        await until(lambda: loop.database_problem is not None)
        assert loop.is_active
        await until(lambda: not loop.is_active)


async def test_a_failed_job_is_logged_without_its_words(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    """They may quote what somebody said; the kind of the error and its place say enough."""
    job = Counted(failures=1)
    async with running(registry, [job]):
        await until(lambda: "counted" in caplog.text)
    assert "RuntimeError in " in caplog.text
    assert "run (test_loop.py:" in caplog.text
    assert "as told" not in caplog.text


async def test_the_catalog_is_read_again_only_when_it_has_changed(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many jobs ask for it, and at once."""
    reads, read = 0, registry.catalog

    async def counting() -> Catalog:
        nonlocal reads
        reads += 1
        return await read()

    monkeypatch.setattr(registry, "catalog", counting)
    reader = CatalogReader(registry)
    first = await asyncio.gather(*(reader.read() for _ in range(5)))
    assert reads == 1
    await registry.note("anything", "else", actor="ann")
    assert (await reader.read()).change > first[0].change
    assert await reader.read() is await reader.read()
    assert reads == 2
