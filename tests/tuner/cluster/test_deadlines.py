"""Pods whose deadline is over: a job that was at work has failed, and one that its pod had not begun with waits on."""

import contextlib
from collections.abc import Callable

import pytest

from registry.tuning.claims import JobLost
from registry.tuning.jobs import MOST_ATTEMPTS
from tests.conftest import until
from tests.fakes.kubelet import Kubelet
from tests.fakes.kubernetes import Refusal
from tests.tuner.cluster.conftest import JOB_TEMPLATE, World, template_of
from tests.tuner.shops import end_lease, job_of
from tuner.cluster.template import Limits

Deadline = Callable[[Kubelet], None]
DEADLINES: list[Deadline] = [Kubelet.exceed_deadline, Kubelet.exceed_deadline_of_old]


@pytest.mark.parametrize("exceed", DEADLINES)
@pytest.mark.parametrize("gives_back", [True, False])
async def test_a_job_over_its_deadline_has_failed(world: World, exceed: Deadline, gives_back: bool) -> None:
    """Also where its pod gave it back on the way out; it is not begun again, not even for a moment."""
    job_id = await world.ask()
    async with world.dispatching(template_of(world.folder, limits=Limits(3600, 3600))):
        kubelet = await world.pod()
        kubelet.run()
        (name,) = world.fake.objects()
        worker = await world.held(job_id, name)
        exceed(kubelet)
        if gives_back:
            with contextlib.suppress(JobLost):  # the dispatcher was quicker
                await world.shop.jobs.end(job_id, worker, "queued", "The tuner shuts down", attempt=0)
        await until(world.until_in(job_id, "failed"))
        if exceed is Kubelet.exceed_deadline:
            kubelet.pods_end()
        world.later_by(11)
        await world.until_gone(name)
    error = (await job_of(world.shop, job_id)).error
    assert error is not None
    assert error["message"] == "it took longer than its deadline of 3600 s allows"
    assert world.fake.asked.count(("create", "jobs")) == 1


@pytest.mark.parametrize("exceed", DEADLINES)
async def test_a_pod_that_waits_until_its_deadline_costs_nothing(world: World, exceed: Deadline) -> None:
    """Kubernetes counts while no node has room for it, too; the job, which was never begun with, waits on."""
    job_id = await world.ask()
    async with world.dispatching():
        for _ in range(MOST_ATTEMPTS):
            kubelet = await world.pod()
            uid = kubelet.made["metadata"]["uid"]
            kubelet.cannot_place("0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")
            exceed(kubelet)
            await world.until_said(
                job_id, f"({uid[:8]}) is made anew, as its deadline was over before its pod had begun"
            )
            await until(lambda uid=uid: world.later_by(11) and _uids(world) not in ([], [uid]))  # type: ignore[misc]
    job = await job_of(world.shop, job_id)
    assert (job.state, job.attempt, job.error) == ("queued", 0, None)


@pytest.mark.parametrize("exceed", DEADLINES)
async def test_a_pod_that_waits_for_a_job_whose_tuner_was_lost_costs_nothing_either(
    world: World, exceed: Deadline
) -> None:
    """Such a job is still at work by its row, though not in this pod."""
    job_id = await world.ask()
    await world.held(job_id, "another")
    await end_lease(world.shop, job_id)
    async with world.dispatching():
        kubelet = await world.pod()
        exceed(kubelet)
        await world.until_said(job_id, "is made anew, as its deadline was over before its pod had begun")
        await until(lambda: world.later_by(11) and world.fake.asked.count(("create", "jobs")) == 2)
    job = await job_of(world.shop, job_id)
    assert (job.state, job.attempt) == ("validating_files", 1)


async def test_a_job_that_waits_for_an_older_one_is_not_failed_by_its_pods_deadline(world: World) -> None:
    """The older job of the adapter was resumed after the object was made, so nobody waits for its pod now."""
    older = await world.ask()
    await world.shop.jobs.wish(older, "pause", actor="ann")
    job_id = await world.ask()
    async with world.dispatching():
        kubelet = await world.pod()
        (name,) = world.fake.objects()
        await until(lambda: world.swept > 0)
    await world.shop.jobs.wish(older, "run", actor="ann")
    kubelet.exceed_deadline()
    async with world.dispatching():
        await world.until_gone(name)
    job = await job_of(world.shop, job_id)
    assert (job.state, job.attempt) == ("queued", 0)


