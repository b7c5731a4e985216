"""Several processes on one port, and that none outlives its parent."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from ostler.draining import SAME_STOP_S
from ostler.workers import METRICS_VARIABLE, metrics_folder
from tests.conftest import until
from tests.ostler.tiny_server import Running, running, serving, streaming

FACTORY = "tests.ostler.tiny_app:make"
PARENT = """
import asyncio, logging, socket, sys
from ostler.draining import Grace
from ostler.supervisor import Backoff
from ostler.workers import Workers
logging.basicConfig(level="INFO")
listening = socket.create_server(("127.0.0.1", int(sys.argv[1])))
factory, count, drain_s = sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
dead = lambda pid: print(pid, file=open(sys.argv[5] + "/dead", "a"))
sys.exit(asyncio.run(Workers(factory, listening, count, Grace(0.0, drain_s), dead, Backoff(first_s=0.05)).run()))
"""


@contextlib.asynccontextmanager
async def parent(folder: Path, count: int = 2, drain_s: float = 20.0) -> AsyncIterator[Running]:
    """A parent with workers, of which one serves."""
    async with running(PARENT, folder, FACTORY, count, drain_s, folder) as process:
        await serving(process)
        yield process


def workers_of(process: Running) -> list[psutil.Process]:
    """The workers that live."""
    return [each for each in psutil.Process(process.process.pid).children() if alive(each)]


def alive(process: psutil.Process) -> bool:
    """Whether the process runs; unreaped remains do not count."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def all_answer(process: Running, count: int) -> list[int]:
    """The ids of the workers, once there are so many and each of them has answered a request."""
    answered: set[str | None] = set()

    async def each_has() -> bool:
        answered.update(await asyncio.gather(*(process.get("/pid") for _ in range(8))))
        pids = {str(worker.pid) for worker in workers_of(process)}
        return len(pids) == count and pids <= answered

    await until(each_has, 30)
    return [worker.pid for worker in workers_of(process)]


def deaths(folder: Path) -> list[int]:
    """The ids of the workers whose end was told."""
    file = folder / "dead"
    return [int(pid) for pid in file.read_text().split()] if file.exists() else []


async def test_each_worker_serves(tmp_path: Path) -> None:
    """They share one port, and none of them is the parent."""
    async with parent(tmp_path, 3) as process:
        pids = await all_answer(process, 3)
        assert len(set(pids)) == 3
        assert process.process.pid not in pids


async def test_a_killed_worker_is_replaced(tmp_path: Path) -> None:
    """The others go on serving meanwhile, and its end is told."""
    async with parent(tmp_path) as process:
        killed, spared = await all_answer(process, 2)
        os.kill(killed, signal.SIGKILL)
        await until(lambda: killed not in [worker.pid for worker in workers_of(process)])
        assert await process.get("/pid") is not None
        now = await all_answer(process, 2)
        assert spared in now
        assert killed not in now
    assert deaths(tmp_path) == [killed]


async def fresh_ones_serve(process: Running, before: list[int]) -> None:
    """Wait until as many others as those before have answered a request."""
    answered: set[str | None] = set()

    async def they_do() -> bool:
        answered.add(await process.get("/pid"))
        return len(answered - {None, *map(str, before)}) == len(before)

    await until(they_do, 30)


