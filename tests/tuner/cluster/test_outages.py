"""A dispatcher whose API server is away, forgets, or refuses: nothing is lost, and what is wrong is said in words."""

from datetime import timedelta

import pytest
from sqlalchemy import text

from registry.database import connect
from tests.conftest import until
from tests.fakes.kubelet import Kubelet
from tests.fakes.kubernetes import Refusal
from tests.tuner.cluster.conftest import World
from tests.tuner.shops import end_lease, job_of, write


async def test_an_api_server_that_is_down_loses_nothing(world: World) -> None:
    """What happened meanwhile is seen, and what was asked for meanwhile is made, once it is back."""
    first = await world.ask("first")
    async with world.dispatching() as dispatcher:
        kubelet = await world.pod()
        world.fake.go_down()
        await until(lambda: dispatcher.problem == "the cluster's API server does not answer")
        second = await world.ask("second")
        kubelet.run()
        kubelet.end(137, "OOMKilled")
        tries = len(world.fake.asked)
        await until(lambda: len(world.fake.asked) > tries + 2)
        world.fake.come_back()
        await world.until_said(first, "OOMKilled")
        await world.until_said(second, "was made")
        await until(lambda: dispatcher.problem is None)
        await until(lambda: len(world.fake.objects()) == 2)
    assert (await job_of(world.shop, first)).attempt == 1


async def test_an_api_server_that_is_down_for_a_minute_costs_no_attempt(world: World) -> None:
    """Leases end, pods begin and jobs come meanwhile: what is true once it is back is what counts."""
    lost, begins = await world.ask("lost"), await world.ask("begins")
    async with world.dispatching(tuner_claim_s=120.0) as dispatcher:
        first, second = await world.made(2)
        kubelets = [Kubelet(world.fake, name) for name in (first, second)]
        for kubelet in kubelets:
            kubelet.make_pod()
            kubelet.run()
        worker = await world.held(lost, first)
        for job_id in (lost, begins):
            await world.until_said(job_id, "started on the node")
        world.fake.go_down()
        await until(lambda: dispatcher.problem == "the cluster's API server does not answer")
        world.later_by(61)
        kubelets[0].end(137, "OOMKilled")
        await end_lease(world.shop, lost)
        comes = await world.ask("comes")
        await world.look_again()
        assert await world.held(begins, second) != worker
        world.later_by(60)
        await world.look_again()
        assert len(world.fake.objects()) == 2
        world.fake.come_back()
        await world.until_said(comes, "was made")
        await world.until_said(lost, "needed more memory than its limit allows (OOMKilled)")
        await world.until_gone(first)
        await world.made(3)
        await until(lambda: dispatcher.problem is None)
        await world.look_again()
    assert second in world.fake.objects()
    assert [(await job_of(world.shop, job_id)).attempt for job_id in (lost, begins, comes)] == [1, 1, 0]
    assert await world.state(begins) == "validating_files"


async def test_a_server_that_forgot_is_listed_again(world: World) -> None:
    """410 Gone: what changed and what disappeared in between is noticed all the same."""
    jobs = [await world.ask("first"), await world.ask("second")]
    async with world.dispatching():
        names = await world.made(2)
        await until(lambda: world.swept > 0)
        world.fake._history.clear()  # as far as watches are concerned, it never happened
        world.fake._objects["jobs"].pop(names[0])
        world.fake.forget_history()
        await world.until_said(jobs[0], f"Job {names[0]} was deleted before it had finished")
        await until(lambda: len(world.fake.objects()) == 2)
    assert (await job_of(world.shop, jobs[1])).attempt == 0
    assert world.fake.asked.count(("list", "jobs")) >= 2


