"""Shadow requests, through a whole gateway before a fake engine: copies that no client ever notices."""

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from gateway.engines.engine import EngineStats
from gateway.settings import GatewaySettings
from gateway.shadow import Shadower
from monitors.record import RequestRecord
from tests.conftest import RunningGateway, until
from tests.fakes.engine import FakeEngine

CHANGE = "/admin/v1/adapters/support/deployment"
CHAT = "/v1/chat/completions"
NO_PRIORITIES = "Got priority 10 but Priority scheduling is not enabled."


class PartlyFaultyEngine(FakeEngine):
    """An engine with faults of single models.

    Attributes:
        held: models whose answers wait for a permit each.
        refusals: models whose requests are refused: with a status and the engine's words, or by breaking off.
        takes_priority: whether it was started to take priorities.
        arrived: the models of the requests that came, in their order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[str, asyncio.Semaphore] = {}
        self.refusals: dict[str, tuple[int, str] | None] = {}
        self.takes_priority = True
        self.arrived: list[str] = []

    async def _infer(self, request: web.Request) -> web.StreamResponse:
        model = (await request.json())["model"]
        self.arrived.append(model)
        if not self.takes_priority and "x-vllm-priority" in request.headers:
            return refusal(400, NO_PRIORITIES)
        if model in self.refusals:
            why = self.refusals[model]
            if why is not None:
                return refusal(*why)
            assert request.transport is not None
            request.transport.abort()
        if model in self.held:
            try:
                await self.held[model].acquire()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        return await super()._infer(request)


def refusal(status: int, words: str) -> web.Response:
    """An error in vLLM's form."""
    return web.json_response({"error": {"message": words, "type": "Error", "code": status}}, status=status)


@pytest.fixture
async def fake_engine() -> AsyncIterator[PartlyFaultyEngine]:
    """In place of the usual one."""
    engine = PartlyFaultyEngine()
    await engine.start()
    yield engine
    await engine.stop()


@pytest.fixture
def gateway_settings(gateway_settings: GatewaySettings, request: pytest.FixtureRequest) -> GatewaySettings:
    """The usual ones, with what a test's parameter says."""
    changes = {"shadow_concurrency": 3, "price_per_million_prompt_tokens": 1e6, **getattr(request, "param", {})}
    return gateway_settings.model_copy(update=changes)


ONE_PLACE = pytest.mark.parametrize("gateway_settings", [{"max_in_flight": 1}], indirect=True)


class Stage:
    """A gateway whose `support` has version 1 live, and what its hooks were told."""

    def __init__(self, gateway: RunningGateway, engine: PartlyFaultyEngine) -> None:
        self.gateway = gateway
        self.engine = engine
        self.told: list[RequestRecord] = []
        gateway.app.state.inference._hooks.append(self.told.append)

    @property
    def shadower(self) -> Shadower:
        """From the inside."""
        found: Shadower = self.gateway.app.state.inference._shadower
        return found

    @property
    def queued(self) -> int:
        """Requests that wait for a place."""
        found: int = self.gateway.app.state.inference._dispatcher._admission.queued
        return found

    async def deploy(self, **change: Any) -> None:
        """Change the deployment, and forget what the engine saw of that."""
        response = await self.gateway.http.patch(CHANGE, json=change)
        assert response.status_code == 200, response.text
        self.engine.arrived.clear()

    def name(self, number: int) -> str:
        """The engine name of a version."""
        found: str = self.gateway.app.state.directory.catalog.version(f"support@{number}").engine_name
        return found

    def hold(self, *models: str) -> None:
        """Have answers of these wait."""
        self.engine.held = {model: asyncio.Semaphore(0) for model in models}

    def release(self, model: str, count: int = 1) -> None:
        """Let so many answer."""
        for _ in range(count):
            self.engine.held[model].release()

    def arrivals(self, model: str) -> int:
        """Requests for a model that came to the engine."""
        return self.engine.arrived.count(model)

    def dropped(self, reason: str) -> float:
        """Copies that were not sent or ended, by the metric."""
        labels = {"reason": reason}
        return self.gateway.app.state.metrics.registry.get_sample_value("ostler_shadow_dropped_total", labels) or 0.0

    async def shadow_record(self) -> RequestRecord:
        """What was told of the one copy, once it is over."""
        await until(self.shadow_records)
        (record,) = self.shadow_records()
        return record

    def shadow_records(self) -> list[RequestRecord]:
        """What was told of copies."""
        return [record for record in self.told if record.variant == "shadow"]

    async def ask(self, model: str = "support", **fields: Any) -> None:
        """A client's request, which is answered well."""
        response = await self.gateway.chat(model, **fields)
        assert response.status_code == 200, response.text

    async def at_rest(self) -> None:
        """Wait until all copies are over."""
        await until(lambda: not self.shadower._running)


