"""The way of a request, seen from the client's and from the engine's side, before a fake engine."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from monitors.record import RequestRecord
from tests.conftest import RunningGateway, until

PATHS = ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"]


@pytest.fixture
async def support(gateway: RunningGateway) -> RunningGateway:
    """A gateway whose adapter `support` serves version 1 of two."""
    await gateway.push("support", 1.0)
    await gateway.push("support", 2.0)
    assert (await gateway.promote("support", 1)).status_code == 200
    gateway.engine.bodies.clear()
    return gateway


def events(stream: str) -> list[Any]:
    """The data of each event but the last mark."""
    return [
        json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: ") and line != "data: [DONE]"
    ]


@pytest.mark.parametrize("path", PATHS)
async def test_every_endpoint_passes_through(support: RunningGateway, path: str) -> None:
    """The body reaches the engine as it came, but for the model; the answer says which version gave it."""
    body = {"model": "support", "anything": {"else": [1, None, "é"]}, "temperature": 0.5}
    response = await support.http.post(path, json=body)
    assert response.status_code == 200
    engine_name = response.json()["model"]
    assert engine_name.startswith("support@1-")
    assert support.engine.bodies[-1] == body | {"model": engine_name}


@pytest.mark.parametrize(
    ("model", "variant", "version"), [("support", "stable", "1"), ("support@2", "pinned", "2"), ("tiny", "base", None)]
)
async def test_headers_say_how_it_was_served(
    support: RunningGateway, model: str, variant: str, version: str | None
) -> None:
    """Adapter, version and variant, as far as there are any."""
    response = await support.chat(model)
    assert response.headers["x-ostler-variant"] == variant
    assert response.headers.get("x-ostler-version") == version
    assert response.headers.get("x-ostler-adapter") == (None if version is None else "support")


async def test_the_full_engine_name_is_a_model_and_a_wrong_digest_is_not(support: RunningGateway) -> None:
    """`support@1-<digest>` is version 1 with that content, or nothing."""
    name = (await support.chat("support")).json()["model"]
    assert (await support.chat(name)).json()["model"] == name
    wrong = name[:-8] + "00000000"
    assert (await support.chat(wrong)).status_code == 404


async def test_request_id_is_the_clients_or_a_new_one(support: RunningGateway) -> None:
    """A plain word is taken over and told to the engine; anything else is replaced."""
    kept = await support.http.post("/v1/chat/completions", json={"model": "support"}, headers={"x-request-id": "abc-1"})
    assert kept.headers["x-request-id"] == "abc-1"
    assert support.engine.headers[-1]["x-request-id"] == "abc-1"
    made = await support.http.post("/v1/chat/completions", json={"model": "support"}, headers={"x-request-id": "a b"})
    assert made.headers["x-request-id"].startswith("req-")


async def test_the_clients_key_never_reaches_the_engine(support: RunningGateway) -> None:
    """Neither do cookies."""
    await support.http.post("/v1/chat/completions", json={"model": "support"}, headers={"cookie": "a=b"})
    sent = {name.lower() for name in support.engine.headers[-1]}
    assert not sent & {"authorization", "cookie", "x-api-key"}


@pytest.mark.parametrize(
    ("body", "status", "code", "says"),
    [
        (b"", 400, "invalid_json", "not valid JSON"),
        (b'{"model": "support", }', 400, "invalid_json", "byte"),
        (b"\xff\xfe", 400, "invalid_json", "not valid JSON"),
        (b'["support"]', 400, "invalid_type", "must be a JSON object, but it is an array"),
        (b"{}", 400, "missing_field", "'model' is missing"),
        (b'{"model": 7}', 400, "invalid_type", "must be a string, but it is a number"),
        (b'{"model": null}', 400, "invalid_type", "but it is null"),
        (b'{"model": "nobody"}', 404, "model_not_found", "there is: support, tiny"),
        (b'{"model": "support@9"}', 404, "model_not_found", "'support@9'"),
        (b'{"model": "support", "x": "' + b"y" * (1 << 20) + b'"}', 413, "request_too_large", "limit"),
    ],
)
async def test_bad_bodies_are_told_what_is_wrong(
    shared_two: RunningGateway, body: bytes, status: int, code: str, says: str
) -> None:
    """Each in OpenAI's envelope; the engine never hears of it, and the SDK is told not to send it again."""
    shared_two.engine.bodies.clear()
    response = await shared_two.http.post("/v1/chat/completions", content=body)
    assert response.status_code == status
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    assert says in error["message"]
    assert response.headers["x-should-retry"] == "false"
    assert response.headers["x-request-id"]
    assert shared_two.engine.bodies == []


