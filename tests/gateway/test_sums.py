"""The sums agree: what clients saw, what /metrics says, what the log holds and what usage adds up are the same."""

import asyncio
import contextlib
import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text

from registry.catalog import KeyLimits, Scope
from tests.conftest import AdapterMaker, until
from tests.fakes.engine import FakeEngine
from tests.gateway.several import Workers, all_see, two_workers, valkey

__all__ = ["valkey"]

REQUESTS, CLIENTS, SEED = 10_000, 48, 4
CHAT = "/v1/chat/completions"
Served = tuple[str, str, str]
"""Adapter, version and variant, as response headers and metrics say them."""
NOTHING: Served = ("", "", "")
KINDS = {
    "plain": 44,
    "stream": 20,
    "uncounted stream": 5,
    "base": 4,
    "pinned": 4,
    "evaluation": 4,
    "leaves a stream": 5,
    "leaves before the answer": 2,
    "engine fails": 3,
    "engine breaks off": 3,
    "unknown model": 2,
    "no JSON": 1,
    "limited": 2,
    "no key": 1,
}
FAULTS = {
    "leaves a stream": "hang",
    "leaves before the answer": "hang",
    "engine fails": "fail",
    "engine breaks off": "break",
}
STREAMED = ("stream", "uncounted stream", "leaves a stream", "engine breaks off")


class ScriptedEngine(FakeEngine):
    """Does what a request's `user` says.

    Attributes:
        arrived: the ids of the requests that hang, set once they are here.
    """

    def __init__(self) -> None:
        super().__init__()
        self.arrived: dict[str, asyncio.Event] = {}

    async def _infer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        does = body.get("user")
        if does == "fail":
            return web.json_response({"error": {"message": "it fails", "code": 500}}, status=500)
        if does not in ("hang", "break"):
            answer = await super()._infer(request)
            self.bodies.clear()
            self.headers.clear()
            return answer
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        if body.get("stream"):
            await response.prepare(request)
            event = {"id": "chatcmpl-1", "choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]}
            await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        if does == "hang":
            self.arrived[request.headers["x-request-id"]].set()
            await asyncio.Event().wait()
        assert request.transport is not None
        request.transport.abort()
        return response


@pytest.fixture
async def fake_engine() -> AsyncIterator[ScriptedEngine]:
    """In place of the usual one."""
    engine = ScriptedEngine()
    await engine.start()
    yield engine
    await engine.stop()


class Load:
    """Clients that count what they see.

    Attributes:
        seen: requests by what served them and their status.
        broken: streams by what served them and how they ended.
        tokens: of answers that told them, by what served them.
    """

    def __init__(self, workers: Workers, engine: ScriptedEngine, limited_key: str) -> None:
        self._workers = workers
        self._engine = engine
        self._limited_key = limited_key
        self.seen: Counter[tuple[Served, int]] = Counter()
        self.broken: Counter[tuple[Served, str]] = Counter()
        self.tokens: Counter[tuple[Served, str]] = Counter()

    async def run(self, kinds: list[str]) -> None:
        """Send one request of each of these kinds, some at once."""
        todo = iter(enumerate(kinds))
        connector = aiohttp.TCPConnector(limit=0)
        async with (
            aiohttp.ClientSession(self._workers.url, connector=connector) as session,
            asyncio.TaskGroup() as all_,
        ):
            for _ in range(CLIENTS):
                all_.create_task(self._client(session, todo))

    async def _client(self, session: aiohttp.ClientSession, todo: Any) -> None:
        for number, kind in todo:
            await self._send(session, number, kind)

    async def _send(self, session: aiohttp.ClientSession, number: int, kind: str) -> None:
        headers, data = self._request(number, kind)
        if kind in ("leaves a stream", "leaves before the answer"):
            self._engine.arrived[headers["x-request-id"]] = asyncio.Event()
        sending = asyncio.ensure_future(session.post(CHAT, data=data, headers=headers))
        if kind == "leaves before the answer":
            await self._engine.arrived[headers["x-request-id"]].wait()
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sending
            self.seen[("support", "1", "pinned"), 499] += 1
            return
        async with await sending as response:
            told = response.headers.get
            served = (told("x-ostler-adapter", ""), told("x-ostler-version", ""), told("x-ostler-variant", ""))
            self.seen[served, response.status] += 1
            if kind == "leaves a stream":
                await response.content.readany()
                response.close()  # the connection with it
                self.broken[served, "client_gone"] += 1
                return
            self._count(served, kind, await response.read())

    def _request(self, number: int, kind: str) -> tuple[dict[str, str], bytes]:
        key = self._limited_key if kind == "limited" else self._workers.key
        headers = {"authorization": f"Bearer {key}", "x-request-id": f"r-{number}", "x-session-id": f"s-{number % 97}"}
        if kind == "no key":
            del headers["authorization"]
        if kind == "evaluation":
            headers["x-ostler-purpose"] = "evaluation"
        model = {
            "base": "tiny",
            "pinned": "support@2",
            "leaves before the answer": "support@1",
            "unknown model": "nobody",
        }.get(kind, "support")
        body: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": "hello"}],
            "user": FAULTS.get(kind, ""),
        }
        if kind in STREAMED:
            body["stream"] = True
        if kind == "stream":
            body["stream_options"] = {"include_usage": True}
        return headers, b"{" if kind == "no JSON" else json.dumps(body).encode()

    def _count(self, served: Served, kind: str, content: bytes) -> None:
        if kind == "engine breaks off":
            assert b'"engine_error"' in content
            self.broken[served, "engine_error"] += 1
        elif kind == "stream":
            assert content.endswith(b"data: [DONE]\n\n")
            self._count_tokens(served, json.loads(content.split(b"\n\n")[-3].removeprefix(b"data: "))["usage"])
        elif content.startswith(b'{"id"'):
            self._count_tokens(served, json.loads(content)["usage"])

    def _count_tokens(self, served: Served, usage: dict[str, int]) -> None:
        self.tokens[served, "input"] += usage["prompt_tokens"]
        self.tokens[served, "output"] += usage["completion_tokens"]


