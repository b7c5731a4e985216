"""Two real vLLM replicas, PostgreSQL, two gateways and many adapters. Runs last: it stops the other tests' engine."""

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import asyncpg
import httpx
import pytest

import demo
from tests.engine.conftest import Up
from tests.engine.small_adapters import small_adapter
from tests.ports import free_port
from tests.postgres import StoppablePostgres

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

FULL_SIZE = bool(os.environ.get("FULL_SIZE"))
"""The whole thousand takes ten minutes more; what is shown is the same."""
ADAPTERS, CALLED, POPULAR = (1000, 200, 20) if FULL_SIZE else (200, 120, 20)
WARM_UP, REQUESTS, CLIENTS = (1000, 1500, 16) if FULL_SIZE else (400, 600, 16)
OUTAGE_S = 60.0 if FULL_SIZE else 20.0
FLIPS = 100
SLOTS = 32


@dataclass
class Fleet:
    """A running `ostler up` with two replicas, and the PostgreSQL server that it uses."""

    up: Up
    postgres: StoppablePostgres

    def replicas(self) -> list[dict[str, Any]]:
        """As the admin API tells."""
        with self.up.http() as http:
            found: list[dict[str, Any]] = http.get("/admin/v1/replicas").json()["data"]
            return found

    def session(self) -> aiohttp.ClientSession:
        """A client of the gateway without a limit of its own."""
        headers = {"authorization": f"Bearer {self.up.key}"}
        timeout = aiohttp.ClientTimeout(total=180)
        return aiohttp.ClientSession(
            self.up.url, headers=headers, timeout=timeout, connector=aiohttp.TCPConnector(limit=0)
        )