async def test_a_worker_that_is_told_to_stop_drains_and_is_followed_at_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Others serve before its last stream has ended, and it is not told of as a death."""
    async with parent(tmp_path) as process:
        before = await all_answer(process, 2)
        workers = workers_of(process)
        async with streaming(process) as pieces:
            for pid in before:
                os.kill(pid, signal.SIGTERM)
            await fresh_ones_serve(process, before)
            assert [alive(worker) for worker in workers].count(True) == 1
            process.let_streams_end()
            assert [piece async for piece in pieces][-1].endswith("the end")
        await until(lambda: sorted(deaths(tmp_path)) == sorted(before))
        process.terminate()
        assert await process.process.wait() == 0
    told = capfd.readouterr().err
    assert all(f"worker {pid} stopped" in told for pid in before)
    assert "died" not in told


async def test_a_stop_of_all_lets_a_draining_worker_go_on(tmp_path: Path) -> None:
    """It has had its signal; a second one would end its stream at once."""
    async with parent(tmp_path) as process:
        before = await all_answer(process, 2)
        async with streaming(process) as pieces:
            for pid in before:
                os.kill(pid, signal.SIGTERM)
            await fresh_ones_serve(process, before)
            process.terminate()
            await until(process.refuses)
            process.let_streams_end()
            assert [piece async for piece in pieces][-1].endswith("the end")
        assert await process.process.wait() == 0
    assert process.notes() == ["lifespan ended"] * 4


async def test_a_signal_to_parent_and_workers_at_a_time_drains(tmp_path: Path) -> None:
    """As systemd sends it: workers that get it twice then do not stop at once."""
    async with parent(tmp_path) as process:
        pids = await all_answer(process, 2)
        async with streaming(process) as pieces:
            for pid in (process.process.pid, *pids):
                os.kill(pid, signal.SIGTERM)
            await until(process.refuses)
            process.let_streams_end()
            assert [piece async for piece in pieces][-1].endswith("the end")
        assert await process.process.wait() == 0
    assert process.notes() == ["lifespan ended"] * 2


async def test_the_parent_sleeps_while_its_workers_serve(tmp_path: Path) -> None:
    """It takes no time from them."""
    async with parent(tmp_path) as process:
        await all_answer(process, 2)
        looked_at = psutil.Process(process.process.pid)
        seen = set()
        for _ in range(25):
            await asyncio.sleep(0.02)
            seen.add(looked_at.status())
    assert seen == {psutil.STATUS_SLEEPING}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_every_worker(tmp_path: Path, number: signal.Signals) -> None:
    """Streams end in order, new connections are refused, and the exit code is 0."""
    async with parent(tmp_path) as process:
        await all_answer(process, 2)
        workers = workers_of(process)
        async with streaming(process) as pieces:
            process.process.send_signal(number)
            await until(process.refuses)
            process.let_streams_end()
            assert [piece async for piece in pieces][-1].endswith("the end")
        assert await process.process.wait() == 0
        assert not any(map(alive, workers))
    assert process.notes() == ["lifespan ended"] * 2


async def test_ctrl_c_in_a_terminal_is_one_signal_to_each_worker(tmp_path: Path) -> None:
    """The terminal sends it to the whole group of processes; it must not arrive twice and mean `at once`."""
    async with parent(tmp_path) as process:
        await all_answer(process, 2)
        assert all(os.getpgid(worker.pid) != os.getpgid(process.process.pid) for worker in workers_of(process))


async def test_a_second_signal_stops_every_worker_at_once(tmp_path: Path) -> None:
    """Whatever still runs, with exit code 1."""
    async with parent(tmp_path, drain_s=60) as process, streaming(process):
        process.terminate()
        await until(process.refuses)
        await asyncio.sleep(SAME_STOP_S)
        process.terminate()
        assert await process.process.wait() == 1


async def test_a_killed_parent_leaves_none(tmp_path: Path) -> None:
    """Its workers finish what they have begun, and are gone."""
    async with parent(tmp_path) as process:
        await all_answer(process, 2)
        workers = workers_of(process)
        async with streaming(process) as pieces:
            process.process.kill()
            await until(process.refuses)
            process.let_streams_end()
            assert [piece async for piece in pieces][-1].endswith("the end")
        await until(lambda: not any(map(alive, workers)))


async def test_an_app_that_cannot_start_ends_it(tmp_path: Path) -> None:
    """After the first worker, with exit code 1; nothing is tried for ever."""
    (tmp_path / "broken").touch()
    async with running(PARENT, tmp_path, FACTORY, 3, 1.0, tmp_path) as process:
        assert await process.process.wait() == 1
    assert len(deaths(tmp_path)) == 1


async def test_an_app_that_cannot_start_again_is_tried_again(tmp_path: Path) -> None:
    """While another worker serves, because what is in the way may pass."""
    async with parent(tmp_path) as process:
        killed, spared = await all_answer(process, 2)
        (tmp_path / "broken").touch()
        os.kill(killed, signal.SIGKILL)
        await until(lambda: len(deaths(tmp_path)) >= 3, 30)
        assert await process.get("/pid") == str(spared)
        (tmp_path / "broken").unlink()
        assert spared in await all_answer(process, 2)


def test_the_metrics_folder_is_fresh_and_goes_with_its_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands in the environment meanwhile, where prometheus-client looks for it."""
    monkeypatch.delenv(METRICS_VARIABLE, raising=False)
    with metrics_folder(tmp_path) as folder:
        assert os.environ[METRICS_VARIABLE] == str(folder)
        assert list(folder.iterdir()) == []
        (folder / "counter_1.db").touch()
    assert not folder.exists()
    assert METRICS_VARIABLE not in os.environ


def test_a_metrics_folder_that_nobody_uses_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one of a killed parent; that of a living one stays."""
    monkeypatch.delenv(METRICS_VARIABLE, raising=False)
    left = tmp_path / "metrics" / "left"
    left.mkdir(parents=True)
    (left / "counter_1.db").touch()
    with metrics_folder(tmp_path) as first:
        assert not left.exists()
        with metrics_folder(tmp_path) as second:
            assert first.is_dir()
            assert second != first
