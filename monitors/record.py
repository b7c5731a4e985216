"""What is known of one request once it is over, and who wants to hear of it."""

from dataclasses import dataclass
from typing import Protocol

from msgspec import Struct


@dataclass(frozen=True, slots=True)
class Text:
    """What was said in a captured request, as bytes that are taken apart later, off the client's time.

    Attributes:
        prompt: the request's body.
        answer: the engine's answer: a JSON object, or the events of a stream.
    """

    prompt: bytes
    answer: bytes


class RequestRecord(Struct, frozen=True, gc=False):  # nothing in it can refer to it
    """One finished request. Its fields stand in the order of the columns of `monitors.tables.RequestRow`; text is last.

    Attributes:
        request_id: the id that the client saw.
        path: the endpoint, such as ``/v1/chat/completions``.
        key_id: the public id of the API key; None if there was no valid one.
        adapter: the adapter's name; None for the base model, or if nothing was resolved.
        model: the engine name or base model that answered; None if none did.
        version: the version's number; None for the base model.
        variant: how it was served (`stable`, `canary`, `pinned`, `fallback`, `shadow`, `base`, or `evaluation` for the
            monitor's own); None if it was not.
        status: the HTTP status; 499 if the client went away first.
        error: the error's stable word; None if all went well.
        started_at: seconds since the epoch.
        duration_s: from the request's arrival to the last byte out.
        first_byte_s: from arrival to the engine's first byte; None if it never came.
        streamed: whether the answer was a stream of events.
        prompt_tokens, completion_tokens: as the engine counted them; None if it did not say.
        replica: the replica that answered; None if none did.
        retries: how often it was sent again to another replica.
        queue_s: how long it waited for its turn.
        cost: what it cost, in the currency of the prices in the settings; None if its tokens are not known.
        pool: the base model whose engines served it; None if it was not served.
        session, end_user: pseudonyms (`monitors.privacy.names`) of the conversation and the end user; None if not told.
        completion_id: the answer's own id, such as ``chatcmpl-...``; None if it has none.
        finish_reason: why the answer ended (`stop`, `length`, `tool_calls`, ...); None if the engine did not say.
        overhead_s: the part of `duration_s` that the gateway itself took: neither the engine, nor a queue, nor a load,
            nor the client's own sending and taking.
        intended: the number of the version whose turn it was, where something else answered in its place (`fallback`);
            None elsewhere.
        text: what was said; None unless the request was drawn for capture.
    """

    request_id: str
    path: str
    key_id: str | None
    adapter: str | None
    model: str | None
    version: int | None
    variant: str | None
    status: int
    error: str | None
    started_at: float
    duration_s: float
    first_byte_s: float | None
    streamed: bool
    prompt_tokens: int | None
    completion_tokens: int | None
    replica: str | None = None
    retries: int = 0
    queue_s: float = 0.0
    cost: float | None = None
    pool: str | None = None
    session: str | None = None
    end_user: str | None = None
    completion_id: str | None = None
    finish_reason: str | None = None
    overhead_s: float | None = None
    intended: int | None = None
    text: Text | None = None


class RequestHook(Protocol):
    """Hears of every finished request. It must be quick and must not raise: a client's answer waits for nobody."""

    def __call__(self, record: RequestRecord) -> None:
        """Take note of a finished request."""
        ...
