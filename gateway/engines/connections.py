"""A small HTTP/1.1 client of one engine, for the requests that are forwarded.

A connection is kept for the next request, and used for one at a time. What every request would pay for and none needs
here is left out: redirects, cookies, proxies, decompression.
"""

import asyncio
import base64
import functools
import ssl
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self, cast
from urllib.parse import quote, unquote, urlsplit

import httptools

from gateway.engines.failures import EngineDown, EngineLate

KEEPALIVE_S = 4.0
"""Below vLLM's own 5 s, so that no request goes out on a connection that the engine is just closing."""
_CONNECT_TIMEOUT_S = 2.0
_MOST_UNREAD_BYTES = 256 * 1024
_LARGE_BODY_BYTES = 64 * 1024
_FIXED_LINES = 4
"""Of a request's head: its first and its last one, the host, the length."""
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Connections:
    """The connections to one engine.

    Args:
        url: its address, such as ``http://127.0.0.1:8090``, with or without a path before all others.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._port = parts.port or _DEFAULT_PORTS[parts.scheme]
        self._tls = _tls() if parts.scheme == "https" else None
        self._prefix = quote(parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=~")
        user, _, host = parts.netloc.rpartition("@")
        self._host_line = f"host: {host}\r\n"
        self._lines = _FIXED_LINES
        if user:
            self._host_line += f"authorization: Basic {base64.b64encode(unquote(user).encode()).decode()}\r\n"
            self._lines += 1
        self._idle: list[_Connection] = []
        self._sweep: asyncio.TimerHandle | None = None
        self._is_closed = False

    async def send(self, path: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> "Reply":
        """Send a request; the caller has the reply begin, reads and closes it.

        Args:
            path: at the engine.
            body: as it goes out.
            headers: further ones than the host and the body's length.
            timeout_s: the longest that the whole answer may take, its body included.

        Raises:
            EngineDown: there is no connection, which is tried for 2 s at most.
            ValueError: a header would end its line.
        """
        head = self._head(path, len(body), headers)
        now = time.monotonic()
        connection = self._kept(now)
        if connection is None:
            connection = await self._open(min(_CONNECT_TIMEOUT_S, timeout_s))
            timeout_s -= time.monotonic() - now
        connection.send(head, body, timeout_s)
        return Reply(connection)

    async def post(self, path: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> "Reply":
        """As `send`, and wait until the reply has begun; the caller reads and closes it.

        Raises:
            EngineDown: as there, or the connection broke off before an answer.
            EngineLate: no answer came in time.
            ValueError
        """
        reply = await self.send(path, body, headers, timeout_s)
        try:
            await reply.begin()
        except BaseException:
            reply.close()
            raise
        return reply

    def close(self) -> None:
        """Close what is idle, and what is in use once it is idle."""
        self._is_closed = True
        for connection in self._idle:
            connection.lose()
        self._idle.clear()
        if self._sweep is not None:
            self._sweep.cancel()

    def keep(self, connection: "_Connection") -> None:
        """Have a connection for the next request."""
        if self._is_closed:
            connection.lose()
            return
        self._idle.append(connection)
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(KEEPALIVE_S, self._drop_old)

    def _head(self, path: str, length: int, headers: Mapping[str, str]) -> bytes:
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        head = f"POST {self._prefix}{path} HTTP/1.1\r\n{self._host_line}content-length: {length}\r\n{lines}\r\n"
        ends = self._lines + len(headers)
        if head.count("\r") != ends or head.count("\n") != ends or "\0" in head:
            raise ValueError("a header holds the end of a line or a NUL")
        return head.encode("latin-1")

    def _kept(self, now: float) -> "_Connection | None":
        """The one that was used last, as the others may soon be closed."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_fit(now):
                return connection
            connection.lose()
        return None

    def _drop_old(self) -> None:
        self._sweep = None
        now, idle = time.monotonic(), self._idle
        self._idle = []
        for connection in idle:
            if connection.is_fit(now):
                self.keep(connection)
            else:
                connection.lose()

    async def _open(self, within_s: float) -> "_Connection":
        """Raises EngineDown."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(within_s):
                _, connection = await loop.create_connection(
                    lambda: _Connection(self, loop), self._host, self._port, ssl=self._tls
                )
        except (OSError, UnicodeError) as error:  # the latter for what cannot be a host's name
            raise EngineDown(sent=False) from error
        if not connection.is_open:
            raise EngineDown(sent=False)
        return connection


class Reply:
    """An engine's answer.

    Attributes:
        status: its HTTP status; 0 until it has begun.
        content_type: that header's whole value; empty if there is none.
    """

    __slots__ = ("_connection", "_content", "content_type", "status")

    def __init__(self, connection: "_Connection") -> None:
        self.status = 0
        self.content_type = ""
        self._connection: _Connection | None = connection
        self._content: bytes | None = None

    async def begin(self) -> None:
        """Wait for the answer's head.

        Raises:
            EngineDown: the connection broke off before it.
            EngineLate: it did not come in time.
        """
        connection = self._used()
        if not connection.status and connection.awaits_more:
            await connection.news()
        if not connection.status:
            raise connection.failure()
        self.status = connection.status
        self.content_type = connection.content_type.decode("latin-1")

    async def read(self) -> bytes:
        """The whole body, or what `next` has left of it; read again it is the same.

        Raises:
            EngineDown: it did not come whole.
            EngineLate: nor in time.
        """
        if self._content is None:
            connection = self._used()
            if connection.awaits_more:
                try:
                    await connection.rest()
                except BaseException:
                    self.close()
                    raise
                connection = self._used()
            if not connection.is_whole:
                raise connection.failure()
            self._content = connection.take()
        return self._content

    async def next(self) -> bytes:
        """The next bytes of the body, as many as are there; none at its end.

        Raises:
            EngineDown: the connection broke before the end.
            EngineLate: the end did not come in time.
            RuntimeError: `read` has taken them already.
        """
        connection = self._used()
        if self._content is not None:
            raise RuntimeError("the answer was read whole, and has no next bytes")
        if connection.awaits_more and not connection.chunks:
            try:
                await connection.news()
            except BaseException:
                self.close()
                raise
            connection = self._used()
        if connection.chunks:
            return connection.take()
        if connection.is_whole:
            return b""
        raise connection.failure()

    def close(self) -> None:
        """Give the connection back if the answer has wholly come; else close it, so that the engine stops the work."""
        if self._connection is not None:
            self._connection.release()
            self._connection = None

    def _used(self) -> "_Connection":
        """Raises EngineDown if it was given back: what comes on it now is not for this one's reader."""
        if self._connection is None:
            raise EngineDown(sent=True)
        return self._connection

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()