@pytest.fixture
async def stage(two: RunningGateway, fake_engine: PartlyFaultyEngine) -> Stage:
    """Version 1 is live, all requests are copied to version 2."""
    found = Stage(two, fake_engine)
    await found.deploy(shadow={"version": 2, "share": 1.0})
    return found


async def test_the_client_has_its_answer_first(stage: Stage) -> None:
    """While it waits for its own there is no copy; and the copy's time is not the client's, nor the next client's."""
    stage.hold(stage.name(1), stage.name(2))
    client = asyncio.create_task(stage.ask())
    await until(lambda: stage.engine.arrived)
    await asyncio.sleep(0.1)
    assert stage.engine.arrived == [stage.name(1)]
    stage.release(stage.name(1), 2)
    await client
    await until(lambda: stage.arrivals(stage.name(2)) == 1)
    await stage.ask()
    assert [record.variant for record in stage.told] == ["stable", "stable"]
    stage.release(stage.name(2), 2)
    await until(lambda: len(stage.shadow_records()) == 2)


@pytest.mark.parametrize(("target", "version"), [(2, 2), ("base", None)])
async def test_the_copy_goes_to_the_shadow_at_low_priority(
    stage: Stage, target: int | str, version: int | None
) -> None:
    """The client's request to the letter but for the model; answered whole, though the client's is a stream."""
    await stage.deploy(shadow={"version": target, "share": 1.0})
    model = "tiny" if version is None else stage.name(version)
    await stage.ask(
        stream=True, stream_options={"include_usage": True}, priority=3, temperature=0.5, seed=7, user="u-1"
    )
    record = await stage.shadow_record()
    messages = [{"role": "user", "content": "hello"}]
    copy, headers = stage.engine.bodies[-1], stage.engine.headers[-1]
    assert copy == {"model": model, "messages": messages, "temperature": 0.5, "seed": 7, "user": "u-1"}
    assert headers["x-vllm-priority"] == "10"
    assert not headers.keys() & {"authorization", "cookie"}
    assert "x-vllm-priority" not in stage.engine.headers[-2]
    assert (record.model, record.version, record.adapter, record.path) == (model, version, "support", CHAT)


async def test_the_record_of_a_copy_is_no_clients(stage: Stage) -> None:
    """It bears the request's id, so that the two can be paired, and no key: it costs nobody's budget."""
    await stage.ask(user="u-1")
    record = await stage.shadow_record()
    (client,) = [one for one in stage.told if one is not record]
    assert (client.variant, client.version) == ("stable", 1)
    assert client.key_id is not None
    assert record.key_id is None
    assert (record.request_id, record.status, record.error) == (client.request_id, 200, None)
    assert (record.prompt_tokens, record.completion_tokens, record.cost) == (7, 3, 7.0)
    assert (record.replica, record.streamed, record.retries) == ("engine-0", False, 0)


@pytest.mark.parametrize(("share", "count"), [(0.0, 40), (0.3, 400)])
async def test_the_share_is_sampled(stage: Stage, share: float, count: int) -> None:
    """Within 3 standard errors; none of nothing."""
    await stage.deploy(shadow={"version": "base", "share": share})
    body = {"model": "support", "messages": []}
    for start in range(0, count, 8):
        asks = (
            stage.gateway.http.post(CHAT, json=body, headers={"x-request-id": f"request-{number}"})
            for number in range(start, start + 8)
        )
        assert {response.status_code for response in await asyncio.gather(*asks)} == {200}
        await stage.at_rest()
    drawn = len(stage.shadow_records()) + stage.dropped("full")
    assert abs(drawn - share * count) <= 3 * math.sqrt(count * share * (1 - share))


