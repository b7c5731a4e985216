"""What is told of a request once it is over, through a whole gateway before a fake engine."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from gateway.capture import Capture, is_drawn
from gateway.settings import GatewaySettings
from monitors.privacy.names import pseudonym
from monitors.record import RequestRecord, Text
from registry.monitoring import Monitoring
from tests.conftest import RunningGateway, until

CHAT = "/v1/chat/completions"
DEPLOYMENT = "/admin/v1/adapters/support/deployment"
WAIT_S = 0.2


@pytest.fixture
def gateway_settings(gateway_settings: GatewaySettings, request: pytest.FixtureRequest) -> GatewaySettings:
    """The usual ones, with what a test's parameter says."""
    return gateway_settings.model_copy(update={"capture_bytes": 2048, **getattr(request, "param", {})})


class Watched:
    """A gateway, and what its hooks were told."""

    def __init__(self, gateway: RunningGateway) -> None:
        self.gateway = gateway
        self.told: list[RequestRecord] = []
        gateway.app.state.inference._hooks.append(self.told.append)

    async def ask(
        self, path: str = CHAT, headers: dict[str, str] | None = None, model: str = "support", **fields: Any
    ) -> RequestRecord:
        """Send a request; its record."""
        before = len(self.told)
        body = {"model": model, "messages": [], **fields}
        await self.gateway.http.post(path, json=body, headers=headers)
        await until(lambda: len(self.told) > before)
        return self.told[before]

    async def capture(self, share: float) -> None:
        """Have this share of the requests' texts kept."""
        await self.gateway.registry.set_monitoring("support", Monitoring(capture=share), actor="test")
        await self.gateway.app.state.directory.refresh()

    def count(self, name: str, **labels: str) -> float:
        """A metric of the gateway's."""
        return self.gateway.app.state.metrics.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture
async def watched(two: RunningGateway) -> Watched:
    """A gateway whose `support` has version 1 live, and version 2."""
    return Watched(two)


async def test_sessions_and_end_users_are_told_as_pseudonyms(watched: Watched) -> None:
    """As the client names them; one that it does not name is none, though a split needs one."""
    unnamed = await watched.ask()
    assert (unnamed.session, unnamed.end_user) == (None, None)
    by_user = await watched.ask(user="ann")
    assert (by_user.session, by_user.end_user) == (pseudonym("ann"), pseudonym("ann"))
    named = await watched.ask(headers={"x-session-id": "talk"}, safety_identifier="bob", prompt_cache_key="cache")
    assert (named.session, named.end_user) == (pseudonym("talk"), pseudonym("bob"))
    cached = await watched.ask(prompt_cache_key="cache", user=7)
    assert (cached.session, cached.end_user) == (pseudonym("cache"), None)


async def test_anthropics_end_user_stands_in_its_metadata(watched: Watched) -> None:
    """It names a person, not a conversation; what is no name is none, and no error."""
    named = await watched.ask("/v1/messages", metadata={"user_id": "eve"})
    assert (named.status, named.session, named.end_user) == (200, None, pseudonym("eve"))
    for metadata in ({"user_id": 7}, {"user_id": ""}, {}, "eve", None):
        unnamed = await watched.ask("/v1/messages", metadata=metadata)
        assert (unnamed.status, unnamed.end_user) == (200, None), metadata


async def test_an_answers_id_and_end_are_told(watched: Watched) -> None:
    """As the engine said them, and whose engines it was; a stream of this engine does not say why it ended."""
    for stream in (False, True):
        record = await watched.ask(stream=stream)
        assert (record.completion_id, record.finish_reason) == ("c", None if stream else "stop")
        assert (record.pool, record.adapter) == ("tiny", "support")
    refused = await watched.ask(model="nobody")
    assert (refused.pool, refused.completion_id, refused.finish_reason) == (None, None, None)


async def test_time_at_the_engine_is_no_overhead(watched: Watched) -> None:
    """Neither a whole answer's nor a stream's, nor the load before it."""
    watched.gateway.engine.gap_s = WAIT_S
    for stream in (False, True):
        record = await watched.ask(stream=stream)
        assert record.overhead_s is not None
        assert 0 < record.overhead_s <= record.duration_s - (4 if stream else 1) * WAIT_S * 0.7
    watched.gateway.engine.gap_s = 0.0
    watched.gateway.engine.load_s = WAIT_S
    loaded = await watched.ask(model="support@2")
    assert 0 < (loaded.overhead_s or 0) <= loaded.duration_s - WAIT_S
    assert watched.count("ostler_gateway_overhead_seconds_count") == 3


@pytest.mark.parametrize("gateway_settings", [{"max_in_flight": 1}], indirect=True)
async def test_time_in_the_queue_is_no_overhead(watched: Watched) -> None:
    """Though it is part of how long the request took."""
    watched.gateway.engine.gap_s = WAIT_S
    records = await asyncio.gather(watched.ask(), watched.ask())
    queued = max((*watched.told, *records), key=lambda record: record.queue_s)
    assert queued.queue_s > 0
    assert 0 < (queued.overhead_s or 0) <= queued.duration_s - queued.queue_s - WAIT_S