class Told:
    """What /metrics says, of both workers."""

    def __init__(self, exposition: str) -> None:
        self.requests: Counter[tuple[Served, int]] = Counter()
        self.durations: Counter[Served] = Counter()
        self.broken: Counter[tuple[Served, str]] = Counter()
        self.tokens: Counter[tuple[Served, str]] = Counter()
        self.single: dict[str, float] = {}
        for family in text_string_to_metric_families(exposition):
            for sample in family.samples:
                self._take(sample.name, sample.labels, sample.value)

    def _take(self, name: str, labels: dict[str, str], value: float) -> None:
        served = (labels.get("adapter", ""), labels.get("version", ""), labels.get("variant", ""))
        count = int(value) if value == value // 1 else 0
        if name == "ostler_requests_total":
            self.requests[served, int(labels["status"])] += count
        elif name == "ostler_request_duration_seconds_count":
            self.durations[served] += count
        elif name == "ostler_streams_broken_total":
            self.broken[served, labels["error_type"]] += count
        elif name == "ostler_tokens_total" and count:
            self.tokens[served, labels["gen_ai_token_type"]] += count
        elif not labels:
            self.single[name] = value


async def told(workers: Workers) -> Told:
    """/metrics as of now."""
    async with workers.client() as http:
        return Told((await http.get("/metrics")).text)


async def rows(workers: Workers, query: str) -> list[Any]:
    """What a query finds."""
    async with workers.database.connect() as connection:
        return list(await connection.execute(text(query)))


def served_of(row: Any) -> Served:
    """The labels of a row; usage has 0 where there is no version."""
    return row.adapter or "", str(row.version or ""), row.variant or ""


def by_served(counts: Counter[tuple[Served, Any]]) -> Counter[Served]:
    """The same, whatever the status."""
    found: Counter[Served] = Counter()
    for (served, _), count in counts.items():
        found[served] += count
    return found


async def at_rest(workers: Workers, recorded: int) -> Told:
    """What /metrics says once every request is over and written."""
    found = await told(workers)

    async def are_over() -> bool:
        nonlocal found
        found = await told(workers)
        (used,) = await rows(workers, "SELECT sum(requests) AS n FROM usage_hours")
        if used.n != REQUESTS:
            return False
        return (found.single["ostler_requests_in_flight"], found.single["ostler_records_written_total"]) == (
            0,
            recorded,
        )

    with contextlib.suppress(TimeoutError):  # the assertions say what is missing
        await until(are_over, 30)
    return found


