"""A dispatcher: every job that waits has one object in the cluster, no other has, and a restart changes nothing."""

import pytest

from tests.conftest import until
from tests.fakes.kubernetes import Refusal
from tests.tuner.cluster.conftest import JOB_TEMPLATE, TRAIN_JOB_TEMPLATE, World, template_of
from tests.tuner.shops import job_of, shop_of, stages, write
from tuner.worker import Worker

# --- what is made ------------------------------------------------------------------------------------------------


async def test_a_job_that_waits_becomes_one_object(world: World) -> None:
    """It stays queued; the object carries what the template says and which job it does."""
    job_id = await world.ask()
    async with world.dispatching() as dispatcher:
        (name,) = await world.made()
        await world.until_said(job_id, f"Job {name} was made; the job begins when its pod does")
        assert dispatcher.problem is None
    assert await world.state(job_id) == "queued"
    made = world.fake.objects()[name]
    assert made["spec"]["template"]["spec"]["containers"][0]["args"] == ["tuner", "--job", job_id]
    assert world.fake.asked.count(("create", "jobs")) == 1


async def test_a_job_goes_from_the_queue_to_its_success_in_a_pod(world: World) -> None:
    """The pod's tuner claims it; once it has ended, its object is deleted and the store tidied up."""
    job_id = await world.ask()
    async with world.dispatching():
        kubelet = await world.pod()
        kubelet.place()
        kubelet.run()
        await world.until_said(job_id, f"Pod {kubelet.pod} started on the node gpu-1")
        (name,) = world.fake.objects()
        in_pod = world.settings.model_copy(update={"tuner_name": name})
        worker = Worker(shop_of(in_pod, world.shop.jobs._engine), stages())
        assert await worker.do(job_id) == "succeeded"
        assert name in world.fake.objects()  # it lets the pod end by itself
        kubelet.end(0)
        await world.until_gone(name)
        await until(lambda: world.swept > 0)
    assert await world.state(job_id) == "succeeded"
    assert "tried again" not in await world.said(job_id)


async def test_no_more_pods_than_may_be_at_once(world: World) -> None:
    """The next job's is made when one has finished, and those that wait longest come first."""
    jobs = [await world.ask(f"adapter-{number}") for number in range(3)]
    async with world.dispatching(tuner_max_pods=2):
        first, _ = await world.made(2)
        await until(lambda: world.metrics.get_sample_value("ostler_tuning_cluster_objects", {"state": "pending"}) == 2)
        made_for = {made["metadata"]["annotations"]["ostler/job"] for made in world.fake.objects().values()}
        assert made_for == set(jobs[:2])
        await world.shop.jobs.wish(jobs[0], "cancel", actor="ann")
        await world.until_gone(first)
        await world.made(2)
    assert jobs[2] in {made["metadata"]["annotations"]["ostler/job"] for made in world.fake.objects().values()}


async def test_an_adapters_next_job_waits_for_the_one_before(world: World) -> None:
    """As it does with tuners on machines: an adapter has one job at work."""
    await world.ask()
    second = await world.ask()
    async with world.dispatching():
        (name,) = await world.made()
        await until(lambda: world.swept > 0)
    assert second not in str(world.fake.objects()[name])


async def test_objects_of_others_are_left_alone(world: World) -> None:
    """Of another database, or of another base model: their own dispatcher looks after them."""
    job_id = await world.ask()
    await world.shop.jobs.wish(job_id, "cancel", actor="ann")
    job = await job_of(world.shop, job_id)
    theirs = world.template.of(job, "tuning")
    theirs["metadata"]["annotations"]["ostler/job"] = "ftjob-unknown"
    theirs["metadata"] |= {"name": "theirs", "uid": "1"}
    world.fake.put("jobs", theirs)
    ours = world.template.of(job, "tuning")
    ours["metadata"]["uid"] = "2"
    world.fake.put("jobs", ours)
    async with world.dispatching():
        await world.until_gone(ours["metadata"]["name"])
        await until(lambda: world.swept > 0)
    assert list(world.fake.objects()) == ["theirs"]
    await write(world.shop, job_id, base="other")
    ours = world.template.of(job, "tuning")
    ours["metadata"]["uid"] = "3"
    world.fake.put("jobs", ours)
    async with world.dispatching():
        await until(lambda: world.swept > 1)
    assert len(world.fake.objects()) == 2


# --- restarts, and more than one ---------------------------------------------------------------------------------


async def test_a_dispatcher_that_was_killed_before_it_told_makes_nothing_twice(world: World) -> None:
    """The object's name follows from the job's row, so the next one finds it, and tells what was not told."""
    job_id = await world.ask()
    made = world.template.of(await job_of(world.shop, job_id), "tuning")
    made["metadata"]["uid"] = "1"
    world.fake.put("jobs", made)
    async with world.dispatching():
        kubelet = await world.pod()
        kubelet.run()
        await world.until_said(job_id, "started on the node")
    async with world.dispatching():
        await until(lambda: world.swept > 1)
    assert list(world.fake.objects()) == [made["metadata"]["name"]]
    assert (await world.said(job_id)).count("started on the node") == 1
    assert ("create", "jobs") not in world.fake.asked