async def test_only_so_many_copies_run_at_once(stage: Stage) -> None:
    """Those over it are not sent, and counted; clients are answered all the same."""
    stage.hold(stage.name(2))
    for _ in range(5):
        await stage.ask()
    await until(lambda: stage.arrivals(stage.name(2)) == 3)
    assert stage.dropped("full") == 2
    stage.release(stage.name(2), 3)
    await stage.at_rest()
    await stage.ask()
    await until(lambda: stage.arrivals(stage.name(2)) == 4)


@ONE_PLACE
async def test_nothing_is_copied_while_clients_wait(stage: Stage) -> None:
    """Neither now nor later: what is not sent at once is dropped, and counted."""
    stage.hold(stage.name(1))
    clients = [asyncio.create_task(stage.ask()) for _ in range(3)]
    await until(lambda: stage.queued == 2)
    stage.release(stage.name(1))
    await until(lambda: stage.dropped("pressure") == 1)
    stage.release(stage.name(1), 2)
    await asyncio.gather(*clients)
    await until(lambda: len(stage.shadow_records()) + stage.dropped("cancelled") == 2)
    assert stage.dropped("pressure") == 1


@ONE_PLACE
async def test_copies_give_way_to_a_client_that_must_wait(stage: Stage) -> None:
    """They are cancelled in the engine, and recorded as that."""
    stage.hold(stage.name(2))
    await stage.ask()
    await until(lambda: stage.arrivals(stage.name(2)) == 1)
    stage.hold(stage.name(1))
    clients = [asyncio.create_task(stage.ask()) for _ in range(2)]
    await until(lambda: stage.engine.cancelled == 1)
    record = await stage.shadow_record()
    assert (record.status, record.error, stage.dropped("cancelled")) == (499, "shadow_cancelled", 1)
    stage.release(stage.name(1), 2)
    await asyncio.gather(*clients)


