"""Bodies and headers at random: whatever is sent, the gateway itself never fails, and refuses in its envelope."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.inference import PATHS
from gateway.settings import GatewaySettings
from tests.conftest import RunningGateway

ADMIN_CALLS = [
    ("PATCH", "/admin/v1/adapters/support/deployment"),
    ("POST", "/admin/v1/adapters/support/rollback"),
    ("PATCH", "/admin/v1/adapters/support/versions/2"),
    ("POST", "/admin/v1/adapters/new/versions"),
    ("POST", "/admin/v1/keys"),
    ("PATCH", "/admin/v1/keys/key_0"),
    ("POST", "/admin/v1/keys/key_0/rotate"),
    ("GET", "/admin/v1/adapters"),
    ("GET", "/admin/v1/adapters/support/history"),
    ("GET", "/admin/v1/audit"),
    ("PATCH", "/admin/v1/adapters/support/monitoring"),
    ("PATCH", "/admin/v1/adapters/support/policy"),
    ("GET", "/admin/v1/adapters/support/policy/history"),
    ("POST", "/admin/v1/adapters/support/policy/check"),
    ("GET", "/admin/v1/adapters/support/why"),
    ("POST", "/admin/v1/adapters/support/pause"),
    ("POST", "/admin/v1/adapters/support/approve"),
    ("PUT", "/admin/v1/freeze"),
    ("DELETE", "/admin/v1/freeze"),
    ("POST", "/admin/v1/webhooks"),
    ("PATCH", "/admin/v1/webhooks/hook_0"),
    ("POST", "/admin/v1/webhooks/hook_0/rotate"),
    ("GET", "/admin/v1/webhooks/deliveries"),
    ("POST", "/v1/files"),
    ("GET", "/v1/files"),
    ("POST", "/v1/fine_tuning/jobs"),
    ("GET", "/v1/fine_tuning/jobs"),
    ("POST", "/admin/v1/replicas/engine-0/sleep"),
    ("POST", "/admin/v1/replicas/engine-0/wake"),
]
MODELS = st.sampled_from(["support", "support@1", "support@2", "support@9", "tiny", "", "a\0b", "support@1-00000000"])
TEXT = st.text(max_size=20)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3))
KNOWN_FIELDS = st.sampled_from(
    [
        *("stream", "stream_options", "user", "prompt_cache_key", "safety_identifier", "priority", "max_tokens"),
        *("messages", "prompt", "input", "logprobs", "n", "stable", "canary", "shadow", "fallback", "reason", "to"),
        *("decision", "mode", "quality", "retrain", "rollout", "url", "events", "enabled"),
        *("archived", "name", "scopes", "adapters", "limits", "expires_at", "overlap_s"),
        *("training_file", "method", "hyperparameters", "suffix", "seed", "metadata", "integrations", "ostler"),
    ]
)
OBJECTS = st.builds(
    lambda model, fields: {**({} if model is None else {"model": model}), **fields},
    st.none() | MODELS | JSON,
    st.dictionaries(KNOWN_FIELDS | TEXT, JSON | st.booleans(), max_size=4),
)
BODIES = (
    OBJECTS.map(lambda body: json.dumps(body).encode())
    | JSON.map(lambda body: json.dumps(body).encode())
    | OBJECTS.map(lambda body: json.dumps(body).encode()[:-1])
    | st.binary(max_size=200)
    | st.sampled_from([b"", b"[" * 100_000, b'{"model":' * 20_000, b'{"a":1,"a":2,"model":"tiny"}', b"\xef\xbb\xbf{}"])
)
HEADER_NAMES = st.sampled_from(
    [
        *("x-request-id", "x-session-id", "x-ostler-timeout-s", "if-match", "content-type", "accept", "authorization"),
        *("x-api-key", "traceparent", "tracestate", "anthropic-version", "anthropic-beta", "content-encoding", "x-odd"),
    ]
).map(str.encode)
# What HTTP allows in a header's value: visible characters, the upper half of latin-1, and spaces inside.
VISIBLE = st.characters(min_codepoint=0x20, max_codepoint=0x7E) | st.characters(min_codepoint=0xA1, max_codepoint=0xFF)
HEADER_VALUES = st.text(VISIBLE, max_size=60).map(lambda value: value.strip().encode("latin-1"))
HEADERS = st.lists(
    st.tuples(HEADER_NAMES, HEADER_VALUES | st.sampled_from([b"1", b"0.001", b"nan", b"-1"])), max_size=3
)
QUERIES = st.lists(st.tuples(st.sampled_from(["limit", "before", "after", "note", "base", "x"]), TEXT), max_size=2)
FUZZ = settings(
    max_examples=200,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
def gateway_settings(gateway_settings: GatewaySettings) -> GatewaySettings:
    """No breaker: the fake engine's own failures on odd bodies must not keep later ones from it."""
    return gateway_settings.model_copy(update={"breaker_failures": 1_000_000})


