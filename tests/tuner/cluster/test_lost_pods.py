"""Pods that are lost, or end before they begin: the job goes on, or fails with the reason."""

from datetime import timedelta
from typing import Any

import pytest

from registry.tuning.dispatch import Dispatch
from registry.tuning.jobs import MOST_ATTEMPTS
from registry.tuning.tables import TuningJobRow
from tests.conftest import until
from tests.fakes.kubernetes import stamp
from tests.tuner.cluster.conftest import World
from tests.tuner.shops import end_lease, job_of


async def test_a_job_whose_pod_died_at_work_gets_another_when_its_lease_is_over(world: World) -> None:
    """By the rules that exist: the attempt is counted when the next tuner claims it."""
    job_id = await world.ask()
    async with world.dispatching():
        kubelet = await world.pod()
        kubelet.run()
        (first,) = world.fake.objects()
        await world.held(job_id, first)
        kubelet.end(137, "OOMKilled")
        await world.until_gone(first)
        await world.until_said(job_id, "needed more memory than its limit allows (OOMKilled)")
        assert await world.state(job_id) == "validating_files"  # until the lease says otherwise
        await end_lease(world.shop, job_id)
        (second,) = await world.made()
        await world.held(job_id, second)
    assert first != second
    assert (await job_of(world.shop, job_id)).attempt == 2


async def test_a_lost_node_keeps_no_other_pod_from_being_made(world: World) -> None:
    """Its pod cannot be deleted before the node is gone, and takes no other one's place meanwhile."""
    job_id = await world.ask()
    world.fake.keeps_deleted = True
    async with world.dispatching(tuner_max_pods=1):
        kubelet = await world.pod()
        kubelet.run()
        (first,) = world.fake.objects()
        await world.held(job_id, first)
        kubelet.lose_node()
        await world.until_said(job_id, "its node was tainted, as one that is lost")
        await end_lease(world.shop, job_id)
        await until(lambda: world.later_by(61) and len(world.fake.objects()) == 2)
    assert "deletionTimestamp" in world.fake.objects()[first]["metadata"]


async def test_pods_that_end_before_they_begin_count_as_attempts(world: World) -> None:
    """Each time later; the last one's failure is the job's, with the reason."""
    job_id = await world.ask()
    async with world.dispatching():
        for attempt in range(1, MOST_ATTEMPTS + 1):
            kubelet = await world.pod()
            world.fake.logs[kubelet.pod] = "a setting is wrong"
            kubelet.run()
            (name,) = world.fake.objects()
            kubelet.end(2)
            await world.until_gone(name)
            assert (await job_of(world.shop, job_id)).attempt == (attempt if attempt < MOST_ATTEMPTS else 2)
    job = await job_of(world.shop, job_id)
    assert (job.state, job.error) == (
        "failed",
        {
            "code": "worker_lost",
            "message": "3 tuners ended before they had begun with it or were lost, the last one so: "
            f"Pod {kubelet.pod} ended: its tuner ended with the exit code 2",
            "param": None,
        },
    )


async def test_an_object_that_is_heard_of_before_its_pod_is_waited_with(world: World) -> None:
    """The two are told of one after the other, and only the pod says why it ended."""
    job_id = await world.ask()
    async with world.dispatching():
        kubelet = await world.pod()
        kubelet.run()
        (name,) = world.fake.objects()
        await world.until_said(job_id, "started on the node")
        kubelet.fail("BackoffLimitExceeded", "Job has reached the specified backoff limit")
        await world.ask("other")
        await world.made(2)  # the dispatcher has looked since
        assert name in world.fake.objects()
        kubelet.end(137, "OOMKilled")
        await world.until_gone(name)
        await world.until_said(job_id, "(OOMKilled)")
    assert (await job_of(world.shop, job_id)).attempt == 1


