"""What webhooks are told of the loop, before a whole gateway: each change once, after it was made, and no other."""

from typing import Any

import msgspec
import pytest

from monitors.loop.store import load, save
from monitors.webhooks.holding import release
from monitors.webhooks.hooks import Webhooks
from registry.database import writing
from tests.conftest import RunningGateway
from tests.monitors.loop.conftest import Begin, Tuner
from tests.monitors.loop.stories import NOW, WORSE, Killed, Points, World
from tests.monitors.webhooks.rows import deliveries

URL = "https://example.com/hook"


class Dying(Points):
    """Kills the monitor before it asks for a job or changes a deployment."""

    async def __call__(self, place: str) -> None:
        """The monitor is there now."""
        if place.startswith(("before PATCH", "before POST /v1/fine_tuning")):
            raise Killed


async def told(world: World) -> list[tuple[str, str]]:
    """Events with their states, by their decisions, once those that wait for a change have had their chance."""
    await release(world.database, NOW)
    rows = await deliveries(world.database)
    rows.sort(key=lambda row: (row.body["data"]["decision"], row.event))
    return [(row.event, row.state) for row in rows]


async def said(world: World, event: str) -> Any:
    """What is told of the one event of that name."""
    (row,) = [row for row in await deliveries(world.database) if row.event == event]
    return row.body["data"]


async def killed_before_its_job(world: World, begin: Begin) -> str:
    """An adapter whose training is decided, and not asked for yet."""
    await Webhooks(world.database).add(URL, actor="ann")
    name = await begin("support")
    with pytest.raises(Killed):
        await world.turn(name, world.job(Dying()))
    assert await told(world) == [("retrain_begun", "held")]
    return name


async def test_the_whole_story_is_told(world: World, begin: Begin, tuner: Tuner) -> None:
    """Each event once, with the job and the revision that there are by then."""
    await Webhooks(world.database).add(URL, actor="ann")
    name, job = await begin("support"), world.job()
    for _ in range(8):
        await world.turn(name, job)
        await tuner(name)
        await told(world)
    assert await told(world) == [
        ("retrain_begun", "queued"),
        ("retrain_ended", "queued"),
        ("rollout_begun", "queued"),
        ("promoted", "queued"),
    ]
    (asked,) = await world.jobs(name)
    begun, ended = await said(world, "retrain_begun"), await said(world, "retrain_ended")
    assert (begun["job"], ended["job"]) == (asked.id, asked.id)
    assert begun["links"]["job"] == f"/v1/fine_tuning/jobs/{asked.id}"
    revisions = {row.number: row.decision for row in await world.registry.history(name)}
    for event in ("rollout_begun", "promoted"):
        data = await said(world, event)
        assert (data["version"], revisions[data["revision"]]) == (2, data["decision"])


async def test_a_rollback_is_told(world: World, begin: Begin, tuner: Tuner) -> None:
    """With its outcome and its revision."""
    await Webhooks(world.database).add(URL, events=["rolled_back"], actor="ann")
    name, job = await begin("support"), world.job()
    while (await world.kept(name)).state.phase != "rolling_out":
        await world.turn(name, job)
        await tuner(name)
    world.told.beside[name] = WORSE
    await world.turn(name, job)
    assert await told(world) == [("rolled_back", "queued")]
    data = await said(world, "rolled_back")
    assert (data["outcome"], data["version"], data["revision"]) == ("worse_than_stable", 2, 3)


async def test_a_person_s_change_is_told_as_a_pause(
    world: World, gateway: RunningGateway, begin: Begin, tuner: Tuner
) -> None:
    """For from then on nothing happens by itself."""
    await Webhooks(world.database).add(URL, events=["paused"], actor="ann")
    name, job = await begin("support"), world.job()
    while (await world.kept(name)).state.phase != "rolling_out":
        await world.turn(name, job)
        await tuner(name)
    answer = await gateway.http.post(f"/admin/v1/adapters/{name}/rollback", json={"reason": "no"})
    assert answer.status_code == 200, answer.text
    await world.turn(name, job)
    assert await told(world) == [("paused", "queued")]


async def test_what_is_not_done_yet_is_not_told(world: World, begin: Begin) -> None:
    """A monitor is killed between a decision and what it was about: the next one does that, and then it is told."""
    name = await killed_before_its_job(world, begin)
    await world.turn(name, world.job())
    assert await told(world) == [("retrain_begun", "queued")]


async def test_what_is_dropped_is_never_told(world: World, gateway: RunningGateway, begin: Begin) -> None:
    """A freeze comes between a decision and what it was about."""
    name = await killed_before_its_job(world, begin)
    assert (await gateway.http.put("/admin/v1/freeze", json={"reason": "a holiday"})).is_success
    await world.turn(name, world.job())
    assert ("wait", "dropped") in await world.decisions(name)
    assert await told(world) == []


async def test_what_something_urgent_replaced_is_never_told(world: World, begin: Begin) -> None:
    """A decision that waited for the gateway gives way to one that does not wait."""
    name = await killed_before_its_job(world, begin)
    async with writing(world.database) as connection:
        kept = await load(connection, name, locked=True)
        assert kept.pending is not None
        other = msgspec.structs.replace(kept.pending, decision=kept.pending.decision + 1)
        await save(connection, name, msgspec.structs.replace(kept, pending=other), NOW)
    assert await told(world) == []
