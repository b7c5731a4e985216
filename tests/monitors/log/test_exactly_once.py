"""Each request is written exactly once, also when nobody can say whether a commit got through."""

import asyncio
import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, event, text
from sqlalchemy.ext.asyncio import AsyncEngine

import monitors.log.recorder
from monitors.log.recorder import Recorder
from monitors.log.rows import insert
from monitors.metrics import Metrics
from registry.database import connect, migrate
from tests.conftest import until
from tests.monitors.conftest import RecorderMaker, count, running, sums, written
from tests.monitors.records import record
from tests.postgres import StoppablePostgres


@contextlib.contextmanager
def breaking_commits(engine: AsyncEngine, faults: list[str]) -> Iterator[None]:
    """Break one commit after the other: ``before`` it, or ``after`` it was done but not told; ``ok`` does nothing."""
    left = iter(faults)

    def on_commit(connection: Connection) -> None:
        fault = next(left, "ok")
        if fault == "after":
            connection.connection.commit()
        if fault != "ok":
            raise ConnectionError("the connection broke")

    event.listen(engine.sync_engine, "commit", on_commit)
    try:
        yield
    finally:
        event.remove(engine.sync_engine, "commit", on_commit)


async def test_a_batch_is_written_once_however_often_its_commit_breaks(
    new_recorder: RecorderMaker, database: AsyncEngine
) -> None:
    """Rows and spending alike, in order."""
    recorder = new_recorder(batch_rows=4)
    for number in range(10):
        recorder(record(str(number)))
    with breaking_commits(database, ["before", "after", "before", "before", "after"]):
        assert await recorder.drain(20) == 0
    assert await written(database) == [str(number) for number in range(10)]
    assert await sums(database) == [("key-1", "2026-11", 5.0, 10, 100, 50)]
    assert count(recorder.metrics.registry, "ostler_records_written_total") == 10


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with the schema, to copy."""
    file = tmp_path_factory.mktemp("migrated") / "ostler.db"

    async def make() -> None:
        engine = connect(f"sqlite:///{file}")
        await migrate(engine)
        await engine.dispose()

    asyncio.run(make())
    return file


ACTIONS = st.lists(st.one_of(st.integers(1, 7), st.sampled_from(["run", "before", "after"])), max_size=20)


@settings(deadline=None, max_examples=50)
@given(actions=ACTIONS)
def test_any_history_of_requests_and_faults_writes_each_request_once(migrated: Path, actions: list[Any]) -> None:
    """Numbers are requests that come; between them the recorder writes, with commits that break or do not."""
    file = migrated.with_name("example.db")
    shutil.copy(migrated, file)
    expected = [str(number) for number in range(sum(action for action in actions if isinstance(action, int)))]

    async def play() -> None:
        engine = connect(f"sqlite:///{file}")
        recorder = Recorder(engine, Metrics(), size=1000, batch_rows=3)
        names = iter(expected)
        for action in actions:
            if isinstance(action, int):
                for _ in range(action):
                    recorder(record(next(names)))
            else:
                await run_a_little(engine, recorder, action)
        assert await recorder.drain(20) == 0
        assert await written(engine) == expected
        assert sum(row[3] for row in await sums(engine)) == len(expected)  # type: ignore[misc]
        await engine.dispose()

    asyncio.run(play())


async def run_a_little(engine: AsyncEngine, recorder: Recorder, fault: str) -> None:
    """Have the recorder write; cut short at its first pause if a commit breaks."""
    with breaking_commits(engine, [fault]), contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.03):
            await recorder._write_through(recorder._held)


async def test_a_recorder_that_is_cancelled_anywhere_goes_on_where_it_was(
    new_recorder: RecorderMaker, database: AsyncEngine
) -> None:
    """Nothing is lost or doubled by the moment at which it stops."""
    recorder = new_recorder(batch_rows=5, batch_s=0.001)
    for step in range(60):
        for number in range(4):
            recorder(record(f"{step:02}-{number}"))
        async with running(recorder):
            await asyncio.sleep(step * 0.0003)
    assert await recorder.drain(20) == 0
    assert await written(database) == [f"{step:02}-{number}" for step in range(60) for number in range(4)]
    assert [row[3] for row in await sums(database)] == [240]


class CuttingProxy:
    """Stands before a PostgreSQL server and cuts a connection at its commit.

    Attributes:
        url: the server's URL by way of the proxy.
        cuts: what to do at the next commits: ``before`` the server hears of it, or ``after`` it has answered.
    """

    def __init__(self, server: StoppablePostgres, folder: str) -> None:
        self._target = str(server.socket)
        self._own = str(Path(folder) / ".s.PGSQL.5432")
        self.url = server.url.replace(str(server.socket.parent), folder)
        self.cuts: list[str] = []

    async def start(self) -> asyncio.Server:
        """Listen."""
        return await asyncio.start_unix_server(self._serve, self._own)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_unix_connection(self._target)
        answers = asyncio.create_task(self._copy(server_reader, writer))
        while data := await reader.read(1 << 16):
            cut = self.cuts.pop(0) if b"COMMIT" in data and self.cuts else ""
            if cut == "after":
                answers.cancel()
                server_writer.write(data)
                await server_reader.read(1 << 16)
            if cut:
                break
            server_writer.write(data)
        answers.cancel()
        writer.close()
        server_writer.close()

    @staticmethod
    async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
        writer.close()


@pytest.fixture(scope="module")
def server() -> Iterator[StoppablePostgres]:
    """A PostgreSQL server that may be stopped."""
    with StoppablePostgres() as running_server:
        yield running_server


@pytest.fixture
async def emptied(server: StoppablePostgres) -> None:
    """The server's database has the schema and no rows of the recorder."""
    engine = connect(server.url)
    await migrate(engine)
    async with engine.begin() as connection:
        await connection.execute(text("TRUNCATE request_log, spending"))
    await engine.dispose()


