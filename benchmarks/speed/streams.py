"""Open streams, with the time of each event: when the upstream sent it, and when it was read here."""

import asyncio
import contextlib
import gc
import itertools
import json
import re
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

_SENT = re.compile(rb'"content": ?"(\d{19}) "')
_STAMP_BYTES = 40
"""Longer than what the pattern finds: so much is kept where a packet ends in the middle of it."""
_END = b"data: [DONE]"
_LAST_CHUNK = b"\r\n0\r\n\r\n"
_NS_PER_MS = 1e6


@dataclass(slots=True)
class Seen:
    """One stream as its client saw it; times in nanoseconds of the machine's monotonic clock.

    Attributes:
        asked: when the request went out.
        first: when the first bytes of the answer came.
        events: when each event was sent and read.
        whole: whether it came to its end.
    """

    asked: int = 0
    first: int = 0
    events: list[tuple[int, int]] | None = None
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Streams:
    """Many streams at once.

    Attributes:
        first_ms_p50, first_ms_p99: from request to first byte.
        late_ms_p50, late_ms_p99: from an event's sending to its reading.
        gap_ms_p50, gap_ms_p99: by how much the gaps between events differ from those that the upstream made.
        broken: streams that did not come to their end.
        events: in all.
    """

    first_ms_p50: float
    first_ms_p99: float
    late_ms_p50: float
    late_ms_p99: float
    gap_ms_p50: float
    gap_ms_p99: float
    broken: int
    events: int


class _Client(asyncio.Protocol):
    """One connection with one stream."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._rest = b""
        self.seen = Seen(events=[])
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports have another parent
        self.seen.asked = time.perf_counter_ns()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter_ns()
        seen = self.seen
        assert seen.events is not None
        seen.first = seen.first or now
        data = self._rest + data
        end = 0
        for found in _SENT.finditer(data):
            seen.events.append((int(found[1]), now))
            end = found.end()
        seen.whole = seen.whole or _END in data
        if data.endswith(_LAST_CHUNK):
            self._transport.close()
        self._rest = data[max(end, len(data) - _STAMP_BYTES) :]

    def connection_lost(self, _: Exception | None) -> None:
        if not self.over.done():
            self.over.set_result(None)


async def watch(
    url: str, body: object, headers: Mapping[str, str], *, count: int, spread_s: float, times: int = 1
) -> Streams:
    """Open so many streams, spread over a while, and follow each to its end; and that so many times."""
    place = urlsplit(url)
    data = json.dumps(body).encode()
    lines = {"host": place.netloc, "content-type": "application/json", **headers, "content-length": str(len(data))}
    head = f"POST {place.path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    request = head.encode() + b"\r\n" + data
    loop = asyncio.get_running_loop()

    async def one(number: int) -> Seen:
        await asyncio.sleep(spread_s * number / count)
        _, client = await loop.create_connection(lambda: _Client(request), place.hostname or "", place.port or 80)
        await client.over
        return client.seen

    seen: list[Seen] = []
    with _no_collections():
        for _ in range(times):
            seen += await asyncio.gather(*(one(number) for number in range(count)))
    return summary(seen)


@contextlib.contextmanager
def _no_collections() -> Iterator[None]:
    """Keep Python's garbage collector from holding up this client, which would seem late for a tenth of a second."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def summary(streams: Sequence[Seen]) -> Streams:
    """What many streams have in common."""
    first = [(seen.first - seen.asked) / _NS_PER_MS for seen in streams if seen.first]
    late: list[float] = []
    gaps: list[float] = []
    for seen in streams:
        events = seen.events or []
        late += [(read - sent) / _NS_PER_MS for sent, read in events]
        for (sent, read), (next_sent, next_read) in itertools.pairwise(events):
            gaps.append(abs((next_read - read) - (next_sent - sent)) / _NS_PER_MS)
    return Streams(
        first_ms_p50=percentile(first, 50),
        first_ms_p99=percentile(first, 99),
        late_ms_p50=percentile(late, 50),
        late_ms_p99=percentile(late, 99),
        gap_ms_p50=percentile(gaps, 50),
        gap_ms_p99=percentile(gaps, 99),
        broken=sum(not seen.whole for seen in streams),
        events=len(late),
    )


def percentile(values: Sequence[float], percent: int) -> float:
    """That percentile; not a number where there are no values."""
    if len(values) < 2:
        return values[0] if values else float("nan")
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]
