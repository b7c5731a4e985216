"""An upstream that answers like vLLM and costs next to nothing: `python -m benchmarks.speed.upstream --port 9000`.

A request is answered at once; a stream has 64 events, each in a packet of its own, as fast as possible or paced. In
each event's text stands when it was sent, by the machine's monotonic clock in nanoseconds, so that whoever reads it on
the same machine knows how long it took. Adapters can be loaded and unloaded, and prove themselves; what is not loaded
is refused, so that whoever asks too early or too late is found out.
"""

import argparse
import asyncio
import hashlib
import json
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import uvloop

EVENTS = 64
"""Of a stream, without the usage and the end."""
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_MODEL = re.compile(rb'"model": ?("[^"]*")')
_STREAM = re.compile(rb'"stream": ?true')
_WANTS_USAGE = re.compile(rb'"include_usage": ?true')
_USAGE = b'{"prompt_tokens":24,"total_tokens":88,"completion_tokens":64}'
_TEXT = b"The parcel was handed over on Tuesday and is on its way. " * 6
_CHAT = (
    b'{"id":"chatcmpl-0123456789abcdef0123456789abcdef","object":"chat.completion","created":1764000000,"model":%b,'
    b'"choices":[{"index":0,"message":{"role":"assistant","content":"%b","refusal":null,"annotations":null,'
    b'"audio":null,"function_call":null,"tool_calls":[],"reasoning":null},"logprobs":null,"finish_reason":"stop",'
    b'"stop_reason":null,"token_ids":null}],"service_tier":null,"system_fingerprint":null,"usage":%b,'
    b'"prompt_logprobs":null,"prompt_token_ids":null,"kv_transfer_params":null}'
)
_EVENT = (
    b'data: {"id":"chatcmpl-0123456789abcdef0123456789abcdef","object":"chat.completion.chunk","created":1764000000,'
    b'"model":%b,"choices":[{"index":0,"delta":{"content":"%019d "},"logprobs":null,"finish_reason":%b,'
    b'"token_ids":null}]}\n\n'
)
_USAGE_EVENT = (
    b'data: {"id":"chatcmpl-0123456789abcdef0123456789abcdef","object":"chat.completion.chunk","created":1764000000,'
    b'"model":%b,"choices":[],"usage":%b}\n\n'
)
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)
_METRICS = b"vllm:num_requests_running 0.0\nvllm:num_requests_waiting 0.0\nvllm:kv_cache_usage_perc 0.1\n"


@dataclass
class Upstream:
    """What all connections share.

    Attributes:
        base: the base model's name.
        gap_s: the pause before each event; 0 is as fast as possible.
        load_s: how long it takes to load an adapter.
        loaded: engine name -> folder.
        quoted: the names that it answers to, as JSON has them.
    """

    base: str = "tiny"
    gap_s: float = 0.0
    load_s: float = 0.0
    loaded: dict[str, str] = field(default_factory=dict)
    quoted: set[bytes] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.quoted.add(_quoted(self.base))

    def load(self, name: str, folder: str) -> bool:
        """Whether it was not loaded before."""
        is_new = name not in self.loaded
        self.loaded.setdefault(name, folder)
        self.quoted.add(_quoted(name))
        return is_new

    def unload(self, name: str) -> bool:
        """Whether it was loaded."""
        self.quoted.discard(_quoted(name))
        return self.loaded.pop(name, None) is not None


