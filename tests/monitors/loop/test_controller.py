"""The controller before a real gateway: what it does, what comes before it, and what it cannot do."""

import asyncio
import json
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from monitors.loop import approvals
from monitors.loop.acting import ACTOR
from monitors.loop.seen import Labels
from monitors.loop.state import Learned, LoopState
from monitors.loop.store import Kept, load, save
from monitors.watch.client import GatewayRefused
from registry.catalog import Adapter, Catalog
from registry.database import writing
from tests.conftest import RunningGateway
from tests.monitors.loop.conftest import Begin, Tuner
from tests.monitors.loop.stories import (
    ACTS,
    NOW,
    RETRAIN,
    ROLLOUT,
    WORSE,
    CountedClient,
    Killed,
    Looked,
    Points,
    Told,
    World,
    label,
)
from tests.ostler.in_process import QuickCli

ADVISES = msgspec.structs.replace(ACTS, mode="advise")
APPROVED = msgspec.structs.replace(ACTS, retrain=msgspec.structs.replace(RETRAIN, approval=True))
CANARY = {"canary": {"version": 2, "weight": 0.1}}


class Lost(CountedClient):
    """A client whose connection breaks after the gateway has changed a deployment, before it answers."""

    async def _answer(self, method: str, path: str, **arguments: Any) -> Any:
        answer = await super()._answer(method, path, **arguments)
        if path.endswith(("/deployment", "/rollback")):
            raise GatewayRefused("it did not answer")
        return answer


async def to_canary(world: World, name: str, tuner: Tuner) -> None:
    """Take the loop to its first canary."""
    job = world.job()
    while (await world.kept(name)).state.phase != "rolling_out":
        await world.turn(name, job)
        await tuner(name)


async def patch(gateway: RunningGateway, name: str, body: dict[str, Any]) -> None:
    """A person's change."""
    answer = await gateway.http.patch(f"/admin/v1/adapters/{name}/deployment", json=body)
    assert answer.status_code == 200, answer.text


async def outcome(world: World, name: str) -> str:
    """The newest verdict's."""
    return str(((await world.kept(name)).verdict or {})["outcome"])


async def test_the_whole_story(world: World, begin: Begin, tuner: Tuner) -> None:
    """Alarm, training, canary by steps, promotion, holdback, and watching again; the job says why it was asked for."""
    name, job = await begin("support"), world.job()
    for _ in range(8):
        await world.turn(name, job)
        await tuner(name)
    assert await world.decisions(name) == [
        ("retrain", "begun"),
        ("begin_rollout", "begun"),
        ("next_step", "step"),
        ("promote", "promoted"),
        ("wait", "holds_back"),
        ("end_holdback", "held"),
        ("wait", "quality_holds"),
    ]
    (asked,) = await world.jobs(name)
    assert "Quality was lost" in asked.order["reason"]
    kept = await world.kept(name)
    assert (kept.state.phase, kept.state.cycle) == ("watching", 1)
    assert (kept.state.learned_by(1), kept.state.learned_by(2)) == (None, kept.state.labels_until)


async def test_a_worse_canary_goes_back(world: World, begin: Begin, tuner: Tuner) -> None:
    """By the same call as a person's; the loop watches again."""
    name = await begin("support")
    await to_canary(world, name, tuner)
    world.told.beside[name] = WORSE
    await world.turn(name, world.job())
    assert (await world.revisions(name))[-1] == ("rollback", 1, None, None, True)
    kept = await world.kept(name)
    assert (kept.state.phase, kept.state.revision) == ("watching", 3)


async def test_a_worse_version_goes_back_from_its_holdback(world: World, begin: Begin, tuner: Tuner) -> None:
    """The old version serves everyone again."""
    name, job = await begin("support"), world.job()
    while (await world.kept(name)).state.phase != "holding_back":
        await world.turn(name, job)
        await tuner(name)
    world.told.beside[name] = WORSE
    await world.turn(name, job)
    assert (await world.revisions(name))[-1] == ("rollback", 1, None, None, True)