async def test_a_chunked_body_over_the_limit_is_refused(support: RunningGateway) -> None:
    """The limit counts what comes, not what a header says."""

    async def pieces() -> Any:
        for _ in range(40):
            yield b" " * (1 << 16)

    response = await support.http.post("/v1/chat/completions", content=pieces())
    assert response.status_code == 413


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer sk-wrong"}, {"authorization": "Basic eDp5"}])
async def test_without_a_valid_key_there_is_nothing(support: RunningGateway, headers: dict[str, str]) -> None:
    """401 in the envelope, on inference, models and admin paths alike."""
    async with httpx.AsyncClient(base_url=support.url, headers=headers) as stranger:
        for call in (
            stranger.post("/v1/chat/completions", json={"model": "support"}),
            stranger.get("/v1/models"),
            stranger.get("/admin/v1/adapters"),
        ):
            response = await call
            assert response.status_code == 401
            assert response.json()["error"]["type"] == "authentication_error"


async def test_other_methods_are_refused_in_the_envelope(support: RunningGateway) -> None:
    """405, not a stack."""
    response = await support.http.get("/v1/chat/completions")
    assert (response.status_code, response.json()["error"]["code"]) == (405, "method_not_allowed")


async def test_streams_pass_through_and_hide_the_usage_that_nobody_asked_for(support: RunningGateway) -> None:
    """The gateway asks the engine for usage; a client that did not ask sees the same events without it."""
    response = await support.chat("support", stream=True)
    found = events(response.text)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert [event["choices"][0]["delta"]["content"] for event in found] == ["0 ", "1 ", "2 "]
    assert response.text.endswith("data: [DONE]\n\n")
    assert support.engine.bodies[-1]["stream_options"] == {"include_usage": True}


async def test_streams_show_the_usage_that_was_asked_for(support: RunningGateway) -> None:
    """As OpenAI's API has it: a last event without choices."""
    response = await support.chat("support", stream=True, stream_options={"include_usage": True})
    assert events(response.text)[-1]["usage"]["completion_tokens"] == 3


async def test_the_first_event_does_not_wait_for_the_last(support: RunningGateway) -> None:
    """Events leave as they come."""
    support.engine.gap_s, support.engine.chunks = 0.2, 4
    loop = asyncio.get_running_loop()
    body = {"model": "support", "stream": True}
    async with support.http.stream("POST", "/v1/chat/completions", json=body) as response:
        arrivals = [loop.time() async for _ in response.aiter_raw()]
    assert arrivals[-1] - arrivals[0] > 0.4


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_cancels_its_request_upstream(support: RunningGateway, stream: bool) -> None:
    """The engine does not go on working for nobody."""
    support.engine.gap_s = 2.0
    with pytest.raises(httpx.ReadTimeout):
        await support.http.post("/v1/chat/completions", json={"model": "support", "stream": stream}, timeout=0.2)
    await until(lambda: support.engine.cancelled == 1, 3)
    assert not +support.engine.in_flight


async def test_engine_refusals_come_in_the_envelope_without_its_paths(support: RunningGateway) -> None:
    """A 400 stays a 400, with the engine's words."""
    support.engine.status = 400
    response = await support.chat("support")
    error = response.json()["error"]
    assert (response.status_code, error["type"]) == (400, "invalid_request_error")
    assert error["message"] == "the engine says no, see [path]"