async def test_a_busy_engine_stops_copies(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that wait in an engine count as well as those that wait in the gateway: no copy begins or goes on."""
    stage.hold(stage.name(2))
    await stage.ask()
    await until(lambda: stage.arrivals(stage.name(2)) == 1)

    async def busy() -> EngineStats:
        return EngineStats(running=1, waiting=1)

    monkeypatch.setattr(stage.gateway.replica.engine, "stats", busy)
    await until(lambda: stage.engine.cancelled == 1)
    await stage.ask()
    await until(lambda: stage.dropped("pressure") == 1)
    assert stage.arrivals(stage.name(2)) == 1


async def test_a_version_that_fails_gets_no_copies(stage: Stage) -> None:
    """But one now and then, which closes its breaker if it is answered."""
    breakers = stage.gateway.app.state.fleet.breakers
    breakers.failed(stage.name(2), certain=True, least_s=300)
    await stage.ask()
    await until(lambda: stage.told)
    await stage.at_rest()
    assert stage.arrivals(stage.name(2)) == 0
    breakers._breakers[stage.name(2)]._until = 0.0
    await stage.ask()
    assert (await stage.shadow_record()).status == 200
    assert breakers.is_closed(stage.name(2))


async def test_closing_ends_what_runs(stage: Stage) -> None:
    """A gateway that stops waits for no copy."""
    stage.hold(stage.name(2))
    await stage.ask()
    await until(lambda: stage.arrivals(stage.name(2)) == 1)
    await stage.shadower.close()
    assert not stage.shadower._running
    assert len(stage.shadow_records()) == 1


@pytest.mark.parametrize("model", ["support@1", "tiny"])
async def test_what_is_asked_for_by_name_is_not_copied(stage: Stage, model: str) -> None:
    """A version or the base model is no use of the deployment."""
    await stage.ask(model)
    await until(lambda: stage.told)
    assert not stage.shadower._running
    assert stage.arrivals(stage.name(2)) == 0


async def test_what_the_shadow_answered_itself_is_not_copied(stage: Stage) -> None:
    """To compare a version with itself says nothing."""
    await stage.deploy(canary={"version": 2, "weight": 1.0})
    await stage.ask()
    await until(lambda: stage.told)
    assert (stage.told[0].variant, stage.arrivals(stage.name(2))) == ("canary", 1)
    assert not stage.shadower._running


async def test_what_failed_is_not_copied(stage: Stage) -> None:
    """There is no answer to hold the copy's against."""
    stage.engine.refusals = {stage.name(1): (400, "no")}
    assert (await stage.gateway.chat("support")).status_code == 400
    await until(lambda: stage.told)
    assert not stage.shadower._running
    assert stage.arrivals(stage.name(2)) == 0


async def test_a_stream_that_broke_is_not_copied(stage: Stage) -> None:
    """Half an answer is none, though the client was told 200."""
    stage.engine.break_after = 1
    await stage.ask(stream=True)
    await until(lambda: stage.told)
    assert (stage.told[0].status, stage.told[0].error) == (200, "engine_error")
    assert not stage.shadower._running
    assert stage.arrivals(stage.name(2)) == 0


@pytest.mark.parametrize(
    ("refusal", "status", "error"),
    [
        ((500, "it broke"), 500, "engine_error"),
        ((400, "too long"), 400, "engine_error"),
        (None, 503, "engine_unavailable"),
    ],
)
async def test_a_shadow_that_fails_harms_nobody(
    stage: Stage, refusal: tuple[int, str] | None, status: int, error: str
) -> None:
    """It is recorded; clients are served, and the version's breaker stays closed, as no client was refused."""
    stage.engine.refusals = {stage.name(2): refusal}
    for count in range(1, 8):
        await stage.ask()
        await until(lambda count=count: len(stage.shadow_records()) == count)  # type: ignore[misc]
    assert {(record.status, record.error) for record in stage.shadow_records()} == {(status, error)}
    assert stage.gateway.app.state.fleet.breakers.is_closed(stage.name(2))
    stage.engine.refusals = {}
    await stage.ask("support@2")


async def test_a_copy_has_a_deadline(stage: Stage) -> None:
    """One that hangs gives its place back."""
    stage.shadower._timeout_s = 0.1
    stage.hold(stage.name(2))
    await stage.ask()
    record = await stage.shadow_record()
    assert (record.status, record.error) == (503, "engine_unavailable")
    await stage.at_rest()


async def test_a_fault_of_the_gateways_own_is_recorded_as_that(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And is in the log; the client was served."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("gateway.shadow.read_whole", broken)
    await stage.ask()
    record = await stage.shadow_record()
    assert (record.status, record.error) == (500, "internal_error")
    assert "failed inside the gateway" in caplog.text


async def test_an_engine_without_priorities_is_asked_without(stage: Stage) -> None:
    """The first refusal tells; from then on copies go without it, and are answered."""
    stage.engine.takes_priority = False
    await stage.ask()
    assert (await stage.shadow_record()).status == 400
    for count in (2, 3):
        await stage.ask()
        await until(lambda count=count: len(stage.shadow_records()) == count)  # type: ignore[misc]
        assert "x-vllm-priority" not in stage.engine.headers[-1]
        assert stage.shadow_records()[-1].status == 200


async def test_an_evaluation_is_answered_without_priorities(stage: Stage) -> None:
    """The first is sent again without, those after it ask for none: to shadows and evaluations it is one engine."""
    stage.engine.takes_priority = False
    for arrivals in (2, 3):
        response = await stage.gateway.http.post(
            CHAT, json={"model": "support", "messages": []}, headers={"x-ostler-purpose": "evaluation"}
        )
        assert (response.status_code, response.headers["x-ostler-variant"]) == (200, "evaluation")
        assert stage.arrivals(stage.name(1)) == arrivals
    await stage.ask()
    assert (await stage.shadow_record()).status == 200


async def test_other_refusals_leave_the_priority(stage: Stage) -> None:
    """A 400 about the request says nothing of priorities."""
    stage.engine.refusals = {stage.name(2): (400, "max_tokens is too large")}
    await stage.ask()
    assert (await stage.shadow_record()).status == 400
    stage.engine.refusals = {}
    await stage.ask()
    await until(lambda: len(stage.shadow_records()) == 2)
    assert stage.engine.headers[-1]["x-vllm-priority"] == "10"