async def test_a_person_rolls_back_in_the_middle(
    world: World, gateway: RunningGateway, begin: Begin, tuner: Tuner, tmp_path: Path
) -> None:
    """That stands, the loop is paused for the adapter, and says so; so does `ostler why`."""
    name = await begin("support")
    await to_canary(world, name, tuner)
    answer = await gateway.http.post(f"/admin/v1/adapters/{name}/rollback", json={"reason": "no"})
    assert answer.status_code == 200
    before, job = await world.revisions(name), world.job()
    for _ in range(4):
        await world.turn(name, job)
    assert await world.revisions(name) == before
    stop = (await world.registry.stops())[name]
    assert stop.actor == ACTOR
    assert "test (key_" in stop.reason
    assert await outcome(world, name) == "paused"
    assert ("stand_back", "person") in await world.decisions(name)
    shown = " ".join((await QuickCli(gateway, tmp_path)("why", name)).out.split())
    assert "changed the deployment (revision 3) while the loop was rolling out. That stands" in shown
    for words in ("now It is paused: by ostler (test (key_", "stand back", f"changes it `ostler resume {name}`"):
        assert words in shown, shown


@pytest.mark.parametrize("how", ["paused", "off"])
async def test_one_resume_is_enough(
    world: World, gateway: RunningGateway, begin: Begin, tuner: Tuner, how: str
) -> None:
    """After a person has rolled back while the loop was stopped, or its mode was `off`, it goes on from there."""
    name, job = await begin("support"), world.job()
    await to_canary(world, name, tuner)
    world.told.bad[name] = 0
    if how == "paused":
        await world.registry.stop(name, actor="ann")
    else:
        await world.registry.change_policy(name, lambda _: msgspec.structs.replace(ACTS, mode="off"), actor="ann")
    answer = await gateway.http.post(f"/admin/v1/adapters/{name}/rollback", json={"reason": "no"})
    assert answer.status_code == 200
    for _ in range(2):
        await world.turn(name, job)
    assert (await world.kept(name)).state.phase == "watching"
    await world.registry.go_on(name, actor="ann")
    await world.registry.change_policy(name, lambda _: ACTS, actor="ann")
    for _ in range(2):
        await world.turn(name, job)
    assert await world.registry.stops() == {}
    assert await outcome(world, name) == "quality_holds"
    assert ("take_up", "person") in await world.decisions(name)


async def test_a_person_is_first_between_decision_and_act(
    world: World, gateway: RunningGateway, begin: Begin, tuner: Tuner
) -> None:
    """The gateway refuses what was decided on what is no more, and the loop stands back."""
    name = await begin("support")
    await to_canary(world, name, tuner)

    class Slow(Points):
        async def __call__(self, place: str) -> None:
            if place.startswith("before PATCH") and not self.passed:
                self.passed.append(place)
                await patch(gateway, name, {"canary": {"version": 2, "weight": 0.3}})

    await world.turn(name, world.job(Slow()))
    assert (await world.revisions(name))[-1] == ("canary", 1, 2, 0.3, False)
    assert await outcome(world, name) == "dropped"
    await world.turn(name, world.job())
    assert (await world.revisions(name))[-1] == ("canary", 1, 2, 0.3, False)
    assert name in await world.registry.stops()