class _Connection(asyncio.Protocol):
    """One connection, with the answer that comes on it.

    Its state decides what is to be told, so those who wait are only woken, and then look.

    Attributes:
        status, content_type: of the answer's head; a status of 0 until it has come.
        chunks: what has come of the body and was not taken.
        is_whole: whether the answer has wholly come, and so whether none is awaited.
        is_open: whether it can still be used.
    """

    __slots__ = (
        "_deadline",
        "_is_framed",
        "_is_late",
        "_is_paused",
        "_is_reusable",
        "_kept_until",
        "_loop",
        "_parser",
        "_pool",
        "_timer",
        "_timer_due",
        "_transport",
        "_unread",
        "_waiter",
        "_wants_all",
        "chunks",
        "content_type",
        "is_open",
        "is_whole",
        "on_body",
        "status",
    )

    def __init__(self, pool: Connections, loop: asyncio.AbstractEventLoop) -> None:
        self._pool = pool
        self._loop = loop
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_late = self._is_paused = self._is_reusable = False
        self.is_open = self.is_whole = True
        self._timer_due = self._kept_until = 0.0
        self.chunks: list[bytes] = []
        self.on_body = self.chunks.append  # what the parser calls for each piece then costs no call of Python
        self._parser = httptools.HttpResponseParser(self)

    # For the request

    def is_fit(self, now: float) -> bool:
        """Whether a request may go out on it at this time, by the monotonic clock."""
        return self.is_open and now < self._kept_until and not self._transport.is_closing()

    def send(self, head: bytes, body: bytes, timeout_s: float) -> None:
        """Write a request."""
        self.status = 0
        self.content_type = b""
        self.is_whole = self._is_framed = self._wants_all = self._is_reusable = False
        self._unread = 0
        self._end_within(timeout_s)
        if len(body) < _LARGE_BODY_BYTES:
            self._transport.write(head + body)
        else:  # without a copy, where the loop can
            self._transport.writelines((head, body))

    @property
    def awaits_more(self) -> bool:
        """Whether more of the answer can come."""
        return self.is_open and not self.is_whole

    def news(self) -> "asyncio.Future[None]":
        """Done once more of the answer has come, or cannot come any more."""
        self._waiter = self._loop.create_future()
        return self._waiter

    def rest(self) -> "asyncio.Future[None]":
        """Done once the whole body has come, or cannot come any more; however large it is."""
        self._wants_all = True
        self._resume()
        return self.news()

    def take(self) -> bytes:
        """What has come of the body since the last time."""
        content = b"".join(self.chunks)
        self.chunks.clear()
        self._unread = 0
        self._resume()
        return content

    def failure(self) -> EngineDown:
        """Why the answer did not wholly come."""
        return EngineLate() if self._is_late else EngineDown(sent=True)

    def release(self) -> None:
        """End the request: keep the connection if it is as good as new, else close it."""
        self.chunks.clear()
        # An engine may answer before it has the whole request, the rest of which would come before the next one.
        if self._is_reusable and self.is_open and not self._transport.get_write_buffer_size():
            self._pool.keep(self)
        else:
            self.lose()

    def lose(self) -> None:
        """Close it."""
        if self.is_open:
            self._transport.abort()
            self._end()

    def _end(self) -> None:
        self.is_open = False
        if self._timer is not None:
            self._timer.cancel()
        self._wake()

    def _end_within(self, seconds: float) -> None:
        """Set the answer's deadline. A timer is dear, so one that is due before stays, and looks then how it stands."""
        self._deadline = time.monotonic() + seconds
        if self._timer is not None:
            if self._timer_due <= self._deadline:
                return
            self._timer.cancel()
        self._timer_due = self._deadline
        self._timer = self._loop.call_later(seconds, self._look_at_deadline)

    def _look_at_deadline(self) -> None:
        self._timer = None
        if self.is_whole:
            return
        left_s = self._deadline - time.monotonic()
        if left_s > 0:
            self._end_within(left_s)
        else:
            self._is_late = True
            self.lose()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _resume(self) -> None:
        if self._is_paused:
            self._is_paused = False
            if self.is_open:
                self._transport.resume_reading()

    # For the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is there."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports have another parent

    def data_received(self, data: bytes) -> None:
        """Some of the answer has come, or what nobody has asked for."""
        if self.is_whole:
            self.lose()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.lose()
            return
        if self.is_whole:
            return
        if self._waiter is not None and self.chunks and not self._wants_all:
            self._wake()
            return
        self._unread += len(data)
        if self._unread > _MOST_UNREAD_BYTES and not self._wants_all and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    def eof_received(self) -> None:
        """The engine has closed it; an answer that does not say where it ends has come to its end."""
        if not self.is_whole and self.status and not self._is_framed:
            self.is_whole = True
        self.lose()

    def connection_lost(self, _: Exception | None) -> None:
        """It is gone; if no end was received before, what was still to come is missing."""
        if self.is_open:
            self._end()
        del self._parser  # which knows this connection, too

    # For the parser

    def on_message_begin(self) -> None:
        """An answer begins."""
        if self.is_whole:
            raise httptools.HttpParserError("more came than one answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or what stands behind the body like one."""
        if self.status:
            return
        name = name.lower()
        if name == b"content-type":
            self.content_type = value
        elif name == b"content-length":
            self._is_framed = True
        elif name == b"transfer-encoding":
            self._is_framed = value.strip().lower().endswith(b"chunked")

    def on_headers_complete(self) -> None:
        """The head of an answer, or of a word before it, such as 100 Continue."""
        status = self._parser.get_status_code()
        if status >= 200:
            self.status = status
            self._wake()

    def on_message_complete(self) -> None:
        """The end of it."""
        if not self.status:
            self.content_type = b""
            self._is_framed = False
            return
        self.is_whole = True
        self._is_reusable = self._parser.should_keep_alive()
        self._kept_until = time.monotonic() + KEEPALIVE_S
        self._wake()


@functools.cache
def _tls() -> ssl.SSLContext:
    """Checks certificates; made once, as it reads all authorities."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
