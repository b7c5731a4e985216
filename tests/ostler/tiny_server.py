"""Servers of the tiny app that are processes of their own."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import httpx

from tests.conftest import until
from tests.ostler.tiny_app import FOLDER_VARIABLE
from tests.ports import free_port

REPOSITORY = Path(__file__).parents[2]


class Running:
    """A process that serves the app."""

    def __init__(self, process: asyncio.subprocess.Process, url: str, folder: Path) -> None:
        self.process, self.url, self._folder = process, url, folder

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    def let_streams_end(self) -> None:
        """End every stream."""
        (self._folder / "go").touch()

    def notes(self) -> list[str]:
        """What the app has noted."""
        file = self._folder / "notes"
        return file.read_text().splitlines() if file.exists() else []

    async def get(self, path: str) -> str | None:
        """The answer's body on a new connection; None if there is nobody to connect to."""
        async with httpx.AsyncClient() as client:
            with contextlib.suppress(httpx.TransportError):
                return (await client.get(self.url + path)).text
        return None

    async def listens(self) -> bool:
        """Whether a new connection is answered."""
        return await self.get("/pid") is not None

    async def refuses(self) -> bool:
        """Whether a new connection is refused."""
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", int(self.url.rpartition(":")[2]))
        except ConnectionRefusedError:
            return True
        writer.close()
        return False

    async def draining(self) -> bool:
        """Whether the app knows that it is to stop."""
        return await self.get("/draining") == "True"


@contextlib.asynccontextmanager
async def running(
    code: str, folder: Path, *arguments: object, environment: Mapping[str, str] | None = None
) -> AsyncIterator[Running]:
    """A Python process that runs the code with a port and the other arguments, and is killed at the end."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, str(port), *map(str, arguments)),
        cwd=REPOSITORY,
        env={**os.environ, FOLDER_VARIABLE: str(folder), **(environment or {})},
    )
    try:
        yield Running(process, f"http://127.0.0.1:{port}", folder)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@contextlib.asynccontextmanager
async def streaming(server: Running) -> AsyncIterator[AsyncIterator[str]]:
    """A stream that has begun; yields the rest of it."""
    async with httpx.AsyncClient(timeout=20) as client, client.stream("GET", server.url + "/stream") as response:
        pieces = response.aiter_text()
        await anext(pieces)
        yield pieces


async def serving(server: Running) -> None:
    """Wait until the process serves."""
    await until(server.listens)
