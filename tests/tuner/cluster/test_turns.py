"""Whoever looks, and whenever it was started: a job that waits has one object, and a dispatcher costs it no attempt."""

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from registry.tuning.dispatch import Dispatch
from registry.tuning.tables import TuningJobRow
from tests.conftest import until
from tests.fakes.kubernetes import FakeCluster
from tests.tuner.cluster.conftest import JOB_TEMPLATE, World, cluster_of, template_of
from tests.tuner.shops import job_of
from tuner.cluster import naming
from tuner.cluster.api import JOB, Cluster, Kind, Listing, Object, WatchStream
from tuner.cluster.mirror import Mirror
from tuner.cluster.template import Template


@pytest.fixture
def mended(world: World) -> Template:
    """Another template."""
    return template_of(world.folder, JOB_TEMPLATE.replace("0.1.0", "0.1.1"))


# --- templates ---------------------------------------------------------------------------------------------------


async def test_two_dispatchers_with_different_templates_agree(world: World, mended: Template) -> None:
    """The newer one makes anew what the other one has made, once, and the other one leaves that alone."""
    job_id = await world.ask()
    async with world.dispatching():
        await world.made()
        await until(lambda: world.swept > 0)
        async with world.dispatching(mended):
            await until(lambda: _templates(world) == [mended.digest])
            await world.look_again()
            await world.ask("other")
            await world.made(2)
            await world.look_again()
    assert world.fake.asked.count(("delete", "jobs")) == 1
    assert _templates(world)[0] == mended.digest
    assert (await job_of(world.shop, job_id)).attempt == 0


async def test_a_dispatcher_makes_what_another_one_took_back_and_does_not_make(world: World, mended: Template) -> None:
    """It was killed in between; the one that is left waits a while for it."""
    job_id = await world.ask()
    world.fake.keeps_deleted = True
    async with world.dispatching():
        (name,) = await world.made()
        await until(lambda: world.swept > 0)
        async with world.dispatching(mended):
            await until(lambda: ("delete", "jobs") in world.fake.asked)
        world.fake.remove("jobs", name)
        await world.look_again()
        assert not world.fake.objects()
        world.later_by(11)
        await world.made()
    assert (await job_of(world.shop, job_id)).attempt == 0
    assert "before it had finished" not in await world.said(job_id)


async def test_a_dispatcher_that_is_killed_between_a_deletion_and_its_end_costs_no_attempt(
    world: World, mended: Template
) -> None:
    """The next one finds the object leaving, and then gone, and knows by the job's events whose doing it is."""
    job_id = await world.ask()
    world.fake.keeps_deleted = True
    async with world.dispatching():
        (name,) = await world.made()
        await until(lambda: world.swept > 0)
    async with world.dispatching(mended):
        await until(lambda: ("delete", "jobs") in world.fake.asked)
    async with world.dispatching(mended):
        await until(lambda: world.swept > 2)
        world.fake.remove("jobs", name)
        await until(lambda: _templates(world) == [mended.digest])
    assert (await job_of(world.shop, job_id)).attempt == 0
    assert "before it had finished" not in await world.said(job_id)


async def test_what_was_taken_back_and_cannot_go_costs_no_attempt(world: World, mended: Template) -> None:
    """Its pod is on a lost node; the job gets an object of another name."""
    job_id = await world.ask()
    async with world.dispatching():
        (first,) = await world.made()
        await until(lambda: world.swept > 0)
    world.fake.keeps_deleted = True
    async with world.dispatching(mended):
        await until(lambda: ("delete", "jobs") in world.fake.asked)
        world.later_by(301)
        await world.made(2)
    assert first in world.fake.objects()
    assert (await job_of(world.shop, job_id)).attempt == 0


# --- what is deleted while the job may begin -----------------------------------------------------------------------


async def test_an_object_that_is_not_wanted_for_a_moment_costs_no_attempt(world: World) -> None:
    """An older job of the adapter goes first, and is paused again before the object has gone."""
    older = await world.ask()
    await world.shop.jobs.wish(older, "pause", actor="ann")
    job_id = await world.ask()
    world.fake.keeps_deleted = True
    async with world.dispatching():
        (name,) = await world.made()
        await until(lambda: world.swept > 0)
        await world.shop.jobs.wish(older, "run", actor="ann")
        await until(lambda: "deletionTimestamp" in world.fake.objects()[name]["metadata"])
        await world.shop.jobs.wish(older, "pause", actor="ann")
        await world.look_again()
        world.fake.remove("jobs", name)
        await until(lambda: world.later_by(11) and name in world.fake.objects())
    assert (await job_of(world.shop, job_id)).attempt == 0


async def test_an_unwanted_pod_that_begins_in_the_last_moment_is_left_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job was resumed, and the pod of its turn before claims it, between the dispatcher's look and what it does."""
    job_id = await world.ask()
    is_as_read, named = Dispatch.is_as_read, Dispatch.named
    holding: list[str] = []

    async def late(self: Dispatch, job: TuningJobRow) -> bool:
        if not holding and job.state == "paused":
            await world.shop.jobs.wish(job_id, "run", actor="ann")
            holding.append(await world.held(job_id, name))
        return await is_as_read(self, job)

    async with world.dispatching():
        (name,) = await world.made()
        await until(lambda: world.swept > 0)
        monkeypatch.setattr(Dispatch, "is_as_read", late)
        await world.shop.jobs.wish(job_id, "pause", actor="ann")
        await until(lambda: holding)
        await world.look_again()
    assert name in world.fake.objects()
    assert (await named(Dispatch(world.shop.jobs._engine), [job_id]))[job_id].state == "validating_files"


