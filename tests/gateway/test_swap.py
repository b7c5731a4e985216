"""Hot swap: load and probe before the flip, keep the version before, drain before unloading."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from monitors.decisions import Decision, record_decision
from registry.artifacts import ArtifactStore
from registry.catalog import Canary
from registry.deployments import Patch
from registry.errors import Conflict
from tests.conftest import RunningGateway, serving, until

DEPLOYMENT = "/admin/v1/adapters/support/deployment"


async def served(gateway: RunningGateway, model: str = "support") -> str:
    """The engine name, without the digest, that answers."""
    response = await gateway.chat(model)
    assert response.status_code == 200, response.text
    return str(response.json()["model"]).partition("-")[0]


async def deployment(gateway: RunningGateway) -> dict[str, object]:
    """The deployment as admins see it."""
    found: dict[str, object] = (await gateway.http.get("/admin/v1/adapters/support")).json()["deployment"]
    return found


async def test_a_promoted_version_serves_when_the_call_returns(two: RunningGateway) -> None:
    """And the bare name means it from then on."""
    assert await served(two) == "support@1"
    response = await two.promote("support", 2)
    assert response.json()["deployment"]["stable"] == 2
    assert await served(two) == "support@2"


async def test_a_version_is_loaded_and_probed_before_the_flip(two: RunningGateway) -> None:
    """The engine has answered a one-token request for it before any client's."""
    two.engine.bodies.clear()
    await two.promote("support", 2)
    assert two.engine.bodies[0]["model"].startswith("support@2-")
    assert two.engine.bodies[0]["max_tokens"] == 1


async def test_rollback_needs_no_load(two: RunningGateway) -> None:
    """The version before stays resident."""
    await two.promote("support", 2)
    before = {name: count for name, count in two.engine.calls.items() if name.startswith("load")}
    response = await two.http.post("/admin/v1/adapters/support/rollback")
    assert response.json()["deployment"] == {
        "revision": 3,
        "stable": 1,
        "canary": None,
        "shadow": None,
        "fallback": None,
    }
    assert await served(two) == "support@1"
    assert {name: count for name, count in two.engine.calls.items() if name.startswith("load")} == before


@pytest.mark.parametrize("fault", ["load", "probe"])
async def test_a_version_that_does_not_serve_is_not_promoted(two: RunningGateway, fault: str) -> None:
    """409 with the engine's reason, without its paths; the deployment is as it was."""
    name = (await two.http.get("/admin/v1/adapters/support")).json()["versions"][1]["engine_name"]
    if fault == "load":
        two.engine.refuse_load[name] = "No adapter found for {path}"
    else:
        two.engine.refuse_probe.add(name)
    before = await deployment(two)
    response = await two.promote("support", 2)
    assert (response.status_code, response.json()["error"]["code"]) == (409, "version_not_servable")
    assert name in response.json()["error"]["message"]
    assert str(two.app.state.settings.home) not in response.text
    assert response.headers["x-should-retry"] == "false"
    assert await deployment(two) == before
    assert await served(two) == "support@1"
    assert name not in two.engine.loaded


async def test_promoting_what_does_not_exist_changes_nothing(two: RunningGateway) -> None:
    """404 for an unknown version and an unknown adapter."""
    before = await deployment(two)
    assert (await two.promote("support", 9)).status_code == 404
    assert (await two.promote("nobody", 1)).status_code == 404
    assert await deployment(two) == before


async def test_rolling_back_where_there_is_nothing_before_is_409(two: RunningGateway) -> None:
    """And says so."""
    response = await two.http.post("/admin/v1/adapters/support/rollback", json={})
    assert (response.status_code, response.json()["error"]["code"]) == (409, "nothing_to_roll_back")
    assert await served(two) == "support@1"


async def test_promote_while_the_engine_is_down_changes_nothing(two: RunningGateway) -> None:
    """503; the deployment is as it was."""
    two.app.state.fleet.wait_s = 0.2
    await two.engine.stop()
    response = await two.promote("support", 2)
    assert response.status_code == 503
    assert (await deployment(two))["stable"] == 1
    await two.engine.start()


