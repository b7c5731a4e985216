"""A running agent, versions for it, and an artifact store over HTTP that can break."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import uvicorn
from aiohttp import web

from agent.app import create_agent
from agent.settings import AgentSettings
from registry.artifacts import Artifact, ArtifactStore
from registry.names import engine_name
from tests.conftest import until

KIB = 1 << 10


@dataclass(frozen=True)
class Stored:
    """A version in the store, and the name that engines know it by."""

    name: str
    digest: str
    size: int


def stored(store: ArtifactStore, number: int, size: int = 100 * KIB, adapter: str = "support") -> Stored:
    """Put a version of that many bytes into the store; each call makes other content."""
    artifact: Artifact = store.put_files({"adapter_config.json": b"{}", "adapter_model.safetensors": os.urandom(size)})
    return Stored(engine_name(adapter, number, artifact.digest), artifact.digest, artifact.size_bytes)


@dataclass
class RunningAgent:
    """An agent on a real port, in this process."""

    settings: AgentSettings
    http: httpx.AsyncClient

    async def load(self, version: Stored) -> httpx.Response:
        """Ask for a version."""
        return await self.http.put(f"/v1/versions/{version.name}", json={"digest": version.digest})

    async def unload(self, version: Stored) -> httpx.Response:
        """Ask for a version to go."""
        return await self.http.delete(f"/v1/versions/{version.name}")

    def cached(self) -> set[str]:
        """The digests whose folders lie in the cache."""
        return {folder.name for folder in (self.settings.agent_cache / "sha256").iterdir()}

    def leftovers(self) -> list[Path]:
        """What lies in the cache and is no version."""
        own = {self.settings.agent_cache / name for name in ("sha256", ".staging", ".lock")}
        return [*(set(self.settings.agent_cache.iterdir()) - own), *(self.settings.agent_cache / ".staging").iterdir()]

    async def metric(self, name: str) -> float:
        """One sample of /metrics; 0 if it is not there yet."""
        text = (await self.http.get("/metrics")).text
        found = [line.rpartition(" ")[2] for line in text.splitlines() if line.startswith(name + " ")]
        return float(found[0]) if found else 0.0


@contextlib.asynccontextmanager
async def running(settings: AgentSettings) -> AsyncIterator[RunningAgent]:
    """Run an agent on a free port."""
    app = create_agent(settings)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, access_log=False, timeout_graceful_shutdown=1))
    task = asyncio.create_task(server._serve())
    try:
        await until(lambda: server.started or task.done())
        port = server.servers[0].sockets[0].getsockname()[1]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as http:
            yield RunningAgent(settings, http)
    finally:
        server.should_exit = True
        await task


@dataclass
class FlakyStore:
    """A folder of artifacts over HTTP.

    Attributes:
        cut_after: of the weights, how many bytes come before the connection breaks; None: all.
        held: while it is clear, answers with weights wait.
        asked: how often weights were asked for.
    """

    folder: Path
    cut_after: int | None = None
    held: asyncio.Event = field(default_factory=asyncio.Event)
    asked: int = 0
    url: str = ""
    _runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen on a free port."""
        self.held.set()
        app = web.Application()
        app.router.add_get("/store/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.05)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/store"

    async def stop(self) -> None:
        """Be away."""
        if self._runner is not None:
            await self._runner.cleanup()
        self._runner = None

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        file = self.folder / request.match_info["path"]
        if file.suffix != ".safetensors" or request.method != "GET":
            return web.FileResponse(file) if file.is_file() else web.Response(status=404)
        self.asked += 1
        await self.held.wait()
        if self.cut_after is None:
            return web.FileResponse(file)
        response = web.StreamResponse(headers={"content-length": str(file.stat().st_size)})
        await response.prepare(request)
        await response.write(file.read_bytes()[: self.cut_after])
        assert request.transport is not None
        request.transport.close()
        return response