@pytest.mark.parametrize("everything", [True, False])
async def test_after_a_stop_nothing_changes(world: World, begin: Begin, tuner: Tuner, *, everything: bool) -> None:
    """Stopped before each call of the gateway in turn: what it would have changed stays; after the stop it goes on."""
    name, stopped = await begin("support"), None if everything else "support"
    places: list[str] = []

    class Stopping(Points):
        async def __call__(self, place: str) -> None:
            kept = await world.kept(name)
            act = kept.pending.verdict.act if kept.pending else ""
            shown = f"{act} {place}"
            if place.startswith("before P") and shown not in places:
                places.append(shown)
                await world.registry.stop(stopped, actor="ann", reason="a holiday")

    for _ in range(40):
        before = (await world.revisions(name), len(await world.jobs(name)))
        seen = len(places)
        await world.turn(name, world.job(Stopping()))
        if len(places) > seen:
            assert (await world.revisions(name), len(await world.jobs(name))) == before, places
            assert (await world.kept(name)).pending is None
            await world.turn(name, world.job())
            assert await outcome(world, name) == ("frozen" if everything else "paused")
            assert (await world.revisions(name), len(await world.jobs(name))) == before
            await world.registry.go_on(stopped, actor="ann")
        await tuner(name)
        if (await world.decisions(name))[-1][0] == "end_holdback":
            break
    assert len(await world.revisions(name)) == 5
    assert {place.split()[0] for place in places} >= {"retrain", "begin_rollout", "next_step", "promote"}


async def test_advice_changes_nothing(world: World, begin: Begin) -> None:
    """What would be done is recorded once."""
    name, points = await begin("support", ADVISES), Points()
    for _ in range(3):
        await world.turn(name, world.job(points))
    assert points.passed == []
    assert await world.decisions(name) == [("retrain", "would_retrain")]
    assert len(await world.revisions(name)) == 1
    assert (await world.kept(name)).state.phase == "watching"


async def test_a_person_s_canary_is_watched_and_in_advice_only_told_of(
    world: World, gateway: RunningGateway, begin: Begin
) -> None:
    """The one is taken back, with what else was set at that time left as it is; the other stays."""
    world.told.bad |= {"watched": 0, "advised": 0}
    for name, policy, last in (("watched", ACTS, (1, None)), ("advised", ADVISES, (1, 2))):
        await begin(name, policy, versions=2)
        await patch(gateway, name, CANARY | {"fallback": "base"})
        world.told.beside[name] = WORSE
        for _ in range(3):
            await world.turn(name, world.job())
        revision = (await world.registry.history(name))[0]
        assert (revision.stable, revision.canary) == last
        assert revision.fallback == ["base"]
        told = await world.decisions(name)
        assert told[:2] == [
            ("watch_canary", "adopted"),
            ("roll_back", "worse_than_stable" if name == "watched" else "would_roll_back"),
        ]


async def test_what_the_gateway_refuses_is_told_retried_and_given_up(
    world: World, gateway: RunningGateway, begin: Begin, tuner: Tuner
) -> None:
    """Once, with growing pauses, and after the policy's time for good."""
    rollout = msgspec.structs.replace(ROLLOUT, longest_h=1.0)
    name = await begin("support", msgspec.structs.replace(ACTS, rollout=rollout))
    job, points = world.job(), Points()
    await world.turn(name, job)
    await tuner(name)
    await gateway.registry.archive_version(name, 2, archived=True, actor="ann")
    job = world.job(points)
    for _ in range(70):
        await world.turn(name, job)
        if await outcome(world, name) == "given_up":
            break
    told = await world.decisions(name)
    assert told.count(("wait", "refused_by_gateway")) == 1
    assert told[-1] == ("end_cycle", "given_up")
    tries = sum(place.startswith("before PATCH") for place in points.passed)
    assert 10 <= tries <= 25  # a minute's turns, and pauses of 5 minutes in the end
    assert (await world.kept(name)).state.phase == "watching"
    assert len(await world.revisions(name)) == 1


