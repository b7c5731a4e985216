"""Lets only vLLM's own pod manage it: from elsewhere, requests reach a list of paths and nothing else.

vLLM takes this with `--middleware engine_guard.LoopbackOnly`, where this file's folder is on PYTHONPATH. It is one file
of the standard library alone, as it runs inside vLLM's image.

What is not on the list needs a connection from 127.0.0.1 or ::1, which in a pod only its own containers can make. Other
addresses of 127.0.0.0/8 do not count, as proxies in the pod use them for traffic from outside (Istio's is 127.0.0.6),
and neither does a request that says it was forwarded. The port must not be reachable through a proxy that hides both.

Before vLLM is told to end, it can be drained: once the file that OSTLER_ENGINE_DRAIN_FILE names is touched, whatever is
new is 503 with retry-after, and so are its health and its list of models, so that nobody asks it any more; what runs
goes on. vLLM itself says that it is well until it has gone, and answers 500.
"""

import json
import os
import time
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_PATHS = frozenset(
    {
        "/health",
        "/metrics",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/messages",
        "/v1/models",
        "/v1/responses",
    }
)
"""What gateways, probes and Prometheus use."""
LOOPBACK = frozenset({"127.0.0.1", "::1", "::ffff:127.0.0.1"})
FORWARDED = (b"forwarded", b"via", b"x-forwarded-", b"x-envoy-", b"x-real-ip")
"""How the headers begin that a proxy adds."""
WHILE_DRAINING = frozenset({"/metrics"})
"""What of them is answered to the end: gateways read there what still runs."""


def _refusal(status: int, kind: str, message: str) -> bytes:
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": status}}).encode()


_FORBIDDEN = _refusal(403, "permission_error", "this path of the engine is open to its own pod alone")
_STOPPING = _refusal(503, "service_unavailable_error", "this engine is stopping")  # gateways know these words
_RETRY_AFTER = (b"retry-after", b"5")
_COARSENESS_S = 1.0
"""So much may a file's time lie behind the clock's; preStop lasts longer."""


class LoopbackOnly:
    """ASGI middleware; see the module.

    Args:
        app: what is guarded.
    """

    def __init__(self, app: App) -> None:
        self.app = app
        named = os.environ.get("OSTLER_ENGINE_DRAIN_FILE")
        self._drain_file = Path(named) if named else None
        self._began = time.time() - _COARSENESS_S

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what may pass, and answer 403 to the rest, or 503 while it drains."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif not _may_pass(scope):
            await _refuse(scope, send, 403, _FORBIDDEN)
        elif scope["path"] in OPEN_PATHS - WHILE_DRAINING and self._is_draining():
            await _refuse(scope, send, 503, _STOPPING, _RETRY_AFTER)
        else:
            await self.app(scope, receive, send)

    def _is_draining(self) -> bool:
        """Whether the file was touched in this process's life: one of an earlier container of the pod may lie there."""
        try:
            return self._drain_file is not None and self._drain_file.stat().st_mtime >= self._began
        except OSError:
            return False


async def _refuse(scope: Scope, send: Send, status: int, body: bytes, *more: tuple[bytes, bytes]) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _may_pass(scope: Scope) -> bool:
    return (scope["type"] == "http" and scope["path"] in OPEN_PATHS) or _is_local(scope)


def _is_local(scope: Scope) -> bool:
    """Whether the request came from this pod itself; one without an address did not."""
    client = scope.get("client") or ("",)
    is_forwarded = any(name.lower().startswith(FORWARDED) for name, _ in scope.get("headers", ()))
    return client[0] in LOOPBACK and not is_forwarded
