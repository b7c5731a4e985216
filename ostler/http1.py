"""HTTP/1.1 on one client's connection: requests in, an ASGI app's answers out. A protocol for uvicorn's server.

uvicorn starts and stops it, and keeps the lists of connections and tasks. Its own protocol takes more than twice the
time for a request, waits for ever for the end of a head, and tells of a lost client only who asks. Bodies have limits
of their own, in the apps.
"""

import asyncio
import http
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, cast
from urllib.parse import unquote

import httptools
import uvicorn
from uvicorn.server import ServerState

log = logging.getLogger(__name__)

HEAD_TIMEOUT_S = 20.0
CLIENT_LOST = "ostler.client_lost"
"""An extension of ASGI, which `gateway.leaving` describes; an agent serves here, too, and has no gateway."""
_MOST_HEAD_BYTES = 64 * 1024
_MOST_UNREAD_BYTES = 64 * 1024
_MOST_WAITING = 8
"""Requests behind the one that is answered. Some are read, as only who reads sees that the client goes away."""
_LARGE_BODY_BYTES = 64 * 1024
_OF_BODIES = (b"content-length", b"transfer-encoding")
_WITHOUT_BODY = frozenset({*range(100, 200), 204, 304})
_CONTROLS = bytes({*range(32), 127} - set(b"\t\r\n"))
_STATUS_LINES = {each.value: f"HTTP/1.1 {each.value} {each.phrase}".encode() for each in http.HTTPStatus}
_NO_REQUEST = 400, b"the request is not valid HTTP/1.1"
_TOO_LONG = 431, b"the request's head is longer than 64 KiB"
_NO_UPGRADE = 400, b"HTTP/1.1 alone is spoken here; a request with a body must not ask for an upgrade"
_FAILED = b"Internal Server Error"

Headers = Iterable[tuple[bytes, bytes]]