async def test_a_burst_of_errors_comes_before_what_is_refused(
    world: World, gateway: RunningGateway, begin: Begin, tuner: Tuner
) -> None:
    """While a step waits to be tried again, the canary goes back."""
    name = await begin("support")
    await to_canary(world, name, tuner)

    class Refusing(CountedClient):
        async def _answer(self, method: str, path: str, **arguments: Any) -> Any:
            if method == "PATCH":
                path = "/admin/v1/adapters/nothing/deployment"
            return await super()._answer(method, path, **arguments)

    refusing = Refusing(world.url, world.key, Points())
    await world.turn(name, world.job(client=refusing))
    assert (await world.kept(name)).pending is not None
    world.now -= timedelta(minutes=1)  # so that it is not tried again yet
    world.told.errors[name] = replace(WORSE, mean=0.9)
    await world.turn(name, world.job(client=refusing))
    assert (await world.revisions(name))[-1] == ("rollback", 1, None, None, True)


async def test_a_slow_change_holds_up_no_other_adapter(
    world: World, gateway: RunningGateway, begin: Begin, tuner: Tuner
) -> None:
    """While one waits for its gateway, another's canary goes back."""
    other = await begin("other")
    await to_canary(world, other, tuner)
    slow = await begin("slow")
    hold, waits = asyncio.Event(), asyncio.Event()

    class Holding(CountedClient):
        async def _answer(self, method: str, path: str, **arguments: Any) -> Any:
            if "files" in path:
                waits.set()
                await hold.wait()
            return await super()._answer(method, path, **arguments)

    job = world.job(client=Holding(world.url, world.key, Points()))
    task = asyncio.create_task(job.run(await world.registry.catalog(), world.now + timedelta(minutes=1)))
    world.now += timedelta(minutes=2)
    await waits.wait()
    world.told.beside[other] = WORSE
    async with asyncio.timeout(20):
        while (await world.revisions(other))[-1][0] != "rollback":
            await asyncio.sleep(0.05)
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert len(await world.revisions(slow)) == 1


@pytest.mark.parametrize("answer", ["approved", "rejected"])
async def test_a_training_waits_for_a_person_s_answer(world: World, begin: Begin, answer: approvals.Answer) -> None:
    """It is asked for once; a refused one is not asked for."""
    name, job = await begin("support", APPROVED), world.job()
    for _ in range(3):
        await world.turn(name, job)
    assert await world.decisions(name) == [("ask", "asked"), ("wait", "not_approved")]
    assert await world.jobs(name) == []
    await approvals.answer(world.database, name, answer, actor="ann", now=world.now)
    await world.turn(name, job)
    last = ("retrain", "begun") if answer == "approved" else ("end_cycle", "refused")
    assert (await world.decisions(name))[2] == last
    assert len(await world.jobs(name)) == (answer == "approved")
    assert (await world.kept(name)).state.cycle == 1


async def test_what_somebody_uploads_under_the_name_of_the_data_is_not_trained_on(
    world: World, gateway: RunningGateway, begin: Begin
) -> None:
    """The loop knows its own by what is in it."""
    name = await begin("support")
    file = (f"loop-{name}-1.jsonl", b'{"messages": []}\n')
    sent = await gateway.http.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": file})
    assert sent.status_code == 200, sent.text
    await world.turn(name, world.job())
    (asked,) = await world.jobs(name)
    assert asked.order["training_file"] != sent.json()["id"]
    assert await world.files(name) == 2


async def test_what_was_done_without_an_answer_counts_as_done(world: World, begin: Begin, tuner: Tuner) -> None:
    """Also when all is frozen meanwhile, and a way back is not gone twice."""
    name = await begin("support")
    await to_canary(world, name, tuner)
    lost = Lost(world.url, world.key, Points())
    await world.turn(name, world.job(client=lost))
    assert (await world.kept(name)).pending is not None
    await world.registry.stop(None, actor="ann")
    world.now -= timedelta(minutes=1)  # so that it is not tried again yet
    await world.turn(name, world.job())
    kept = await world.kept(name)
    assert (kept.pending, kept.state.revision) == (None, 3)
    assert kept.state.rollout is not None
    assert kept.state.rollout.step == 1
    await world.registry.go_on(None, actor="ann")
    world.told.beside[name] = WORSE
    await world.turn(name, world.job(client=lost))
    for _ in range(3):
        world.told.bad[name] = 0
        await world.turn(name, world.job())
    assert (await world.revisions(name))[-2:] == [("canary", 1, 2, 0.5, True), ("rollback", 1, None, None, True)]
    assert (await world.kept(name)).state.phase == "watching"