@pytest.fixture(scope="module")
def fleet(up: Up, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two replicas and PostgreSQL, from nothing; the session's single engine is stopped to make room."""
    up.stop()
    with StoppablePostgres() as postgres:
        settings = {
            "OSTLER_DATABASE_URL": postgres.url,
            "OSTLER_ENGINE_SLOTS": str(SLOTS),
            "OSTLER_MAX_LORAS": "8",
            "OSTLER_KV_CACHE_GIB": "0.25",
        }
        running = Up(tmp_path_factory.mktemp("fleet"), free_port(), 0, settings, ("--replicas", "2"))
        try:
            running.start()
            made = Fleet(running, postgres)
            _until(lambda: [each["state"] for each in made.replicas()] == ["ready", "ready"], 240)
            yield made
        finally:
            running.stop()


def _until(holds: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.1)


def _body(model: str, number: int, *, stream: bool = False, tokens: int = 4) -> dict[str, Any]:
    message = f"{demo.EXAMPLE_MESSAGE} Order {number}."
    return {
        "model": model,
        "messages": [{"role": "user", "content": message}],
        "max_tokens": tokens,
        "temperature": 0,
        "stream": stream,
    }


@dataclass
class Load:
    """Clients that ask until they are told to stop, and what they got."""

    session: aiohttp.ClientSession
    models: list[str]
    stream: bool = False
    tokens: int = 8
    answers: list[tuple[int, str, str]] = field(default_factory=list)
    """Status, request id, and the text."""
    over: bool = False
    asked: int = 0

    @contextlib.asynccontextmanager
    async def running(self, clients: int) -> AsyncIterator["Load"]:
        """Ask for as long as the block lasts."""
        tasks = [asyncio.create_task(self._client()) for _ in range(clients)]
        try:
            yield self
        finally:
            self.over = True
            await asyncio.gather(*tasks)

    async def _client(self) -> None:
        while not self.over:
            self.asked += 1
            body = _body(self.models[self.asked % len(self.models)], self.asked, stream=self.stream, tokens=self.tokens)
            try:
                async with self.session.post("/v1/chat/completions", json=body) as response:
                    text = await response.text()
                    self.answers.append((response.status, response.headers["x-request-id"], text))
            except aiohttp.ClientError as error:
                self.answers.append((0, "", repr(error)))


async def _enough(load: Load, count: int, seconds: float = 120.0) -> None:
    async with asyncio.timeout(seconds):
        goal = len(load.answers) + count
        while len(load.answers) < goal:
            await asyncio.sleep(0.05)


async def test_both_replicas_have_the_demo_and_serve_it(fleet: Fleet) -> None:
    """The live version is resident on both, and requests of many sessions reach both."""
    for replica in fleet.replicas():
        assert any(name.startswith("support@2-") for name in replica["resident"]), replica
        assert replica["breaker"] == "closed"
        assert replica["running"] is not None
        assert 0.0 <= replica["kv_cache_usage"] <= 1.0
    async with fleet.session() as session:
        load = Load(session, ["support"])
        async with load.running(16):
            await _enough(load, 80)
    assert {status for status, _, _ in load.answers} == {200}
    rows = await _rows(fleet, [request_id for _, request_id, _ in load.answers])
    assert {row["replica"] for row in rows} == {"engine-0", "engine-1"}


async def _rows(fleet: Fleet, request_ids: list[str], seconds: float = 30.0) -> list[Any]:
    """The request log's rows of those requests, once they are all written."""
    connection = await asyncpg.connect(fleet.postgres.url)
    try:
        async with asyncio.timeout(seconds):
            while True:
                query = "SELECT * FROM request_log WHERE request_id = ANY($1::text[]) AND variant <> 'shadow'"
                rows = await connection.fetch(query, request_ids)
                if len(rows) >= len(request_ids):
                    return list(rows)
                await asyncio.sleep(0.2)
    finally:
        await connection.close()


async def test_two_gateways_agree_within_a_second_100_times(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    """A promote on one is served by the other through PostgreSQL's notifications."""
    with _second_gateway(fleet) as url:
        headers = {"authorization": f"Bearer {fleet.up.key}"}
        delays = []
        async with (
            httpx.AsyncClient(base_url=fleet.up.url, headers=headers, timeout=60) as first,
            httpx.AsyncClient(base_url=url, headers=headers, timeout=60) as second,
        ):
            for turn in range(FLIPS):
                number = 1 + turn % 2
                changed = await first.patch("/admin/v1/adapters/support/deployment", json={"stable": number})
                assert changed.status_code == 200, changed.text
                began = time.monotonic()
                while (await _stable(second)) != number:
                    assert time.monotonic() - began < 30
                delays.append(time.monotonic() - began)
            assert (await first.patch("/admin/v1/adapters/support/deployment", json={"stable": 2})).is_success
    with capsys.disabled():
        print(
            f"\nthe other gateway follows after {sorted(delays)[FLIPS // 2] * 1000:.0f} ms in the median, "
            f"{max(delays):.2f} s at most"
        )
    assert max(delays) < 1.0


async def _stable(http: httpx.AsyncClient) -> int:
    shown = await http.get("/admin/v1/adapters/support")
    return int(shown.json()["deployment"]["stable"])


@contextlib.contextmanager
def _second_gateway(fleet: Fleet) -> Iterator[str]:
    """Another gateway process on the same database, artifacts and engines."""
    port = free_port()
    engines = ",".join(f"http://127.0.0.1:{number}" for number in _engine_ports(fleet))
    environment = fleet.up.environment() | {
        "OSTLER_PORT": str(port),
        "OSTLER_BASE": demo.BASE_NAME,
        "OSTLER_BASE_MODEL": str(demo.BASE_DIR),
        "OSTLER_ENGINE_URL": engines,
        "OSTLER_DRAIN_DELAY_S": "0",
    }
    with (fleet.up.folder / "second.log").open("ab") as log:
        command = [sys.executable, "-m", "ostler", "gateway"]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        url = f"http://127.0.0.1:{port}"
        _until(lambda: process.poll() is not None or _is_ready(url), 60)
        assert process.poll() is None, (fleet.up.folder / "second.log").read_text()
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _is_ready(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(url + "/readyz").status_code == 200
    return False


def _engine_ports(fleet: Fleet) -> list[int]:
    """The ports of the replicas, in order, from their command lines."""
    lines = [process.cmdline() for process in fleet.up.running("vllm.entrypoints.openai.api_server")]
    found = [(line[line.index("--port") + 1]) for line in lines if "--port" in line]
    gateway = next(process for process in fleet.up.running("ostler gateway") or fleet.up.running("gateway"))
    urls = gateway.environ()["OSTLER_ENGINE_URL"].split(",")
    ports = [int(url.rpartition(":")[2]) for url in urls]
    assert sorted(map(str, ports)) == sorted(set(found))
    return ports


async def test_a_shadow_reaches_the_other_version_at_low_priority(fleet: Fleet) -> None:
    """Real vLLM takes the priority; the client's answer is the stable version's."""
    with fleet.up.http() as http:
        order = {"shadow": {"version": 1, "share": 1.0}}
        assert http.patch("/admin/v1/adapters/support/deployment", json=order).status_code == 200
        answer = http.post("/v1/chat/completions", json=_body("support", 1))
        assert answer.json()["model"].startswith("support@2-")
        connection = await asyncpg.connect(fleet.postgres.url)
        try:
            async with asyncio.timeout(30):
                while not (
                    rows := await connection.fetch(
                        "SELECT * FROM request_log WHERE request_id = $1 AND variant = 'shadow'",
                        answer.headers["x-request-id"],
                    )
                ):
                    await asyncio.sleep(0.1)
        finally:
            await connection.close()
        assert (rows[0]["version"], rows[0]["status"], rows[0]["key_id"]) == (1, 200, None)
        assert rows[0]["completion_tokens"] > 0
        assert http.patch("/admin/v1/adapters/support/deployment", json={"shadow": None}).status_code == 200


async def test_postgres_may_be_away_for_a_minute(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    """Not one chat request fails, admin calls get 503, and every request's record is written afterwards."""
    async with fleet.session() as session:
        load = Load(session, ["support", "support@1", demo.BASE_NAME])
        async with load.running(8):
            await _enough(load, 20)
            await asyncio.to_thread(fleet.postgres.stop)
            began = time.monotonic()
            refused = Counter()  # type: Counter[int]
            while time.monotonic() - began < OUTAGE_S:
                async with session.patch("/admin/v1/adapters/support/deployment", json={"stable": 1}) as response:
                    refused[response.status] += 1
                await asyncio.sleep(2.0)
            await asyncio.to_thread(fleet.postgres.start)
            await _enough(load, 20)
    assert {status for status, _, _ in load.answers} == {200}
    assert set(refused) == {503}
    rows = await _rows(fleet, [request_id for _, request_id, _ in load.answers], 60)
    with capsys.disabled():
        print(f"\nPostgreSQL away for {OUTAGE_S:.0f} s: {len(load.answers)} requests, 0 failed, {len(rows)} records")
    assert len(rows) == len(load.answers)
    assert len({row["id"] for row in rows}) == len(rows)
    with fleet.up.http() as http:
        assert http.patch("/admin/v1/adapters/support/deployment", json={"stable": 2}).status_code == 200


async def test_a_killed_replica_under_load(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    """No request without a byte fails, begun streams end with an error event, and it comes back with its versions."""
    async with fleet.session() as session:
        plain, streams = Load(session, ["support", "support@1"]), Load(session, ["support"], stream=True, tokens=64)
        async with plain.running(8), streams.running(8):
            await _enough(plain, 30)
            victim, *_ = fleet.up.running("vllm.entrypoints.openai.api_server")
            os.kill(victim.pid, signal.SIGKILL)
            killed = time.monotonic()
            await _down(fleet)
            while [each["state"] for each in await asyncio.to_thread(fleet.replicas)] != ["ready", "ready"]:
                assert time.monotonic() - killed < 240
                await asyncio.sleep(0.2)
            back = time.monotonic() - killed
            await _enough(plain, 50)
        ends = Counter(_end(status, text) for status, _, text in streams.answers)
    assert {status for status, _, _ in plain.answers} == {200}, [a for a in plain.answers if a[0] != 200][:3]
    assert ends.keys() <= {"whole", "engine_error"}, [a for a in streams.answers if _end(a[0], a[2]) == "other"][:3]
    with capsys.disabled():
        print(f"\nkill -9 of one of two replicas: back after {back:.0f} s, {len(plain.answers)} answers, none failed")
        print(f"streams: {ends['whole']} whole, {ends['engine_error']} ended by an error event")
    for replica in fleet.replicas():
        assert any(name.startswith("support@2-") for name in replica["resident"])
    log = (fleet.up.folder / "home" / "logs" / "gateway.log").read_text()
    assert "sent again" not in log or "Traceback" not in log


async def _down(fleet: Fleet) -> None:
    async with asyncio.timeout(30):
        while "down" not in [each["state"] for each in await asyncio.to_thread(fleet.replicas)]:
            await asyncio.sleep(0.05)


def _end(status: int, text: str) -> str:
    """How a stream ended."""
    if status == 200 and text.endswith("data: [DONE]\n\n"):
        return "whole"
    with contextlib.suppress(ValueError, KeyError):
        return str(json.loads(text.rstrip().rpartition("data: ")[2])["error"]["code"])
    return "other"


async def test_many_more_adapters_than_slots(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    """Some are called, by Zipf's law, with 32 slots a replica: none fails, and the popular are resident."""
    began = time.monotonic()
    async with fleet.session() as session:
        await _each(range(ADAPTERS), lambda number: _push(session, number), 4)
        pushed = time.monotonic() - began
        await _each(range(CALLED), lambda number: _promote(session, number), 2)
        promoted = time.monotonic() - began - pushed
        async with session.get("/admin/v1/adapters", params={"limit": 1}) as response:
            assert (await response.json())["has_more"] is True
        order = random.Random(3).choices(
            range(CALLED), weights=[1 / rank for rank in range(1, CALLED + 1)], k=WARM_UP + REQUESTS
        )
        warm_up = await _each(order[:WARM_UP], lambda number: _ask(session, number), CLIENTS)
        before = await _lookups(session)
        started = time.monotonic()
        answers = await _each(order[WARM_UP:], lambda number: _ask(session, number), CLIENTS)
        took = time.monotonic() - started
        after = await _lookups(session)
    assert Counter(warm_up) == {200: WARM_UP}
    assert Counter(answers) == {200: REQUESTS}
    hits, misses = ({name: after[kind, name] - before[kind, name] for _, name in after} for kind in ("hit", "miss"))
    popular = {_name(number) for number in range(POPULAR)}
    overall = sum(hits.values()) / (sum(hits.values()) + sum(misses.values()))
    top = sum(hits[name] for name in popular) / sum(hits[name] + misses[name] for name in popular)
    with capsys.disabled():
        print(f"\n{ADAPTERS} pushed in {pushed:.0f} s, {CALLED} promoted in {promoted:.0f} s")
        print(
            f"{REQUESTS} requests in {took:.0f} s after {WARM_UP} to warm up, 0 failed; "
            f"found resident: {overall:.3f} of all, {top:.3f} of those to the top {POPULAR}"
        )
    assert top >= 0.9
    for replica in fleet.replicas():
        assert len(replica["resident"]) <= SLOTS + CLIENTS


async def _each(numbers: Any, work: Any, at_once: int) -> list[Any]:
    """Do the work for each number, some at a time."""
    places = asyncio.Semaphore(at_once)

    async def one(number: int) -> Any:
        async with places:
            return await work(number)

    return await asyncio.gather(*(one(number) for number in numbers))


def _name(number: int) -> str:
    return f"tenant-{number:04d}"


async def _push(session: aiohttp.ClientSession, number: int) -> None:
    content = await asyncio.to_thread(small_adapter, number)
    async with session.post(f"/admin/v1/adapters/{_name(number)}/versions", data=content) as response:
        assert response.status == 201, await response.text()


async def _promote(session: aiohttp.ClientSession, number: int) -> None:
    async with session.patch(f"/admin/v1/adapters/{_name(number)}/deployment", json={"stable": 1}) as response:
        assert response.status == 200, await response.text()


async def _ask(session: aiohttp.ClientSession, number: int) -> int:
    async with session.post("/v1/chat/completions", json=_body(_name(number), number)) as response:
        text = await response.text()
        assert response.status != 200 or f'"model":"{_name(number)}@1-' in text.replace(" ", "")
        return response.status


async def _lookups(session: aiohttp.ClientSession) -> Counter[tuple[str, str]]:
    """How often each adapter's requests found it resident or not, from the metrics."""
    async with session.get("/metrics") as response:
        lines = (await response.text()).splitlines()
    found: Counter[tuple[str, str]] = Counter()
    for line in lines:
        if line.startswith("ostler_residency_lookups_total{"):
            labels = dict(part.split("=") for part in line.partition("{")[2].partition("}")[0].split(","))
            found[labels["outcome"].strip('"'), labels["adapter"].strip('"')] = int(float(line.split()[-1]))
    return found