async def test_engine_failures_tell_nothing_of_it(support: RunningGateway) -> None:
    """A 500 of the engine is our 502, and may be tried again."""
    support.engine.status = 500
    response = await support.chat("support")
    assert response.status_code == 502
    assert "secret" not in response.text
    assert response.headers["x-should-retry"] == "true"


async def test_failures_of_a_dying_engine_are_503(support: RunningGateway) -> None:
    """A 500 is the engine's last word only if vLLM's own check says that it lives."""
    support.engine.status, support.engine.dying = 500, True
    response = await support.chat("support")
    assert (response.status_code, response.json()["error"]["code"]) == (503, "engine_unavailable")
    assert response.headers["retry-after"]


@pytest.mark.parametrize(("engine_says", "counted"), [(400, "400"), (422, "422"), (500, "502")])
async def test_refusals_are_counted_as_what_the_client_was_told(
    support: RunningGateway, engine_says: int, counted: str
) -> None:
    """So that clients and metrics agree."""
    support.engine.status = engine_says
    response = await support.chat("support")
    assert str(response.status_code) == counted
    shown = (await support.http.get("/metrics")).text
    labels = f'adapter="support",status="{counted}",variant="stable",version="1"'
    assert f"ostler_requests_total{{{labels}}} 1.0" in shown
    assert 'status="499"' not in shown


async def test_a_body_that_does_not_come_is_given_up(support: RunningGateway) -> None:
    """At the request's deadline, with 408."""
    support.app.state.inference._settings = support.app.state.settings.model_copy(update={"request_timeout_s": 0.3})

    async def half() -> Any:
        yield b'{"model": '
        await asyncio.sleep(5)

    response = await support.http.post("/v1/chat/completions", content=half())
    assert (response.status_code, response.json()["error"]["code"]) == (408, "request_timeout")


async def test_a_client_that_stops_reading_does_not_hold_its_version_for_ever(support: RunningGateway) -> None:
    """At the request's deadline its lease ends, though the gateway is stuck in sending."""
    support.app.state.inference._settings = support.app.state.settings.model_copy(update={"request_timeout_s": 1.0})
    support.engine.chunks, support.engine.padding = 1000, "x" * 100_000
    body = {"model": "support", "stream": True}
    async with support.http.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.status_code == 200
        assert support.replica.in_flight == 1
        await until(lambda: support.replica.in_flight == 0, 8)


async def test_a_stream_that_breaks_ends_with_an_error_event(support: RunningGateway) -> None:
    """What was sent stays sent; the last event says that the answer is not whole."""
    support.engine.break_after = 2
    found = events((await support.chat("support", stream=True)).text)
    assert [len(event.get("choices", [])) for event in found] == [1, 1, 0]
    assert found[-1]["error"]["code"] == "engine_error"


async def test_an_engine_that_is_down_is_503_with_retry_after(support: RunningGateway) -> None:
    """After waiting as long as is set, not for ever."""
    support.app.state.fleet.wait_s = 0.2
    await support.engine.stop()
    response = await support.chat("support")
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "engine_unavailable"
    assert int(response.headers["retry-after"]) >= 1
    await support.engine.start()


async def test_a_request_outlasts_a_restart_of_the_engine(support: RunningGateway) -> None:
    """It waits, the engine comes back without its adapters, gets them, and the request is answered."""
    await support.engine.stop()
    waiting = asyncio.create_task(support.chat("support"))
    await asyncio.sleep(0.3)
    assert not waiting.done()
    await support.engine.start()
    response = await waiting
    assert response.status_code == 200
    assert response.json()["model"].startswith("support@1-")


async def test_an_engine_that_forgot_a_version_gets_it_again(support: RunningGateway) -> None:
    """Between two looks of the gateway, too: the request that finds out is answered."""
    support.engine.loaded.clear()
    assert (await support.chat("support")).status_code == 200