async def test_a_pod_that_begins_as_its_template_is_found_old_is_left_alone(
    world: World, mended: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It claims the job between the look of a dispatcher that was started anew and what that does."""
    job_id = await world.ask()
    async with world.dispatching():
        (name,) = await world.made()
        await until(lambda: world.swept > 0)
    named, holding = Dispatch.named, list[str]()

    async def late(self: Dispatch, job_ids: Any) -> dict[str, TuningJobRow]:
        found = await named(self, job_ids)
        if not holding:
            holding.append(await world.held(job_id, name))
        return found

    monkeypatch.setattr(Dispatch, "named", late)
    async with world.dispatching(mended):
        await until(lambda: holding)
        await world.look_again()
    assert ("delete", "jobs") not in world.fake.asked
    assert "is made anew" not in await world.said(job_id)
    assert await world.state(job_id) == "validating_files"


# --- what is heard, and when ---------------------------------------------------------------------------------------


async def test_what_was_made_while_all_is_listed_again_is_there(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list does not have it yet: it is not gone for that, and takes its place among the pods that there may be."""
    await world.ask("first")
    listing, watching, may_go = threading.Event(), threading.Event(), [threading.Event(), threading.Event()]
    listed, watch = Cluster.listed, Cluster.watch

    def slow_list(self: Cluster, kind: Kind, selector: str) -> Listing:
        found = listed(self, kind, selector)
        if kind == JOB:
            listing.set()
            assert may_go[0].wait(30)
        return found

    def slow_watch(self: Cluster, kind: Kind, selector: str, version: str) -> WatchStream:
        if kind == JOB and listing.is_set():
            watching.set()
            assert may_go[1].wait(30)
        return watch(self, kind, selector, version)

    async with world.dispatching(tuner_max_pods=2):
        await world.made()
        monkeypatch.setattr(Cluster, "listed", slow_list)
        monkeypatch.setattr(Cluster, "watch", slow_watch)
        world.fake.forget_history()
        await until(listing.is_set)
        second = await world.ask("second")
        await world.until_said(second, "was made")
        await world.held(second, list(world.fake.objects())[1])
        await world.ask("third")
        may_go[0].set()
        await until(watching.is_set)
        await world.look_again()
        assert len(world.fake.objects()) == 2
        may_go[1].set()
        await world.look_again()
    assert "deleted" not in await world.said(second)
    assert (await job_of(world.shop, second)).attempt == 1
    assert len(world.fake.objects()) == 2


@pytest.fixture
async def fake() -> AsyncIterator[FakeCluster]:
    """A cluster with an object in it."""
    fake = FakeCluster()
    await fake.start()
    fake.put("jobs", _object("one"))
    yield fake
    await fake.stop()


def _object(name: str) -> Object:
    labels = {naming.MANAGED_BY: naming.MANAGER}
    return {"kind": "Job", "metadata": {"name": name, "uid": f"uid-{name}", "labels": labels}}


async def test_an_object_that_is_gone_before_its_maker_hears_of_it_is_not_there(fake: FakeCluster) -> None:
    """The watch has told of both when the answer comes."""
    mirror = Mirror(cluster_of(fake), JOB, naming.SELECTOR, pause_s=0.02)
    task = asyncio.create_task(mirror.run())
    await until(lambda: mirror.problem is None)
    made: Any = fake.put("jobs", _object("two"))
    answer = {**made, "metadata": dict(made["metadata"])}
    fake.remove("jobs", "two")
    await until(lambda: mirror.gone)
    mirror.put(answer)
    assert list(mirror.objects) == ["one"]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_an_object_of_the_same_name_is_another_one(fake: FakeCluster) -> None:
    """It was deleted and made anew while the server was not heard."""
    mirror = Mirror(cluster_of(fake), JOB, naming.SELECTOR, pause_s=0.02)
    task = asyncio.create_task(mirror.run())
    await until(lambda: mirror.problem is None)
    fake.go_down()
    await until(lambda: mirror.problem is not None)
    fake.remove("jobs", "one")
    fake.put("jobs", _object("one") | {"metadata": {**_object("one")["metadata"], "uid": "uid-other"}})
    fake.forget_history()
    fake.come_back()
    await until(lambda: mirror.gone)
    assert [each["metadata"]["uid"] for each in mirror.gone] == ["uid-one"]
    assert mirror.objects["one"]["metadata"]["uid"] == "uid-other"
    assert mirror.first == {"uid-one"}
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_deletion_that_is_heard_of_while_the_database_is_away_is_noticed_afterwards(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told and counted as at any other time."""
    job_id = await world.ask()
    named, is_away = Dispatch.named, threading.Event()

    async def failing(self: Dispatch, job_ids: Any) -> dict[str, TuningJobRow]:
        if not world.fake.objects() and not is_away.is_set():
            is_away.set()
            raise OperationalError("SELECT", None, ConnectionResetError(104, "reset"))
        return await named(self, job_ids)

    async with world.dispatching():
        (name,) = await world.made()
        await until(lambda: world.swept > 0)
        monkeypatch.setattr(Dispatch, "named", failing)
        world.fake.remove("jobs", name)
        await until(is_away.is_set)
        await world.until_said(job_id, f"Job {name} was deleted before it had finished")
        await world.made()
    assert (await job_of(world.shop, job_id)).attempt == 1


def _templates(world: World) -> list[str | None]:
    """Of which templates the objects were made."""
    return [naming.template_of(made) for made in world.fake.objects().values()]