async def test_two_dispatchers_make_it_once_and_tell_it_once(world: World) -> None:
    """Whoever comes second is told that it exists, which is fine."""
    jobs = [await world.ask(f"adapter-{number}") for number in range(3)]
    async with world.dispatching(), world.dispatching():
        names = await world.made(3)
        for name in names:
            world.fake.warn(world.fake.objects()[name], "any", "any")
        await until(lambda: world.swept > 1)
    assert len(world.fake.objects()) == 3
    for job_id in jobs:
        assert (await world.said(job_id)).count("was made") == 1


async def test_an_object_that_exists_already_is_no_failure(world: World) -> None:
    """Its maker's answer was lost, and the mirror has not heard of it yet."""
    job_id = await world.ask()
    world.fake.refusals["create", "jobs"] = Refusal(409, "AlreadyExists", 'jobs.batch "it" already exists')
    async with world.dispatching() as dispatcher:
        await until(lambda: world.fake.asked.count(("create", "jobs")) > 1)
        assert dispatcher.problem is None
    assert "cannot be made" not in await world.said(job_id)


async def test_pods_of_a_template_that_was_mended_are_made_anew(world: World) -> None:
    """Such as with an image that can be pulled; it costs the job no attempt, and what runs is left alone."""
    job_id = await world.ask()
    async with world.dispatching():
        kubelet = await world.pod()
        kubelet.wait_for("ImagePullBackOff")
        await world.until_said(job_id, "its image cannot be pulled (ImagePullBackOff)")
        (before,) = [made["metadata"]["uid"] for made in world.fake.objects().values()]
    mended = template_of(world.folder, JOB_TEMPLATE.replace("0.1.0", "0.1.1"))
    async with world.dispatching(mended):
        await until(lambda: before not in str(dict(world.fake.objects())) and world.fake.objects())
        kubelet = await world.pod()
        kubelet.run()
        await world.until_said(job_id, "started on the node")
    (running,) = world.fake.objects()
    async with world.dispatching():
        await until(lambda: world.swept > 2)
    assert list(world.fake.objects()) == [running]
    assert (await job_of(world.shop, job_id)).attempt == 0


# --- wishes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("wish", "state"), [("cancel", "cancelled"), ("pause", "paused")])
async def test_a_wish_before_the_pod_has_begun_deletes_the_object(world: World, wish: str, state: str) -> None:
    """The job is so at once, as nobody is at work on it."""
    job_id = await world.ask()
    async with world.dispatching():
        kubelet = await world.pod()
        kubelet.cannot_place("0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")
        await world.until_said(job_id, "3 Insufficient nvidia.com/gpu")
        await world.shop.jobs.wish(job_id, wish, actor="ann")
        await world.until_gone(kubelet.made["metadata"]["name"])
    assert await world.state(job_id) == state
    assert not world.fake.objects("pods")
    assert "deleted" not in await world.said(job_id)


async def test_a_wish_at_work_is_the_pods_to_carry_out(world: World) -> None:
    """The object stays until its pod has ended; a pod that goes on for ever is deleted in the end."""
    job_id = await world.ask()
    async with world.dispatching():
        kubelet = await world.pod()
        kubelet.run()
        (name,) = world.fake.objects()
        worker = await world.held(job_id, name)
        await world.shop.jobs.wish(job_id, "cancel", actor="ann")
        await until(lambda: world.swept > 0)
        await world.shop.jobs.end(job_id, worker, "cancelled", "The job was cancelled")
        metric = ("ostler_tuning_cluster_objects", {"state": "running"})
        await until(lambda: world.metrics.get_sample_value(*metric) == 1)
        assert name in world.fake.objects()
        await until(lambda: world.later_by(61) and name not in world.fake.objects())
    assert await world.state(job_id) == "cancelled"


async def test_a_paused_job_that_is_resumed_gets_another_object(world: World) -> None:
    """The first one's name is not in its way, though its attempt is the same."""
    job_id = await world.ask()
    async with world.dispatching():
        kubelet = await world.pod()
        kubelet.run()
        (first,) = world.fake.objects()
        worker = await world.held(job_id, first)
        await world.shop.jobs.end(job_id, worker, "paused", "The job is paused", attempt=0)
        kubelet.end(0)
        await world.until_gone(first)
        await world.shop.jobs.wish(job_id, "run", actor="ann")
        (second,) = await world.made()
    assert first != second


# --- a TrainJob --------------------------------------------------------------------------------------------------


async def test_a_template_of_several_machines_becomes_a_trainjob(world: World) -> None:
    """Its pods are found by their JobSet's name, and its conditions read as a Job's are."""
    world.template = template_of(world.folder, TRAIN_JOB_TEMPLATE)
    job_id = await world.ask()
    async with world.dispatching():
        kubelet = await world.pod()
        kubelet.run()
        await world.until_said(job_id, f"Pod {kubelet.pod} started on the node")
        (name,) = world.fake.objects("trainjobs")
        kubelet.end(1)
        await world.until_gone(name)
        await world.until_said(job_id, "its tuner ended with the exit code 1")
    assert (await job_of(world.shop, job_id)).attempt == 1
    assert world.fake.asked.count(("create", "jobs")) == 0


async def test_what_a_queue_holds_back_is_told(world: World) -> None:
    """Such as Kueue's, until there is quota; it is nobody's fault and costs no attempt."""
    job_id = await world.ask()
    async with world.dispatching():
        (name,) = await world.made()
        kubelet = await world.pod()
        world.fake.remove("pods", kubelet.pod)
        kubelet.suspend()
        await world.until_said(job_id, f"Job {name} is held back, as by a queue until there is room in it")
    assert (await job_of(world.shop, job_id)).attempt == 0