def assert_sound(response: httpx.Response) -> None:
    """No failure of the gateway's own, and any other in the envelope, without a word of the insides."""
    if response.is_success:
        return
    error = response.json()["error"]
    assert {"message", "type", "param", "code"} <= error.keys()
    assert error["code"] != "internal_error", response.text
    assert response.status_code < 500 or response.status_code in (502, 503, 504), response.text
    assert "x-request-id" in response.headers
    assert not any(word in response.text for word in ("Traceback", "/srv/", "127.0.0.1"))


async def fuzz(gateway: RunningGateway, run: Callable[[httpx.Client], None]) -> None:
    """Run a synchronous property beside the gateway's loop."""
    headers = {"authorization": f"Bearer {gateway.key}"}
    with httpx.Client(base_url=gateway.url, headers=headers, timeout=20) as client:
        await asyncio.to_thread(run, client)


@pytest.mark.parametrize("path", PATHS)
async def test_no_request_makes_the_gateway_fail(two: RunningGateway, path: str) -> None:
    """On the way to the engine: each answer is the engine's, or a refusal that says what was wrong."""
    seen: Counter[int] = Counter()

    def run(client: httpx.Client) -> None:
        @FUZZ
        @given(body=BODIES, headers=HEADERS)
        def send(body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
            response = client.post(path, content=body, headers=headers)
            seen[response.status_code] += 1
            assert_sound(response)

        send()

    await fuzz(two, run)
    assert seen[200] > 5, seen
    assert seen[400] > 20, seen
    assert (await two.chat("support")).status_code == 200


async def test_no_admin_call_makes_the_gateway_fail(two: RunningGateway) -> None:
    """Bodies, headers and parameters of the admin routes; afterwards all works as before."""
    seen: Counter[int] = Counter()

    def run(client: httpx.Client) -> None:
        @FUZZ
        @given(call=st.sampled_from(ADMIN_CALLS), body=BODIES, headers=HEADERS, query=QUERIES)
        def send(call: Any, body: bytes, headers: list[tuple[bytes, bytes]], query: Any) -> None:
            method, path = call
            response = client.request(method, path, content=body, headers=headers, params=query)
            seen[response.status_code] += 1
            assert_sound(response)

        send()

    await fuzz(two, run)
    assert seen[400] > 20, seen
    assert (await two.promote("support", 2)).status_code == 200


async def test_no_path_makes_the_gateway_fail(two: RunningGateway) -> None:
    """Names in paths, with any method: 4xx in the envelope where there is no such thing."""

    def run(client: httpx.Client) -> None:
        names = st.text(max_size=30) | st.sampled_from(
            ["support", "..", ".", "%2e", "support@1", "\0", "\n", "a" * 3000]
        )
        places = st.sampled_from(
            [
                *("/v1/models/{}", "/admin/v1/adapters/{}", "/admin/v1/adapters/{}/history", "/admin/v1/keys/{}"),
                *("/admin/v1/adapters/support/versions/{}/verify", "/schema/{}", "/{}", "/v1/{}"),
                *("/v1/fine_tuning/jobs/{}", "/v1/fine_tuning/jobs/{}/events"),
                "/admin/v1/adapters/support/versions/{}/report",
                *("/v1/files/{}", "/v1/files/{}/content", "/admin/v1/replicas/{}/sleep", "/admin/v1/replicas/{}/wake"),
            ]
        )

        @FUZZ
        @given(place=places, name=names, method=st.sampled_from(["GET", "PUT", "PATCH", "HEAD", "OPTIONS", "TRACE"]))
        def send(place: str, name: str, method: str) -> None:
            quoted = "".join(f"%{byte:02x}" for byte in name.encode("utf-8", "surrogatepass"))
            response = client.request(method, place.format(quoted))
            if method != "HEAD":
                assert_sound(response)

        send()

    await fuzz(two, run)