async def test_what_was_learned_before_is_not_learned_again(
    world: World, gateway: RunningGateway, begin: Begin
) -> None:
    """A training has the labels since the one before; the tuner replays older rows as the job says."""
    name = await begin("support")
    async with writing(world.database) as connection:
        learned = Kept(LoopState(learned=(Learned(1, NOW - timedelta(minutes=30)),)))
        await save(connection, name, learned, NOW)
    await label(world.database, name, what="new-", when=NOW - timedelta(minutes=10))
    await world.turn(name, world.job())
    (asked,) = await world.jobs(name)
    content = await gateway.http.get(f"/v1/files/{asked.order['training_file']}/content")
    answers = {json.loads(line)["messages"][-1]["content"] for line in content.text.splitlines()}
    assert answers == {f"right {name}-new-{number}" for number in range(12)}


class Replacing(Points):
    """Has another monitor decide something else at a place; that is what is pending then."""

    def __init__(self, world: World, name: str, place: str) -> None:
        super().__init__()
        self._world, self._name, self._place = world, name, place

    async def __call__(self, place: str) -> None:
        """The monitor is there now."""
        if place == self._place:
            async with writing(self._world.database) as connection:
                kept = await load(connection, self._name, locked=True)
                assert kept.pending is not None
                other = msgspec.structs.replace(kept.pending, decision=kept.pending.decision + 100)
                await save(connection, self._name, msgspec.structs.replace(kept, pending=other), self._world.now)


@pytest.mark.parametrize("place", ["after POST /v1/files", "after POST /v1/fine_tuning/jobs"])
async def test_what_another_monitor_decided_meanwhile_stays(world: World, begin: Begin, place: str) -> None:
    """A monitor that lost its lease long ago settles only what it began itself."""
    name = await begin("support")
    await world.turn(name, world.job(Replacing(world, name, place)))
    kept = await world.kept(name)
    assert kept.pending is not None
    assert (kept.pending.decision > 100, kept.pending.file is None) == (True, "files" in place)
    assert (kept.state.phase, kept.state.job) == ("watching", None)
    assert len(await world.jobs(name)) == ("jobs" in place)


async def test_of_two_uploads_at_once_the_first_that_was_kept_is_asked_for(
    world: World, gateway: RunningGateway, begin: Begin
) -> None:
    """Both monitors ask for the same job then."""
    name = await begin("support")
    rows = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
    file = {"file": ("other.jsonl", rows * 12)}
    sent = (await gateway.http.post("/v1/files", data={"purpose": "fine-tune"}, files=file)).json()["id"]

    class Noting(Points):
        async def __call__(self, place: str) -> None:
            if place == "after POST /v1/files":
                async with writing(world.database) as connection:
                    kept = await load(connection, name, locked=True)
                    assert kept.pending is not None
                    noted = msgspec.structs.replace(kept.pending, file=sent)
                    await save(connection, name, msgspec.structs.replace(kept, pending=noted), world.now)

    await world.turn(name, world.job(Noting()))
    (asked,) = await world.jobs(name)
    assert asked.order["training_file"] == sent