@pytest.mark.usefixtures("emptied")
@pytest.mark.parametrize("cut", ["before", "after"])
async def test_a_real_connection_cut_at_the_commit_loses_and_doubles_nothing(
    server: StoppablePostgres, tmp_path_factory: pytest.TempPathFactory, cut: str
) -> None:
    """Whether PostgreSQL has heard the commit or not; the proxy swallows its answer."""
    proxy = CuttingProxy(server, str(tmp_path_factory.mktemp("p")))
    listening = await proxy.start()
    engine = connect(proxy.url)
    recorder = Recorder(engine, Metrics(), size=1000, batch_rows=4)
    for number in range(10):
        recorder(record(str(number)))
    proxy.cuts = [cut, cut]
    assert await recorder.drain(20) == 0
    assert proxy.cuts == []
    assert await written(engine) == [str(number) for number in range(10)]
    assert [row[3] for row in await sums(engine)] == [10]
    await engine.dispose()
    listening.close()


@pytest.mark.usefixtures("emptied")
async def test_a_transaction_still_under_way_is_never_repeated(
    server: StoppablePostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server may come to the lost commit late: the same rows are refused meanwhile, then found."""
    monkeypatch.setattr(monitors.log.recorder, "_WRITE_TIMEOUT_S", 0.3)
    engine = connect(server.url)
    recorder = Recorder(engine, Metrics(), size=1000, batch_rows=4, batch_s=0.01)
    recorder(record("once"))
    batch = recorder._next_batch()
    batch.tried = True
    late = await engine.connect()
    rows = recorder._rows(0, batch.records, late.dialect)
    await insert(late, monitors.log.recorder._REQUESTS, rows, on_conflict="fail")
    async with running(recorder):
        await until(lambda: recorder._pause_s > 0)
        await late.commit()
        await until(lambda: count(recorder.metrics.registry, "ostler_records_written_total") == 1)
    assert await written(engine) == ["once"]
    await late.close()
    await engine.dispose()


@pytest.mark.usefixtures("emptied")
async def test_records_outlive_a_server_that_stops_and_starts(server: StoppablePostgres) -> None:
    """What comes while it is away is written when it is back, in order, beside what came before."""
    engine = connect(server.url)
    recorder = Recorder(engine, Metrics(), size=1000, batch_rows=10, batch_s=0.01)
    async with running(recorder):
        for phase, act in enumerate((server.stop, server.start)):
            for number in range(25):
                recorder(record(f"{phase}-{number:02}"))
                await asyncio.sleep(0)
            await asyncio.to_thread(act)
        await until(lambda: count(recorder.metrics.registry, "ostler_records_written_total") == 50, seconds=20)
    assert await written(engine) == [f"{phase}-{number:02}" for phase in range(2) for number in range(25)]
    assert [row[3] for row in await sums(engine)] == [50]
    await engine.dispose()
