"""What many open streams have in common, from the times of their events."""

import asyncio
import gc
import math
import time

import pytest

from benchmarks.speed.streams import Seen, percentile, summary, watch

MS = 1_000_000


def seen(*events: tuple[int, int], whole: bool = True) -> Seen:
    """A stream asked for at 0 ms whose first bytes came at 7 ms; events as sent and read, milliseconds."""
    return Seen(asked=0, first=7 * MS, events=[(sent * MS, read * MS) for sent, read in events], whole=whole)


def test_lateness_is_from_sending_to_reading() -> None:
    """Of each event of all streams."""
    found = summary([seen((10, 11), (20, 22)), seen((10, 13))])
    assert found.late_ms_p50 == 2.0
    assert found.late_ms_p99 == pytest.approx(2.98)
    assert found.events == 3


def test_a_gaps_error_is_how_far_it_is_from_the_senders() -> None:
    """An event that was held back makes one gap too long and the next too short; steady lateness makes no error."""
    assert summary([seen((0, 5), (50, 55), (100, 105))]).gap_ms_p99 == 0.0
    held_back = summary([seen((0, 0), (50, 58), (100, 100))])
    assert (held_back.gap_ms_p50, held_back.gap_ms_p99) == (8.0, 8.0)


def test_gaps_are_within_a_stream() -> None:
    """Between the last event of one stream and the first of the next there is none."""
    assert math.isnan(summary([seen((0, 1)), seen((500, 900))]).gap_ms_p50)


def test_first_bytes_count_from_the_request() -> None:
    """A stream that never began has none, and is broken."""
    found = summary([seen((10, 11)), Seen(asked=5 * MS, events=[])])
    assert found.first_ms_p50 == 7.0
    assert found.broken == 1


def test_a_stream_without_its_end_is_broken() -> None:
    """However many events it had."""
    assert summary([seen((1, 1), (2, 2), whole=False), seen((1, 1))]).broken == 1


def test_percentiles_of_few_values() -> None:
    """None of nothing, and the one of one."""
    assert math.isnan(percentile([], 99))
    assert percentile([3.0], 99) == 3.0
    assert percentile([float(number) for number in range(101)], 99) == 99.0


async def test_events_are_read_across_packets() -> None:
    """One whose time is cut in two by a packet's end counts once, and none is counted twice.

    Nothing is collected meanwhile, which would make events seem late.
    """
    collects: list[bool] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        collects.append(gc.isenabled())
        event = b'data: {"content":"%019d "}\n\n'
        data = b"HTTP/1.1 200 OK\r\n\r\n" + b"".join(event % time.perf_counter_ns() for _ in range(3))
        for packet in (data[:45], data[45:90], data[90:], b"data: [DONE]\n\n\r\n0\r\n\r\n"):
            writer.write(packet)
            await writer.drain()
            await asyncio.sleep(0.02)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        found = await watch(f"http://127.0.0.1:{port}/v1", {}, {}, count=1, spread_s=0.0, times=2)
    assert (found.events, found.broken) == (6, 0)
    assert (collects, gc.isenabled()) == ([False, False], True)
