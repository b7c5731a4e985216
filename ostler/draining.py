"""One HTTP server that stops without failing a request: not ready first, then no new connections, then the end.

What happens from the first SIGTERM or SIGINT on:

    at once           the app's state says `draining`, so that it can answer "not ready"; every response closes its
                      connection, so that clients go elsewhere with the next request
    after the delay   no new connections; idle ones are closed; running requests and streams go on
    after the drain   what still runs is cancelled
    then              the app's lifespan ends, and the process with exit code 0

A second signal stops at once, unless it comes with the first: some managers of services send one to each process of a
gateway, whose parent sends its workers another. A process that hangs in all this is ended by the kernel.
"""

import asyncio
import math
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

import uvicorn

from ostler.accepting import Accepting
from ostler.collecting import collect_seldom
from ostler.http1 import Connection

LIFESPAN_END_S = 15.0  # for the lifespan's end, after the last request
SAME_STOP_S = 0.5  # signals so close to each other are one
AT_ONCE_S = 3.0  # from the second signal to the kernel's
CANCELLED_END_S = 2.0  # for what a cancelled request still has to do


@dataclass(frozen=True, slots=True)
class Grace:
    """How a server stops, in seconds: `delay_s` it still takes requests, `drain_s` it lets the running ones finish."""

    delay_s: float = 0.0
    drain_s: float = 30.0

    @property
    def longest_s(self) -> float:
        """The longest time from the first signal to the end of the process."""
        return self.delay_s + math.ceil(self.drain_s) + LIFESPAN_END_S


class DrainingServer(uvicorn.Server):
    """uvicorn's server with another way to stop; see the module. `state` is the app's and gets `draining`.

    `on_started` is called once it listens, `on_draining` at the first signal.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        state: Any,
        grace: Grace,
        on_started: Callable[[], None],
        on_draining: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._state, self._grace = state, grace
        self._on_started, self._on_draining = on_started, on_draining
        self._told_at: float | None = None
        self._serving: asyncio.Task[Any] | None = None
        state.draining = False

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until a signal. One that comes before the app has started cancels this."""
        self._serving = asyncio.current_task()
        await super().serve(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the app and listen; on sockets that are given, others listen, too."""
        await super().startup(None if sockets is None else [])
        self.servers += [Accepting(each, self._protocol) for each in sockets or ()]  # type: ignore[misc]  # acts as one
        self._on_started()

    def _protocol(self) -> asyncio.Protocol:
        config, state = self.config, self.server_state
        return config.http_protocol_class(config=config, server_state=state, app_state=self.lifespan.state)  # type: ignore[call-arg]

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the signature of a handler
        """Drain on the first signal, stop at once on the second. uvicorn would end the process by the signal."""
        if self._told_at is None:
            self._told_at = time.monotonic()
            self._drain()
        elif time.monotonic() - self._told_at >= SAME_STOP_S:
            self.should_exit = self.force_exit = True
            _end_process_in(AT_ONCE_S)

    def _drain(self) -> None:
        _end_process_in(self._grace.longest_s)
        self._state.draining = True
        self._close_connections_after_their_responses()
        self._on_draining()
        if not self.started and self._serving:
            self._serving.get_loop().call_soon_threadsafe(self._serving.cancel)

    async def on_tick(self, counter: int) -> bool:
        """Whether to leave the main loop."""
        if self._told_at is not None and time.monotonic() >= self._told_at + self._grace.delay_s:
            self.should_exit = True
        return await super().on_tick(counter)

    def _close_connections_after_their_responses(self) -> None:
        closing = (b"connection", b"close")
        self.config.encoded_headers = [*self.config.encoded_headers, closing]  # uvicorn takes them over each second
        self.server_state.default_headers = [*self.server_state.default_headers, closing]

    async def _wait_tasks_to_complete(self) -> None:
        """Wait for connections and requests. Late ones are cancelled and have ended before the lifespan does."""
        try:
            await super()._wait_tasks_to_complete()
        except asyncio.CancelledError:
            late = list(self.server_state.tasks)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=CANCELLED_END_S)
            raise


def _end_process_in(seconds: float) -> None:
    """Have the kernel end this process, also if its event loop hangs by then."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def serve(
    app: Any,
    grace: Grace,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    listening: socket.socket | None = None,
    on_started: Callable[[], None] = lambda: None,
    on_draining: Callable[[], None] = lambda: None,
) -> int:
    """Serve an ASGI app that has a `state`, on host and port or on a socket, until a signal.

    Returns the exit code: 0 after a stop in order, 1 if the app did not start or had to stop at once.
    """
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        http=Connection,
        proxy_headers=False,  # nothing here goes by a proxy's word
        timeout_graceful_shutdown=math.ceil(grace.drain_s),
    )

    def started() -> None:
        collect_seldom()
        on_started()

    server = DrainingServer(config, app.state, grace, started, on_draining)
    try:
        server.run([listening] if listening else None)
    except SystemExit:  # uvicorn's word for an app that did not start; it has logged why
        return 1
    except asyncio.CancelledError:  # stopped before it had started
        return 0
    return 1 if server.force_exit else 0