async def automatic_canary(gateway: RunningGateway) -> dict[str, Any]:
    """What the loop would send to give version 2 a share of the sessions; there is a revision to go back to."""
    await gateway.let_act("support")
    assert (await gateway.http.patch(DEPLOYMENT, json={"fallback": "base"})).is_success
    async with gateway.app.state["database"].begin() as connection:
        decided = Decision("support", 2, "loop", "begun", "", "", {})
        decision = await record_decision(connection, decided, datetime.now(UTC))
    return {"canary": {"version": 2, "weight": 0.1}, "decision": decision}


def is_loading(gateway: RunningGateway) -> bool:
    """Whether the engine was asked for version 2."""
    return any(name.startswith("load support@2") for name in gateway.engine.calls)


async def test_an_automatic_change_that_waits_gives_way_to_a_rollback(two: RunningGateway) -> None:
    """Which would else wait for the engines as long; what was given up is refused, and a person's change goes on."""
    two.engine.load_s = 60.0
    canary = await automatic_canary(two)
    waiting = asyncio.create_task(two.http.patch(DEPLOYMENT, json=canary))
    await until(lambda: is_loading(two))
    async with asyncio.timeout(30):
        assert (await two.http.post("/admin/v1/adapters/support/rollback", json={"to": 1})).is_success
        refused = await waiting
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
    assert (await deployment(two))["canary"] is None
    two.engine.load_s = 0.2
    await two.push("support", 3.0)
    person = asyncio.create_task(two.http.patch(DEPLOYMENT, json={"canary": {"version": 3, "weight": 0.1}}))
    await asyncio.sleep(0.05)
    await two.http.post("/admin/v1/adapters/support/rollback", json={"to": 1})
    assert (await person).is_success


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [("POST", "rollback", {"to": 1}), ("PATCH", "deployment", {"canary": None, "fallback": []})],
    ids=["rollback", "person"],
)
async def test_automatic_changes_in_the_queue_give_way_to_who_comes_first(
    two: RunningGateway, method: str, path: str, body: dict[str, Any]
) -> None:
    """The loop gives up on a try long before the engines do, so several tries of one decision may be in the queue."""
    two.engine.load_s = 60.0
    decision = (await automatic_canary(two))["decision"]
    swapper, patch = two.app.state["swapper"], Patch(canary=Canary(2, 0.1))
    tries = []
    for _ in range(3):
        tries.append(
            asyncio.create_task(swapper.change("support", patch, decision=decision, actor="loop", reason="a try"))
        )
        await until(lambda: is_loading(two))  # the first one has its turn, and the others queue
    async with asyncio.timeout(30):
        assert (await two.http.request(method, f"/admin/v1/adapters/support/{path}", json=body)).is_success
    refusals = await asyncio.gather(*tries, return_exceptions=True)
    assert [type(refusal) for refusal in refusals] == [Conflict] * 3
    assert (await deployment(two))["revision"] == 3
    later = Patch(fallback=("base",))
    changed = await swapper.change("support", later, decision=decision, actor="loop", reason="after the rollback")
    assert changed.deployment.fallback == ("base",)


@pytest.mark.parametrize(("body", "headers", "status"), [({}, {"if-match": '"9"'}, 412), ({"to": 9}, {}, 404)])
async def test_a_rollback_that_is_refused_breaks_nothing_off(
    two: RunningGateway, body: dict[str, Any], headers: dict[str, str], status: int
) -> None:
    """The automatic change that waits for the engines goes on."""
    canary = await automatic_canary(two)
    two.engine.load_s = 0.5
    waiting = asyncio.create_task(two.http.patch(DEPLOYMENT, json=canary))
    await until(lambda: is_loading(two))
    refused = await two.http.post("/admin/v1/adapters/support/rollback", json=body, headers=headers)
    assert refused.status_code == status
    assert (await waiting).is_success


