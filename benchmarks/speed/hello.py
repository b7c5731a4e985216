"""The least that answers as a gateway does, to measure servers by: 900 bytes, or a stream of 64 events.

An ASGI app that needs nothing but Python, as servers run it in environments of their own.
"""

import asyncio
from typing import Any

EVENTS = 64
_ANSWER = b'{"id":"chatcmpl-0123456789abcdef","object":"chat.completion","text":"%b"}' % (b"x" * 830)
_EVENT = b'data: {"id":"chatcmpl-0123456789abcdef","object":"chat.completion.chunk","text":"%b"}\n\n' % (b"x" * 150)


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer one request; other kinds of scope are not for it."""
    if scope["type"] == "lifespan":
        await _live(receive, send)
        return
    body = b""
    more = True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    await (_stream(send) if b'"stream": true' in body else _whole(send))


async def _live(receive: Any, send: Any) -> None:
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


async def _whole(send: Any) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(_ANSWER)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": _ANSWER, "more_body": False})


async def _stream(send: Any) -> None:
    """Each event by itself, with a turn of the loop between, as they come from an engine."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    for _ in range(EVENTS):
        await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": _EVENT, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
