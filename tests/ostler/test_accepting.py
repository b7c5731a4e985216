"""Several listen on one socket, and each takes its part of a burst."""

import asyncio
import contextlib
import errno
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from ostler import accepting
from ostler.accepting import Accepting
from tests.conftest import until
from tests.loops import on_both_loops


class Counting(asyncio.Protocol):
    """Counts the connections of one listener."""

    def __init__(self, taken: list[asyncio.BaseTransport]) -> None:
        self._taken = taken

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """One more."""
        self._taken.append(transport)


@contextlib.contextmanager
def listening_socket(*, is_listening: bool = True) -> Iterator[socket.socket]:
    """A socket that listens, or will."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        if is_listening:
            listening.listen()
        yield listening


def burst(listening: socket.socket, count: int) -> list[socket.socket]:
    """So many connections that wait to be taken."""
    return [socket.create_connection(listening.getsockname()) for _ in range(count)]


@on_both_loops
async def test_a_burst_is_shared() -> None:
    """Each listener takes one in each turn."""
    with listening_socket() as listening:
        clients = burst(listening, 10)
        taken: tuple[list[asyncio.BaseTransport], ...] = ([], [])
        servers = [Accepting(listening.dup(), lambda mine=mine: Counting(mine)) for mine in taken]  # type: ignore[misc]
        await until(lambda: sum(map(len, taken)) == 10)
        assert [len(mine) for mine in taken] == [5, 5]
        for server in servers:
            server.close()
            await server.wait_closed()
        for transport in taken[0] + taken[1]:
            transport.close()
        for client in clients:
            client.close()


@on_both_loops
async def test_a_socket_that_is_only_bound_will_do() -> None:
    """As the workers' parent hands it down."""
    with listening_socket(is_listening=False) as bound:
        taken: list[asyncio.BaseTransport] = []
        server = Accepting(bound, lambda: Counting(taken))
        clients = burst(bound, 3)
        await until(lambda: len(taken) >= 3)
        assert len(taken) == 3
        server.close()
        await server.wait_closed()
        for transport in taken:
            transport.close()
        for client in clients:
            client.close()


@on_both_loops
async def test_a_closed_one_takes_nothing_more() -> None:
    """The connection waits for another listener."""
    with listening_socket() as listening:
        first: list[asyncio.BaseTransport] = []
        second: list[asyncio.BaseTransport] = []
        server = Accepting(listening, lambda: Counting(first))
        server.close()
        server.close()
        (client,) = burst(listening, 1)
        await asyncio.sleep(0.05)
        assert not first
        other = Accepting(listening, lambda: Counting(second))
        await until(lambda: bool(second))
        other.close()
        await other.wait_closed()
        second[0].close()
        client.close()


class Full:
    """A socket for which there is no room, at first."""

    def __init__(self, listening: socket.socket) -> None:
        self._listening = listening
        self.tries = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._listening, name)

    def accept(self) -> Any:
        """Refuse once."""
        self.tries += 1
        if self.tries == 1:
            raise OSError(errno.EMFILE, "Too many open files")
        return self._listening.accept()


async def test_without_room_it_pauses_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It neither ends nor spins."""
    monkeypatch.setattr(accepting, "PAUSE_S", 0.2)
    with listening_socket() as listening:
        full: Any = Full(listening)
        taken: list[asyncio.BaseTransport] = []
        (client,) = burst(listening, 1)
        server = Accepting(full, lambda: Counting(taken))
        await asyncio.sleep(0.1)
        assert full.tries == 1
        assert "Too many open files" in caplog.text
        await until(lambda: bool(taken))
        server.close()
        taken[0].close()
        client.close()