async def test_a_pod_that_never_begins_is_ended(world: World) -> None:
    """It runs, and does not claim the job within the time that the settings give."""
    job_id = await world.ask()
    async with world.dispatching(tuner_claim_s=120.0):
        kubelet = await world.pod()
        kubelet.run()
        (first,) = world.fake.objects()
        await world.until_said(job_id, "started on the node")
        world.ahead = timedelta(seconds=121)
        await world.until_gone(first)
        await world.until_said(job_id, "its pod ran for 120 s and had not begun with the job")
        world.ahead = timedelta()
        await world.made()
    assert (await job_of(world.shop, job_id)).attempt == 1


async def test_a_pod_that_begins_in_the_last_moment_is_left_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It claims the job between the dispatcher's look at that and what it does."""
    job_id = await world.ask()
    miss = Dispatch.miss

    async def claimed(self: Dispatch, job: TuningJobRow, why: str, **named: Any) -> str | None:
        monkeypatch.undo()
        await world.held(job_id, name)
        assert await miss(self, job, why, **named) is None
        return None

    async with world.dispatching():
        kubelet = await world.pod()
        kubelet.run()
        (name,) = world.fake.objects()
        await world.until_said(job_id, "started on the node")
        monkeypatch.setattr(Dispatch, "miss", claimed)
        world.later_by(301)
        await until(world.until_in(job_id, "validating_files"))
        await world.look_again()
    assert name in world.fake.objects()
    assert ("delete", "jobs") not in world.fake.asked


async def test_a_node_that_is_lost_before_the_pod_has_begun_is_gone_on_from(world: World) -> None:
    """Since Kubernetes 1.31 the Job has not failed before its pod has ended, which that one never does."""
    job_id = await world.ask()
    world.fake.keeps_deleted = True
    async with world.dispatching():
        kubelet = await world.pod()
        kubelet.place()
        (first,) = world.fake.objects()
        kubelet.lose_node()
        await world.until_said(job_id, "its node was tainted, as one that is lost")
        await world.look_again()
        assert list(world.fake.objects()) == [first]
        world.later_by(301)
        await world.made(2)
    assert "deletionTimestamp" in world.fake.objects()[first]["metadata"]
    assert (await job_of(world.shop, job_id)).attempt == 1


async def test_an_object_that_cannot_go_keeps_its_job_waiting_for_a_while_only(world: World) -> None:
    """Somebody has deleted it, and its pod is on a lost node; the next one has another name."""
    job_id = await world.ask()
    async with world.dispatching():
        kubelet = await world.pod()
        kubelet.place()
        (first,) = world.fake.objects()
        leaving = world.fake.objects()[first]
        leaving["metadata"] |= {"deletionTimestamp": stamp(), "finalizers": ["foregroundDeletion"]}
        world.fake.put("jobs", leaving)
        await world.look_again()
        assert list(world.fake.objects()) == [first]
        world.later_by(301)
        await world.made(2)
        await world.until_said(job_id, f"Job {first} was to be deleted and is still there, as when its node is lost")
        world.fake.remove("jobs", first)
        await world.look_again()
    assert (await job_of(world.shop, job_id)).attempt == 1


async def test_an_object_deleted_by_somebody_else_is_told_and_made_anew(world: World) -> None:
    """Before its pod has begun that costs an attempt, so nobody fights with whoever deletes them for ever."""
    job_id = await world.ask()
    async with world.dispatching():
        (first,) = await world.made()
        await until(lambda: world.swept > 0)
        world.fake.remove("jobs", first)
        await until(lambda: world.fake.objects() and first not in world.fake.objects())
        await world.until_said(job_id, f"Job {first} was deleted before it had finished")
        (second,) = world.fake.objects()
        await world.held(job_id, second)
        world.fake.remove("jobs", second)
        await world.until_said(job_id, f"Job {second} was deleted before it had finished")
    assert (await job_of(world.shop, job_id)).attempt == 2
    assert await world.state(job_id) == "validating_files"
