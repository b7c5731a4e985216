"""What every ordinary route shares: guards, request ids, and errors in OpenAI's envelope."""

import logging
from typing import Any

from litestar import Request, Response
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.exceptions import (
    HTTPException,
    MethodNotAllowedException,
    NotFoundException,
    ValidationException,
)
from litestar.handlers.base import BaseRouteHandler
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from gateway.auth import authenticate, presented_key, require
from gateway.errors import (
    BodyTooLarge,
    DatabaseUnavailable,
    Forbidden,
    GatewayError,
    InvalidRequest,
    MethodNotAllowed,
    envelope,
    error_headers,
)
from gateway.exchange import request_id
from registry import catalog
from registry.errors import RegistryError
from registry.outages import is_outage, problem_of
from registry.wording import described

log = logging.getLogger(__name__)

AnyRequest = Request[Any, Any, State]
Connection = ASGIConnection[Any, Any, Any, State]
_RETRY_AFTER_S = 5.0
_LOOPBACK = frozenset({"127.0.0.1", "::1", "::ffff:127.0.0.1"})
"""Not all of 127.0.0.0/8: a mesh's proxy beside the gateway has an address of it for traffic from outside."""
_FORWARDED = ("forwarded", "via", "x-forwarded-", "x-envoy-", "x-real-ip")
"""How the headers begin that a proxy adds."""
_SCOPES_THAT_NAME_MODELS = (catalog.Scope.INFERENCE, catalog.Scope.TUNING)


class PathNotFound(GatewayError):
    """No route of that path."""

    status = 404
    type = "invalid_request_error"
    code = "path_not_found"


def key_guard(connection: Connection, _handler: BaseRouteHandler) -> None:
    """Let through whoever has a valid key, and remember it."""
    directory = connection.app.state.directory
    connection.state.key = authenticate(directory.catalog, dict(connection.scope["headers"]))


def models_guard(connection: Connection, handler: BaseRouteHandler) -> None:
    """Let through keys that need the names of models: to ask one, or to tune one."""
    key_guard(connection, handler)
    key: catalog.ApiKey = connection.state.key
    if not any(key.may(scope) for scope in _SCOPES_THAT_NAME_MODELS):
        words = " or ".join(f"'{scope.value}'" for scope in _SCOPES_THAT_NAME_MODELS)
        raise Forbidden(f"this needs an API key with the scope {words}")


def admin_guard(connection: Connection, handler: BaseRouteHandler) -> None:
    """Let through only keys with the scope `admin`."""
    if "\0" in connection.scope["path"]:
        raise PathNotFound("there is no path with a NUL in it")  # PostgreSQL would choke on it
    key_guard(connection, handler)
    require(connection.state.key, catalog.Scope.ADMIN)


def metrics_guard(connection: Connection, handler: BaseRouteHandler) -> None:
    """Let through this machine without a key, else the scope `metrics`: a tenant's key is one wherever it is used."""
    if not _is_local(connection) or presented_key(dict(connection.scope["headers"])) is not None:
        key_guard(connection, handler)
        require(connection.state.key, catalog.Scope.METRICS)


def _is_local(connection: Connection) -> bool:
    """Whether a program of this machine asks, and no proxy on it for somebody else."""
    is_forwarded = any(name.lower().startswith(_FORWARDED) for name in connection.headers)
    return connection.client is not None and connection.client.host in _LOOPBACK and not is_forwarded


def provide_actor(request: AnyRequest) -> str:
    """Who makes a change, as history shows it: the key's name and id."""
    key: catalog.ApiKey = request.state.key
    return f"{key.name} ({key.id})"


def id_of(request: AnyRequest) -> str:
    """The request's id: the client's own, or one made at the first asking."""
    if "request_id" not in request.state:
        request.state.request_id = request_id(request.headers.get("x-request-id"))
    found: str = request.state.request_id
    return found


class RequestIds(ASGIMiddleware):
    """Tells each client its request's id."""

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """Add the header when the answer begins."""
        request: AnyRequest = Request(scope)
        header = (b"x-request-id", id_of(request).encode())

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                others = [pair for pair in message.get("headers", []) if pair[0].lower() != b"x-request-id"]
                message["headers"] = [*others, header]
            await send(message)

        await next_app(scope, receive, send_with_id)


def render_error(request: AnyRequest, error: Exception) -> Response[bytes]:
    """Answer any exception in the envelope; only our own and the framework's words for a bad request are shown."""
    ours = _as_ours(request, error)
    headers = {name.decode(): value.decode() for name, value in error_headers(ours)}
    headers["x-request-id"] = id_of(request)
    return Response(envelope(ours), status_code=ours.status, headers=headers, media_type="application/json")


def _as_ours(request: AnyRequest, error: Exception) -> GatewayError | RegistryError:
    match error:
        case GatewayError() | RegistryError():
            return error
        case ValidationException():
            return _invalid(request, error)
        case NotFoundException():
            return PathNotFound(f"there is no path {request.url.path[:200]}")
        case MethodNotAllowedException():
            allow = (error.headers or {}).get("allow", "")
            return MethodNotAllowed(f"{request.url.path[:200]} does not take {request.method}", allow=allow)
        case HTTPException() if error.status_code < 500:
            return _refused(error)
        case _ if is_outage(error):
            log.error("request %s needs the database, which failed: %s", id_of(request), type(error).__name__)
            return DatabaseUnavailable(
                f"{problem_of(error)}; what is live is served, but nothing can be changed now",
                retry_after_s=_RETRY_AFTER_S,
            )
    log.error("request %s failed inside the gateway", id_of(request), exc_info=error)
    return GatewayError("the gateway failed; the request's id finds it in the log")


def _refused(error: HTTPException) -> GatewayError:
    if error.status_code == 413:
        return BodyTooLarge("the body is larger than the limit")
    refused = InvalidRequest(error.detail)
    refused.status = error.status_code
    return refused


def _invalid(request: AnyRequest, error: ValidationException) -> GatewayError:
    """What is wrong with which parameter. A handler's body is called `data`, which no client knows."""
    found = error.extra if isinstance(error.extra, list) else []
    problems = [item for item in found if isinstance(item, dict)]
    param = next((item["key"] for item in problems if item.get("key") not in (None, "data")), None)
    parameters = getattr(request.scope.get("route_handler"), "signature_model", None)
    words = "; ".join(_problem(item, parameters) for item in problems)
    return InvalidRequest(words or error.detail, param=param)


def _problem(item: dict[str, Any], parameters: Any) -> str:
    key = item.get("key")
    if key == "data":
        return "the body is missing; it must be a JSON object"
    if parameters is not None and key and (right := described(parameters, key)):
        return f"`{key}` must be {right}"
    message = str(item.get("message", "not valid"))
    return f"{key}: {message}" if key else message