async def test_time_that_the_client_takes_to_send_is_no_overhead(watched: Watched) -> None:
    """Its body comes in two parts."""
    body = b'{"model": "support", "messages": []}'

    async def slowly() -> AsyncIterator[bytes]:
        yield body[:10]
        await asyncio.sleep(WAIT_S)
        yield body[10:]

    await watched.gateway.http.post(CHAT, content=slowly())
    await until(lambda: watched.told)
    (record,) = watched.told
    assert 0 < (record.overhead_s or 0) <= record.duration_s - WAIT_S


async def test_nothing_is_captured_unless_it_is_switched_on(watched: Watched) -> None:
    """Which it is for each adapter by itself."""
    assert (await watched.ask()).text is None
    await watched.capture(1.0)
    assert (await watched.ask()).text is not None
    assert (await watched.ask(model="tiny")).text is None


async def test_a_captured_request_has_its_bytes_as_they_came(watched: Watched) -> None:
    """Of a stream as the engine sent it, its count of tokens included."""
    await watched.capture(1.0)
    messages = [{"role": "user", "content": "grüß"}]
    whole = await watched.ask(messages=messages)
    assert whole.text is not None
    assert msgspec.json.decode(whole.text.prompt) == {"model": "support", "messages": messages}
    assert msgspec.json.decode(whole.text.answer)["choices"][0]["message"]["content"].startswith("I am support@1")
    streamed = await watched.ask(messages=messages, stream=True)
    assert streamed.text is not None
    assert streamed.text.answer.startswith(b'data: {"id":"c"')
    assert b'"usage":{' in streamed.text.answer
    assert streamed.text.answer.endswith(b"data: [DONE]\n\n")
    pinned = await watched.ask(model="support@2")
    assert pinned.text is not None


async def test_only_good_answers_are_captured(watched: Watched) -> None:
    """Not what failed, was refused, or broke off."""
    await watched.capture(1.0)
    watched.gateway.engine.break_after = 1
    assert (await watched.ask(stream=True)).text is None
    watched.gateway.engine.break_after, watched.gateway.engine.status = None, 400
    assert (await watched.ask()).text is None


async def test_what_is_too_large_is_not_captured_and_counted(watched: Watched) -> None:
    """Neither a long prompt nor a long answer; the client has its answer all the same."""
    await watched.capture(1.0)
    for count, (prompt, events) in enumerate([("x" * 3000, 3), ("", 60)], 1):
        watched.gateway.engine.chunks = events
        record = await watched.ask(messages=[{"role": "user", "content": prompt}], stream=True)
        assert (record.status, record.error, record.text) == (200, None, None)
        assert watched.count("ostler_captures_dropped_total", reason="too_large") == count


async def test_a_share_is_captured_and_shadows_with_their_originals(watched: Watched) -> None:
    """One draw decides on both, so that what is captured is always a pair where a copy is made of all."""
    await watched.capture(0.4)
    assert (await watched.gateway.http.patch(DEPLOYMENT, json={"shadow": {"version": 2, "share": 1.0}})).is_success
    for number in range(30):
        await watched.ask(headers={"x-request-id": f"r-{number}", "x-session-id": "talk"}, user="ann")
    await until(lambda: len(watched.told) == 60)
    captured = {
        variant: {one.request_id for one in watched.told if one.variant == variant and one.text is not None}
        for variant in ("stable", "shadow")
    }
    drawn = {f"r-{number}" for number in range(30) if is_drawn(f"r-{number}", 0.4)}
    assert 0 < len(drawn) < 30
    assert captured == {"stable": drawn, "shadow": drawn}
    shadows = [one for one in watched.told if one.variant == "shadow"]
    assert {(one.session, one.end_user, one.overhead_s) for one in shadows} == {
        (pseudonym("talk"), pseudonym("ann"), None)
    }
    (text,) = {one.text.prompt for one in shadows if one.text is not None}
    assert msgspec.json.decode(text)["model"] == "support"


def test_a_smaller_share_is_part_of_a_larger_one() -> None:
    """Whatever it is of."""
    ids = [f"r-{number}" for number in range(2000)]
    small, large = ({each for each in ids if is_drawn(each, share)} for share in (0.1, 0.5))
    assert small < large
    assert len(small) == pytest.approx(200, abs=3 * (2000 * 0.1 * 0.9) ** 0.5)
    assert not any(is_drawn(each, 0.0) for each in ids)
    assert all(is_drawn(each, 1.0) for each in ids)


def test_a_capture_keeps_up_to_its_limit() -> None:
    """To the byte, and tells once of more."""
    told: list[None] = []
    capture = Capture(b"12345", 10, lambda: told.append(None))
    capture.keep(b"678")
    capture.keep(b"90")
    assert (capture.text, told) == (Text(b"12345", b"67890"), [])
    capture.keep(b"1")
    capture.keep(b"2")
    assert (capture.text, told) == (None, [None])
    assert capture.of_copy().text == Text(b"12345", b"")


# Evaluations

PURPOSE = {"x-ostler-purpose": "evaluation"}


