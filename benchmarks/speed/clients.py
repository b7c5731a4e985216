"""The gateway's client of an engine beside general ones: what a forwarded request costs in each.

`python -m benchmarks.speed.clients NAME URL --clients 32 --seconds 5` is one turn of one client, in a process of its
own.
"""

import argparse
import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager

import aiohttp
import httpx
import uvloop

from benchmarks.speed.processes import Cores, cores, pinned
from benchmarks.speed.report import Found
from benchmarks.speed.rounds import Figures, ratio, take_turns, values_of
from benchmarks.speed.systems import DIRECT, PATH
from benchmarks.speed.trial import chat, trial
from gateway.engines.connections import Connections

AT_ONCE = (1, 32)
OWN, AIOHTTP, HTTPX = "Ostler's own", "aiohttp", "httpx"
_WARM_UP_S = 0.5
_TIMEOUT_S = 60.0
_HEADERS = {"content-type": "application/json", "accept-encoding": "identity", "x-request-id": "req-0123456789abcdef"}
Ask = Callable[[bytes], Awaitable[bytes]]


@contextlib.asynccontextmanager
async def _own(url: str) -> AsyncIterator[Ask]:
    connections = Connections(url.removesuffix(PATH))

    async def ask(body: bytes) -> bytes:
        with await connections.post(PATH, body, _HEADERS, _TIMEOUT_S) as reply:
            return await reply.read()

    yield ask
    connections.close()


@contextlib.asynccontextmanager
async def _aiohttp(url: str) -> AsyncIterator[Ask]:
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False, timeout=timeout) as session:

        async def ask(body: bytes) -> bytes:
            async with session.post(url, data=body, headers=_HEADERS) as answer:
                return await answer.read()

        yield ask


@contextlib.asynccontextmanager
async def _httpx(url: str) -> AsyncIterator[Ask]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(limits=limits, timeout=_TIMEOUT_S) as client:

        async def ask(body: bytes) -> bytes:
            return (await client.post(url, content=body, headers=_HEADERS)).content

        yield ask


CLIENTS: dict[str, Callable[[str], AbstractAsyncContextManager[Ask]]] = {OWN: _own, AIOHTTP: _aiohttp, HTTPX: _httpx}


async def clients(rounds: int, seconds: float) -> Found:
    """Requests that are no streams, by each client at 1 and 32 at once."""
    place = cores()
    turns = await take_turns(list(CLIENTS), lambda name: _turn(name, place, seconds), rounds=rounds)
    by_name = dict(zip(CLIENTS, turns, strict=True))
    rows = [
        [
            f"{name}, {count} at once",
            found[f"cpu_us@{count}"].shown(1),
            ratio(found[f"cpu_us@{count}"], by_name[AIOHTTP][f"cpu_us@{count}"]).shown(2),
            found[f"per_s@{count}"].shown(0),
        ]
        for name, found in by_name.items()
        for count in AT_ONCE
    ]
    columns = ["client", "CPU us per request", "of aiohttp", "requests/s"]
    text = (
        "Requests of 500 bytes with answers of 900, sent and read in one process without a gateway around them. What"
        " httpx takes with 32 at once is its pool's: whenever a request begins or ends it goes through all connections,"
        " and sees of each idle one whether it was closed; that is more than half of its time, by py-spy."
    )
    values = values_of(CLIENTS, turns)
    return Found("10-clients", "The client of the engines", text, columns, rows, values=values)


async def _turn(name: str, place: Cores, seconds: float) -> Figures:
    found: dict[str, float] = {}
    async with trial(DIRECT, place, warm_up=False) as bench:
        for count in AT_ONCE:
            module = ("-m", "benchmarks.speed.clients", name, bench.serving.url)
            options = ("--clients", str(count), "--seconds", str(seconds))
            argv = pinned(place.measured, sys.executable, *module, *options)
            process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
            said, _ = await process.communicate()
            if process.returncode:
                raise RuntimeError(f"the client {name} failed")
            found |= {f"{figure}@{count}": value for figure, value in json.loads(said).items()}
    return found


async def _press(ask: Ask, count: int, seconds: float) -> Figures:
    """Have so many ask for so long, each again once it has its answer."""
    body = json.dumps(chat("tiny", stream=False)).encode()
    until = time.monotonic() + seconds
    answers = 0

    async def again() -> None:
        nonlocal answers
        while time.monotonic() < until:
            if not await ask(body):
                raise RuntimeError("an answer was empty")
            answers += 1

    began, cpu_s = time.monotonic(), time.process_time()
    await asyncio.gather(*(again() for _ in range(count)))
    cpu_us = (time.process_time() - cpu_s) / answers * 1e6
    return {"cpu_us": cpu_us, "per_s": answers / (time.monotonic() - began)}


async def _run(name: str, url: str, count: int, seconds: float) -> Figures:
    async with CLIENTS[name](url) as ask:
        await _press(ask, count, _WARM_UP_S)
        return await _press(ask, count, seconds)


def main() -> None:
    """Take one turn, and say what it found as JSON."""
    parser = argparse.ArgumentParser(prog="benchmarks.speed.clients", description="One client's turn.")
    parser.add_argument("name", choices=CLIENTS)
    parser.add_argument("url")
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    print(json.dumps(uvloop.run(_run(options.name, options.url, options.clients, options.seconds))))


if __name__ == "__main__":
    main()