class Connection(asyncio.Protocol):
    """One connection; its requests come one after the other."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._send: Callable[[bytes], None] = lambda _: None
        self._is_open = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to write."""
        self._send = cast(asyncio.Transport, transport).write  # uvloop's transports have another parent

    def connection_lost(self, _: Exception | None) -> None:
        """Streams that still run end."""
        self._is_open = False

    def data_received(self, data: bytes) -> None:
        """Answer each request as soon as it is there."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end]
            found = _LENGTH.search(head)
            whole = end + 4 + (int(found[1]) if found else 0)
            if len(self._buffer) < whole:
                return
            body, self._buffer = self._buffer[end + 4 : whole], self._buffer[whole:]
            method, path, _ = head.split(b" ", 2)
            self._answer(method, path.partition(b"?")[0], body)

    def _answer(self, method: bytes, path: bytes, body: bytes) -> None:
        if path == b"/v1/chat/completions":
            self._infer(body)
        elif path == b"/v1/completions":
            self._probe(json.loads(body))
        elif path == b"/v1/models":
            self._list()
        elif path == b"/v1/load_lora_adapter":
            self._load(json.loads(body))
        elif path == b"/v1/unload_lora_adapter":
            self._unload(json.loads(body)["lora_name"])
        elif path == b"/metrics":
            self._reply(_METRICS)
        elif path == b"/health":
            self._reply(b"")
        elif path == b"/set" and method == b"POST":
            vars(self._upstream).update(json.loads(body))
            self._reply(b"{}")
        else:
            self._reply(b'{"detail":"Not Found"}', b"404 Not Found")

    def _reply(self, content: bytes, status: bytes = b"200 OK") -> None:
        head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (status, len(content))
        self._send(head + content)

    def _infer(self, body: bytes) -> None:
        found = _MODEL.search(body)
        model = found[1] if found else b'""'
        if model not in self._upstream.quoted:
            self._refuse(404, f"The model `{json.loads(model)}` does not exist.")
            return
        if not _STREAM.search(body):
            self._reply(_CHAT % (model, _TEXT, _USAGE))
            return
        self._send(_STREAM_HEAD)
        self._event(model, 1, bool(_WANTS_USAGE.search(body)), self._loop.time())

    def _event(self, model: bytes, number: int, with_usage: bool, due: float) -> None:
        """Send an event, which was due at a time of the loop's, and arrange for the next one."""
        if not self._is_open:
            return
        reason = b'"stop"' if number == EVENTS else b"null"
        event = _EVENT % (model, time.perf_counter_ns(), reason)
        self._send(_chunk(event))
        if number == EVENTS:
            usage = _USAGE_EVENT % (model, _USAGE) if with_usage else b""
            self._send((_chunk(usage) if usage else b"") + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        elif gap_s := self._upstream.gap_s:
            self._loop.call_at(due + gap_s, self._event, model, number + 1, with_usage, due + gap_s)
        else:
            self._loop.call_soon(self._event, model, number + 1, with_usage, due)

    def _list(self) -> None:
        known = {self._upstream.base: self._upstream.base, **self._upstream.loaded}
        data = [{"id": name, "object": "model", "root": root} for name, root in known.items()]
        self._reply(json.dumps({"object": "list", "data": data}).encode())

    def _load(self, order: dict[str, str]) -> None:
        def done() -> None:
            name = order["lora_name"]
            if self._upstream.load(name, order["lora_path"]):
                self._reply(b"loaded")
            else:
                self._refuse(400, f"The lora adapter '{name}' has already been loaded.")

        self._loop.call_later(self._upstream.load_s, done)

    def _unload(self, name: str) -> None:
        if self._upstream.unload(name):
            self._reply(b"unloaded")
        else:
            self._refuse(404, f"The lora adapter '{name}' cannot be found.")

    def _refuse(self, status: int, message: str) -> None:
        error = {"message": message, "type": "Error", "param": None, "code": status}
        self._reply(json.dumps({"error": error}).encode(), b"%d Refused" % status)

    def _probe(self, order: dict[str, object]) -> None:
        """Log probabilities that differ from model to model, so that an adapter proves that it acts."""
        if _quoted(str(order["model"])) not in self._upstream.quoted:
            self._refuse(404, f"The model `{order['model']}` does not exist.")
            return
        prompts = order["prompt"]
        asked = prompts if isinstance(prompts, list) else [prompts]
        choices = [
            {"index": index, "text": "x", "logprobs": {"top_logprobs": [_next_tokens(str(order["model"]), prompt)]}}
            for index, prompt in enumerate(asked)
        ]
        answer = {"id": "cmpl-0", "object": "text_completion", "model": order["model"], "choices": choices}
        self._reply(json.dumps(answer).encode())


def _quoted(name: str) -> bytes:
    return json.dumps(name).encode()


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _next_tokens(model: str, prompt: object) -> dict[str, float]:
    digest = hashlib.sha256(f"{model} {prompt}".encode()).digest()
    return {f"token_id:{token}": -0.5 - byte / 32 for token, byte in enumerate(digest[:20])}


async def serve(upstream: Upstream, port: int) -> None:
    """Listen until the process ends."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(upstream), "127.0.0.1", port, backlog=4096)
    for listening in server.sockets:
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    await server.serve_forever()


def main() -> None:
    """Take the port and the pace from the command line."""
    parser = argparse.ArgumentParser(description="Answers like vLLM.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--base", default="tiny")
    options = parser.parse_args()
    uvloop.run(serve(Upstream(options.base), options.port))


if __name__ == "__main__":
    main()