async def test_an_evaluation_is_counted_apart(watched: Watched) -> None:
    """By its variant in the answer's header, the record and the metrics, and at low priority in the engine."""
    response = await watched.gateway.http.post(CHAT, json={"model": "support", "messages": []}, headers=PURPOSE)
    assert (response.headers["x-ostler-variant"], response.headers["x-ostler-version"]) == ("evaluation", "1")
    (record,) = watched.told
    assert (record.variant, record.version, record.adapter) == ("evaluation", 1, "support")
    assert record.key_id is not None
    labels = {"adapter": "support", "version": "1", "variant": "evaluation", "status": "200"}
    assert watched.count("ostler_requests_total", **labels) == 1
    assert watched.gateway.engine.headers[-1]["x-vllm-priority"] == "10"
    await watched.ask()
    assert "x-vllm-priority" not in watched.gateway.engine.headers[-1]


async def test_an_evaluation_is_of_what_it_names(watched: Watched) -> None:
    """A bare adapter is the stable version, whatever the canary's weight; else a version or the base."""
    assert (await watched.gateway.http.patch(DEPLOYMENT, json={"canary": {"version": 2, "weight": 1.0}})).is_success
    assert (await watched.ask()).version == 2
    for model, adapter, version in (("support", "support", 1), ("support@2", "support", 2), ("tiny", None, None)):
        record = await watched.ask(model=model, headers=PURPOSE)
        assert (record.variant, record.adapter, record.version, record.status) == ("evaluation", adapter, version, 200)
    watched.gateway.app.state.fleet.breakers.failed(watched.told[1].model, certain=True)
    assert (await watched.ask(headers=PURPOSE)).error == "version_not_servable"


async def test_an_evaluation_is_neither_captured_nor_copied(watched: Watched) -> None:
    """It is no client's."""
    await watched.capture(1.0)
    assert (await watched.gateway.http.patch(DEPLOYMENT, json={"shadow": {"version": 2, "share": 1.0}})).is_success
    assert (await watched.ask(headers=PURPOSE)).text is None
    await watched.ask()
    await until(lambda: len(watched.told) == 3)
    assert [record.variant for record in watched.told] == ["evaluation", "stable", "shadow"]


async def test_only_admins_evaluate(watched: Watched) -> None:
    """Others are refused, and so is a purpose that there is none."""
    unknown = await watched.gateway.http.post(CHAT, json={"model": "support"}, headers={"x-ostler-purpose": "fun"})
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (400, "x-ostler-purpose")
    created = await watched.gateway.http.post("/admin/v1/keys", json={"name": "team", "scopes": ["inference"]})
    key = {"authorization": f"Bearer {created.json()['secret']}"}
    refused = await watched.gateway.http.post(CHAT, json={"model": "support"}, headers={**key, **PURPOSE})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "insufficient_permissions")
    allowed = await watched.gateway.http.post(CHAT, json={"model": "support", "messages": []}, headers=key)
    assert allowed.status_code == 200


@pytest.mark.parametrize("gateway_settings", [{"max_in_flight": 1}], indirect=True)
async def test_an_evaluation_waits_for_clients(watched: Watched) -> None:
    """While the places are taken it is refused and told when to come again, rather than queued before anyone."""
    watched.gateway.engine.gap_s = 0.5
    client = asyncio.create_task(watched.gateway.chat("support"))
    await until(lambda: watched.gateway.engine.in_flight.total() == 1)
    response = await watched.gateway.http.post(CHAT, json={"model": "support", "messages": []}, headers=PURPOSE)
    assert (response.status_code, response.json()["error"]["code"]) == (503, "overloaded")
    assert int(response.headers["retry-after"]) >= 1
    assert watched.count("ostler_rejected_total", reason="clients_first") == 1
    assert (await client).status_code == 200


@pytest.mark.parametrize("gateway_settings", [{"breaker_pause_s": 60.0, "breaker_longest_s": 60.0}], indirect=True)
async def test_the_log_says_whose_turn_it_was(watched: Watched) -> None:
    """Where another version or the base model answers in its place, and where nothing does."""
    assert (await watched.gateway.http.patch(DEPLOYMENT, json={"canary": {"version": 2, "weight": 1.0}})).is_success
    served = await watched.ask()
    assert (served.version, served.variant, served.intended) == (2, "canary", None)
    breakers = watched.gateway.app.state.fleet.breakers
    breakers.failed(served.model, certain=True)
    instead = await watched.ask()
    assert (instead.version, instead.variant, instead.intended, instead.status) == (1, "fallback", 2, 200)
    breakers.failed(instead.model, certain=True)
    refused = await watched.ask()
    assert (refused.status, refused.error, refused.replica) == (503, "version_not_servable", None)
    assert (refused.adapter, refused.version, refused.variant, refused.intended) == ("support", 2, "canary", None)
    assert (await watched.gateway.http.patch(DEPLOYMENT, json={"canary": None, "fallback": ["base"]})).is_success
    base = await watched.ask()
    assert (base.version, base.variant, base.intended, base.status) == (None, "fallback", 1, 200)