async def test_a_pod_that_began_with_nothing_until_its_deadline_counts_as_an_attempt(world: World) -> None:
    """It had its node, as with any pod that ends before it has begun with the job."""
    job_id = await world.ask()
    async with world.dispatching():
        kubelet = await world.pod()
        kubelet.run()
        (first,) = world.fake.objects()
        await world.until_said(job_id, "started on the node")
        kubelet.exceed_deadline()
        kubelet.fail("DeadlineExceeded", "Job was active longer than specified deadline")
        await until(lambda: world.later_by(11) and first not in world.fake.objects())
        await world.until_said(job_id, f"tried again: Job {first} was active for longer than its deadline allows")
    job = await job_of(world.shop, job_id)
    assert (job.state, job.attempt) == ("queued", 1)


@pytest.mark.parametrize("has_failed", [True, False])
async def test_an_object_that_was_given_up_and_could_not_be_deleted_ends_no_job(world: World, has_failed: bool) -> None:
    """Its deadline is over, but it never held the job, which waits in another turn, for the next dispatcher as well."""
    job_id = await world.ask()
    world.fake.refusals["delete", "jobs"] = Refusal(500, "InternalError", "etcdserver: request timed out")
    async with world.dispatching() as dispatcher:
        kubelet = await world.pod()
        kubelet.run()
        (first,) = world.fake.objects()
        await world.until_said(job_id, "started on the node")
        kubelet.exceed_deadline()
        if has_failed:
            kubelet.fail("DeadlineExceeded", "Job was active longer than specified deadline")
        world.later_by(11 if has_failed else 301)
        await until(lambda: dispatcher.problem is not None)
    assert (await job_of(world.shop, job_id)).attempt == 1
    world.fake.refusals.clear()
    async with world.dispatching():
        await until(lambda: world.later_by(11) and first not in world.fake.objects())
    job = await job_of(world.shop, job_id)
    assert (job.state, job.attempt) == ("queued", 1)


async def test_an_object_from_before_a_pause_that_never_held_the_job_does_not_end_it(world: World) -> None:
    """The job was paused and resumed before the pod had begun with it, so it waits for another one."""
    job_id = await world.ask()
    async with world.dispatching():
        kubelet = await world.pod()
        kubelet.run()
        await world.until_said(job_id, "started on the node")
    for wanted in ("pause", "run"):
        await world.shop.jobs.wish(job_id, wanted, actor="ann")
    kubelet.exceed_deadline()
    async with world.dispatching():
        await until(lambda: len(world.fake.objects()) == 2)
    assert await world.state(job_id) == "queued"


@pytest.mark.parametrize(
    ("deadline", "words"),
    [("  activeDeadlineSeconds: 600\n", "its deadline of 600 s"), ("", "its deadline")],
    ids=["said", "not said"],
)
async def test_the_deadline_that_is_told_of_is_the_objects_own(world: World, deadline: str, words: str) -> None:
    """A template or a runtime may have set it, and an object may be older than the setting."""
    job_id = await world.ask()
    template = template_of(world.folder, JOB_TEMPLATE.replace("spec:\n", f"spec:\n{deadline}", 1))
    async with world.dispatching(template):
        kubelet = await world.pod()
        kubelet.run()
        (name,) = world.fake.objects()
        await world.held(job_id, name)
        kubelet.exceed_deadline()
        await until(world.until_in(job_id, "failed"))
    error = (await job_of(world.shop, job_id)).error
    assert error is not None
    assert error["message"] == f"it took longer than {words} allows"


@pytest.mark.parametrize("exceed", DEADLINES)
async def test_a_deadline_from_before_a_pause_is_not_the_jobs(world: World, exceed: Deadline) -> None:
    """A paused job has no object; resumed, it gets another one."""
    job_id = await world.ask()
    async with world.dispatching():
        kubelet = await world.pod()
        kubelet.run()
        (first,) = world.fake.objects()
        worker = await world.held(job_id, first)
        await world.shop.jobs.wish(job_id, "pause", actor="ann")
        await world.shop.jobs.end(job_id, worker, "paused", "The job is paused")
        exceed(kubelet)
        await until(lambda: world.later_by(11) and first not in world.fake.objects())
        assert await world.state(job_id) == "paused"
        await world.shop.jobs.wish(job_id, "run", actor="ann")
        (second,) = await world.made()
    assert first != second
    assert await world.state(job_id) == "queued"


async def test_a_deadline_of_another_tuners_object_is_not_the_jobs(world: World) -> None:
    """The job was taken by a tuner that runs all the time, which no Job's deadline is for."""
    job_id = await world.ask()
    async with world.dispatching():
        kubelet = await world.pod()
        kubelet.run()
        (name,) = world.fake.objects()
        await world.held(job_id, "another")
        kubelet.exceed_deadline()
        kubelet.pods_end()
        world.later_by(11)
        await world.until_gone(name)
    assert await world.state(job_id) == "validating_files"


def _uids(world: World) -> list[str]:
    """Of the objects that are there."""
    return [made["metadata"]["uid"] for made in world.fake.objects().values()]
