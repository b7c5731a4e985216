"""What a gateway is told when the agent cannot do what was asked: OpenAI's envelope, and nothing of the machine.

AgentError
├── Unauthenticated     401   no bearer token, or another than the agent's
├── NotFound            404   no such path
├── InvalidRequest      422   a name, a digest or the body is wrong
├── OtherContent        409   the engine has, or is loading, this name with other content
├── VersionTooLarge     507   the version alone is over the cache's size
├── CacheFull           507   what the engine uses leaves no room for the version
├── DiskFailure         507   the cache's disk is full, or cannot be written
├── EngineDown          503   vLLM does not answer
├── EngineRefused       ...   vLLM answered with an error; the status is vLLM's own
└── Stopping            503   the agent is ending

A failure of the artifact store is `registry.errors.StoreFailure`, 503.
"""

from typing import ClassVar

import msgspec

from registry.errors import StoreFailure

Envelope = dict[str, dict[str, str | None]]


class AgentError(Exception):
    """Base of the agent's errors; the message is safe to show.

    Attributes:
        status: the HTTP status.
        code: a stable word for programs.
    """

    status: int = 500
    code: ClassVar[str] = "internal_error"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class Unauthenticated(AgentError):
    """No bearer token, or not the agent's."""

    status = 401
    code = "invalid_token"


class NotFound(AgentError):
    """The agent has no such path."""

    status = 404
    code = "path_not_found"


class InvalidRequest(AgentError):
    """A name, a digest or the body is wrong; the message says which."""

    status = 422
    code = "invalid_request"


class OtherContent(AgentError):
    """The name stands for other content in this engine; nothing was changed."""

    status = 409
    code = "other_content"


class VersionTooLarge(AgentError):
    """The version would not fit into an empty cache."""

    status = 507
    code = "version_too_large"


class CacheFull(AgentError):
    """What the engine uses leaves too little room; nothing was evicted."""

    status = 507
    code = "cache_full"


class DiskFailure(AgentError):
    """The cache cannot be written; what had come was thrown away."""

    status = 507
    code = "disk_failure"


class EngineDown(AgentError):
    """vLLM could not be reached, or broke off."""

    status = 503
    code = "engine_unavailable"


class EngineRefused(AgentError):
    """vLLM answered with an error.

    Args:
        status: vLLM's own.
        message: vLLM's words, without paths.
    """

    code = "engine_refused"

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Stopping(AgentError):
    """The agent is ending; another one will be there soon."""

    status = 503
    code = "agent_stopping"


def envelope(error: AgentError | StoreFailure) -> bytes:
    """OpenAI's error envelope as JSON."""
    kind = "server_error" if error.status >= 500 else "invalid_request_error"
    body: Envelope = {"error": {"message": error.message, "type": kind, "param": None, "code": error.code}}
    return msgspec.json.encode(body)
