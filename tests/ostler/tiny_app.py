"""A small ASGI app whose requests end when a file says so. It imports little, so that its process starts soon."""

import asyncio
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

FOLDER_VARIABLE = "TINY_FOLDER"


class TinyApp:
    """Answers /pid and /draining; /stream runs until the file `go` is there, and /hang holds up the whole process."""

    def __init__(self, folder: Path) -> None:
        self.state = SimpleNamespace()
        self._folder = folder

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request, or the lifespan."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"] == "/stream":
            await self._stream(send)
        if scope["path"] == "/hang":
            self._hang()
        answers = {"/pid": str(os.getpid()), "/draining": str(self.state.draining)}
        body = answers.get(scope["path"], "the end").encode()
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _stream(self, send: Any) -> None:
        try:
            while not (self._folder / "go").exists():
                await send({"type": "http.response.body", "body": b"more ", "more_body": True})
                await asyncio.sleep(0.02)
        except asyncio.CancelledError:
            await asyncio.sleep(0.1)  # what an app has to do at such an end takes a moment
            self._note("cancelled")
            raise

    def _hang(self) -> None:
        self._note("hangs")
        while not self.state.draining:
            time.sleep(0.02)
        self._note("hangs and is told to stop")
        while True:
            time.sleep(1)

    async def _lifespan(self, receive: Any, send: Any) -> None:
        await receive()
        if (self._folder / "broken").exists():
            await send({"type": "lifespan.startup.failed", "message": "this app is broken"})
            return
        while (self._folder / "slow").exists():  # only another process can end it
            await asyncio.sleep(0.02)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self._note("lifespan ended")
        await send({"type": "lifespan.shutdown.complete"})

    def _note(self, words: str) -> None:
        with (self._folder / "notes").open("a") as file:
            file.write(words + "\n")


def make() -> TinyApp:
    """The app for the folder in the environment."""
    return TinyApp(Path(os.environ[FOLDER_VARIABLE]))