class Connection(asyncio.Protocol):
    """One connection, on which requests are answered one after the other.

    A request's head must come within `head_timeout_s` of the connection's opening or of its own first byte, which it
    may have to do behind the answer before. A connection without a request is closed after uvicorn's time for that.

    Attributes:
        transport: what is written to.
        held_up: set once the client has taken enough of what it was sent; None if it has.
        is_lost: whether the client is gone.
        is_reading_paused: whether no more is read for now.
    """

    head_timeout_s = HEAD_TIMEOUT_S

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._app = config.loaded_app
        self._asgi = {"version": config.asgi_version, "spec_version": "2.3"}
        self._idle_s = config.timeout_keep_alive
        self._server = server_state
        self._app_state = app_state
        self._loop = _loop or asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._answered: _Request | None = None
        self._incoming: _Request | None = None
        self._waiting: deque[_Request] = deque()
        self.held_up: asyncio.Event | None = None
        self._is_head_open = self._has_head_begun = self._is_deaf = self.is_reading_paused = self.is_lost = False
        self._head_bytes = 0
        self._complaint = _NO_REQUEST
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0
        self._due: float | None = None
        self._lost: set[Callable[[], None]] = set()
        self._extensions = {CLIENT_LOST: self._lost}

    # For the event loop and the server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's transports have another parent
        self._addresses = {
            "server": _address(transport.get_extra_info("sockname")),
            "client": _address(transport.get_extra_info("peername")),
            "scheme": "https" if transport.get_extra_info("sslcontext") else "http",
        }
        self._server.connections.add(self)  # type: ignore[arg-type]  # uvicorn's own protocols, it says
        self._close_in(self.head_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the signature of a protocol
        """It is gone."""
        self._server.connections.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        self._lose()
        del self._parser  # which knows this connection, too

    def data_received(self, data: bytes) -> None:
        """Some of a request came, or several."""
        if self._is_deaf:
            return
        self._has_head_begun = False
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._is_deaf = True
            self._last_on_this_connection()  # which is answered as if it had not asked
        except httptools.HttpParserError:
            self._refuse()
        else:
            if self._is_head_open:  # most heads come in one piece, and are not watched
                self._watch_head(len(data))

    def pause_writing(self) -> None:
        """The client takes its answer more slowly than it comes."""
        self.held_up = asyncio.Event()

    def resume_writing(self) -> None:
        """It has caught up."""
        if self.held_up is not None:
            self.held_up.set()
            self.held_up = None

    def shutdown(self) -> None:
        """The server stops: close after the answer that is under way."""
        if self._answered is not None:
            self._last_on_this_connection()
        else:
            self.transport.close()

    # For the parser

    def on_message_begin(self) -> None:
        """A request's first byte."""
        self._is_head_open = self._has_head_begun = True
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        """Some of what it asks for."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One of its headers, or what stands behind its body like one."""
        if self._is_head_open:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Its head is whole: the app may begin."""
        self._is_head_open, self._due = False, None
        if self._parser.should_upgrade() and any(name in _OF_BODIES for name, _ in self._headers):
            self._complaint = _NO_UPGRADE  # the parser takes what follows for another protocol
            raise httptools.HttpParserError
        raw_path, query = _parts(self._url)
        version = self._parser.get_http_version()
        scope = {
            "type": "http",
            "asgi": self._asgi,
            "http_version": version,
            "method": self._parser.get_method().decode("ascii"),
            "path": unquote(raw_path) if b"%" in raw_path else raw_path.decode("ascii"),
            "raw_path": raw_path,
            "query_string": query,
            "root_path": "",
            "headers": self._headers,
            "state": self._app_state.copy(),
            "extensions": self._extensions,
            **self._addresses,
        }
        request = self._incoming = _Request(self, scope, self._parser.should_keep_alive() and version != "1.0")
        if self._answered is None:
            self._begin(request)
        else:
            self._waiting.append(request)
            self.regulate()

    def on_body(self, body: bytes) -> None:
        """Some of its body; of no use once it has its answer."""
        request = self._incoming
        if request is not None and not request.is_over:
            request.body.append(body)
            request.unread += len(body)
            request.wake()
            if request.unread > _MOST_UNREAD_BYTES:
                self.regulate()

    def on_message_complete(self) -> None:
        """The end of it."""
        if self._incoming is not None:
            self._incoming.is_whole = True
            self._incoming.wake()
            if self._incoming.is_over and self._answered is None:
                self._expect_more()

    # For the request that is being answered

    @property
    def server_headers(self) -> Headers:
        """What the server says with each answer."""
        return self._server.default_headers

    def regulate(self) -> None:
        """Read no more than is taken: neither of a body nor of the requests behind this one."""
        incoming = self._incoming
        is_full = incoming is not None and incoming.unread > _MOST_UNREAD_BYTES and not incoming.is_over
        if (is_full or len(self._waiting) >= _MOST_WAITING) != self.is_reading_paused and not self.is_lost:
            self.is_reading_paused = not self.is_reading_paused
            if self.is_reading_paused:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    def answered(self, stays: bool) -> None:
        """The answer is whole: go on with the next request, or close."""
        self._server.total_requests += 1
        self._answered = None
        if not stays:
            self.transport.close()
        elif self._waiting:
            self._begin(self._waiting.popleft())
        else:
            self._expect_more()
        if self.is_reading_paused:
            self.regulate()

    def _expect_more(self) -> None:
        """Another request; or the end of what was answered early, which may be much, or of a head that has begun."""
        is_amid = self._is_head_open or (self._incoming is not None and not self._incoming.is_whole)
        self._close_in(self.head_timeout_s if is_amid else self._idle_s)

    def _begin(self, request: "_Request") -> None:
        self._answered = request
        task = self._loop.create_task(request.run(self._app))
        self._server.tasks.add(task)
        task.add_done_callback(self._server.tasks.discard)

    def _watch_head(self, more_bytes: int) -> None:
        """A head that did not come in one piece must come in time, and not be too long."""
        if self._has_head_begun:
            self._head_bytes = len(self._url) + sum(len(name) + len(value) for name, value in self._headers)
            if self._answered is None:
                self._close_in(self.head_timeout_s)
        else:
            self._head_bytes += more_bytes
        if self._head_bytes > _MOST_HEAD_BYTES:
            self._complaint = _TOO_LONG
            self._refuse()

    def _last_on_this_connection(self) -> None:
        self._waiting.clear()
        if self._answered is not None:
            self._answered.stays = False
        if self.is_reading_paused:
            self.regulate()

    def _refuse(self) -> None:
        """What came is no request. The answer to the one before, if that is under way, must not be mixed with this."""
        answered, self._is_deaf = self._answered, True
        if answered is not None and (answered is not self._incoming or answered.is_whole):
            self._last_on_this_connection()
            return
        if answered is None or not answered.has_begun:
            self.transport.write(_plain(*self._complaint))
        self._lose()  # nothing of the app's may follow, even if this does not go out at once
        self.transport.close()

    def _lose(self) -> None:
        """Tell all who serve the client that it is gone."""
        self.is_lost = True
        self.resume_writing()
        if self._answered is not None:
            self._answered.wake()
        for tell in tuple(self._lost):
            tell()
        self._lost.clear()

    def _close_in(self, seconds: float) -> None:
        """Close it then, unless a head comes before. A timer is dear: one that is due before stays, and looks then."""
        self._due = time.monotonic() + seconds
        if self._timer is not None:
            if self._timer_due <= self._due:
                return
            self._timer.cancel()
        self._timer_due = self._due
        self._timer = self._loop.call_later(seconds, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._due is None:
            return
        left_s = self._due - time.monotonic()
        if left_s > 0:
            self._close_in(left_s)
        else:
            self.transport.close()


class _Request:
    """One request, as the app sees it: `scope`, `receive` and `send` of ASGI.

    Attributes:
        body: what has come of its body and was not taken, which are `unread` bytes.
        is_whole: whether all of it has come.
        is_over: whether its answer is whole.
        stays: whether the connection is used again.
    """

    __slots__ = (
        "_connection",
        "_head",
        "_is_asked",
        "_is_bodiless",
        "_is_body_told",
        "_is_chunked",
        "_left",
        "_news",
        "_scope",
        "body",
        "is_over",
        "is_whole",
        "stays",
        "unread",
    )

    def __init__(self, connection: Connection, scope: dict[str, Any], stays: bool) -> None:
        self._connection = connection
        self._scope = scope
        self._news: asyncio.Event | None = None
        self._head: bytes | None = None  # empty once it has gone out
        self._left: int | None = None
        self._is_asked = self._is_body_told = self._is_chunked = self.is_whole = self.is_over = False
        self.body: list[bytes] = []
        self.unread = 0
        self.stays = stays

    @property
    def has_begun(self) -> bool:
        """Whether some of the app's answer has gone out."""
        return self._head == b""

    def wake(self) -> None:
        """Something has changed for who waits in `receive`."""
        if self._news is not None:
            self._news.set()

    async def run(self, app: Any) -> None:
        """Have the app answer it."""
        transport = self._connection.transport
        try:
            await app(self._scope, self.receive, self.send)
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
            if not self.is_over:
                transport.close()
            raise
        except BaseException as error:
            log.error("an exception came out of the app", exc_info=error)
        else:
            if not self.is_over and not self._connection.is_lost:
                log.error("the app has ended without a whole answer")
        if self.is_over or self._connection.is_lost:
            return
        if not self.has_begun:
            transport.write(_plain(500, _FAILED))
        self.is_over = True
        transport.close()

    async def receive(self) -> dict[str, Any]:
        """What of the body is there; once all was told, that the client is gone or has its answer."""
        connection = self._connection
        while not self.is_over and not connection.is_lost:
            if self.body or (self.is_whole and not self._is_body_told):
                content = self.body[0] if len(self.body) == 1 else b"".join(self.body)
                self.body.clear()
                self.unread, self._is_body_told = 0, self.is_whole
                if connection.is_reading_paused:
                    connection.regulate()
                return {"type": "http.request", "body": content, "more_body": not self.is_whole}
            if not self.is_whole:
                self._go_on_before_the_body()
            self._news = self._news or asyncio.Event()
            self._news.clear()
            await self._news.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        """Write a part of the answer; its head goes out with the first of its body.

        Raises:
            RuntimeError: it is no part that may come here, or it would not be valid HTTP.
        """
        connection = self._connection
        while connection.held_up is not None:
            await connection.held_up.wait()
        if connection.is_lost:
            return
        kind = message["type"]
        if kind == "http.response.start" and self._head is None:
            self._head = self._begun(message["status"], message.get("headers", ()))
        elif kind == "http.response.body" and self._head is not None and not self.is_over:
            self._write(message.get("body", b""), message.get("more_body", False))
        else:
            raise RuntimeError(f"the app sent {kind!r} where that may not come")

    def _go_on_before_the_body(self) -> None:
        """A client may wait for the answer's head, or for a word, before it sends more of the body."""
        if self._head:
            self._connection.transport.write(self._head)
            self._head = b""
        elif self._head is None and not self._is_asked and self._expects_word():
            self._is_asked = True
            self._connection.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _expects_word(self) -> bool:
        return any(name == b"expect" and value.lower() == b"100-continue" for name, value in self._scope["headers"])

    def _begun(self, status: int, headers: Headers) -> bytes:
        """The answer's head, with what says where its body ends.

        Raises:
            RuntimeError: a header would end its line.
        """
        lines = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d " % status]
        # Whether a client that waits for a word will send its body after all, nobody knows.
        stays = self.stays and (self.is_whole or self._is_asked or not self._expects_word())
        length, says_close = None, False
        for given, value in (*self._connection.server_headers, *headers):
            name = given.lower()
            if name == b"content-length":
                length = int(value)
            elif name == b"transfer-encoding":
                continue  # that is the server's part
            elif name == b"connection" and b"close" in value.lower():
                stays, says_close = False, True
            lines.append(b"%b: %b" % (name, value))
        is_bodiless = status in _WITHOUT_BODY or self._scope["method"] == "HEAD"
        is_chunked = length is None and not is_bodiless and self._scope["http_version"] == "1.1"
        if is_chunked:
            lines.append(b"transfer-encoding: chunked")
        elif length is None and not is_bodiless:
            stays = False  # the body ends where the connection does
        if not stays and not says_close:
            lines.append(b"connection: close")
        lines += (b"", b"")
        head = b"\r\n".join(lines)
        if not head.count(b"\r") == head.count(b"\n") == len(lines) - 1 or head.translate(None, _CONTROLS) != head:
            raise RuntimeError("a header of the answer holds the end of a line or a control character")
        self.stays, self._left, self._is_chunked, self._is_bodiless = stays, length, is_chunked, is_bodiless
        return head

    def _write(self, body: bytes, more: bool) -> None:
        """Raises RuntimeError if the body is not as long as the head says."""
        if self._is_bodiless:
            body = b""
        elif self._is_chunked:
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + (b"" if more else b"0\r\n\r\n")
        elif self._left is not None:
            self._left -= len(body)
            if self._left < 0 or (self._left and not more):
                raise RuntimeError("the answer's body is not as long as its content-length")
        head, self._head = self._head or b"", b""
        if len(body) < _LARGE_BODY_BYTES:
            self._connection.transport.write(head + body)
        else:  # without a copy, where the loop can
            self._connection.transport.writelines((head, body))
        if not more:
            self.is_over = True
            self.wake()
            self._connection.answered(self.stays)


def _parts(url: bytes) -> tuple[bytes, bytes]:
    """The path and the query of what a request asks for; the latter without its question mark."""
    if url.startswith(b"/") and b"#" not in url:
        path, _, query = url.partition(b"?")
        return path, query
    parsed = httptools.parse_url(url)
    return parsed.path or b"/", parsed.query or b""


def _plain(status: int, text: bytes) -> bytes:
    """A whole answer in the server's own words, the last on its connection."""
    lines = (
        _STATUS_LINES[status],
        b"content-type: text/plain",
        b"content-length: %d" % len(text),
        b"connection: close",
    )
    return b"\r\n".join((*lines, b"", text))


def _address(found: Any) -> tuple[str, int] | None:
    """A host and a port, if it is such an address."""
    return (str(found[0]), int(found[1])) if isinstance(found, tuple) else None