@pytest.mark.parametrize("verb", ["list", "create", "delete"])
async def test_a_right_that_the_service_account_lacks_is_named(world: World, verb: str) -> None:
    """The verb and the resource, for whoever writes its role; with the right given, all goes on."""
    world.fake.forbid(verb, "jobs")
    job_id = await world.ask()
    words = f"the tuner's service account may not {verb} jobs.batch in its namespace: its role lacks that verb"
    async with world.dispatching() as dispatcher:
        if verb == "delete":
            await world.made()
            await world.shop.jobs.wish(job_id, "cancel", actor="ann")
        await until(lambda: dispatcher.problem == words)
        if verb == "create":
            await world.until_said(job_id, f"The Job of this job cannot be made: {words}")
        world.fake.refusals.clear()
        await until(lambda: dispatcher.problem is None)
        await until(lambda: len(world.fake.objects()) == (verb != "delete"))


async def test_a_template_that_the_server_refuses_is_told(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Clients read that; the server's own words, which may quote the template, are in the log alone."""
    said = 'Job.batch "it" is invalid: spec.template.spec.containers[0].image: Required value'
    world.fake.refusals["create", "jobs"] = Refusal(422, "Invalid", said)
    jobs = [await world.ask("first"), await world.ask("second")]
    async with world.dispatching():
        for job_id in jobs:
            await world.until_said(job_id, "cannot be made: the cluster refuses to create jobs.batch (422)")
        assert "Required value" not in await world.said(jobs[0])
    assert said in caplog.text


async def test_a_quota_that_keeps_the_pod_away_is_told(world: World) -> None:
    """Only the cluster's events know of it; pods' names, which change with each try, are left out."""
    job_id = await world.ask()
    async with world.dispatching():
        (name,) = await world.made()
        for suffix in ("aaaaa", "bbbbb"):
            words = f'Error creating: pods "{name}-{suffix}" is forbidden: exceeded quota: gpus, used: 8, limited: 8'
            world.fake.warn(world.fake.objects()[name], "FailedCreate", words)
        world.ahead = timedelta(seconds=11)
        await world.until_said(job_id, f"Job {name} has no pod yet: exceeded quota: gpus, used: 8, limited: 8")


async def test_without_the_right_to_list_events_only_the_reason_is_missing(world: World) -> None:
    """Nothing else fails for it."""
    world.fake.forbid("list", "events")
    job_id = await world.ask()
    async with world.dispatching() as dispatcher:
        await world.made()
        world.ahead = timedelta(seconds=11)
        await until(lambda: ("list", "events") in world.fake.asked)
        assert dispatcher.problem is None
    assert await world.state(job_id) == "queued"


async def test_the_last_lines_of_a_failed_pod_are_for_operators(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """They may hold anything, so all are in the dispatcher's log, and in events only what the tuner itself has said."""
    job_id = await world.ask()
    async with world.dispatching():
        kubelet = await world.pod()
        lines = [f"line {number}" for number in range(30)]
        world.fake.logs[kubelet.pod] = "\n".join(
            [*lines, "error: there is no folder /models/secret of the base model tiny"]
        )
        kubelet.run()
        (name,) = world.fake.objects()
        kubelet.end(1)
        await world.until_gone(name)
    assert "line 29" in caplog.text
    assert "line 9\n" not in caplog.text
    assert "line 29" not in await world.said(job_id)
    events = await world.shop.events.listed(job_id, limit=1000)
    (told,) = [event for event in events if " wrote: " in event.message]
    assert (told.level, told.message) == ("warn", f"Pod {kubelet.pod} wrote: there is no folder (…)")


async def test_a_database_that_is_away_is_waited_for(world: World) -> None:
    """The cluster goes on as it is meanwhile."""
    async with world.dispatching() as dispatcher:
        await until(lambda: dispatcher.problem is None)
        engine = connect(world.settings.database)
        for name, problem in (("wanted TO gone", True), ("gone TO wanted", False)):
            async with engine.begin() as connection:
                await connection.execute(text(f"ALTER TABLE tuning_jobs RENAME COLUMN {name}"))
            await until(lambda problem=problem: (dispatcher.problem is not None) is problem)  # type: ignore[misc]
        await engine.dispose()
        job_id = await world.ask()
        await world.made()
    await write(world.shop, job_id, state="cancelled")
