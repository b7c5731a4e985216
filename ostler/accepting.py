"""Takes connections of a socket on which several processes listen, one in each turn of the event loop.

The loop's own server takes all that wait: of a burst one process gets everything, keeps it as long as its clients keep
their connections, and the others idle. So a process that has much to do takes fewer, as its turns take longer.
"""

import asyncio
import logging
import socket
from collections.abc import Callable

log = logging.getLogger(__name__)

BACKLOG = 2048
PAUSE_S = 1.0


class Accepting:
    """Listens on a bound socket and takes its connections until it is closed; the socket stays its owner's.

    It closes as a server of asyncio does.
    """

    def __init__(self, listening: socket.socket, make_protocol: Callable[[], asyncio.Protocol]) -> None:
        self._listening = listening
        self._make_protocol = make_protocol
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[object]] = set()
        self._is_closed = False
        listening.listen(BACKLOG)  # whoever bound it need not have
        listening.settimeout(0)
        self._begin()

    def close(self) -> None:
        """Take no more."""
        if not self._is_closed:
            self._is_closed = True
            self._loop.remove_reader(self._listening)

    async def wait_closed(self) -> None:
        """Wait until what was taken is open."""
        await asyncio.gather(*self._opening, return_exceptions=True)

    def _begin(self) -> None:
        if not self._is_closed:
            self._loop.add_reader(self._listening, self._accept)

    def _accept(self) -> None:
        try:
            connection, _ = self._listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # another process was quicker, or the client has gone
        except OSError as error:  # as without room for another; to try at once would be to spin
            log.error("no connection can be taken for a moment: %s", error.strerror)
            self._loop.remove_reader(self._listening)
            self._loop.call_later(PAUSE_S, self._begin)
            return
        connection.settimeout(0)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opening = self._loop.create_task(self._loop.connect_accepted_socket(self._make_protocol, connection))
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)
