"""What a client is told when a request cannot be served: OpenAI's envelope, and nothing of our insides.

GatewayError
├── InvalidRequest         400   the body or a parameter is wrong
├── Unauthenticated        401   no key, or none that is valid
├── Forbidden              403   the key lacks the right
├── ModelNotFound          404   no such model for this key
├── MethodNotAllowed       405
├── BodyTooSlow            408   the body did not come in time
├── BodyTooLarge           413
├── VersionNotServable     409   the engine refused a version; the deployment is as it was
├── RateLimited            429   the key has used up one of its limits
├── BudgetExceeded         429   the key has spent its monthly budget
├── DatabaseUnavailable    503   a change, while the database does not answer
├── EngineError            502   the engine failed while it answered
├── Overloaded             503   too many requests wait already, or this one waited too long
├── EngineUnavailable      503   no engine can take the request now
│   ├── EngineBroke              an engine went away while it loaded a version
│   └── EngineCrowded            other gateways took away what this one had loaded
├── GatewayStopping        503   this gateway stopped before the request was answered
└── DeadlineExceeded       504   the request's time was over before an answer began

The registry's own errors carry a status and a code and are rendered the same way.
"""

import math

import msgspec

from registry.errors import InvalidAdapter, RegistryError

Headers = list[tuple[bytes, bytes]]


class GatewayError(Exception):
    """Base of what the gateway answers with; the message is written for the client.

    Attributes:
        status: the HTTP status.
        type: OpenAI's broad word for it.
        code: the stable word for it.
        retry: whether sending the same request again may help.
    """

    status = 500
    type = "server_error"
    code: str | None = "internal_error"
    retry = False

    def __init__(
        self, message: str, *, param: str | None = None, code: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or type(self).code
        self.retry_after_s = retry_after_s


class InvalidRequest(GatewayError):
    """The body or a parameter is wrong; the message says where."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_request"


class Unauthenticated(GatewayError):
    """No API key, or none that is valid."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class Forbidden(GatewayError):
    """The key is valid but lacks the right."""

    status = 403
    type = "permission_error"
    code = "insufficient_permissions"


class ModelNotFound(GatewayError):
    """No such model exists for this key."""

    status = 404
    type = "invalid_request_error"
    code = "model_not_found"


class MethodNotAllowed(GatewayError):
    """The path exists, the method does not; `allow` lists those that do."""

    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"

    def __init__(self, message: str, *, allow: str) -> None:
        super().__init__(message)
        self.allow = allow


class BodyTooSlow(GatewayError):
    """The body did not come within the request's deadline."""

    status = 408
    type = "invalid_request_error"
    code = "request_timeout"


class BodyTooLarge(GatewayError):
    """The body is over the limit."""

    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


class VersionNotServable(GatewayError):
    """An engine could not load a version, or it failed its proof.

    Attributes:
        replica: that engine's id, where it is known.
        for_clients: the message for those who can change nothing in how engines are set up, where it is another.
    """

    status = 409
    type = "conflict_error"
    code = "version_not_servable"
    replica: str | None = None
    for_clients: str | None = None


class RateLimited(GatewayError):
    """The key has used up one of its limits.

    Attributes:
        headers: how its limits stand, as OpenAI tells it.
    """

    status = 429
    type = "requests"
    code = "rate_limit_exceeded"
    retry = True

    def __init__(self, message: str, *, kind: str, headers: Headers, retry_after_s: float) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.type = kind
        self.headers = headers


class BudgetExceeded(GatewayError):
    """The key has spent its monthly budget."""

    status = 429
    type = "insufficient_quota"
    code = "insufficient_quota"


class DatabaseUnavailable(GatewayError):
    """The database does not answer, and this needs it."""

    status = 503
    code = "database_unavailable"
    retry = True


class EngineError(GatewayError):
    """The engine failed while it answered."""

    status = 502
    code = "engine_error"
    retry = True


class Overloaded(GatewayError):
    """Too many requests are waiting already, or this one waited too long for its turn."""

    status = 503
    code = "overloaded"
    retry = True


class EngineUnavailable(GatewayError):
    """No engine can take the request now; it may be starting. `replica` is the one that went away, where it is one."""

    status = 503
    code = "engine_unavailable"
    retry = True
    replica: str | None = None


class EngineBroke(EngineUnavailable):
    """An engine went away while it loaded a version, which may be what broke it."""


class EngineCrowded(EngineUnavailable):
    """Versions that are in use have too little room: others unload what this gateway had loaded. None is at fault."""


class GatewayStopping(GatewayError):
    """This gateway stopped before the request was answered; another one may answer it."""

    status = 503
    code = "gateway_stopping"
    retry = True


class DeadlineExceeded(GatewayError):
    """The request's time was over before an answer began; sent again, it would only take as long again."""

    status = 504
    code = "deadline_exceeded"


def envelope(error: GatewayError | RegistryError) -> bytes:
    """OpenAI's error envelope as JSON."""
    kind = error.type if isinstance(error, GatewayError) else _registry_type(error)
    body: dict[str, object] = {"message": error.message, "type": kind, "param": error.param, "code": error.code}
    if isinstance(error, InvalidAdapter):
        body |= {"reason": error.reason, "file": error.file, "tensor": error.tensor}
    return msgspec.json.encode({"error": body})


def _registry_type(error: RegistryError) -> str:
    if error.status >= 500:
        return "server_error"
    return "conflict_error" if error.status == 409 else "invalid_request_error"


def error_headers(error: GatewayError | RegistryError) -> Headers:
    """The headers that go with an error.

    OpenAI's SDK sends again after 409 and 5xx unless it is told not to by ``x-should-retry``.
    """
    retry = error.retry if isinstance(error, GatewayError) else error.status >= 500
    headers = [(b"content-type", b"application/json"), (b"x-should-retry", b"true" if retry else b"false")]
    after = getattr(error, "retry_after_s", None)
    if after is not None:
        headers.append((b"retry-after", str(max(1, math.ceil(after))).encode()))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if isinstance(error, MethodNotAllowed):
        headers.append((b"allow", error.allow.encode()))
    if isinstance(error, RateLimited):
        headers += error.headers
    return headers
