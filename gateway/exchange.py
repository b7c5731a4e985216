"""One request on its way through the gateway: what is known of it so far, and its one end."""

import re
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from gateway.errors import GatewayError
from gateway.routing import Route
from gateway.usage import Usage
from monitors.record import RequestHook, RequestRecord
from registry.catalog import ApiKey
from registry.errors import RegistryError

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
CLIENT_GONE_STATUS = 499


def request_id(offered: str | None) -> str:
    """The client's own id for its request if it is a plain word, else a new one."""
    if offered is not None and _REQUEST_ID.fullmatch(offered):
        return offered
    return "req-" + secrets.token_hex(12)


@dataclass(slots=True)
class Exchange:
    """A request being served. `finish` may be called from every way out; the first call counts."""

    path: str
    request_id: str
    deadline: float
    hooks: Iterable[RequestHook]
    began: float = field(default_factory=time.monotonic)
    started_at: float = field(default_factory=time.time)
    key: ApiKey | None = None
    route: Route | None = None
    status: int = CLIENT_GONE_STATUS
    error: str | None = None
    first_byte: float | None = None
    answered: bool = False
    """Whether the status has gone out, so that an error can no longer be told by it."""
    streamed: bool = False
    usage: Usage = field(default_factory=Usage)
    finished: bool = False

    @property
    def left_s(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    def headers(self) -> list[tuple[bytes, bytes]]:
        """The response headers that say how the request was served."""
        found = [(b"x-request-id", self.request_id.encode())]
        if self.route is not None:
            found.append((b"x-ostler-variant", self.route.variant.encode()))
            if self.route.version is not None:
                found.append((b"x-ostler-adapter", self.route.version.adapter.encode()))
                found.append((b"x-ostler-version", str(self.route.version.number).encode()))
        return found

    def failed(self, error: GatewayError | RegistryError) -> None:
        """Note what went wrong."""
        self.error = error.code
        if not self.answered:
            self.status = error.status

    def finish(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Tell the hooks, once."""
        if self.finished:
            return
        self.finished = True
        record = self._record(clock())
        for hook in self.hooks:
            hook(record)

    def _record(self, now: float) -> RequestRecord:
        version = self.route.version if self.route else None
        return RequestRecord(
            request_id=self.request_id,
            path=self.path,
            key_id=self.key.id if self.key else None,
            adapter=self.route.adapter if self.route else None,
            model=self.route.model if self.route else None,
            version=version.number if version else None,
            variant=self.route.variant if self.route else None,
            status=self.status,
            error=self.error,
            started_at=self.started_at,
            duration_s=now - self.began,
            first_byte_s=None if self.first_byte is None else self.first_byte - self.began,
            streamed=self.streamed,
            prompt_tokens=self.usage.prompt_tokens,
            completion_tokens=self.usage.completion_tokens,
        )
