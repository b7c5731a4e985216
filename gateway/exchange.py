"""One request on its way through the gateway: what is known of it so far, and its one end."""

import asyncio
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType

from msgspec import Struct, field

from gateway.answer import Answer
from gateway.body import ClientGone
from gateway.capture import Capture
from gateway.errors import GatewayError, Headers
from gateway.limits.limiter import Grant
from gateway.pricing import Prices
from gateway.routing import Route
from gateway.tracing import UNTRACED, Trace
from gateway.waiting import Waits
from monitors.privacy.names import pseudonym
from monitors.record import RequestHook, RequestRecord
from registry.catalog import ApiKey
from registry.errors import RegistryError

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
CLIENT_GONE_STATUS = 499
_NOWHERE = Route("", "", "base", None, None)
"""In place of the route of a request that got none."""


def request_id(offered: str | None) -> str:
    """The client's own id for its request if it is a plain word, else a new one.

    New ones begin with the time in milliseconds: where the request log is long, an index takes ids in their order with
    a third of the work that it has with random ones. An engine's own ids are made from them.
    """
    if offered is not None and _REQUEST_ID.fullmatch(offered):
        return offered
    return f"req-{time.time_ns() // 1_000_000:012x}{next(_random_words)}"


def _drawn(bytes_each: int, at_once: int) -> Iterator[str]:
    """Random words of so many bytes, as hexadecimal digits; drawn many at once, as the system is slow to be asked."""
    while True:
        drawn, length = os.urandom(bytes_each * at_once).hex(), 2 * bytes_each
        for start in range(0, len(drawn), length):
            yield drawn[start : start + length]


_random_words = _drawn(6, 512)


class Exchange(Struct, eq=False):
    """A request being served. `finish` may be called from every way out; the first call counts."""

    path: str
    request_id: str
    deadline: float
    hooks: Iterable[RequestHook]
    prices: Prices
    began: float = field(default_factory=time.monotonic)
    started_at: float = field(default_factory=time.time)
    key: ApiKey | None = None
    grant: Grant | None = None
    route: Route | None = None
    model: str = ""
    """What the client asked for."""
    session: str = ""
    """What a canary's split is by."""
    named_session: str | None = None
    """The session, if the client has named one."""
    end_user: str | None = None
    evaluates: bool = False
    """Whether it is one of the monitor's own, which come after clients'."""
    replica: str | None = None
    """The replica that the request was sent to last."""
    sends: int = 0
    """How often it was sent to a replica."""
    counted: bool = False
    """Whether it counts already as a use of its version."""
    doubted: bool = False
    """Whether it counts already among the failures of its version."""
    lost: int = 0
    """How often an engine did not have the version."""
    body_bytes: int = 0
    broken: int = 0
    """How many engines broke off after it was sent to them."""
    broken_loads: int = 0
    """How many engines went away as they loaded the version of its route."""
    queue_s: float = 0.0
    waits: Waits = field(default_factory=Waits)
    trace: Trace = UNTRACED
    capture: Capture | None = None
    """What keeps its text, if it was drawn for that."""
    status: int = CLIENT_GONE_STATUS
    error: str | None = None
    first_byte: float | None = None
    prepared: Headers = field(default_factory=list)
    """The headers of the answer that an engine was asked for."""
    answered: bool = False
    """Whether the status has gone out, so that an error can no longer be told by it."""
    streamed: bool = False
    answer: Answer = field(default_factory=Answer)
    finished: bool = False
    task: asyncio.Task[None] | None = None
    """What serves it, while that may be interrupted."""
    interruption: GatewayError | ClientGone | None = None
    """What it was interrupted for."""
    body_due: float | None = None
    """When its body must be there, while it is being read."""
    sending_since: float | None = None
    """Since when the client is to take what was sent."""

    def interrupt(self, why: GatewayError | ClientGone) -> None:
        """End what is being done for it; the first reason counts."""
        if self.task is not None and self.interruption is None:
            self.interruption = why
            self.task.cancel()

    @property
    def left_s(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    def prepare(self) -> None:
        """Make the headers of the answer that is awaited."""
        self.prepared = self.headers()

    def headers(self) -> Headers:
        """The response headers that say how the request was served, and how the key's limits stand."""
        found = [(b"x-request-id", self.request_id.encode())]
        if self.grant is not None:
            found += self.grant.headers()
        if self.route is not None:
            found.append((b"x-ostler-variant", self.route.variant.encode()))
            if self.route.adapter is not None:
                found.append((b"x-ostler-adapter", self.route.adapter.encode()))
            if self.route.version is not None:
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
        self.trace.end(record, self.model)

    @property
    def is_copy(self) -> bool:
        """Whether it is a shadow, which no client waits for."""
        return self.route is not None and self.route.variant == "shadow"

    @property
    def is_well_answered(self) -> bool:
        """Whether the client got a whole answer, and no error."""
        return self.status == 200 and self.error is None

    @property
    def tokens(self) -> int | None:
        """Prompt and completion together; None where the engine did not say."""
        usage = self.answer.usage
        prompt, completion = usage.prompt_tokens, usage.completion_tokens
        return None if prompt is None and completion is None else (prompt or 0) + (completion or 0)

    def _record(self, now: float) -> RequestRecord:
        route, answer = self.route or _NOWHERE, self.answer
        usage = answer.usage
        return RequestRecord(
            request_id=self.request_id,
            path=self.path,
            key_id=self.key.id if self.key else None,
            adapter=route.adapter,
            model=route.model or None,
            version=route.version.number if route.version else None,
            variant=route.variant if self.route else None,
            status=self.status,
            error=self.error,
            started_at=self.started_at,
            duration_s=now - self.began,
            first_byte_s=None if self.first_byte is None else self.first_byte - self.began,
            streamed=self.streamed,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            replica=self.replica,
            retries=max(0, self.sends - 1),
            queue_s=self.queue_s,
            cost=self.prices.cost(route.pool or None, usage),
            pool=route.pool or None,
            session=pseudonym(self.named_session) if self.named_session else None,
            end_user=pseudonym(self.end_user) if self.end_user else None,
            completion_id=answer.completion_id,
            finish_reason=answer.finish_reason,
            overhead_s=None if self.is_copy else max(0.0, now - self.began - self.waits.seconds),
            intended=route.intended,
            text=self.capture.text if self.capture and self.is_well_answered else None,
        )


class Interruptible:
    """A block in which a request may be interrupted; it ends with the reason then.

    Raises (at its end):
        GatewayError, ClientGone: why.
    """

    __slots__ = ("_exchange", "_task")

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def __enter__(self) -> None:
        self._task = self._exchange.task = asyncio.current_task()

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._exchange.task = None
        if kind is asyncio.CancelledError and self._exchange.interruption is not None:
            assert self._task is not None
            self._task.uncancel()
            raise self._exchange.interruption from None