async def test_client_metrics_log_and_usage_agree(
    fake_engine: ScriptedEngine, postgres_url: str, valkey: str, tmp_path: Path, adapter_folder: AdapterMaker
) -> None:
    """After 10,000 requests over two workers, with streams, cancellations and errors among them, to the last one.

    What comes without a valid key is counted and added up, but has no row of its own: anyone could fill the disk so.
    """
    # So that no replica counts as busy, which would turn evaluations away.
    start = two_workers(tmp_path, fake_engine, postgres_url, valkey, adapter_folder, home_bound=1000)
    async with start as workers:
        limits = KeyLimits(requests_per_minute=5)
        _, limited = await workers.registry.create_key(
            "limited", scopes=frozenset({Scope.INFERENCE}), limits=limits, actor="test"
        )
        await all_see(workers, "support", limited)
        async with workers.client() as http:
            change = {"canary": {"version": 2, "weight": 0.3}}
            assert (await http.patch("/admin/v1/adapters/support/deployment", json=change)).is_success
        load = Load(workers, fake_engine, limited)
        kinds = random.Random(SEED).choices(list(KINDS), weights=list(KINDS.values()), k=REQUESTS)
        await load.run(kinds)
        found = await at_rest(workers, REQUESTS - load.seen[NOTHING, 401])

        assert load.seen.total() == REQUESTS
        assert {status for _, status in load.seen} == {200, 400, 401, 404, 429, 499, 502}
        assert {served[2] for served, _ in load.seen} == {"", "base", "stable", "canary", "pinned", "evaluation"}
        await compare_requests(workers, load, found)
        await compare_tokens(workers, load, found)


async def compare_requests(workers: Workers, load: Load, found: Told) -> None:
    """Counts by what served them and their status, and how streams broke."""
    assert found.requests == load.seen
    assert found.durations == by_served(load.seen)
    assert found.broken == load.broken
    assert found.single.get("ostler_records_dropped_total", 0) == 0
    log = await rows(
        workers, "SELECT adapter, version, variant, status, count(*) AS n FROM request_log GROUP BY 1,2,3,4"
    )
    recorded = load.seen - Counter({(NOTHING, 401): load.seen[NOTHING, 401]})
    assert Counter({(served_of(row), row.status): row.n for row in log}) == recorded
    broken = await rows(
        workers,
        "SELECT adapter, version, variant, error, count(*) AS n FROM request_log "
        "WHERE status = 200 AND error IS NOT NULL GROUP BY 1,2,3,4",
    )
    assert Counter({(served_of(row), row.error): row.n for row in broken}) == load.broken
    usage = await rows(
        workers,
        "SELECT adapter, version, variant, sum(requests) AS n, sum(errors) AS bad FROM usage_hours GROUP BY 1,2,3",
    )
    assert Counter({served_of(row): int(row.n) for row in usage}) == by_served(load.seen)
    bad = by_served(Counter({key: n for key, n in load.seen.items() if key[1] >= 400})) + by_served(load.broken)
    assert Counter({served_of(row): int(row.bad) for row in usage if row.bad}) == bad


async def compare_tokens(workers: Workers, load: Load, found: Told) -> None:
    """The client's where it was told them, and everybody's for all."""
    for table in ("request_log", "usage_hours"):
        sums = await rows(
            workers,
            "SELECT adapter, version, variant, sum(prompt_tokens) AS i, sum(completion_tokens) AS o "
            f"FROM {table} GROUP BY 1,2,3",
        )
        tokens = {(served_of(row), "input"): int(row.i or 0) for row in sums}
        tokens |= {(served_of(row), "output"): int(row.o or 0) for row in sums}
        assert {key: count for key, count in tokens.items() if count} == found.tokens, table
    whole = await rows(
        workers,
        "SELECT adapter, version, variant, sum(prompt_tokens) AS i, sum(completion_tokens) AS o, count(*) AS n "
        "FROM request_log WHERE status = 200 AND error IS NULL GROUP BY 1,2,3",
    )
    for row in whole:
        told_input, told_output = load.tokens[served_of(row), "input"], load.tokens[served_of(row), "output"]
        untold = row.n - told_input // 7  # streams whose clients did not ask for the count; 7 and 3 tokens each
        assert (int(row.i), int(row.o)) == (told_input + 7 * untold, told_output + 3 * untold)
