"""An engine's answer on its way to the client, where the engine answers oddly or breaks off within an event."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from tests.conftest import RunningGateway
from tests.fakes.engine import FakeEngine
from tests.gateway.engines.test_stopping import PATHS

EVENT = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
USAGE_EVENT = b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\n'
HALF = b'data: {"id":"c","cho'


def streams(*pieces: bytes, ends: bool) -> Callable[..., Any]:
    """How an engine streams these pieces, and ends the answer in order or breaks off."""

    async def stream(request: web.Request, _model: str, _body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
            await asyncio.sleep(0.01)
        if not ends:
            assert request.transport is not None
            request.transport.close()
        return response

    return stream


async def streamed(gateway: RunningGateway, path: str, **fields: Any) -> bytes:
    """What a client gets of a stream."""
    body = {"model": "support", "stream": True, "messages": [], "prompt": "x", "input": "x", **fields}
    response = await gateway.http.post(path, json=body)
    assert response.status_code == 200
    return response.content


def set_stream(engine: FakeEngine, *pieces: bytes, ends: bool) -> None:
    """Have it stream these pieces."""
    engine._stream = streams(*pieces, ends=ends)  # type: ignore[method-assign]


each_path = pytest.mark.parametrize("path", PATHS)
each_usage = pytest.mark.parametrize("fields", [{}, {"stream_options": {"include_usage": True}}], ids=["", "usage"])


@each_path
@each_usage
async def test_an_engine_that_breaks_off_within_an_event_leaves_no_half_of_it(
    two: RunningGateway, path: str, fields: dict[str, Any]
) -> None:
    """The client gets the whole events before it, and then ours, which it can read."""
    crlf = EVENT.replace(b"\n", b"\r\n")
    set_stream(two.engine, EVENT, EVENT + HALF[:5], HALF[5:] + b"ices", b"\n", ends=False)
    found = await streamed(two, path, **fields)
    assert found.startswith(EVENT + EVENT)
    last = found.removeprefix(EVENT + EVENT)
    assert last.startswith(b"event: error\ndata: {" if path == "/v1/messages" else b'data: {"error":')
    assert last.count(b"data:") == 1
    set_stream(two.engine, crlf, HALF, ends=False)
    assert (await streamed(two, path, **fields)) == crlf + last


@each_path
@each_usage
async def test_what_is_left_at_a_streams_end_goes_out(two: RunningGateway, path: str, fields: dict[str, Any]) -> None:
    """Though no empty line follows it."""
    set_stream(two.engine, EVENT, b"data: [DO", b"NE]\n", ends=True)
    assert await streamed(two, path, **fields) == EVENT + b"data: [DONE]\n"


async def test_the_usage_that_nobody_asked_for_is_hidden_whatever_the_lines_end_with(two: RunningGateway) -> None:
    """An engine behind another server may write them in HTTP's way."""
    first, usage, done = (event.replace(b"\n", b"\r\n") for event in (EVENT, USAGE_EVENT, b"data: [DONE]\n\n"))
    set_stream(two.engine, first + usage[:30], usage[30:] + done, ends=True)
    assert await streamed(two, PATHS[0]) == first + done
    assert await streamed(two, PATHS[0], stream_options={"include_usage": True}) == first + usage + done