async def test_many_requests_for_a_cold_version_load_it_once(two: RunningGateway) -> None:
    """However many wait for it."""
    two.engine.load_s = 0.2
    answers = await asyncio.gather(*(served(two, "support@2") for _ in range(20)))
    assert set(answers) == {"support@2"}
    assert [count for name, count in two.engine.calls.items() if name.startswith("load support@2")] == [1]


async def test_the_least_recently_used_version_in_no_deployment_goes(two: RunningGateway) -> None:
    """With four slots, a fifth version takes the place of the one that was used longest ago."""
    await two.push("other", 3.0)
    await two.push("other", 4.0)
    await two.push("other", 5.0)
    for model in ("support@2", "other@1", "other@2"):
        await served(two, model)
    await served(two, "support@2")
    await served(two, "other@3")
    assert {name.partition("-")[0] for name in two.engine.loaded} == {"support@1", "support@2", "other@2", "other@3"}


async def test_a_version_with_requests_in_flight_is_never_unloaded(two: RunningGateway) -> None:
    """Under pressure the engine goes over its slots rather than break off an answer."""
    for scale in (3.0, 4.0, 5.0, 6.0):
        await two.push("other", scale)
    two.engine.gap_s = 0.4
    models = ["support@2", "other@1", "other@2", "other@3", "other@4"]
    answers = await asyncio.gather(*(served(two, model) for model in models))
    assert answers == models
    assert two.engine.unloaded_in_use == []
    two.engine.gap_s = 0.0
    await two.push("other", 7.0)
    await served(two, "other@5")
    assert len(two.engine.loaded) == 4


async def test_a_restarted_engine_gets_its_versions_before_it_is_ready(two: RunningGateway) -> None:
    """Live and warm ones, with no request and no one's help."""
    await two.promote("support", 2)
    await two.engine.stop()
    await until(lambda: two.replica.state == "down")
    assert (await two.http.get("/readyz")).status_code == 503
    await two.engine.start()
    await two.until_ready()
    assert any(name.startswith("support@2-") for name in two.engine.loaded)
    await until(lambda: len(two.engine.loaded) == 2)


async def test_a_live_version_that_cannot_be_loaded_is_told_and_the_rest_is_served(two: RunningGateway) -> None:
    """Operators see which one and why; one broken version takes no gateway out of service."""
    name = next(iter(two.engine.loaded))
    await two.engine.stop()
    two.engine.refuse_load[name] = "No adapter found for {path}"
    await until(lambda: two.replica.state == "down")
    await two.engine.start()
    await until(lambda: two.replica.state != "down")
    assert (await two.chat("tiny")).status_code == 200
    await until(lambda: name in str(two.replica.problem))
    await two.until_ready()
    (shown,) = (await two.http.get("/admin/v1/replicas")).json()["data"]
    assert name in shown["problem"]
    refused = await two.chat("support")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "version_not_servable")


async def test_one_version_that_cannot_be_loaded_does_not_hold_up_the_others(two: RunningGateway) -> None:
    """After a restart of the engine every other live version is loaded all the same."""
    await two.push("zebra", 3.0)
    await two.promote("zebra", 1)
    broken = next(name for name in two.engine.loaded if name.startswith("support@1"))
    await two.engine.stop()
    two.engine.refuse_load[broken] = "no"
    await until(lambda: two.replica.state == "down")
    await two.engine.start()
    await until(lambda: any(name.startswith("zebra@1") for name in two.engine.loaded))
    two.engine.refuse_load.clear()
    await until(lambda: broken in two.replica.residency.resident)
    assert await served(two) == "support@1"


async def test_a_damaged_artifact_is_not_loaded(two: RunningGateway) -> None:
    """Content that does not have its digest any more never reaches the engine."""
    store: ArtifactStore = two.registry.store
    digest = (await two.http.get("/admin/v1/adapters/support")).json()["versions"][1]["digest"]
    weights = store.fetch(digest) / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    response = await two.promote("support", 2)
    assert response.status_code == 409
    assert "damaged" in response.json()["error"]["message"]
    assert str(weights.parent) not in response.text


