"""How one server stops."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from ostler.draining import SAME_STOP_S
from tests.conftest import until
from tests.ostler.tiny_server import Running, running, serving, streaming

SERVER = """
import sys
from ostler.draining import Grace, serve
from tests.ostler.tiny_app import make
sys.exit(serve(make(), Grace(float(sys.argv[2]), float(sys.argv[3])), port=int(sys.argv[1])))
"""


@contextlib.asynccontextmanager
async def server(folder: Path, delay_s: float = 0.0, drain_s: float = 20.0) -> AsyncIterator[Running]:
    """A server that serves."""
    async with running(SERVER, folder, delay_s, drain_s) as process:
        await serving(process)
        yield process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_stop_in_order_has_exit_code_0(tmp_path: Path, number: signal.Signals) -> None:
    """For either signal, and the app's lifespan has ended by then."""
    async with server(tmp_path) as process:
        process.process.send_signal(number)
        assert await process.process.wait() == 0
    assert process.notes() == ["lifespan ended"]


async def test_a_stream_goes_on_to_its_end(tmp_path: Path) -> None:
    """While new connections are refused, and the lifespan ends after it."""
    async with server(tmp_path) as process, streaming(process) as pieces:
        process.terminate()
        await until(process.refuses)
        assert process.notes() == []
        process.let_streams_end()
        assert [piece async for piece in pieces][-1].endswith("the end")
        assert await process.process.wait() == 0
    assert process.notes() == ["lifespan ended"]


async def test_during_the_delay_it_serves_but_says_that_it_is_not_ready(tmp_path: Path) -> None:
    """Each response then ends its connection; after the delay nobody is let in."""
    async with server(tmp_path, delay_s=1.5) as process:
        assert not await process.draining()
        process.terminate()
        await until(process.draining)
        async with httpx.AsyncClient() as client:
            response = await client.get(process.url + "/pid")
        assert response.headers["connection"] == "close"
        await until(process.refuses)
        assert await process.process.wait() == 0


async def test_idle_connections_hold_nothing_up(tmp_path: Path) -> None:
    """A client that keeps its connection for later is closed at once."""
    async with server(tmp_path) as process, httpx.AsyncClient() as client:
        response = await client.get(process.url + "/pid")
        assert response.headers.get("connection") != "close"
        process.terminate()
        assert await process.process.wait() == 0


async def test_what_outlasts_the_drain_is_cancelled(tmp_path: Path) -> None:
    """And has ended before the lifespan does, so that its record is still written."""
    async with server(tmp_path, drain_s=0.2) as process, streaming(process) as pieces:
        process.terminate()
        with pytest.raises(httpx.RemoteProtocolError):
            _ = [piece async for piece in pieces]
        assert await process.process.wait() == 0
    assert process.notes() == ["cancelled", "lifespan ended"]


@pytest.mark.parametrize("delay_s", [0.0, 60.0], ids=["while draining", "during the delay"])
async def test_a_second_signal_stops_at_once(tmp_path: Path, delay_s: float) -> None:
    """Whatever still runs, with exit code 1."""
    async with server(tmp_path, delay_s, drain_s=60) as process, streaming(process):
        process.terminate()
        await until(process.draining if delay_s else process.refuses)
        await asyncio.sleep(SAME_STOP_S)
        process.terminate()
        assert await process.process.wait() == 1
    assert process.notes() == ["cancelled"]


async def test_two_signals_at_a_time_are_one(tmp_path: Path) -> None:
    """As from a manager that tells a process and its parent, who passes it on: the stream goes on to its end."""
    async with server(tmp_path) as process, streaming(process) as pieces:
        for number in (signal.SIGTERM, signal.SIGINT):  # of one kind the kernel would deliver but one
            process.process.send_signal(number)
        await until(process.refuses)
        process.let_streams_end()
        assert [piece async for piece in pieces][-1].endswith("the end")
        assert await process.process.wait() == 0


async def test_a_process_that_hangs_is_ended_all_the_same(tmp_path: Path) -> None:
    """By the kernel, because its event loop runs nothing any more."""
    async with server(tmp_path) as process:
        hanging = asyncio.create_task(process.get("/hang"))
        await until(lambda: process.notes() == ["hangs"])
        process.terminate()
        await until(lambda: process.notes() == ["hangs", "hangs and is told to stop"])
        await asyncio.sleep(SAME_STOP_S)
        process.terminate()
        assert await process.process.wait() == -signal.SIGALRM
        assert await hanging is None


async def test_a_signal_before_the_start_ends_the_start(tmp_path: Path) -> None:
    """There is nothing to drain yet."""
    (tmp_path / "slow").touch()

    async with running(SERVER, tmp_path, 60, 60) as process:
        await until(lambda: _catches(process.process.pid, signal.SIGTERM))
        process.terminate()
        assert await process.process.wait() == 0


async def test_an_app_that_does_not_start_has_exit_code_1(tmp_path: Path) -> None:
    """As one whose lifespan fails."""
    (tmp_path / "broken").touch()
    async with running(SERVER, tmp_path, 0, 1) as process:
        assert await process.process.wait() == 1


def _catches(pid: int, number: signal.Signals) -> bool:
    """Whether the process has a handler for the signal."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    caught = next(line for line in lines if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)