async def test_what_another_monitor_did_at_the_same_moment_counts_as_done(
    world: World, gateway: RunningGateway, begin: Begin, tuner: Tuner
) -> None:
    """The gateway refuses the second of two; the revision names the decision, so that nobody stands back."""
    name = await begin("support")
    await to_canary(world, name, tuner)

    class Second(Points):
        async def __call__(self, place: str) -> None:
            pending = (await world.kept(name)).pending
            if place.startswith("before PATCH") and pending is not None:
                await patch(gateway, name, {"canary": {"version": 2, "weight": 0.5}, "decision": pending.decision})

    await world.turn(name, world.job(Second()))
    kept = await world.kept(name)
    assert (await world.revisions(name))[-1] == ("canary", 1, 2, 0.5, True)
    assert (kept.pending, kept.state.revision) == (None, 3)
    assert kept.state.rollout is not None
    assert kept.state.rollout.step == 1
    assert ("wait", "dropped") not in await world.decisions(name)


async def test_a_way_back_that_another_decision_has_gone_is_gone(
    world: World, gateway: RunningGateway, begin: Begin, tuner: Tuner
) -> None:
    """A second one would bring the worse version again."""
    name = await begin("support")
    await to_canary(world, name, tuner)
    world.told.beside[name] = WORSE

    class Dying(Points):
        async def __call__(self, place: str) -> None:
            if place.endswith("/rollback"):
                raise Killed

    with pytest.raises(Killed):
        await world.turn(name, world.job(Dying()))
    (asked,) = await world.jobs(name)
    other = int(asked.order["metadata"]["decision"])
    answer = await gateway.http.post(f"/admin/v1/adapters/{name}/rollback", json={"decision": other})
    assert answer.status_code == 200, answer.text
    await world.turn(name, world.job())
    assert [each[0] for each in await world.revisions(name)].count("rollback") == 1
    kept = await world.kept(name)
    assert (kept.state.phase, kept.state.revision, kept.pending) == ("watching", 3, None)
    assert ("wait", "dropped") not in await world.decisions(name)


async def test_a_way_back_that_is_refused_is_decided_once(world: World, begin: Begin, tuner: Tuner) -> None:
    """However often it is tried; with the gateway there again it is gone."""
    name = await begin("support")
    await to_canary(world, name, tuner)
    world.told.beside[name] = WORSE

    class Refusing(CountedClient):
        async def _answer(self, method: str, path: str, **arguments: Any) -> Any:
            if path.endswith("/rollback"):
                raise GatewayRefused("it did not answer")
            return await super()._answer(method, path, **arguments)

    job = world.job(client=Refusing(world.url, world.key, Points()))
    await world.turn(name, job)
    for _ in range(2):
        world.now -= timedelta(minutes=1)  # so that it is not tried again yet
        await world.turn(name, job)
    await world.turn(name, job)
    world.now += timedelta(minutes=10)
    await world.turn(name, world.job())
    assert (await world.revisions(name))[-1] == ("rollback", 1, None, None, True)
    told = await world.decisions(name)
    assert [each for each in told if each[0] == "roll_back"] == [("roll_back", "worse_than_stable")]
    assert told.count(("wait", "refused_by_gateway")) == 1


class Quiet(Told):
    """Says that nothing is new, counts its looks, and fails at the first."""

    looks = 0

    async def changed(self, _catalog: Catalog, _now: datetime) -> set[str]:
        """None."""
        return set()

    async def see(
        self, connection: AsyncConnection, adapter: Adapter, kept: Kept, now: datetime, *, labels: Labels | None
    ) -> Looked:
        """What there is, from the second look on."""
        self.looks += 1
        if self.looks == 1:
            raise OSError("as told")
        return await super().see(connection, adapter, kept, now, labels=labels)


async def test_an_adapter_about_which_nothing_is_new_is_left_alone(world: World, begin: Begin) -> None:
    """However often the job runs; what fails for one adapter is tried again after a while."""
    name = await begin("support")
    world.told = told = Quiet(bad={name: 0})
    job = world.job()
    for _ in range(2):
        world.now -= timedelta(minutes=1)  # so that no time passes
        await world.turn(name, job)
    assert told.looks == 1
    for _ in range(3):
        await world.turn(name, job)
    assert await outcome(world, name) == "quality_holds"
    assert told.looks == 3  # once more to look, and once to keep it