async def test_a_deadline_ends_what_takes_too_long(support: RunningGateway) -> None:
    """504 before the first byte."""
    support.app.state.inference._settings = support.app.state.settings.model_copy(update={"request_timeout_s": 0.3})
    support.engine.gap_s = 5.0
    response = await support.chat("support")
    assert (response.status_code, response.json()["error"]["code"]) == (504, "deadline_exceeded")


async def test_a_stream_past_its_deadline_says_so(support: RunningGateway) -> None:
    """After the first byte the last event tells it."""
    support.app.state.inference._settings = support.app.state.settings.model_copy(update={"request_timeout_s": 0.5})
    support.engine.gap_s, support.engine.chunks = 0.2, 20
    found = events((await support.chat("support", stream=True)).text)
    assert found[-1]["error"]["code"] == "deadline_exceeded"


@pytest.mark.parametrize("stream", [False, True])
async def test_each_request_is_told_once_to_the_hooks(support: RunningGateway, stream: bool) -> None:
    """Status, version, variant and the engine's own count of tokens."""
    told: list[RequestRecord] = []
    support.app.state.inference._hooks = [told.append]
    await support.chat("support", stream=stream)
    await until(lambda: told)
    (record,) = told
    assert (record.adapter, record.version, record.variant, record.status) == ("support", 1, "stable", 200)
    assert (record.prompt_tokens, record.completion_tokens) == (7, 3)
    assert record.streamed is stream
    assert 0 < (record.first_byte_s or 0) <= record.duration_s


async def test_metrics_count_what_was_served(support: RunningGateway) -> None:
    """Requests by status, and tokens; open on loopback without a key."""
    await support.chat("support")
    await support.chat("nobody")
    async with httpx.AsyncClient() as scraper:
        shown = (await scraper.get(support.url + "/metrics")).text
    assert 'ostler_requests_total{adapter="support",status="200",variant="stable",version="1"} 1.0' in shown
    assert 'ostler_requests_total{adapter="",status="404",variant="",version=""} 1.0' in shown
    assert 'ostler_tokens_total{adapter="support",gen_ai_token_type="input",variant="stable",version="1"} 7.0' in shown


async def test_models_lists_deployments_versions_and_the_base(support: RunningGateway) -> None:
    """As OpenAI's list; the parent of an adapter is its base, the root is what answers."""
    listed = (await support.http.get("/v1/models")).json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["support", "support@1", "support@2", "tiny"]
    by_id = {model["id"]: model for model in listed["data"]}
    assert by_id["support"]["parent"] == "tiny"
    assert by_id["support"]["root"] == by_id["support@1"]["root"]
    assert by_id["tiny"]["parent"] is None
    one = await support.http.get("/v1/models/support@2")
    assert one.json() == by_id["support@2"]
    assert (await support.http.get("/v1/models/nobody")).status_code == 404


async def test_a_limited_key_sees_only_its_adapters(support: RunningGateway) -> None:
    """What a key may not use does not exist for it, neither in a list nor in an error."""
    await support.push("secret", 9.0)
    await support.promote("secret", 1)
    made = await support.http.post("/admin/v1/keys", json={"name": "team", "adapters": ["support"]})
    headers = {"authorization": f"Bearer {made.json()['secret']}"}
    async with httpx.AsyncClient(base_url=support.url, headers=headers) as team:
        assert [m["id"] for m in (await team.get("/v1/models")).json()["data"]] == ["support", "support@1", "support@2"]
        for model in ("secret", "secret@1", "tiny"):
            response = await team.post("/v1/chat/completions", json={"model": model})
            assert response.status_code == 404
            assert response.json()["error"]["message"].endswith("there is: support")
        assert (await team.post("/v1/chat/completions", json={"model": "support"})).status_code == 200
        assert (await team.get("/admin/v1/adapters")).status_code == 403