async def test_a_restarted_gateway_serves_what_was_live(two: RunningGateway) -> None:
    """Deployment and history are in the database; the engine's versions are found as they are."""
    await two.promote("support", 2)
    loads = two.engine.calls.copy()
    async with serving(two.app.state.settings) as (url, _):
        second = two.http
        second.base_url = url
        await two.until_ready()
        assert await served(two) == "support@2"
        answer = await second.get("/admin/v1/adapters/support/history")
        assert [row["revision"] for row in answer.json()["data"]] == [2, 1]
    assert not [name for name in two.engine.calls - loads if name.startswith("unload")]


async def test_flips_under_load_fail_no_request_and_mix_no_stream(two: RunningGateway) -> None:
    """Every answer comes wholly from one version that was live while its request ran."""
    two.engine.gap_s = 0.002
    stop = asyncio.Event()
    seen: list[str] = []

    async def client(stream: bool) -> None:
        while not stop.is_set():
            response = await two.chat("support", stream=stream)
            assert response.status_code == 200, response.text
            models = {part.partition('"')[0] for part in response.text.replace(" ", "").split('"model":"')[1:]}
            assert len(models) == 1
            seen.append(models.pop())

    clients = [asyncio.create_task(client(index % 2 == 0)) for index in range(8)]
    for _ in range(6):
        assert (await two.promote("support", 2)).is_success
        assert (await two.http.post("/admin/v1/adapters/support/rollback")).is_success
    stop.set()
    await asyncio.gather(*clients)
    assert {name.partition("-")[0] for name in seen} == {"support@1", "support@2"}


async def test_a_refusal_that_looks_like_a_lost_version_leaves_it_resident(two: RunningGateway) -> None:
    """A 404 about something else is the client's answer; nothing is loaded again, and leases stay counted."""
    loads = two.engine.calls.copy()
    two.engine.status = 404
    response = await two.http.post("/v1/responses", json={"model": "support", "previous_response_id": "nobody"})
    assert response.status_code == 404
    two.engine.status = None
    assert not [name for name in two.engine.calls - loads if name.startswith("load")]
    assert await served(two) == "support@1"


async def test_a_lease_outlives_what_the_engine_forgets(two: RunningGateway) -> None:
    """A version whose stream runs on is not unloaded, even if it was lost and loaded again meanwhile."""
    for scale in (3.0, 4.0, 5.0):
        await two.push("other", scale)
    two.engine.gap_s, two.engine.chunks = 0.3, 5
    running = asyncio.create_task(two.chat("support@2", stream=True))
    replica = two.replica
    await until(lambda: any(body.get("stream") for body in two.engine.bodies))
    replica.residency.forget(next(name for name in replica.residency.resident if name.startswith("support@2")))
    two.engine.gap_s = 0.0
    for model in ("support@2", "other@1", "other@2", "other@3"):
        await served(two, model)
    assert replica.in_flight == 1
    assert (await running).status_code == 200
    assert two.engine.unloaded_in_use == []
    assert replica.in_flight == 0


async def test_a_restarted_gateway_knows_what_the_engine_holds(two: RunningGateway) -> None:
    """Versions in no deployment, too, so that they count against the slots and can be unloaded."""
    await two.push("other", 3.0)
    await served(two, "other@1")
    async with serving(two.app.state.settings) as (url, app):
        two.http.base_url = url
        await two.until_ready()
        assert any(name.startswith("other@1") for name in app.state.fleet.resident)


async def test_an_engine_with_another_base_is_told_as_such(gateway: RunningGateway) -> None:
    """/readyz says what the engine serves, rather than that it does not answer."""
    gateway.engine.base = "giant"
    gateway.replica._set_down("the test says so")
    await until(lambda: "the engine serves giant, not tiny" in str(gateway.replica.problem))
    ready = await gateway.http.get("/readyz")
    assert ready.status_code == 503
    assert ready.json()["problems"] == ["no engine of tiny is ready: the engine serves giant, not tiny"]
